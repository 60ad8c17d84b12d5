//! Jina's third embedding model: XLM-RoBERTa's heads and tokens with rotary positions.
//!
//! Source: Sturua et al. 2024; names and defaults of the Hugging Face model `jina_embeddings_v3`.

use kernels::rotary::Pairs;

use super::bert::{self, LAYER, Tokens, with_roberta_heads};
use super::{Family, MAX_UNSTORED_POSITIONS, Sizes, rope};
use crate::card::MAX_DIMENSION;
use crate::encoder::{Embedding, LayerNames, Positions, Qkv, Up};
use crate::error::ModelError;
use crate::json::JsonFile;

/// The base of angles where the configuration does not say.
const DEFAULT_BASE: f64 = 20_000.0;

/// Jina's third embedding model.
pub(super) fn jina_v3(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    rope::check_heads(config, &["num_attention_heads"], &Sizes::read(config, Sizes::USUAL)?)?;
    let tokens = Tokens {
        table: None,
        positions: config.required_integer(&["max_position_embeddings"], 1..=MAX_UNSTORED_POSITIONS)?,
        types: config.integer(&["type_vocab_size"], 0..=MAX_DIMENSION)?.unwrap_or(1),
        counted_after: None,
        // Tokens keep the angles of their columns, so a gap shifts nothing.
        no_gaps: false,
    };
    let mut encoder = bert::encoder(config, &["", "roberta."], tokens)?;
    let base = match rope::base(config, None)? {
        Some(base) => base,
        None => rope::field(config, &["rope_theta"])?.unwrap_or(DEFAULT_BASE),
    };
    encoder.positions = Positions::Rotary { bases: vec![base; encoder.layers], dims: encoder.head_size(), pairs: Pairs::Halves };
    if let Embedding::Tokens { norm, .. } = &mut encoder.embedding {
        *norm = Some("emb_ln".to_owned());
    }
    encoder.layer_prefix = "encoder.layers.".to_owned();
    encoder.layer = LayerNames {
        qkv: Qkv::Fused("mixer.Wqkv"),
        out: "mixer.out_proj",
        attention_norm: "norm1",
        up: Up::Plain("mlp.fc1"),
        down: "mlp.fc2",
        output_norm: "norm2",
        ..LAYER
    };
    with_roberta_heads(config, encoder, labels)
}
