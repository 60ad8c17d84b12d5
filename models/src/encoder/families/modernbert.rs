//! ModernBERT: norms before each block, gated feed-forward layers, rotary positions, windows in most layers.
//!
//! Source: Warner et al. 2024; names and defaults of the Hugging Face model.

use kernels::activation::Activation;
use kernels::pool::{PoolSpec, Pooling};
use kernels::rotary::Pairs;
use serde_json::Value;

use super::bert::padding_id;
use super::{Family, MAX_UNSTORED_POSITIONS, Sizes, activation, eps, rope, tied};
use crate::card::MAX_DIMENSION;
use crate::encoder::{
    Embedding, EncoderSpec, Head, HeadLayer, HeadName, LayerNames, NormSpec, Pick, Placement, Positions, Qkv, Up,
};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::batch::TokenInput;
use crate::plan::{Input, Taken};

/// The base of angles in layers that see everything, and in those with a window.
const DEFAULT_BASES: [f64; 2] = [160_000.0, 10_000.0];

/// ModernBERT.
pub(super) fn modernbert(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    let encoder = encoder(config)?;
    let flag = |name: &str| Ok::<bool, ModelError>(config.boolean(&[name])?.unwrap_or(false));
    let head = [
        HeadLayer::Linear {
            name: HeadName::beside("head.dense"),
            size: encoder.hidden_size,
            bias: flag("classifier_bias")?,
            activation: activation(config, &["classifier_activation"], Activation::Gelu)?,
        },
        HeadLayer::Norm { name: HeadName::beside("head.norm"), eps: encoder.norm.eps, bias: encoder.norm.bias },
    ];
    let classifier =
        HeadLayer::Linear { name: HeadName::beside("classifier"), size: labels, bias: true, activation: Activation::Identity };
    let decoder = HeadLayer::Decoder {
        weight: (!tied(config)?).then(|| HeadName::beside("decoder.weight")),
        bias: config.boolean(&["decoder_bias"])?.unwrap_or(true).then(|| HeadName::beside("decoder.bias")),
    };
    let pick = match config.string(&["classifier_pooling"])?.unwrap_or("cls") {
        "cls" => Pick::Take(Taken::First),
        "mean" => Pick::Pool(PoolSpec { modes: vec![Pooling::Mean], normalize: false }),
        other => return Err(config.invalid("classifier_pooling", &Value::from(other), "cls or mean")),
    };
    let with = |pick: Pick, last: &HeadLayer| Head { pick, layers: head.iter().chain([last]).cloned().collect() };
    Ok(Family {
        embedding: None,
        classification: Some(with(pick, &classifier)),
        token_classification: Some(with(Pick::Tokens, &classifier)),
        masked_lm: Some(with(Pick::Tokens, &decoder)),
        encoder,
    })
}

fn encoder(config: &JsonFile) -> Result<EncoderSpec, ModelError> {
    let sizes = Sizes::read(config, Sizes::USUAL)?;
    rope::check_heads(config, &["num_attention_heads"], &sizes)?;
    let flag = |name: &str| Ok::<bool, ModelError>(config.boolean(&[name])?.unwrap_or(false));
    let (attention_bias, mlp_bias, norm_bias) = (flag("attention_bias")?, flag("mlp_bias")?, flag("norm_bias")?);
    let windowed = windowed(config, sizes.layers)?;
    let reach = config.integer(&["local_attention"], 1..=MAX_DIMENSION)?.unwrap_or(128) / 2;
    let [global, local] = bases(config)?;
    Ok(EncoderSpec {
        hidden_size: sizes.hidden,
        intermediate_size: sizes.intermediate,
        layers: sizes.layers,
        heads: sizes.heads,
        input: Input::Tokens(TokenInput {
            vocab_size: config.required_integer(&["vocab_size"], 1..=MAX_DIMENSION)?,
            positions: config.required_integer(&["max_position_embeddings"], 1..=MAX_UNSTORED_POSITIONS)?,
            token_types: 0,
            counted_after: None,
            // A window is measured in rows; angles are not.
            no_gaps: windowed.contains(&true),
            padding_id: padding_id(config)?,
        }),
        embedding: Embedding::Tokens {
            words: "embeddings.tok_embeddings.weight".to_owned(),
            positions: None,
            types: None,
            norm: Some("embeddings.norm".to_owned()),
        },
        positions: Positions::Rotary {
            bases: windowed.iter().map(|windowed| if *windowed { local } else { global }).collect(),
            dims: sizes.hidden / sizes.heads,
            pairs: Pairs::Halves,
        },
        norm: NormSpec { placement: Placement::Pre, eps: eps(config, &["norm_eps"], 1e-5)?, bias: norm_bias },
        final_norm: Some("final_norm".to_owned()),
        layer_prefix: "layers.".to_owned(),
        layer: LayerNames {
            qkv: Qkv::Fused("attn.Wqkv"),
            qkv_bias: attention_bias,
            out: "attn.Wo",
            out_bias: attention_bias,
            attention_norm: "attn_norm",
            first_attention_norm: false,
            up: Up::Gated("mlp.Wi"),
            up_bias: mlp_bias,
            down: "mlp.Wo",
            down_bias: mlp_bias,
            output_norm: "mlp_norm",
            scales: None,
        },
        activation: activation(config, &["hidden_activation"], Activation::Gelu)?,
        score_scale: 1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt(),
        causal: false,
        windows: windowed.iter().map(|windowed| windowed.then_some(reach)).collect(),
        prefixes: &["", "model."],
    })
}

/// Which layers have a window: as listed, or all but every so many.
fn windowed(config: &JsonFile, layers: usize) -> Result<Vec<bool>, ModelError> {
    let every = config.integer(&["global_attn_every_n_layers"], 1..=MAX_DIMENSION)?.unwrap_or(3);
    let Some((field, value)) = config.value(&["layer_types"]) else {
        return Ok((0..layers).map(|layer| !layer.is_multiple_of(every)).collect());
    };
    let kind = |value: &Value| match value.as_str()? {
        "full_attention" => Some(false),
        "sliding_attention" => Some(true),
        _ => None,
    };
    let kinds = value.as_array().filter(|kinds| kinds.len() == layers);
    let kinds = kinds.and_then(|kinds| kinds.iter().map(kind).collect::<Option<Vec<bool>>>());
    kinds.ok_or_else(|| {
        let expected = format!("a list of full_attention or sliding_attention for each of {layers} layers");
        config.invalid(field, value, &expected)
    })
}

/// The bases of angles of layers without and with a window.
fn bases(config: &JsonFile) -> Result<[f64; 2], ModelError> {
    let [global, local] = DEFAULT_BASES;
    let global = match rope::base(config, Some("full_attention"))? {
        Some(base) => base,
        None => rope::field(config, &["global_rope_theta"])?.unwrap_or(global),
    };
    let local = match rope::base(config, Some("sliding_attention"))? {
        Some(base) => base,
        // Some published files say null, which means the base of the other layers; without the key there is a default.
        None if config.is_null("local_rope_theta") => global,
        None => rope::field(config, &["local_rope_theta"])?.unwrap_or(local),
    };
    Ok([global, local])
}
