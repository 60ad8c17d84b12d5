//! DINOv2, with or without registers: ViT with scaled layers, and positions that are resized to the image.
//!
//! Source: Oquab et al. 2024, Darcet et al. 2024 (registers); names and defaults of the Hugging Face models.

use kernels::activation::Activation;
use serde_json::Value;

use super::bert::linear;
use super::{Family, Sizes, images, vit};
use crate::card::MAX_DIMENSION;
use crate::encoder::{Embedding, EncoderSpec, FirstTokens, Head, HeadName, LayerNames, Pick, Resize, Up};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::Taken;

/// The most register tokens accepted; published models have four.
const MAX_REGISTERS: usize = 1024;

/// What differs between the two.
pub(super) struct Variant {
    /// The library's patch size where a configuration has none.
    pub(super) patch: usize,
    /// Whether there are register tokens.
    pub(super) registers: bool,
    /// What may stand before every name.
    pub(super) prefixes: &'static [&'static str],
}

/// DINOv2.
pub(super) const PLAIN: Variant = Variant { patch: 14, registers: false, prefixes: &["", "dinov2."] };
/// DINOv2 with registers.
pub(super) const WITH_REGISTERS: Variant = Variant { patch: 16, registers: true, prefixes: &["", "dinov2_with_registers."] };

/// DINOv2. Images have the size that `preprocessor_config.json` makes them, else that of the configuration; the embedding is
/// the class token after the last normalization.
pub(super) fn dinov2(config: &JsonFile, labels: usize, variant: &Variant) -> Result<Family, ModelError> {
    let (encoder, first_tokens) = encoder(config, variant)?;
    Ok(Family {
        embedding: Some(Head { pick: Pick::Take(Taken::First), layers: Vec::new() }),
        classification: Some(Head {
            pick: Pick::FirstAndMean { skip: first_tokens },
            layers: vec![linear(HeadName::beside("classifier"), labels, Activation::Identity)],
        }),
        token_classification: None,
        masked_lm: None,
        encoder,
    })
}

/// The encoder, and how many tokens stand before the patches.
fn encoder(config: &JsonFile, variant: &Variant) -> Result<(EncoderSpec, usize), ModelError> {
    let stored = images::square(config, "image_size", 224)?;
    let patch = images::square(config, "patch_size", variant.patch)?;
    let size = images::preprocessed(config)?.unwrap_or((stored, stored));
    let registers = match variant.registers {
        true => config.integer(&["num_register_tokens"], 0..=MAX_REGISTERS)?.unwrap_or(4),
        false => 0,
    };
    // The stored grid has its limits too.
    images::input(config, (stored, stored), (patch, patch), 1)?;
    let image = images::input(config, size, (patch, patch), 1 + registers)?;
    let gated = config.boolean(&["use_swiglu_ffn"])?.unwrap_or(false);
    let hidden = config.integer(&["hidden_size"], 1..=MAX_DIMENSION)?.unwrap_or(vit::SIZES.hidden);
    // There is no key for the width of the feed-forward layer.
    let sizes = Sizes { intermediate: feed_forward(config, hidden, gated)?, ..Sizes::or(config, vit::SIZES)? };
    let mut encoder = vit::encoder(config, &sizes, image, 1e-6)?;
    let side = stored / patch;
    if let Embedding::Patches { first, positions, .. } = &mut encoder.embedding {
        positions.shape = vec![1, side * side + 1, hidden];
        positions.resize = (size != (stored, stored)).then_some(Resize { side, antialias: variant.registers });
        if registers > 0 {
            first.push(FirstTokens {
                tensor: "embeddings.register_tokens".to_owned(),
                shape: vec![1, registers, hidden],
                positioned: false,
            });
        }
    }
    encoder.layer = LayerNames {
        attention_norm: "norm1",
        up: if gated { Up::Gated("mlp.weights_in") } else { Up::Plain("mlp.fc1") },
        down: if gated { "mlp.weights_out" } else { "mlp.fc2" },
        output_norm: "norm2",
        scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
        ..encoder.layer
    };
    if gated {
        encoder.activation = Activation::Silu;
    }
    encoder.prefixes = variant.prefixes;
    Ok((encoder, 1 + registers))
}

/// The width of the feed-forward layer; of one half if it is gated.
fn feed_forward(config: &JsonFile, hidden: usize, gated: bool) -> Result<usize, ModelError> {
    let ratio = config.number(&["mlp_ratio"])?.unwrap_or(4.0);
    let width = hidden as f64 * ratio;
    if !(1.0..=MAX_DIMENSION as f64).contains(&width) {
        let expected = format!("a ratio to hidden_size {hidden} that gives 1 to {MAX_DIMENSION}");
        return Err(config.invalid("mlp_ratio", &Value::from(ratio), &expected));
    }
    let width = width as usize;
    // Two thirds, so that the gate costs nothing, rounded up to a multiple of 8.
    Ok(if gated { (width * 2 / 3).next_multiple_of(8) } else { width })
}
