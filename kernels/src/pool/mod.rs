//! Pooling of the token vectors of each sequence into one vector, with optional L2 normalization in the same pass.
//!
//! Owns: [`pool`], [`normalize`], their specification (`twin`), their fast version (`cpu`) and the one on a GPU (`cuda`). May
//! import: the team, the instruction sets, `simd`, `cuda`. Must never import: other operations, anything that knows models or
//! requests.
//!
//! # Contract
//! `hidden: [rows, n] f32`, one range of rows per sequence, result `[sequences, modes * n] f32`.
//!
//! | mode | result per component |
//! |---|---|
//! | [`Pooling::Cls`] | the first row |
//! | [`Pooling::Max`] | the largest value |
//! | [`Pooling::Mean`] | sum / number of rows |
//! | [`Pooling::MeanSqrtLen`] | sum / square root of the number of rows |
//! | [`Pooling::WeightedMean`] | mean with weight `columns[row] - columns[first row] + 1`: 1, 2, 3, ... where nothing was masked |
//! | [`Pooling::Last`] | the last row |
//!
//! Several modes are joined along the last dimension in the order given. With `normalize` each joined row is divided by
//! the larger of its Euclidean length and 1e-12. A sequence without rows gives zeros. A sequence's bits do not depend on
//! other sequences or the number of threads.
//!
//! Tolerance: before normalization |fast - twin| <= 2e-6 * max(1, the sequence's largest |value|) * sqrt(rows); after it
//! 2e-6, unless the row's length is below 1e-3 of its largest input (cancellation makes the direction itself uncertain).
//! The same holds on a GPU, where hidden is f32, f16 or bf16 and the result f32.
//!
//! Source: the modes are those of sentence-transformers' `Pooling` module, its `Normalize` is `torch.nn.functional.normalize`.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;

use std::ops::Range;

use crate::team::Team;

/// The smallest length that normalization divides by, as in `torch.nn.functional.normalize`.
pub const NORMALIZE_EPSILON: f32 = 1e-12;

/// How the vectors of a sequence's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token.
    Cls,
    /// The largest value of each component.
    Max,
    /// The average.
    Mean,
    /// The sum divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The average weighted by position, the first token having weight 1.
    WeightedMean,
    /// The last token.
    Last,
}

/// What [`pool`] computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// The modes, joined along the last dimension in this order. Never empty.
    pub modes: Vec<Pooling>,
    /// Whether each joined row is scaled to unit length.
    pub normalize: bool,
}

/// Pools the rows of every sequence of `hidden: [rows, n]` into `output: [sequences, modes * n]`; `columns: [rows]` is where
/// each row stood before masked ones were left out, ascending within a sequence. See the [contract](self).
///
/// # Panics
/// If sizes disagree, there is no mode, or a sequence lies outside the rows.
pub fn pool(
    team: &Team,
    hidden: &[f32],
    n: usize,
    sequences: &[Range<usize>],
    columns: &[u32],
    spec: &PoolSpec,
    output: &mut [f32],
) {
    assert!(!spec.modes.is_empty(), "pooling needs a mode");
    assert!(n > 0 && hidden.len() == columns.len() * n, "hidden and the columns disagree");
    assert!(sequences.iter().all(|rows| rows.start <= rows.end && rows.end <= columns.len()), "a sequence lies outside the rows");
    assert_eq!(output.len(), sequences.len() * spec.modes.len() * n, "the output and the sequences disagree");
    cpu::pool(team, hidden, n, sequences, columns, spec, output);
}

/// Scales every row of `values: [rows, n]` to unit length, as [`pool`] does.
///
/// # Panics
/// If sizes disagree.
pub fn normalize(team: &Team, values: &mut [f32], n: usize) {
    assert!(n > 0 && values.len().is_multiple_of(n), "the values and their width disagree");
    cpu::normalize(team, values, n);
}
