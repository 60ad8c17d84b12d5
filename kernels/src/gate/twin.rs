//! The specification of gating: plain loops in f64.

use crate::activation::{self, Activation};

/// The result, `[rows, n]`.
pub(crate) fn gate(input: &[f32], n: usize, activation: Activation) -> Vec<f64> {
    let one = |row: &[f32], i: usize| activation::twin::apply(activation, f64::from(row[i])) * f64::from(row[n + i]);
    input.chunks(2 * n).flat_map(|row| (0..n).map(move |i| one(row, i))).collect()
}
