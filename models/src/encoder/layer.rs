//! One encoder layer: self-attention and feed-forward, each followed by a residual sum and layer normalization.

use candle_core::{D, Device, Tensor};

use super::names::Names;
use super::tokens::TokenBatch;
use crate::card::ModelCard;
use crate::error::{During, ModelError};
use crate::weights::Weights;

/// Layer normalization over the last dimension.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    /// Reads `{name}.weight` and `{name}.bias`, or the `gamma` and `beta` of files converted from TensorFlow.
    pub(super) fn load(weights: &Weights, name: &str, size: usize, eps: f64, device: &Device) -> Result<Self, ModelError> {
        let converted = !weights.contains(&format!("{name}.weight")) && weights.contains(&format!("{name}.gamma"));
        let (weight, bias) = if converted { ("gamma", "beta") } else { ("weight", "bias") };
        Ok(Norm {
            weight: weights.tensor(&format!("{name}.{weight}"), &[size], device)?,
            bias: weights.tensor(&format!("{name}.{bias}"), &[size], device)?,
            eps: eps as f32,
        })
    }

    /// `x: [n, size] f32`, normalized row by row.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        candle_nn::ops::layer_norm(x, &self.weight, &self.bias, self.eps).during("layer normalization")
    }
}

/// `x W^T + b`. The weight is kept as stored, `[out, in]`; the matrix product takes its transposed view without a copy.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Reads `{name}.weight: [output, input]` and `{name}.bias: [output]`.
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        (output, input): (usize, usize),
        device: &Device,
    ) -> Result<Self, ModelError> {
        Ok(Linear {
            weight: weights.tensor(&format!("{name}.weight"), &[output, input], device)?,
            bias: weights.tensor(&format!("{name}.bias"), &[output], device)?,
        })
    }

    /// `x: [n, in] f32` to `[n, out] f32`.
    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }
}

/// One layer of an encoder.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Query, key and value projections as one, `[3 * hidden, hidden]`. The query part is divided by the square root of
    /// the head size at load, so that no pass over the scores is needed for it.
    qkv: Linear,
    out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
    heads: usize,
    hidden_size: usize,
}

impl Layer {
    pub(super) fn load(
        card: &ModelCard,
        names: &Names,
        weights: &Weights,
        base: &str,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (card.hidden_size, card.intermediate_size);
        let linear = |name: &str, shape| Linear::load(weights, &format!("{base}{name}"), shape, device);
        let norm = |name: &str| Norm::load(weights, &format!("{base}{name}"), hidden, card.layer_norm_eps, device);
        let [query, key, value] = names.qkv;
        let (query, key, value) =
            (linear(query, (hidden, hidden))?, linear(key, (hidden, hidden))?, linear(value, (hidden, hidden))?);
        Ok(Layer {
            qkv: fuse(query, &key, &value, hidden / card.heads).during("joining the attention weights")?,
            out: linear(names.out, (hidden, hidden))?,
            attention_norm: norm(names.attention_norm)?,
            up: linear(names.up, (inner, hidden))?,
            down: linear(names.down, (hidden, inner))?,
            output_norm: norm(names.output_norm)?,
            heads: card.heads,
            hidden_size: hidden,
        })
    }

    /// `x: [rows * width, hidden] f32` to the same shape.
    pub(super) fn forward(&self, x: &Tensor, batch: &TokenBatch) -> Result<Tensor, ModelError> {
        let attended = self.attend(x, batch).and_then(|attended| attended + x).during("self-attention")?;
        let x = self.attention_norm.forward(&attended)?;
        let fed = self.feed(&x).and_then(|fed| fed + &x).during("the feed-forward layer")?;
        self.output_norm.forward(&fed)
    }

    fn attend(&self, x: &Tensor, batch: &TokenBatch) -> candle_core::Result<Tensor> {
        let (rows, width) = (batch.rows(), batch.width());
        let head_size = self.hidden_size / self.heads;
        // One copy brings the three parts into [3, rows, heads, width, head_size].
        let qkv = self.qkv.forward(x)?.reshape((rows, width, 3, self.heads, head_size))?;
        let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (query, key, value) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
        let scores = query.matmul(&key.transpose(D::Minus2, D::Minus1)?)?;
        let scores = match batch.score_bias() {
            Some(bias) => scores.broadcast_add(bias)?,
            None => scores,
        };
        let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
        let context = probabilities.matmul(&value)?.transpose(1, 2)?.reshape((rows * width, self.hidden_size))?;
        self.out.forward(&context)
    }

    fn feed(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.down.forward(&self.up.forward(x)?.gelu_erf()?)
    }
}

/// Joins three projections, the first scaled by 1 / sqrt(head_size).
fn fuse(query: Linear, key: &Linear, value: &Linear, head_size: usize) -> candle_core::Result<Linear> {
    let scale = 1.0 / (head_size as f64).sqrt();
    let (query_weight, query_bias) = ((query.weight * scale)?, (query.bias * scale)?);
    Ok(Linear {
        weight: Tensor::cat(&[&query_weight, &key.weight, &value.weight], 0)?,
        bias: Tensor::cat(&[&query_bias, &key.bias, &value.bias], 0)?,
    })
}
