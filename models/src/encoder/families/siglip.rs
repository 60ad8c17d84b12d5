//! SigLIP: CLIP's towers trained otherwise, with a head that attends to all patches.
//!
//! Texts are trained and used at one length: padding is part of them and is not masked, so tokenizers fill up to it (see
//! `ModelCard::pads_to`). Directories with both towers are read as CLIP's.
//!
//! Source: Zhai et al. 2023; names and defaults of the Hugging Face models.

use kernels::activation::Activation;
use serde_json::Value;

use super::clip::{Defaults, chosen, of_embedding, text_encoder, tower_section, vision_encoder};
use super::{Family, refuse_other};
use crate::card::{MAX_DIMENSION, Tower};
use crate::encoder::{Head, HeadLayer, HeadName, Pick};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::Taken;

const DEFAULTS: Defaults = Defaults {
    sizes: super::vit::SIZES,
    vocabulary: 32000,
    positions: 64,
    patch: 16,
    activation: Activation::GeluTanh,
    eps: 1e-6,
};

/// Both towers in one directory: the embeddings are divided by their length.
pub(super) fn siglip(config: &JsonFile, tower: Option<Tower>) -> Result<Family, ModelError> {
    let section = |name: &str, model_type: &str| -> Result<JsonFile, ModelError> {
        let section = tower_section(config, name)?;
        refuse_other(&section, "model_type", &Value::from(model_type))?;
        Ok(section)
    };
    let mut family = match chosen(config, tower) {
        Tower::Text => siglip_text(&section("text_config", "siglip_text_model")?),
        Tower::Vision => siglip_vision(&section("vision_config", "siglip_vision_model")?),
    }?;
    if let Some(head) = &mut family.embedding {
        head.layers.push(HeadLayer::Normalize);
    }
    Ok(family)
}

/// The tower of texts: the last token, padding or not, is the embedding.
pub(super) fn siglip_text(config: &JsonFile) -> Result<Family, ModelError> {
    let encoder = text_encoder(config, &DEFAULTS)?;
    let size = config.integer(&["projection_size"], 1..=MAX_DIMENSION)?.unwrap_or(encoder.hidden_size);
    let head = HeadLayer::Linear { name: HeadName::inside("head"), size, bias: true, activation: Activation::Identity };
    Ok(of_embedding(encoder, Head { pick: Pick::Take(Taken::Last), layers: vec![head] }))
}

/// The tower of images.
pub(super) fn siglip_vision(config: &JsonFile) -> Result<Family, ModelError> {
    if config.boolean(&["vision_use_head"])? == Some(false) {
        return Err(config.invalid("vision_use_head", &Value::Bool(false), "true: without its head it makes no embedding"));
    }
    let mut encoder = vision_encoder(config, &DEFAULTS, 0)?;
    encoder.final_norm = Some("post_layernorm".to_owned());
    Ok(of_embedding(encoder, Head { pick: Pick::Probe { name: "head".to_owned() }, layers: Vec::new() }))
}
