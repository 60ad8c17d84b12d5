//! MPNet: BERT's layer under other names, with one bias per head and bucket of distances in all layers.
//!
//! Source: Song et al. 2020; buckets of Raffel et al. 2020; names and defaults of the Hugging Face model.

use serde_json::Value;

use super::bert::{self, LAYER, Tokens, with_roberta_heads};
use super::{Family, refuse_other};
use crate::card::MAX_DIMENSION;
use crate::encoder::{LayerNames, Positions, Qkv};
use crate::error::ModelError;
use crate::json::JsonFile;

/// The id that positions are counted after, whatever `pad_token_id` says.
const PADDING: usize = 1;
/// Rows of the table of buckets. The library computes with this number whatever the configuration says.
const BUCKETS: usize = 32;
/// Rows of the position table where the configuration does not say.
const DEFAULT_ROWS: usize = 512;

/// MPNet.
pub(super) fn mpnet(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    let rows = config.integer(&["max_position_embeddings"], PADDING + 2..=MAX_DIMENSION)?.unwrap_or(DEFAULT_ROWS);
    refuse_other(config, "relative_attention_num_buckets", &Value::from(BUCKETS))?;
    let tokens =
        Tokens { table: Some(rows), positions: rows - PADDING - 1, types: 0, counted_after: Some(PADDING as u32), no_gaps: true };
    let mut encoder = bert::encoder(config, &["", "mpnet."], tokens)?;
    encoder.positions = Positions::Buckets { tensor: "encoder.relative_attention_bias.weight".to_owned(), buckets: BUCKETS };
    encoder.layer = LayerNames {
        qkv: Qkv::Separate(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
        out: "attention.attn.o",
        attention_norm: "attention.LayerNorm",
        ..LAYER
    };
    with_roberta_heads(config, encoder, labels)
}
