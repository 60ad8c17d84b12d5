//! The table of innermost loops: which one multiplies for a precision on an instruction set, and the sizes it works with.

use super::Precision;
use super::multiply::{Apart, Multiply, Single, Wide};
use super::tile::{self, Tile, VECTORS};
use crate::isa::Isa;
use crate::simd::{Portable, Simd};

/// An innermost loop for tiles of up to [`Kernel::rows`] rows.
pub(super) struct Kernel {
    /// Outputs of a panel.
    pub(super) width: usize,
    /// Weights of one output that one step takes: 2 where they are pairs of bf16, 4 where they are bytes.
    pub(super) weights_per_step: usize,
    /// Words of an input row that one step reads.
    pub(super) input_words: usize,
    /// What a row of the input is before it is read.
    pub(super) input: Input,
    /// The loop for each number of rows, beginning with one.
    tiles: &'static [unsafe fn(&Tile)],
}

/// In which form an innermost loop reads the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// As it comes.
    F32,
    /// Rounded to bf16 and widened again.
    RoundedF32,
    /// Pairs of bf16.
    Bf16,
    /// Rounded to bytes.
    Bytes,
    /// Rounded to integers of 16 bits.
    Wide,
}

impl Kernel {
    /// The loop for `precision` with the instructions of `isa`.
    pub(super) fn of(isa: Isa, precision: Precision) -> &'static Kernel {
        match (precision, isa) {
            #[cfg(target_arch = "x86_64")]
            (Precision::F32, Isa::Avx512 | Isa::Avx512Bf16) => &x86::AVX512_F32,
            #[cfg(target_arch = "x86_64")]
            (Precision::F32, Isa::Avx2) => &x86::AVX2_F32,
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16, Isa::Avx512Bf16) => &x86::AVX512_BF16,
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16, Isa::Avx512) => &x86::AVX512_APART,
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16, Isa::Avx2) => &x86::AVX2_APART,
            #[cfg(target_arch = "x86_64")]
            (Precision::Int8, Isa::Avx512Bf16) => &x86::AVX512_BYTES,
            #[cfg(target_arch = "x86_64")]
            (Precision::Int8, Isa::Avx512) => &x86::AVX512_WIDE,
            #[cfg(target_arch = "x86_64")]
            (Precision::Int8, Isa::Avx2) => &x86::AVX2_WIDE,
            (Precision::F32, _) => &PORTABLE_F32,
            (Precision::Bf16, _) => &PORTABLE_APART,
            (Precision::Int8, _) => &PORTABLE_WIDE,
        }
    }

    /// The most rows of a tile.
    pub(super) fn rows(&self) -> usize {
        self.tiles.len()
    }

    /// Adds the products of a tile of `rows` rows, from 1 to [`Kernel::rows`].
    ///
    /// # Safety
    /// The processor has the instructions that this kernel was chosen for; the rest as for [`tile::add`].
    pub(super) unsafe fn add(&self, rows: usize, tile: &Tile) {
        // SAFETY: as of this function.
        unsafe { self.tiles[rows - 1](tile) }
    }

    const fn new<M: Multiply>(input: Input, weights_per_step: usize, tiles: &'static [unsafe fn(&Tile)]) -> Kernel {
        Kernel { width: VECTORS * M::Sum::LANES, weights_per_step, input_words: M::INPUT_WORDS, input, tiles }
    }
}

static PORTABLE_F32: Kernel = {
    type M = Single<Portable>;
    Kernel::new::<M>(Input::F32, 1, &[tile::add::<M, 1>, tile::add::<M, 2>])
};

static PORTABLE_APART: Kernel = {
    type M = Apart<Portable>;
    Kernel::new::<M>(Input::RoundedF32, 2, &[tile::add::<M, 1>, tile::add::<M, 2>])
};

static PORTABLE_WIDE: Kernel = {
    type M = Wide<Portable>;
    Kernel::new::<M>(Input::Wide, 4, &[tile::add::<M, 1>, tile::add::<M, 2>])
};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::multiply::{Bytes, Pair};
    use super::*;
    use crate::simd::{Avx2, Avx512};

    /// A kernel whose loops are compiled with `$features`, for each of the numbers of rows.
    macro_rules! kernel {
        ($name:ident, $multiply:ty, $features:literal, $input:expr, $weights:literal, [$($rows:literal)+]) => {
            pub(super) static $name: Kernel = {
                #[target_feature(enable = $features)]
                unsafe fn tile<const ROWS: usize>(tile: &Tile) {
                    // SAFETY: the features are those of this function, the rest as of `Kernel::add`.
                    unsafe { tile::add::<$multiply, ROWS>(tile) }
                }
                Kernel::new::<$multiply>($input, $weights, &[$(tile::<$rows>),+])
            };
        };
    }

    // As many rows as there are registers for: sums, the weights of a step, and a number of the input.
    kernel!(AVX512_F32, Single<Avx512>, "avx512f,avx512bw,avx512dq,avx512vl,fma", Input::F32, 1,
        [1 2 3 4 5 6 7 8 9 10 11 12 13]);
    kernel!(AVX512_BF16, Pair, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma", Input::Bf16, 2,
        [1 2 3 4 5 6 7 8 9 10 11 12 13]);
    kernel!(AVX512_APART, Apart<Avx512>, "avx512f,avx512bw,avx512dq,avx512vl,fma", Input::RoundedF32, 2,
        [1 2 3 4 5 6 7 8 9 10 11 12]);
    kernel!(AVX512_BYTES, Bytes, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma", Input::Bytes, 4,
        [1 2 3 4 5 6 7 8 9 10 11 12 13]);
    kernel!(AVX512_WIDE, Wide<Avx512>, "avx512f,avx512bw,avx512dq,avx512vl,fma", Input::Wide, 4,
        [1 2 3 4 5 6 7 8 9 10 11 12]);
    kernel!(AVX2_WIDE, Wide<Avx2>, "avx2,fma", Input::Wide, 4, [1 2 3 4]);
    kernel!(AVX2_F32, Single<Avx2>, "avx2,fma", Input::F32, 1, [1 2 3 4 5 6]);
    kernel!(AVX2_APART, Apart<Avx2>, "avx2,fma", Input::RoundedF32, 2, [1 2 3 4 5]);
}
