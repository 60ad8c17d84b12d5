//! Tensor names of the families, after the prefix.

use crate::card::Family;

/// Where a family keeps its tensors. Names of layers are relative to `{prefix}{layer}{index}.`.
pub(super) struct Names {
    /// What may stand before every name: a bare encoder has nothing there, a model with a head has its encoder's name.
    pub(super) prefixes: &'static [&'static str],
    /// The word table.
    pub(super) words: &'static str,
    /// The position table.
    pub(super) positions: &'static str,
    /// The token type table. DistilBERT has none.
    pub(super) token_types: &'static str,
    /// The layer normalization of the embeddings.
    pub(super) norm: &'static str,
    /// The list of layers.
    pub(super) layer: &'static str,
    /// Query, key and value projections.
    pub(super) qkv: [&'static str; 3],
    /// The projection of the attention's result.
    pub(super) out: &'static str,
    /// The layer normalization after attention.
    pub(super) attention_norm: &'static str,
    /// The feed-forward layer's first projection.
    pub(super) up: &'static str,
    /// The feed-forward layer's second projection.
    pub(super) down: &'static str,
    /// The layer normalization after the feed-forward layer.
    pub(super) output_norm: &'static str,
}

const BERT: Names = Names {
    prefixes: &["", "bert."],
    words: "embeddings.word_embeddings.weight",
    positions: "embeddings.position_embeddings.weight",
    token_types: "embeddings.token_type_embeddings.weight",
    norm: "embeddings.LayerNorm",
    layer: "encoder.layer.",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

impl Names {
    /// The names of a family.
    pub(super) fn of(family: Family) -> Names {
        match family {
            Family::Bert => BERT,
            Family::Roberta => Names { prefixes: &["", "roberta."], ..BERT },
            Family::DistilBert => Names {
                prefixes: &["", "distilbert."],
                layer: "transformer.layer.",
                qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
                out: "attention.out_lin",
                attention_norm: "sa_layer_norm",
                up: "ffn.lin1",
                down: "ffn.lin2",
                output_norm: "output_layer_norm",
                ..BERT
            },
        }
    }
}
