//! The families of encoders: from `config.json` to a description.
//!
//! Owns: which `model_type` belongs to which family, one file per family, and what they share in reading their
//! configuration. Every field that would change the answer and is not handled is refused by name.

mod bert;
mod clip;
mod deberta;
mod dinov2;
mod images;
mod jina_bert;
mod jina_v3;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod rope;
mod siglip;
mod vit;

use kernels::activation::Activation;
use serde_json::Value;

use super::{EncoderSpec, Head};
use crate::card::{MAX_DIMENSION, MAX_LAYERS, Tower};
use crate::error::ModelError;
use crate::json::JsonFile;

/// The `model_type`s that there is code for, as printed in errors.
pub(crate) const KNOWN_MODEL_TYPES: &str = "bert, roberta, xlm-roberta, camembert, distilbert, mpnet, modernbert, \
                                             nomic_bert, jina_embeddings_v3, deberta-v2, vit, dinov2, \
                                             dinov2_with_registers, clip, clip_text_model, clip_vision_model, siglip, \
                                             siglip_text_model, siglip_vision_model";

/// The most tokens of a text where no stored table bounds them: tables of angles and buffers are as long as this.
const MAX_UNSTORED_POSITIONS: usize = 1 << 17;

/// What a family makes of a configuration.
pub(crate) struct Family {
    /// The encoder.
    pub(crate) encoder: EncoderSpec,
    /// The embedding that the family itself defines; sentence-transformers files and `None` mean pooled tokens.
    pub(crate) embedding: Option<Head>,
    /// One number per label and item; `None` if the family has no such model.
    pub(crate) classification: Option<Head>,
    /// One number per label and token; `None` if the family has no such model.
    pub(crate) token_classification: Option<Head>,
    /// One number per entry of the vocabulary and token; `None` if the family has no such model.
    pub(crate) masked_lm: Option<Head>,
}

/// Whether texts of this `model_type` are always filled up to one length, with padding that is part of them.
pub(crate) fn pads(model_type: &str) -> bool {
    matches!(model_type, "siglip" | "siglip_text_model")
}

/// Reads the description of the model of `config`, with heads for so many labels; `tower` says which of two encoders.
///
/// # Errors
/// An unknown `model_type`; a field that is missing, out of range or not supported.
pub(crate) fn read(config: &JsonFile, labels: usize, tower: Option<Tower>) -> Result<Family, ModelError> {
    let Some(model_type) = config.string(&["model_type"])? else {
        return Err(config.missing("model_type", &format!("one of {KNOWN_MODEL_TYPES}")));
    };
    match model_type {
        "bert" => bert::bert(config, labels),
        "roberta" | "xlm-roberta" | "camembert" => bert::roberta(config, labels),
        "distilbert" => bert::distilbert(config, labels),
        "vit" => vit::vit(config, labels),
        "dinov2" => dinov2::dinov2(config, labels, &dinov2::PLAIN),
        "dinov2_with_registers" => dinov2::dinov2(config, labels, &dinov2::WITH_REGISTERS),
        "clip" => clip::clip(config, tower),
        "clip_text_model" => clip::clip_text(config),
        "clip_vision_model" => clip::clip_vision(config),
        "siglip" => siglip::siglip(config, tower),
        "siglip_text_model" => siglip::siglip_text(config),
        "siglip_vision_model" => siglip::siglip_vision(config),
        "mpnet" => mpnet::mpnet(config, labels),
        "modernbert" => modernbert::modernbert(config, labels),
        "nomic_bert" => nomic_bert::nomic_bert(config),
        "jina_embeddings_v3" => jina_v3::jina_v3(config, labels),
        "deberta-v2" => deberta::deberta(config, labels),
        other => Err(ModelError::UnsupportedArchitecture {
            path: config.path().to_path_buf(),
            what: "model_type",
            got: other.to_owned(),
            known: KNOWN_MODEL_TYPES.to_owned(),
        }),
    }
}

/// Sizes that every configuration has, under the names of its family.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    layers: usize,
}

impl Sizes {
    /// Reads hidden size, intermediate size, heads and layers by the names in this order.
    fn read(config: &JsonFile, names: [&[&str]; 4]) -> Result<Sizes, ModelError> {
        let [hidden, intermediate, heads, layers] = names;
        let hidden = config.required_integer(hidden, 1..=MAX_DIMENSION)?;
        let intermediate = config.required_integer(intermediate, 1..=MAX_DIMENSION)?;
        Ok(Sizes {
            hidden,
            intermediate,
            heads: divisor(config, heads, hidden)?,
            layers: config.required_integer(layers, 1..=MAX_LAYERS)?,
        })
    }

    /// Reads them under their usual names; what is not there is as in `defaults`.
    fn or(config: &JsonFile, defaults: Sizes) -> Result<Sizes, ModelError> {
        let [hidden, intermediate, heads, layers] = Self::USUAL;
        let hidden = config.integer(hidden, 1..=MAX_DIMENSION)?.unwrap_or(defaults.hidden);
        let count = config.integer(heads, 1..=hidden)?.unwrap_or(defaults.heads);
        Ok(Sizes {
            hidden,
            intermediate: config.integer(intermediate, 1..=MAX_DIMENSION)?.unwrap_or(defaults.intermediate),
            heads: dividing(config, heads, count, hidden)?,
            layers: config.integer(layers, 1..=MAX_LAYERS)?.unwrap_or(defaults.layers),
        })
    }

    /// The usual names.
    const USUAL: [&[&str]; 4] = [&["hidden_size"], &["intermediate_size"], &["num_attention_heads"], &["num_hidden_layers"]];
}

/// A number of heads, which must divide the hidden size.
fn divisor(config: &JsonFile, names: &[&str], hidden: usize) -> Result<usize, ModelError> {
    let heads = config.required_integer(names, 1..=hidden)?;
    dividing(config, names, heads, hidden)
}

fn dividing(config: &JsonFile, names: &[&str], heads: usize, hidden: usize) -> Result<usize, ModelError> {
    if hidden.is_multiple_of(heads) {
        return Ok(heads);
    }
    let name = names.first().copied().unwrap_or_default();
    Err(config.invalid(name, &Value::from(heads), &format!("a divisor of hidden_size {hidden}")))
}

/// The activation that `config` names, or `default`.
fn activation(config: &JsonFile, names: &[&str], default: Activation) -> Result<Activation, ModelError> {
    let Some(name) = config.string(names)? else { return Ok(default) };
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Ok(Activation::GeluTanh),
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        "tanh" => Ok(Activation::Tanh),
        other => {
            let field = config.value(names).map_or("hidden_act", |(field, _)| field);
            let expected = "one of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu, silu, tanh";
            Err(config.invalid(field, &Value::from(other), expected))
        }
    }
}

/// The `eps` of layer normalization.
fn eps(config: &JsonFile, names: &[&str], default: f64) -> Result<f64, ModelError> {
    let Some(eps) = config.number(names)? else { return Ok(default) };
    if eps > 0.0 && eps < 1.0 {
        return Ok(eps);
    }
    let field = config.value(names).map_or("layer_norm_eps", |(field, _)| field);
    Err(config.invalid(field, &Value::from(eps), "a number between 0 and 1"))
}

/// Refuses a field that is there with another value than the only one supported.
fn refuse_other(config: &JsonFile, field: &str, supported: &Value) -> Result<(), ModelError> {
    match config.value(&[field]) {
        Some((name, value)) if value != supported => {
            Err(config.invalid(name, value, &format!("{supported} (others are not supported)")))
        }
        _ => Ok(()),
    }
}

/// Whether the decoder of a masked language model is the word table.
fn tied(config: &JsonFile) -> Result<bool, ModelError> {
    Ok(config.boolean(&["tie_word_embeddings"])?.unwrap_or(true))
}
