//! Layer normalization of a sum: what stands after attention and after the feed-forward layer of a transformer.
//!
//! Owns: [`add_norm`], its specification (`twin`) and its fast version (`cpu`). May import: candle-core, this crate's
//! error and argument checks. Must never import: other operations, anything that knows models or requests.
//!
//! # Contract
//! `x: [rows, n] f32`, `bias: [n] f32` (optional), `residual: [rows, n] f32` (optional), `weight: [n] f32`,
//! `shift: [n] f32`, result `[rows, n] f32`. With `s = x + bias + residual`, per row:
//! `(s - mean(s)) / sqrt(variance(s) + eps) * weight + shift`, where the variance is the mean of `(s - mean)^2`.
//! The variance is summed in a second pass over the differences, so it is never negative and a constant row gives `shift`.
//!
//! Tolerance: |fast - twin| <= 4e-6 * max(1, largest |weight|) * (1 + |mean| / deviation) * sqrt(n), where the quotient is
//! how much of the values' precision the subtraction of the mean uses up.
//!
//! Source: Ba, Kiros and Hinton 2016, equations 3 and 4.

mod cpu;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

use candle_core::{DType, Tensor};

use crate::arguments::{dense, result, slice, wrong_shape};
use crate::error::KernelError;

const OP: &str = "add_norm";

/// The parameters of [`add_norm`].
#[derive(Debug, Clone, Copy)]
pub struct NormSpec<'a> {
    /// Factors, `[n] f32`.
    pub weight: &'a Tensor,
    /// Summands, `[n] f32`.
    pub shift: &'a Tensor,
    /// What is added to the variance, greater than 0.
    pub eps: f32,
}

/// Plain slices: `x` and `residual` of `rows * n`, the others of `n` elements.
#[derive(Clone, Copy)]
struct View<'a> {
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    weight: &'a [f32],
    shift: &'a [f32],
    eps: f32,
}

/// Normalizes the rows of `x + bias + residual`. See the [contract](self).
///
/// # Errors
/// [`KernelError::WrongDType`], [`KernelError::WrongShape`] and [`KernelError::UnsupportedDevice`] name the argument.
pub fn add_norm(x: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>, spec: NormSpec<'_>) -> Result<Tensor, KernelError> {
    let &[rows, n] = x.dims() else { return Err(wrong_shape(OP, "x", "[rows, n]", x)) };
    let x = dense(OP, "x", x, DType::F32, &[rows, n])?;
    let bias = bias.map(|bias| dense(OP, "bias", bias, DType::F32, &[n])).transpose()?;
    let residual = residual.map(|residual| dense(OP, "residual", residual, DType::F32, &[rows, n])).transpose()?;
    let weight = dense(OP, "weight", spec.weight, DType::F32, &[n])?;
    let shift = dense(OP, "shift", spec.shift, DType::F32, &[n])?;

    let (x_values, weight_values, shift_values) =
        (x.storage_and_layout(), weight.storage_and_layout(), shift.storage_and_layout());
    let bias_values = bias.as_ref().map(|bias| bias.storage_and_layout());
    let residual_values = residual.as_ref().map(|residual| residual.storage_and_layout());
    let view = View {
        x: slice(OP, "x", &x_values)?,
        bias: bias_values.as_ref().map(|values| slice(OP, "bias", values)).transpose()?,
        residual: residual_values.as_ref().map(|values| slice(OP, "residual", values)).transpose()?,
        weight: slice(OP, "weight", &weight_values)?,
        shift: slice(OP, "shift", &shift_values)?,
        eps: spec.eps,
    };
    let mut out = vec![0f32; rows * n];
    cpu::add_norm(view, &mut out);
    result(OP, out, &[rows, n], &x)
}
