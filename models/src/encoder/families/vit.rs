//! ViT: pre-norm layers over patches behind a class token.
//!
//! Source: Dosovitskiy et al. 2021; names and defaults of the Hugging Face model.

use kernels::activation::Activation;

use super::bert::linear;
use super::{Family, Sizes, activation, eps, images};
use crate::encoder::{
    Embedding, EncoderSpec, FirstTokens, Head, HeadName, LayerNames, NormSpec, PatchPositions, Pick, Placement, Positions, Qkv,
    Up,
};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::batch::ImageInput;
use crate::plan::{Input, Taken};

/// What the library takes where a configuration says nothing.
pub(super) const SIZES: Sizes = Sizes { hidden: 768, intermediate: 3072, heads: 12, layers: 12 };

/// The names of a ViT layer.
pub(super) const LAYER: LayerNames = LayerNames {
    qkv: Qkv::Separate(["attention.attention.query", "attention.attention.key", "attention.attention.value"]),
    qkv_bias: true,
    out: "attention.output.dense",
    out_bias: true,
    attention_norm: "layernorm_before",
    first_attention_norm: true,
    up: Up::Plain("intermediate.dense"),
    up_bias: true,
    down: "output.dense",
    down_bias: true,
    output_norm: "layernorm_after",
    scales: None,
};

/// ViT. Images have the size of the configuration; the embedding is the class token after the last normalization (the
/// pooler of a bare model is not used).
pub(super) fn vit(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    let size = images::sides(config, "image_size", 224)?;
    let patch = images::sides(config, "patch_size", 16)?;
    let image = images::input(config, size, patch, 1)?;
    let encoder = encoder(config, &Sizes::or(config, SIZES)?, image, 1e-12)?;
    let pick = Pick::Take(Taken::First);
    Ok(Family {
        embedding: Some(Head { pick: pick.clone(), layers: Vec::new() }),
        classification: Some(Head { pick, layers: vec![linear(HeadName::beside("classifier"), labels, Activation::Identity)] }),
        token_classification: None,
        masked_lm: None,
        encoder,
    })
}

/// A ViT of these sizes, with positions for a class token and all patches of `image`.
pub(super) fn encoder(config: &JsonFile, sizes: &Sizes, image: ImageInput, default_eps: f64) -> Result<EncoderSpec, ModelError> {
    let class = FirstTokens { tensor: "embeddings.cls_token".to_owned(), shape: vec![1, 1, sizes.hidden], positioned: true };
    let positions = PatchPositions {
        tensor: "embeddings.position_embeddings".to_owned(),
        shape: vec![1, image.patches() + 1, sizes.hidden],
        resize: None,
    };
    Ok(EncoderSpec {
        hidden_size: sizes.hidden,
        intermediate_size: sizes.intermediate,
        layers: sizes.layers,
        heads: sizes.heads,
        input: Input::Images(image),
        embedding: Embedding::Patches {
            projection: "embeddings.patch_embeddings.projection".to_owned(),
            bias: true,
            first: vec![class],
            positions,
            norm: None,
        },
        positions: Positions::Embedded,
        norm: NormSpec { placement: Placement::Pre, eps: eps(config, &["layer_norm_eps"], default_eps)?, bias: true },
        final_norm: Some("layernorm".to_owned()),
        layer_prefix: "encoder.layer.".to_owned(),
        layer: LayerNames { qkv_bias: config.boolean(&["qkv_bias"])?.unwrap_or(true), ..LAYER },
        activation: activation(config, &["hidden_act"], Activation::Gelu)?,
        score_scale: 1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt(),
        causal: false,
        windows: Vec::new(),
        prefixes: &["", "vit."],
    })
}
