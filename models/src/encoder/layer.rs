//! One encoder layer: self-attention and feed-forward, each followed by a residual sum and layer normalization.

use candle_core::{D, Device, Tensor};
use kernels::gelu::bias_gelu;
use kernels::norm::{NormSpec, add_norm};

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

    /// The rows of `x + bias + residual`, normalized; `x`, `residual`: `[n, size] f32`, `bias: [size] f32`.
    pub(super) fn forward(&self, x: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let spec = NormSpec { weight: &self.weight, shift: &self.bias, eps: self.eps };
        Ok(add_norm(x, bias, residual, spec)?)
    }
}

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// `[in, out]`: turned at load, since the matrix product reads this order up to four times faster for a few rows.
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
        let stored = weights.tensor(&format!("{name}.weight"), &[output, input], device)?;
        Ok(Linear {
            weight: stored.t().and_then(|turned| turned.contiguous()).during("turning a weight matrix")?,
            bias: weights.tensor(&format!("{name}.bias"), &[output], device)?,
        })
    }

    /// `x: [n, in] f32` to `[n, out] f32`.
    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.multiply(x)?.broadcast_add(&self.bias)
    }

    /// As `forward` but without the bias, for callers that add it in a pass of their own.
    fn multiply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)
    }
}

/// One layer of an encoder.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Query, key and value projections as one, `[hidden, 3 * hidden]`. The query part is divided by the square root of
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

    /// Elements per token of the largest intermediate tensor for rows of `width` columns.
    pub(super) fn elements_per_token(&self, width: usize) -> usize {
        let inner = self.up.bias.elem_count();
        inner.max(self.heads.saturating_mul(width)).max(3 * self.hidden_size)
    }

    /// `x: [rows * width, hidden] f32` to the same shape.
    pub(super) fn forward(&self, x: &Tensor, batch: &TokenBatch) -> Result<Tensor, ModelError> {
        let attended = self.attend(x, batch).during("self-attention")?;
        let x = self.attention_norm.forward(&attended, Some(&self.out.bias), Some(x))?;
        let inner = bias_gelu(&self.up.multiply(&x).during("the feed-forward layer")?, &self.up.bias)?;
        let fed = self.down.multiply(&inner).during("the feed-forward layer")?;
        self.output_norm.forward(&fed, Some(&self.down.bias), Some(&x))
    }

    /// Self-attention without the bias of its last projection.
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
        self.out.multiply(&context)
    }
}

/// Joins three projections, the first scaled by 1 / sqrt(head_size).
fn fuse(query: Linear, key: &Linear, value: &Linear, head_size: usize) -> candle_core::Result<Linear> {
    let scale = 1.0 / (head_size as f64).sqrt();
    let (query_weight, query_bias) = ((query.weight * scale)?, (query.bias * scale)?);
    Ok(Linear {
        weight: Tensor::cat(&[&query_weight, &key.weight, &value.weight], 1)?,
        bias: Tensor::cat(&[&query_bias, &key.bias, &value.bias], 0)?,
    })
}
