//! Jina's BERT (v2): BERT without a position table, with ALiBi and gated feed-forward layers.
//!
//! Source: Günther et al. 2023; names of the published models.

use kernels::activation::Activation;
use serde_json::Value;

use super::bert::LAYER;
use crate::encoder::{EncoderSpec, LayerNames, Positions, Up};
use crate::error::ModelError;
use crate::json::JsonFile;

/// What `position_embedding_type` says in these models.
pub(super) const ALIBI: &str = "alibi";

/// Turns the description of a BERT without a position table into that of Jina's.
///
/// # Errors
/// A feed-forward layer that there is no code for; the variant that normalizes queries and keys.
pub(super) fn adapt(config: &JsonFile, encoder: &mut EncoderSpec) -> Result<(), ModelError> {
    refuse_normalized_queries(config)?;
    encoder.positions = Positions::Alibi;
    let gated =
        LayerNames { up: Up::Gated("mlp.gated_layers"), up_bias: false, down: "mlp.wo", output_norm: "mlp.layernorm", ..LAYER };
    match config.string(&["feed_forward_type"])?.unwrap_or("original") {
        "original" => {}
        // The activation of the gate goes by the name of the layer, not by `hidden_act`.
        "geglu" => (encoder.layer, encoder.activation) = (gated, Activation::Gelu),
        "reglu" => (encoder.layer, encoder.activation) = (gated, Activation::Relu),
        other => {
            return Err(config.invalid("feed_forward_type", &Value::from(other), "one of original, geglu, reglu"));
        }
    }
    Ok(())
}

/// The model of code has the same configuration but for the name of its own program: other layers under other names.
fn refuse_normalized_queries(config: &JsonFile) -> Result<(), ModelError> {
    let Some((field, map)) = config.value(&["auto_map"]) else { return Ok(()) };
    let mut programs = map.as_object().into_iter().flat_map(|map| map.values());
    match programs.find(|program| program.as_str().is_some_and(|program| program.contains("qk-post-norm"))) {
        Some(program) => {
            Err(config.invalid(field, program, "another program: models that normalize queries and keys are not supported"))
        }
        None => Ok(()),
    }
}
