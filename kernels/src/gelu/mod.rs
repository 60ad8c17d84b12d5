//! The Gaussian error linear unit of a biased input: the activation between the two feed-forward projections.
//!
//! Owns: [`bias_gelu`], its specification (`twin`) and its fast version (`cpu`). May import: candle-core, this crate's
//! error and argument checks. Must never import: other operations, anything that knows models or requests.
//!
//! # Contract
//! `x: [rows, n] f32`, `bias: [n] f32`, result `[rows, n] f32`: with `s = x + bias`,
//! `s * erfc(-s / sqrt(2)) / 2`, the exact form with the error function and not the approximation by tanh.
//!
//! Tolerance: |fast - twin| <= 4e-7 * |s| + 2e-7 * (|x| + |bias|) (the second part is the rounding of the sum).
//! Infinity gives infinity, minus infinity a value between -1e-30 and 0, NaN gives NaN.
//!
//! Source: Hendrycks and Gimpel 2016, equation 2.

mod cpu;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

use candle_core::{DType, Tensor};

use crate::arguments::{dense, result, slice, wrong_shape};
use crate::error::KernelError;

const OP: &str = "bias_gelu";

/// GELU of `x + bias`. See the [contract](self).
///
/// # Errors
/// [`KernelError::WrongDType`], [`KernelError::WrongShape`] and [`KernelError::UnsupportedDevice`] name the argument.
pub fn bias_gelu(x: &Tensor, bias: &Tensor) -> Result<Tensor, KernelError> {
    let &[rows, n] = x.dims() else { return Err(wrong_shape(OP, "x", "[rows, n]", x)) };
    let x = dense(OP, "x", x, DType::F32, &[rows, n])?;
    let bias = dense(OP, "bias", bias, DType::F32, &[n])?;
    let (x_values, bias_values) = (x.storage_and_layout(), bias.storage_and_layout());
    let mut out = vec![0f32; rows * n];
    cpu::bias_gelu(slice(OP, "x", &x_values)?, slice(OP, "bias", &bias_values)?, &mut out);
    result(OP, out, &[rows, n], &x)
}
