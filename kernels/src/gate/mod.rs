//! Gated feed-forward layers: one half of a row, activated, times the other.
//!
//! Owns: [`gate`], its specification (`twin`), its fast version (`cpu`) and the one on a GPU (`cuda`). May import: the team, the
//! instruction sets, `simd`, activations, `cuda`. Must never import: other operations, anything that knows models.
//!
//! # Contract
//! `input: [rows, 2 * n] f32`, result `[rows, n] f32`: `activation(input[.., i]) * input[.., n + i]`.
//! Tolerance: that of the activation times the other factor, and on a GPU the rounding of the result to its type.
//!
//! Source: Shazeer 2020.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;

use crate::activation::Activation;
use crate::team::Team;

/// Multiplies the activated first half of every row with its second. See the [contract](self).
///
/// # Panics
/// If sizes disagree.
pub fn gate(team: &Team, input: &[f32], n: usize, activation: Activation, output: &mut [f32]) {
    assert!(n > 0 && input.len().is_multiple_of(2 * n), "the input and its width disagree");
    assert_eq!(output.len() * 2, input.len(), "the output and the input disagree");
    cpu::gate(team, input, n, activation, output);
}
