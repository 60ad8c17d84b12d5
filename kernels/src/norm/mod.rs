//! Layer normalization, of one tensor or of a sum of two.
//!
//! Owns: [`norm`], its specification (`twin`), its fast version (`cpu`) and the one on a GPU (`cuda`). May import: the team, the
//! instruction sets, `simd`, `cuda`. Must never import: other operations, anything that knows models.
//!
//! # Contract
//! `input: [rows, n] f32`, `residual: [rows, n] f32` (optional), `weight: [n] f32`, `bias: [n] f32` (optional), result
//! `[rows, n] f32`. With `s = input + residual`, per row: `(s - mean(s)) / sqrt(variance(s) + eps) * weight + bias`, where the
//! variance is the mean of `(s - mean)^2`. The variance is summed in a second pass over the differences, so it is never
//! negative and a constant row gives the bias. A row's bits do not depend on other rows or the number of threads.
//!
//! Tolerance: |fast - twin| <= 4e-6 * max(1, largest |weight|) * (1 + |mean| / deviation) * sqrt(n), where the quotient is
//! how much of the values' precision the subtraction of the mean uses up.
//!
//! On a GPU inputs are f32, f16 or bf16, and sums are taken in f32, of few numbers each: the tolerance is 2e-6 times the same
//! factors but the root, and the rounding of the result to its type: 2^-11 of it for f16, 2^-8 for bf16.
//!
//! Source: Ba, Kiros and Hinton 2016, equations 3 and 4.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;

use crate::team::Team;

/// The parameters of [`norm`].
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Factors, `[n] f32`.
    pub weight: &'a [f32],
    /// Summands, `[n] f32`.
    pub bias: Option<&'a [f32]>,
    /// What is added to the variance, greater than 0.
    pub eps: f32,
}

/// Normalizes the rows of `input + residual` into `output`. See the [contract](self).
///
/// # Panics
/// If sizes disagree.
pub fn norm(team: &Team, input: &[f32], residual: Option<&[f32]>, norm: &Norm<'_>, output: &mut [f32]) {
    let n = norm.weight.len();
    assert!(n > 0 && input.len().is_multiple_of(n), "the input and the weight disagree");
    assert!(norm.bias.is_none_or(|bias| bias.len() == n), "the bias and the weight disagree");
    assert!(residual.is_none_or(|residual| residual.len() == input.len()), "the residual and the input disagree");
    assert_eq!(output.len(), input.len(), "the output and the input disagree");
    cpu::norm(team, input, residual, norm, output);
}
