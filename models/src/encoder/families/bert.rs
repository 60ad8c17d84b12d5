//! BERT and those that share its layer: RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT.
//!
//! Source: Devlin et al. 2019, Liu et al. 2019, Sanh et al. 2019; names and defaults of the Hugging Face models.

use kernels::activation::Activation;
use serde_json::Value;

use super::{Family, MAX_UNSTORED_POSITIONS, Sizes, activation, eps, jina_bert, refuse_other, tied};
use crate::card::MAX_DIMENSION;
use crate::encoder::{
    Embedding, EncoderSpec, Head, HeadLayer, HeadName, LayerNames, NormSpec, Pick, Placement, Positions, Qkv, Up,
};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::batch::TokenInput;
use crate::plan::{Input, Taken};

/// The `eps` of layer normalization where the configuration has none.
const DEFAULT_EPS: f64 = 1e-12;

/// The names of a BERT layer.
pub(super) const LAYER: LayerNames = LayerNames {
    qkv: Qkv::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
    qkv_bias: true,
    out: "attention.output.dense",
    out_bias: true,
    attention_norm: "attention.output.LayerNorm",
    first_attention_norm: true,
    up: Up::Plain("intermediate.dense"),
    up_bias: true,
    down: "output.dense",
    down_bias: true,
    output_norm: "output.LayerNorm",
    scales: None,
};

/// What differs in how texts enter an encoder.
pub(super) struct Tokens {
    /// Rows of the position table, if there is one.
    pub(super) table: Option<usize>,
    /// Tokens that a text may have.
    pub(super) positions: usize,
    /// Rows of the table of token types; 0 for none.
    pub(super) types: usize,
    /// The padding id that positions are counted after; `None` where they are columns.
    pub(super) counted_after: Option<u32>,
    /// Whether distances between rows matter.
    pub(super) no_gaps: bool,
}

/// BERT: positions from 0, token types. Jina's models say that they are BERT too.
pub(super) fn bert(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    let alibi = config.string(&["position_embedding_type"])? == Some(jina_bert::ALIBI);
    let most = if alibi { MAX_UNSTORED_POSITIONS } else { MAX_DIMENSION };
    let rows = config.required_integer(&["max_position_embeddings"], 1..=most)?;
    let table = (!alibi).then_some(rows);
    let tokens = Tokens { table, positions: rows, types: types(config)?, counted_after: None, no_gaps: alibi };
    let mut encoder = encoder(config, &["", "bert."], tokens)?;
    if alibi {
        jina_bert::adapt(config, &mut encoder)?;
    } else {
        refuse_other(config, "position_embedding_type", &Value::from("absolute"))?;
    }
    let transform = [
        linear(HeadName::beside("cls.predictions.transform.dense"), encoder.hidden_size, encoder.activation),
        norm(HeadName::beside("cls.predictions.transform.LayerNorm"), encoder.norm.eps),
    ];
    Ok(Family {
        embedding: None,
        classification: Some(Head {
            pick: Pick::Take(Taken::First),
            layers: vec![
                linear(HeadName::inside("pooler.dense"), encoder.hidden_size, Activation::Tanh),
                linear(HeadName::beside("classifier"), labels, Activation::Identity),
            ],
        }),
        token_classification: Some(token_classifier(labels)),
        masked_lm: Some(masked_lm(config, transform, "cls.predictions.decoder.weight", "cls.predictions.bias")?),
        encoder,
    })
}

/// RoBERTa, XLM-RoBERTa, CamemBERT: positions from the padding id + 1.
pub(super) fn roberta(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    let rows = config.required_integer(&["max_position_embeddings"], 1..=MAX_DIMENSION)?;
    let Some(padding) = config.integer(&["pad_token_id"], 0..=MAX_DIMENSION)? else {
        return Err(config.missing("pad_token_id", "the id that positions are counted from"));
    };
    let Some(room) = rows.checked_sub(padding + 1).filter(|room| *room > 0) else {
        let expected = format!("less than max_position_embeddings {rows} - 1");
        return Err(config.invalid("pad_token_id", &Value::from(padding), &expected));
    };
    refuse_other(config, "position_embedding_type", &Value::from("absolute"))?;
    let tokens =
        Tokens { table: Some(rows), positions: room, types: types(config)?, counted_after: Some(padding as u32), no_gaps: false };
    let encoder = encoder(config, &["", "roberta."], tokens)?;
    with_roberta_heads(config, encoder, labels)
}

/// DistilBERT: other names, no token types.
pub(super) fn distilbert(config: &JsonFile, labels: usize) -> Result<Family, ModelError> {
    let rows = config.required_integer(&["max_position_embeddings"], 1..=MAX_DIMENSION)?;
    // The table is stored either way, so sinusoidal positions need no code of their own.
    config.boolean(&["sinusoidal_pos_embds"])?;
    let tokens = Tokens { table: Some(rows), positions: rows, types: 0, counted_after: None, no_gaps: false };
    let mut encoder = encoder(config, &["", "distilbert."], tokens)?;
    encoder.norm.eps = DEFAULT_EPS;
    encoder.layer_prefix = "transformer.layer.".to_owned();
    encoder.layer = LayerNames {
        qkv: Qkv::Separate(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
        out: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        up: Up::Plain("ffn.lin1"),
        down: "ffn.lin2",
        output_norm: "output_layer_norm",
        ..LAYER
    };
    let transform = [
        linear(HeadName::beside("vocab_transform"), encoder.hidden_size, encoder.activation),
        norm(HeadName::beside("vocab_layer_norm"), DEFAULT_EPS),
    ];
    Ok(Family {
        embedding: None,
        classification: Some(Head {
            pick: Pick::Take(Taken::First),
            layers: vec![
                linear(HeadName::beside("pre_classifier"), encoder.hidden_size, Activation::Relu),
                linear(HeadName::beside("classifier"), labels, Activation::Identity),
            ],
        }),
        token_classification: Some(token_classifier(labels)),
        masked_lm: Some(masked_lm(config, transform, "vocab_projector.weight", "vocab_projector.bias")?),
        encoder,
    })
}

/// The encoder that they share.
pub(super) fn encoder(config: &JsonFile, prefixes: &'static [&'static str], tokens: Tokens) -> Result<EncoderSpec, ModelError> {
    config.refuse_true("is_decoder")?;
    config.refuse_true("add_cross_attention")?;
    let names: [&[&str]; 4] = [
        &["hidden_size", "dim"],
        &["intermediate_size", "hidden_dim"],
        &["num_attention_heads", "n_heads"],
        &["num_hidden_layers", "n_layers"],
    ];
    let sizes = Sizes::read(config, names)?;
    let Tokens { table, positions, types, counted_after, no_gaps } = tokens;
    Ok(EncoderSpec {
        hidden_size: sizes.hidden,
        intermediate_size: sizes.intermediate,
        layers: sizes.layers,
        heads: sizes.heads,
        input: Input::Tokens(TokenInput {
            vocab_size: config.required_integer(&["vocab_size"], 1..=MAX_DIMENSION)?,
            positions,
            token_types: types,
            counted_after,
            no_gaps,
            padding_id: counted_after.map_or_else(|| padding_id(config), Ok)?,
        }),
        embedding: Embedding::Tokens {
            words: "embeddings.word_embeddings.weight".to_owned(),
            positions: table.map(|rows| ("embeddings.position_embeddings.weight".to_owned(), rows)),
            types: (types > 0).then(|| ("embeddings.token_type_embeddings.weight".to_owned(), types)),
            norm: Some("embeddings.LayerNorm".to_owned()),
        },
        positions: Positions::Embedded,
        norm: NormSpec { placement: Placement::Post, eps: eps(config, &["layer_norm_eps"], DEFAULT_EPS)?, bias: true },
        final_norm: None,
        layer_prefix: "encoder.layer.".to_owned(),
        layer: LAYER,
        activation: activation(config, &["hidden_act", "activation"], Activation::Gelu)?,
        score_scale: 1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt(),
        causal: false,
        windows: Vec::new(),
        prefixes,
    })
}

/// Rows of the table of token types in BERT and RoBERTa.
fn types(config: &JsonFile) -> Result<usize, ModelError> {
    Ok(config.integer(&["type_vocab_size"], 1..=MAX_DIMENSION)?.unwrap_or(2))
}

/// The id that texts are filled up with; only padded batches, made for comparison, use it.
pub(super) fn padding_id(config: &JsonFile) -> Result<u32, ModelError> {
    Ok(config.integer(&["pad_token_id"], 0..=MAX_DIMENSION)?.unwrap_or(0) as u32)
}

/// A linear layer with a bias.
pub(super) fn linear(name: HeadName, size: usize, activation: Activation) -> HeadLayer {
    HeadLayer::Linear { name, size, bias: true, activation }
}

/// A layer normalization with summands.
pub(super) fn norm(name: HeadName, eps: f64) -> HeadLayer {
    HeadLayer::Norm { name, eps, bias: true }
}

/// A family with RoBERTa's heads.
pub(super) fn with_roberta_heads(config: &JsonFile, encoder: EncoderSpec, labels: usize) -> Result<Family, ModelError> {
    let transform = [
        // The library has no choice of function here.
        linear(HeadName::beside("lm_head.dense"), encoder.hidden_size, Activation::Gelu),
        norm(HeadName::beside("lm_head.layer_norm"), encoder.norm.eps),
    ];
    Ok(Family {
        embedding: None,
        classification: Some(dense_classifier(encoder.hidden_size, labels)),
        token_classification: Some(token_classifier(labels)),
        masked_lm: Some(masked_lm(config, transform, "lm_head.decoder.weight", "lm_head.bias")?),
        encoder,
    })
}

/// RoBERTa's classifier: a layer of its own instead of the pooler.
fn dense_classifier(hidden: usize, labels: usize) -> Head {
    Head {
        pick: Pick::Take(Taken::First),
        layers: vec![
            linear(HeadName::beside("classifier.dense"), hidden, Activation::Tanh),
            linear(HeadName::beside("classifier.out_proj"), labels, Activation::Identity),
        ],
    }
}

/// One layer on every token.
pub(super) fn token_classifier(labels: usize) -> Head {
    Head { pick: Pick::Tokens, layers: vec![linear(HeadName::beside("classifier"), labels, Activation::Identity)] }
}

/// A transformation of every token, then the decoder, which is the word table unless the configuration says otherwise.
pub(super) fn masked_lm(config: &JsonFile, transform: [HeadLayer; 2], decoder: &str, bias: &str) -> Result<Head, ModelError> {
    let weight = (!tied(config)?).then(|| HeadName::beside(decoder));
    let decoder = HeadLayer::Decoder { weight, bias: Some(HeadName::beside(bias)) };
    Ok(Head { pick: Pick::Tokens, layers: transform.into_iter().chain([decoder]).collect() })
}
