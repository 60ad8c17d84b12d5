//! CLIP: a tower for texts and one for images, whose embeddings are compared with each other.
//!
//! A directory holds one tower (`clip_text_model`, `clip_vision_model`) or both (`clip`). Of both, the one that is asked for is
//! read, by default that of texts if the directory has a tokenizer, else that of images.
//!
//! Source: Radford et al. 2021; names and defaults of the Hugging Face models.

use kernels::activation::Activation;
use serde_json::Value;

use super::{Family, Sizes, activation, eps, images, refuse_other};
use crate::card::{MAX_DIMENSION, Tower};
use crate::encoder::{
    Embedding, EncoderSpec, FirstTokens, Head, HeadLayer, HeadName, LayerNames, NormSpec, PatchPositions, Pick, Placement,
    Positions, Qkv, Up,
};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::batch::TokenInput;
use crate::plan::{Input, Taken};

/// The names of a layer of a tower.
const LAYER: LayerNames = LayerNames {
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    qkv_bias: true,
    out: "self_attn.out_proj",
    out_bias: true,
    attention_norm: "layer_norm1",
    first_attention_norm: true,
    up: Up::Plain("mlp.fc1"),
    up_bias: true,
    down: "mlp.fc2",
    down_bias: true,
    output_norm: "layer_norm2",
    scales: None,
};

/// What the library takes where the configuration of a tower says nothing; published files with both towers rely on it.
pub(super) struct Defaults {
    pub(super) sizes: Sizes,
    pub(super) vocabulary: usize,
    pub(super) positions: usize,
    pub(super) patch: usize,
    pub(super) activation: Activation,
    pub(super) eps: f64,
}

const TEXT: Defaults = Defaults {
    sizes: Sizes { hidden: 512, intermediate: 2048, heads: 8, layers: 12 },
    vocabulary: 49408,
    positions: 77,
    ..VISION
};

const VISION: Defaults =
    Defaults { sizes: super::vit::SIZES, vocabulary: 0, positions: 0, patch: 32, activation: Activation::QuickGelu, eps: 1e-5 };

/// What is done with the token that stands for a text or an image.
#[derive(Debug, Clone, Copy)]
struct Projection {
    /// Numbers of the embedding; `None` if the token itself is the embedding.
    size: Option<usize>,
    /// Whether it is divided by its length.
    normalize: bool,
}

/// Both towers in one directory.
pub(super) fn clip(config: &JsonFile, tower: Option<Tower>) -> Result<Family, ModelError> {
    // The towers have sizes of their own there, which this one overrides.
    let size = Some(config.integer(&["projection_dim"], 1..=MAX_DIMENSION)?.unwrap_or(512));
    let projection = Projection { size, normalize: true };
    match chosen(config, tower) {
        Tower::Text => text(&section(config, "text_config", "clip_text_model")?, projection),
        Tower::Vision => vision(&section(config, "vision_config", "clip_vision_model")?, projection),
    }
}

/// The tower of texts alone.
pub(super) fn clip_text(config: &JsonFile) -> Result<Family, ModelError> {
    text(config, own_projection(config)?)
}

/// The tower of images alone.
pub(super) fn clip_vision(config: &JsonFile) -> Result<Family, ModelError> {
    vision(config, own_projection(config)?)
}

/// The tower that is asked for, else that of texts if there is a tokenizer.
pub(super) fn chosen(config: &JsonFile, tower: Option<Tower>) -> Tower {
    let texts = || config.path().with_file_name("tokenizer.json").is_file();
    tower.unwrap_or_else(|| if texts() { Tower::Text } else { Tower::Vision })
}

/// The configuration of a tower in one of both. Files written by early versions have it twice; the library then takes the
/// second, together with its own defaults.
fn section(config: &JsonFile, name: &str, model_type: &str) -> Result<JsonFile, ModelError> {
    let section = match config.section(&format!("{name}_dict"))? {
        Some(section) => section,
        None => tower_section(config, name)?,
    };
    refuse_other(&section, "model_type", &Value::from(model_type))?;
    Ok(section)
}

/// The section `name`, which must be there.
pub(super) fn tower_section(config: &JsonFile, name: &str) -> Result<JsonFile, ModelError> {
    config.section(name)?.ok_or_else(|| config.missing(name, "an object that describes this encoder"))
}

/// The projection of a tower alone: only classes that say so have one.
fn own_projection(config: &JsonFile) -> Result<Projection, ModelError> {
    let first = config.value(&["architectures"]).and_then(|(_, names)| names.get(0)).and_then(Value::as_str);
    let projected = first.is_some_and(|name| name.ends_with("WithProjection"));
    let size = config.integer(&["projection_dim"], 1..=MAX_DIMENSION)?.unwrap_or(512);
    Ok(Projection { size: projected.then_some(size), normalize: false })
}

/// The layers that make an embedding of the token that was picked.
fn projected(name: &str, projection: Projection) -> Vec<HeadLayer> {
    let linear = |size| HeadLayer::Linear { name: HeadName::beside(name), size, bias: false, activation: Activation::Identity };
    projection.size.map(linear).into_iter().chain(projection.normalize.then_some(HeadLayer::Normalize)).collect()
}

fn text(config: &JsonFile, projection: Projection) -> Result<Family, ModelError> {
    let encoder = EncoderSpec { causal: true, ..text_encoder(config, &TEXT)? };
    let taken = match config.integer(&["eos_token_id"], 0..=MAX_DIMENSION)?.unwrap_or(49407) {
        // Files from before the id was written down correctly; the end token is the last of the vocabulary there.
        2 => Taken::LargestId,
        id => Taken::Id(id as u32),
    };
    Ok(of_embedding(encoder, Head { pick: Pick::Take(taken), layers: projected("text_projection", projection) }))
}

fn vision(config: &JsonFile, projection: Projection) -> Result<Family, ModelError> {
    let mut encoder = vision_encoder(config, &VISION, 1)?;
    let hidden = encoder.hidden_size;
    if let Embedding::Patches { bias, first, norm, .. } = &mut encoder.embedding {
        *bias = false;
        first.push(FirstTokens { tensor: "embeddings.class_embedding".to_owned(), shape: vec![hidden], positioned: true });
        // The name is misspelled in all files.
        *norm = Some("pre_layrnorm".to_owned());
    }
    let norm = HeadLayer::Norm { name: HeadName::inside("post_layernorm"), eps: encoder.norm.eps, bias: true };
    let layers = [norm].into_iter().chain(projected("visual_projection", projection)).collect();
    Ok(of_embedding(encoder, Head { pick: Pick::Take(Taken::First), layers }))
}

/// A family that makes embeddings and nothing else.
pub(super) fn of_embedding(encoder: EncoderSpec, head: Head) -> Family {
    Family { encoder, embedding: Some(head), classification: None, token_classification: None, masked_lm: None }
}

/// The encoder of texts that CLIP and SigLIP share.
pub(super) fn text_encoder(config: &JsonFile, defaults: &Defaults) -> Result<EncoderSpec, ModelError> {
    let positions = config.integer(&["max_position_embeddings"], 1..=MAX_DIMENSION)?.unwrap_or(defaults.positions);
    let input = TokenInput {
        vocab_size: config.integer(&["vocab_size"], 1..=MAX_DIMENSION)?.unwrap_or(defaults.vocabulary),
        positions,
        token_types: 0,
        counted_after: None,
        no_gaps: false,
        padding_id: config.integer(&["pad_token_id"], 0..=MAX_DIMENSION)?.unwrap_or(1) as u32,
    };
    let embedding = Embedding::Tokens {
        words: "embeddings.token_embedding.weight".to_owned(),
        positions: Some(("embeddings.position_embedding.weight".to_owned(), positions)),
        types: None,
        norm: None,
    };
    let mut encoder = encoder(config, defaults, Input::Tokens(input), embedding, &["", "text_model."])?;
    encoder.final_norm = Some("final_layer_norm".to_owned());
    Ok(encoder)
}

/// The encoder of images that CLIP and SigLIP share, with room for so many tokens before the patches.
pub(super) fn vision_encoder(config: &JsonFile, defaults: &Defaults, first_tokens: usize) -> Result<EncoderSpec, ModelError> {
    let size = images::square(config, "image_size", 224)?;
    let patch = images::square(config, "patch_size", defaults.patch)?;
    let image = images::input(config, (size, size), (patch, patch), first_tokens)?;
    let rows = image.tokens();
    let embedding = |hidden: usize| Embedding::Patches {
        projection: "embeddings.patch_embedding".to_owned(),
        bias: true,
        first: Vec::new(),
        positions: PatchPositions {
            tensor: "embeddings.position_embedding.weight".to_owned(),
            shape: vec![rows, hidden],
            resize: None,
        },
        norm: None,
    };
    let hidden = config.integer(&["hidden_size"], 1..=MAX_DIMENSION)?.unwrap_or(defaults.sizes.hidden);
    encoder(config, defaults, Input::Images(image), embedding(hidden), &["", "vision_model."])
}

fn encoder(
    config: &JsonFile,
    defaults: &Defaults,
    input: Input,
    embedding: Embedding,
    prefixes: &'static [&'static str],
) -> Result<EncoderSpec, ModelError> {
    let sizes = Sizes::or(config, defaults.sizes)?;
    Ok(EncoderSpec {
        hidden_size: sizes.hidden,
        intermediate_size: sizes.intermediate,
        layers: sizes.layers,
        heads: sizes.heads,
        input,
        embedding,
        positions: Positions::Embedded,
        norm: NormSpec { placement: Placement::Pre, eps: eps(config, &["layer_norm_eps"], defaults.eps)?, bias: true },
        final_norm: None,
        layer_prefix: "encoder.layers.".to_owned(),
        layer: LAYER,
        activation: activation(config, &["hidden_act"], defaults.activation)?,
        score_scale: 1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt(),
        causal: false,
        windows: Vec::new(),
        prefixes,
    })
}
