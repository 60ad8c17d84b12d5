//! What differs between encoders: sizes, where norms stand, how positions enter, which tensors hold the weights.

use kernels::activation::Activation;
use kernels::rotary::Pairs;

use crate::plan::Input;

/// A transformer encoder, described. Layers of all families are the same code, steered by this.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Components of a token vector.
    pub hidden_size: usize,
    /// Components of the feed-forward layer; of one half if it is gated.
    pub intermediate_size: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// What it takes.
    pub input: Input,
    /// How the input becomes vectors.
    pub embedding: Embedding,
    /// How positions enter beside the embedding.
    pub positions: Positions,
    /// Layer normalization.
    pub norm: NormSpec,
    /// The normalization after the last layer, if there is one.
    pub final_norm: Option<String>,
    /// What stands before the names of a layer's tensors and its number: `encoder.layer.`.
    pub layer_prefix: String,
    /// The names of a layer's tensors.
    pub layer: LayerNames,
    /// The function of the feed-forward layer.
    pub activation: Activation,
    /// Factor of the scores; the inverse square root of the head size for most.
    pub score_scale: f32,
    /// Whether tokens see no later tokens.
    pub causal: bool,
    /// Per layer how far a token sees; empty if all layers see everything.
    pub windows: Vec<Option<usize>>,
    /// What may stand before every name: nothing in a bare encoder, the encoder's name in a model with a head.
    pub prefixes: &'static [&'static str],
}

impl EncoderSpec {
    /// Numbers per head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.heads
    }
}

/// Layer normalization of an encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// Where it stands.
    pub placement: Placement,
    /// What is added to the variance.
    pub eps: f64,
    /// Whether there are summands.
    pub bias: bool,
}

/// Where the normalization of a layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// After each residual sum.
    Post,
    /// Before attention and before the feed-forward layer.
    Pre,
}

/// How the input becomes vectors.
#[derive(Debug, Clone, PartialEq)]
pub enum Embedding {
    /// Sums of table rows.
    Tokens {
        /// The word table.
        words: String,
        /// The position table and its rows.
        positions: Option<(String, usize)>,
        /// The token type table and its rows; where a batch names no types, all tokens are of type 0.
        types: Option<(String, usize)>,
        /// The normalization of the sum.
        norm: Option<String>,
    },
    /// A convolution whose stride is its size.
    Patches {
        /// The convolution, `[hidden, channels, height, width]`.
        projection: String,
        /// Whether it has a bias.
        bias: bool,
        /// Tensors of token vectors that come before the patches, with their stored shape.
        first: Vec<FirstTokens>,
        /// The position table.
        positions: PatchPositions,
        /// The normalization before the layers.
        norm: Option<String>,
    },
}

/// Learned vectors that stand before the patches of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstTokens {
    /// The tensor.
    pub tensor: String,
    /// Its stored shape; the last dimension is the hidden size.
    pub shape: Vec<usize>,
    /// Whether the position table has rows for them.
    pub positioned: bool,
}

/// The position table of patches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchPositions {
    /// The tensor.
    pub tensor: String,
    /// Its stored shape; the last dimension is the hidden size. Its rows are those of positioned first tokens, then those of
    /// patches, line by line.
    pub shape: Vec<usize>,
    /// How the rows of patches are resized to the grid of the image; `None` if they are its grid.
    pub resize: Option<Resize>,
}

/// The stored positions of a square grid of patches, and how they are resized to another grid: bicubically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// Patches along a side of the stored grid.
    pub side: usize,
    /// Whether the kernel grows with the step between the samples, as antialiasing has it.
    pub antialias: bool,
}

/// How positions enter an encoder beside its embedding.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Not at all, or only by a table of the embedding.
    Embedded,
    /// Queries and keys are turned.
    Rotary {
        /// Per layer the base of the angles.
        bases: Vec<f64>,
        /// Numbers of each head that are turned.
        dims: usize,
        /// Which numbers form pairs.
        pairs: Pairs,
    },
    /// A slope per head times the distance is subtracted from the scores.
    Alibi,
    /// A number per head and bucket of distances, the same in all layers: `[buckets, heads]`.
    Buckets {
        /// The tensor.
        tensor: String,
        /// Its rows.
        buckets: usize,
    },
    /// DeBERTa's terms of content and position.
    Disentangled(DisentangledSpec),
}

/// DeBERTa's relative positions.
#[derive(Debug, Clone, PartialEq)]
pub struct DisentangledSpec {
    /// The table of relative positions, `[2 * span, hidden]`.
    pub table: String,
    /// Half of its rows.
    pub span: usize,
    /// Its normalization, if there is one.
    pub norm: Option<String>,
    /// How distances are put into buckets: their number and the largest distance; `None` for a row per distance.
    pub buckets: Option<(usize, usize)>,
    /// The projection of a layer that makes the keys of positions, for the content-to-position term.
    pub key: Option<&'static str>,
    /// The projection of a layer that makes the queries of positions, for the position-to-content term.
    pub query: Option<&'static str>,
}

/// The names of a layer's tensors, behind its number.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNames {
    /// Query, key and value.
    pub qkv: Qkv,
    /// Whether they have biases.
    pub qkv_bias: bool,
    /// The projection after attention.
    pub out: &'static str,
    /// Whether it has a bias.
    pub out_bias: bool,
    /// The normalization after (or before) attention.
    pub attention_norm: &'static str,
    /// Whether layer 0 lacks that normalization.
    pub first_attention_norm: bool,
    /// The first projection of the feed-forward layer.
    pub up: Up,
    /// Whether it has a bias.
    pub up_bias: bool,
    /// The second.
    pub down: &'static str,
    /// Whether it has a bias.
    pub down_bias: bool,
    /// The normalization after (or before) the feed-forward layer.
    pub output_norm: &'static str,
    /// Factors of the results of attention and feed-forward layer, `[hidden]` each.
    pub scales: Option<[&'static str; 2]>,
}

/// Where query, key and value projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qkv {
    /// One by one.
    Separate([&'static str; 3]),
    /// In this order in one.
    Fused(&'static str),
}

/// Where the first projection of a feed-forward layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// A plain layer.
    Plain(&'static str),
    /// A gated one: the activated half first, then the factor.
    Gated(&'static str),
    /// A gated one in two tensors: the activated one, then the factor.
    GatedParts([&'static str; 2]),
}
