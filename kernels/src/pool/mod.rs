//! Masked pooling of token vectors into one vector per row, with optional L2 normalization in the same pass.
//!
//! Owns: [`pool`], its specification (`twin`) and its fast version (`cpu`). May import: candle-core, this crate's
//! error and argument checks. Must never import: other operations, anything that knows models or requests.
//!
//! # Contract
//! `hidden: [rows, width, n] f32`, `mask: [rows, width] i64`, result `[rows, modes * n] f32`. A position counts where its
//! mask is not 0. Positions that do not count are never read, so infinities and NaN there do no harm, and a row's result
//! does not depend on the width it was padded to nor on the other rows.
//!
//! | mode | result per component |
//! |---|---|
//! | [`Pooling::Cls`] | the first position that counts |
//! | [`Pooling::Max`] | the largest value over the positions that count |
//! | [`Pooling::Mean`] | sum / number of positions that count |
//! | [`Pooling::MeanSqrtLen`] | sum / square root of the number of positions that count |
//! | [`Pooling::WeightedMean`] | mean with weights 1, 2, 3, ... from the first position that counts, gaps included |
//! | [`Pooling::Last`] | the last position that counts |
//!
//! Several modes are joined along the last dimension in the order given. With `normalize` each joined row is divided by
//! the larger of its Euclidean length and 1e-12. A row in which nothing counts gives zeros.
//!
//! Tolerance: before normalization |fast - twin| <= 2e-6 * max(1, the row's largest |value|) * sqrt(width); after it
//! 2e-6, unless the row's length is below 1e-3 of its largest input (cancellation makes the direction itself uncertain).
//!
//! Source: the modes are those of sentence-transformers' `Pooling` module, its `Normalize` is `torch.nn.functional.normalize`.

mod cpu;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

use candle_core::{DType, Tensor};

use crate::arguments::{dense, result, slice, wrong_shape};
use crate::error::KernelError;

const OP: &str = "pool";

/// The smallest length that normalization divides by, as in `torch.nn.functional.normalize`.
pub const NORMALIZE_EPSILON: f32 = 1e-12;

/// How the vectors of a row's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token that counts.
    Cls,
    /// The largest value of each component.
    Max,
    /// The average.
    Mean,
    /// The sum divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The average weighted by position, the first token that counts having weight 1.
    WeightedMean,
    /// The last token that counts.
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

/// Plain slices and sizes, checked against each other: `hidden.len() == rows * width * n`, `mask.len() == rows * width`.
#[derive(Clone, Copy)]
struct View<'a> {
    hidden: &'a [f32],
    mask: &'a [i64],
    rows: usize,
    width: usize,
    n: usize,
}

/// Pools `hidden: [rows, width, n] f32` over the positions where `mask: [rows, width] i64` is not 0, giving
/// `[rows, modes * n] f32`. See the [contract](self).
///
/// # Errors
/// [`KernelError::WrongDType`], [`KernelError::WrongShape`] and [`KernelError::UnsupportedDevice`] name the argument;
/// [`KernelError::Empty`] when no mode is given; [`KernelError::TooLarge`] when the result cannot be addressed.
pub fn pool(hidden: &Tensor, mask: &Tensor, spec: &PoolSpec) -> Result<Tensor, KernelError> {
    if spec.modes.is_empty() {
        return Err(KernelError::Empty { op: OP, argument: "modes" });
    }
    let &[rows, width, n] = hidden.dims() else { return Err(wrong_shape(OP, "hidden", "[rows, width, n]", hidden)) };
    let too_large = || KernelError::TooLarge { op: OP, shape: vec![rows, spec.modes.len(), n] };
    let joined = spec.modes.len().checked_mul(n).ok_or_else(too_large)?;
    let total = rows.checked_mul(joined).ok_or_else(too_large)?;

    let hidden = dense(OP, "hidden", hidden, DType::F32, &[rows, width, n])?;
    let mask = dense(OP, "mask", mask, DType::I64, &[rows, width])?;
    let (hidden_values, mask_values) = (hidden.storage_and_layout(), mask.storage_and_layout());
    let view = View { hidden: slice(OP, "hidden", &hidden_values)?, mask: slice(OP, "mask", &mask_values)?, rows, width, n };
    let mut out = vec![0f32; total];
    cpu::pool(view, spec, &mut out);
    result(OP, out, &[rows, joined], &hidden)
}
