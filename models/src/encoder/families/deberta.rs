//! DeBERTa, versions 2 and 3: BERT's layer, with terms of relative positions in the scores.
//!
//! Source: He et al. 2021 and 2023; names and defaults of the Hugging Face model `deberta-v2`.

use kernels::activation::Activation;
use serde_json::Value;

use super::bert::{self, LAYER, Tokens, linear, masked_lm, norm, token_classifier};
use super::{Family, MAX_UNSTORED_POSITIONS, activation, eps, refuse_other};
use crate::card::MAX_DIMENSION;
use crate::encoder::{DisentangledSpec, EncoderSpec, Head, HeadName, LayerNames, Pick, Positions, Qkv};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::Taken;

/// What is added to the variance where the configuration does not say.
const DEFAULT_EPS: f64 = 1e-7;

/// DeBERTa.
pub(super) fn deberta(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    let encoder = encoder(config)?;
    let hidden = encoder.hidden_size;
    refuse_other(config, "pooler_hidden_size", &Value::from(hidden))?;
    let pooler = activation(config, &["pooler_hidden_act"], Activation::Gelu)?;
    let names = if config.boolean(&["legacy"])?.unwrap_or(true) {
        ["cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"]
    } else {
        ["lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", "lm_predictions.lm_head.bias"]
    };
    let transform =
        [linear(HeadName::beside(names[0]), hidden, encoder.activation), norm(HeadName::beside(names[1]), encoder.norm.eps)];
    Ok(Family {
        embedding: None,
        classification: Some(Head {
            pick: Pick::Take(Taken::First),
            layers: vec![
                linear(HeadName::beside("pooler.dense"), hidden, pooler),
                linear(HeadName::beside("classifier"), labels, Activation::Identity),
            ],
        }),
        token_classification: Some(token_classifier(labels)),
        masked_lm: Some(masked_lm(config, transform, "cls.predictions.decoder.weight", names[2])?),
        encoder,
    })
}

fn encoder(config: &JsonFile) -> Result<EncoderSpec, ModelError> {
    let stored = config.boolean(&["position_biased_input"])?.unwrap_or(true);
    let most = if stored { MAX_DIMENSION } else { MAX_UNSTORED_POSITIONS };
    let rows = config.required_integer(&["max_position_embeddings"], 1..=most)?;
    let table = stored.then_some(rows);
    let types = config.integer(&["type_vocab_size"], 0..=MAX_DIMENSION)?.unwrap_or(0);
    let relative = config.boolean(&["relative_attention"])?.unwrap_or(false);
    let tokens = Tokens { table, positions: rows, types, counted_after: None, no_gaps: relative };
    let mut encoder = bert::encoder(config, &["", "deberta."], tokens)?;
    refuse_other(config, "embedding_size", &Value::from(encoder.hidden_size))?;
    refuse_other(config, "attention_head_size", &Value::from(encoder.head_size()))?;
    if let Some(size) = config.integer(&["conv_kernel_size"], 0..=MAX_DIMENSION)?.filter(|size| *size > 0) {
        let expected = "0: the convolution beside the first layer is not supported";
        return Err(config.invalid("conv_kernel_size", &Value::from(size), expected));
    }
    encoder.norm.eps = eps(config, &["layer_norm_eps"], DEFAULT_EPS)?;
    encoder.layer = LayerNames {
        qkv: Qkv::Separate(["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"]),
        ..LAYER
    };
    let [content_to_position, position_to_content] = terms(config)?;
    let count = usize::from(content_to_position) + usize::from(position_to_content);
    if count > 0 && !relative {
        let (field, value) = config.value(&["pos_att_type"]).unwrap_or(("pos_att_type", &Value::Null));
        return Err(config.invalid(field, value, "an empty list, since relative_attention is false"));
    }
    encoder.score_scale = 1.0 / (((1 + count) * encoder.head_size()) as f32).sqrt();
    if count > 0 {
        let shared = config.boolean(&["share_att_key"])?.unwrap_or(false);
        let key = if shared { "attention.self.key_proj" } else { "attention.self.pos_key_proj" };
        let query = if shared { "attention.self.query_proj" } else { "attention.self.pos_query_proj" };
        let (span, buckets) = reach(config, rows)?;
        encoder.positions = Positions::Disentangled(DisentangledSpec {
            table: "encoder.rel_embeddings.weight".to_owned(),
            span,
            norm: table_norm(config)?.then(|| "encoder.LayerNorm".to_owned()),
            buckets,
            key: content_to_position.then_some(key),
            query: position_to_content.then_some(query),
        });
    }
    Ok(encoder)
}

/// Whether there are terms of content and position, and of position and content: a list, or names joined by bars.
fn terms(config: &JsonFile) -> Result<[bool; 2], ModelError> {
    let Some((field, value)) = config.value(&["pos_att_type"]) else { return Ok([false; 2]) };
    let names: Option<Vec<&str>> = match value {
        Value::String(text) => Some(text.split('|').map(str::trim).filter(|name| !name.is_empty()).collect()),
        Value::Array(names) => names.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let names = names.filter(|names| names.iter().all(|name| ["c2p", "p2c"].contains(name)));
    let Some(names) = names else { return Err(config.invalid(field, value, "a list of c2p and p2c")) };
    Ok(["c2p", "p2c"].map(|term| names.contains(&term)))
}

/// Half of the rows of the table of relative positions; the number of buckets and the largest distance, if it has buckets.
fn reach(config: &JsonFile, rows: usize) -> Result<(usize, Option<(usize, usize)>), ModelError> {
    // Numbers below 1 mean that something is not there.
    let number = |name: &str| match config.value(&[name]) {
        Some((_, value)) if value.as_i64().is_some_and(|number| number < 1) => Ok(None),
        _ => config.integer(&[name], 1..=MAX_DIMENSION),
    };
    let largest = number("max_relative_positions")?.unwrap_or(rows);
    let Some(buckets) = number("position_buckets")? else { return Ok((largest, None)) };
    // The logarithm of the remaining distances must grow from the middle to the largest.
    if buckets < 2 || largest <= buckets / 2 + 1 {
        let expected = format!("from 2 on and less than twice the largest relative position {largest}");
        return Err(config.invalid("position_buckets", &Value::from(buckets), &expected));
    }
    Ok((buckets, Some((buckets, largest))))
}

/// Whether the table of relative positions is normalized.
fn table_norm(config: &JsonFile) -> Result<bool, ModelError> {
    let text = config.string(&["norm_rel_ebd"])?.unwrap_or("none").to_lowercase();
    let kinds: Vec<&str> = text.split('|').map(str::trim).collect();
    if !kinds.iter().all(|kind| ["none", "layer_norm"].contains(kind)) {
        return Err(config.invalid("norm_rel_ebd", &Value::from(&text[..]), "none or layer_norm"));
    }
    Ok(kinds.contains(&"layer_norm"))
}
