//! Nomic's BERT: gated feed-forward layers, rotary positions, hardly any biases.
//!
//! Source: Nussbaum et al. 2024; the keys of the published files and those of the Hugging Face model.

use kernels::activation::Activation;
use kernels::rotary::Pairs;
use serde_json::Value;

use super::bert::{linear, masked_lm, norm, padding_id};
use super::{Family, MAX_UNSTORED_POSITIONS, Sizes, activation, eps, refuse_other, rope};
use crate::card::MAX_DIMENSION;
use crate::encoder::{Embedding, EncoderSpec, HeadName, LayerNames, NormSpec, Placement, Positions, Qkv, Up};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::Input;
use crate::plan::batch::TokenInput;

/// The names of heads in either form of the configuration.
const HEADS: [&str; 2] = ["num_attention_heads", "n_head"];

/// Nomic's BERT.
pub(super) fn nomic_bert(config: &JsonFile) -> Result<Family, ModelError> {
    refuse_variants(config)?;
    let encoder = encoder(config)?;
    let transform = [
        linear(HeadName::beside("cls.predictions.transform.dense"), encoder.hidden_size, encoder.activation),
        norm(HeadName::beside("cls.predictions.transform.layer_norm"), encoder.norm.eps),
    ];
    Ok(Family {
        embedding: None,
        classification: None,
        token_classification: None,
        masked_lm: Some(masked_lm(config, transform, "cls.predictions.decoder.weight", "cls.predictions.bias")?),
        encoder,
    })
}

/// Refuses what the authors' code can do and no published model of this shape does.
fn refuse_variants(config: &JsonFile) -> Result<(), ModelError> {
    for flag in
        ["prenorm", "use_rms_norm", "rotary_emb_interleaved", "causal", "parallel_block", "scale_attn_by_inverse_layer_idx"]
    {
        config.refuse_true(flag)?;
    }
    refuse_other(config, "scale_attn_weights", &Value::from(true))?;
    for field in ["rotary_emb_scale_base", "rotary_scaling_factor", "num_experts"] {
        refuse_other(config, field, &Value::Null)?;
    }
    Ok(())
}

fn encoder(config: &JsonFile) -> Result<EncoderSpec, ModelError> {
    let sizes = Sizes::read(
        config,
        [&["hidden_size", "n_embd"], &["intermediate_size", "n_inner"], &HEADS, &["num_hidden_layers", "n_layer"]],
    )?;
    rope::check_heads(config, &HEADS, &sizes)?;
    let flag = |name: &str| Ok::<bool, ModelError>(config.boolean(&[name])?.unwrap_or(false));
    let (attention_bias, up_bias, down_bias) = (flag("qkv_proj_bias")?, flag("mlp_fc1_bias")?, flag("mlp_fc2_bias")?);
    let types = config.integer(&["type_vocab_size"], 0..=MAX_DIMENSION)?.unwrap_or(2);
    let head_size = sizes.hidden / sizes.heads;
    let base = match rope::base(config, None)? {
        Some(base) => base,
        None => rope::field(config, &["rope_theta", "rotary_emb_base"])?.unwrap_or(1000.0),
    };
    Ok(EncoderSpec {
        hidden_size: sizes.hidden,
        intermediate_size: sizes.intermediate,
        layers: sizes.layers,
        heads: sizes.heads,
        input: Input::Tokens(TokenInput {
            vocab_size: config.required_integer(&["vocab_size"], 1..=MAX_DIMENSION)?,
            positions: config.required_integer(&["max_position_embeddings", "n_positions"], 1..=MAX_UNSTORED_POSITIONS)?,
            token_types: types,
            counted_after: None,
            // Tokens keep the angles of their columns, so a gap shifts nothing.
            no_gaps: false,
            padding_id: padding_id(config)?,
        }),
        embedding: Embedding::Tokens {
            words: "embeddings.word_embeddings.weight".to_owned(),
            positions: None,
            types: (types > 0).then(|| ("embeddings.token_type_embeddings.weight".to_owned(), types)),
            norm: Some("emb_ln".to_owned()),
        },
        positions: Positions::Rotary { bases: vec![base; sizes.layers], dims: turned(config, head_size)?, pairs: Pairs::Halves },
        norm: NormSpec {
            placement: Placement::Post,
            eps: eps(config, &["layer_norm_eps", "layer_norm_epsilon"], 1e-12)?,
            bias: true,
        },
        final_norm: None,
        layer_prefix: "encoder.layers.".to_owned(),
        layer: LayerNames {
            qkv: Qkv::Fused("attn.Wqkv"),
            qkv_bias: attention_bias,
            out: "attn.out_proj",
            out_bias: attention_bias,
            attention_norm: "norm1",
            first_attention_norm: true,
            up: Up::GatedParts(["mlp.fc12", "mlp.fc11"]),
            up_bias,
            down: "mlp.fc2",
            down_bias,
            output_norm: "norm2",
            scales: None,
        },
        activation: gate(config)?,
        score_scale: 1.0 / (head_size as f32).sqrt(),
        causal: false,
        windows: Vec::new(),
        prefixes: &["", "nomic_bert."],
    })
}

/// The function of the gate: by the name of the gated layer in published files, else by its own.
fn gate(config: &JsonFile) -> Result<Activation, ModelError> {
    let Some(name) = config.string(&["activation_function"])? else {
        return activation(config, &["hidden_act"], Activation::Silu);
    };
    match name {
        "swiglu" => Ok(Activation::Silu),
        "geglu" => Ok(Activation::Gelu),
        "glu" => Ok(Activation::Sigmoid),
        other => Err(config.invalid("activation_function", &Value::from(other), "one of swiglu, geglu, glu")),
    }
}

/// How many numbers of each head are turned.
fn turned(config: &JsonFile, head_size: usize) -> Result<usize, ModelError> {
    let fraction = config.number(&["rotary_emb_fraction"])?.unwrap_or(1.0);
    let dims = head_size as f64 * fraction;
    if fraction > 0.0 && fraction <= 1.0 && dims.fract() == 0.0 && (dims as usize).is_multiple_of(2) {
        return Ok(dims as usize);
    }
    let expected = format!("a share above 0 and up to 1 that takes an even number of the {head_size} of a head");
    Err(config.invalid("rotary_emb_fraction", &Value::from(fraction), &expected))
}
