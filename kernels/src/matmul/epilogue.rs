//! What follows the sums of a tile: bias, activation, residual, and the one store to the result.

use super::multiply::Integers;
use crate::activation::{self, Activation};
use crate::isa::Isa;
use crate::simd::with_simd;

/// A tile of sums and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    /// The sums, `[rows, width]`.
    pub(super) sums: *const f32,
    /// Sums from one row to the next, a multiple of the lanes.
    pub(super) width: usize,
    /// Rows of the tile.
    pub(super) rows: usize,
    /// Outputs of the tile, at most `width`.
    pub(super) columns: usize,
    /// The bias of the tile's first output, or null.
    pub(super) bias: *const f32,
    /// The residual of the tile's first number, or null; rows lie `stride` apart.
    pub(super) residual: *const f32,
    /// The tile's first number in the result.
    pub(super) output: *mut f32,
    /// Numbers from one row of the result to the next.
    pub(super) stride: usize,
    /// What is applied to the sum with its bias.
    pub(super) activation: Activation,
    /// What makes numbers of sums that are integers.
    pub(super) quantized: Option<Quantized>,
}

/// The parameters of integers that were multiplied: the product is `(sum - zero * weights) * (row's scale * output's scale)`.
#[derive(Clone, Copy)]
pub(super) struct Quantized {
    /// The first row's scale, and behind it the bits of its zero.
    pub(super) rows: *const f32,
    /// Words from one row's parameters to the next's.
    pub(super) stride: usize,
    /// The sum of the weights of each of `width` outputs, in the bits of f32, and behind them the scale of each.
    pub(super) outputs: *const f32,
}

/// Finishes a tile.
///
/// # Safety
/// The processor has `isa`; the pointers have the memory that their documentation says, and nothing else uses the tile's
/// part of the result.
pub(super) unsafe fn finish(isa: Isa, tile: Finish) {
    with_simd!(isa, choose(tile: Finish))
}

/// Takes the choice of the activation out of the loops.
#[inline(always)]
unsafe fn choose<S: Integers>(tile: Finish) {
    // SAFETY: as of `finish`.
    unsafe {
        match tile.activation {
            Activation::Identity => rows::<S>(tile, Activation::Identity),
            Activation::Gelu => rows::<S>(tile, Activation::Gelu),
            Activation::GeluTanh => rows::<S>(tile, Activation::GeluTanh),
            Activation::QuickGelu => rows::<S>(tile, Activation::QuickGelu),
            Activation::Relu => rows::<S>(tile, Activation::Relu),
            Activation::Silu => rows::<S>(tile, Activation::Silu),
            Activation::Tanh => rows::<S>(tile, Activation::Tanh),
            Activation::Sigmoid => rows::<S>(tile, Activation::Sigmoid),
        }
    }
}

/// The product of a row's vector of outputs, the `at`-th of the tile and those behind it.
#[inline(always)]
unsafe fn product<S: Integers>(tile: &Finish, row: usize, at: usize) -> S {
    // SAFETY: as of `finish`; the sums and the parameters of outputs are there for the whole width.
    unsafe {
        let sum = S::load(tile.sums.add(row * tile.width + at));
        match tile.quantized {
            None => sum,
            Some(Quantized { rows, stride, outputs }) => {
                let row = rows.add(row * stride);
                let (scale, zero) = (S::splat(*row), (*row.add(1)).to_bits() as i32);
                let scale = scale.mul(S::load(outputs.add(tile.width + at)));
                sum.less(zero, S::load(outputs.add(at))).mul(scale)
            }
        }
    }
}

#[inline(always)]
unsafe fn rows<S: Integers>(tile: Finish, activation: Activation) {
    let (whole, rest) = (tile.columns / S::LANES, tile.columns % S::LANES);
    // SAFETY: as of `finish`: `columns` numbers from every row's beginning on exist, and no others are touched.
    unsafe {
        for row in 0..tile.rows {
            let to = row * tile.stride;
            for vector in 0..whole {
                let at = vector * S::LANES;
                let mut sum = product::<S>(&tile, row, at);
                if !tile.bias.is_null() {
                    sum = sum.add(S::load(tile.bias.add(at)));
                }
                sum = activation::cpu::apply(activation, sum);
                if !tile.residual.is_null() {
                    sum = sum.add(S::load(tile.residual.add(to + at)));
                }
                sum.store(tile.output.add(to + at));
            }
            if rest > 0 {
                let at = whole * S::LANES;
                let mut sum = product::<S>(&tile, row, at);
                if !tile.bias.is_null() {
                    sum = sum.add(S::load_first(tile.bias.add(at), rest));
                }
                sum = activation::cpu::apply(activation, sum);
                if !tile.residual.is_null() {
                    sum = sum.add(S::load_first(tile.residual.add(to + at), rest));
                }
                sum.store_first(tile.output.add(to + at), rest);
            }
        }
    }
}
