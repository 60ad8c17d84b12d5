//! The innermost loop: some rows of the input with one panel of weights, all sums in registers.

use super::multiply::Multiply;
use crate::simd::Simd;

/// Vectors of outputs side by side in a tile, and so in a panel of weights.
pub(super) const VECTORS: usize = 2;

/// Where a tile reads and writes.
pub(super) struct Tile {
    /// The first word of the first row of the input.
    pub(super) input: *const f32,
    /// Words from one row of the input to the next.
    pub(super) stride: usize,
    /// The first step's weights; the following steps' lie behind.
    pub(super) weights: *const f32,
    /// Steps to make.
    pub(super) steps: usize,
    /// Whether `sums` holds the sums of the steps before these.
    pub(super) resume: bool,
    /// The sums, `[rows, VECTORS * LANES]`.
    pub(super) sums: *mut f32,
    /// Memory that will be needed soon, two cache lines from there on at every step.
    pub(super) soon: *const f32,
    /// How many words `soon` goes on at every step.
    pub(super) soon_words: usize,
}

/// Adds the products of all steps to the sums of `ROWS` rows. Every sum is one chain over the steps.
///
/// # Safety
/// The instructions of `M` are available; `tile.input` has `ROWS` rows of `steps * INPUT_WORDS` words, `tile.weights` has
/// `steps` rows of weights for `VECTORS` vectors, and `tile.sums` has `ROWS` rows of as many sums, which nothing else uses.
#[inline(always)]
pub(super) unsafe fn add<M: Multiply, const ROWS: usize>(tile: &Tile) {
    let width = VECTORS * M::Sum::LANES;
    // SAFETY: as of this function; a prefetch reads nothing.
    unsafe {
        let mut sums = [[M::Sum::splat(0.0); VECTORS]; ROWS];
        if tile.resume {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = M::Sum::load(tile.sums.add(row * width + vector * M::Sum::LANES));
                }
            }
        }
        // Three rows share a pointer, so that all pointers fit into registers: a processor's addresses are a pointer and
        // the stride or its double.
        let mut input: [*const f32; 5] = std::array::from_fn(|group| tile.input.wrapping_add(3 * group * tile.stride));
        let (mut weights, mut soon) = (tile.weights, tile.soon);
        for _ in 0..tile.steps {
            let vectors: [M::Weights; VECTORS] = [M::weights(weights), M::weights(weights.add(M::Sum::LANES))];
            prefetch(soon);
            prefetch(soon.wrapping_add(16));
            for (row, sums) in sums.iter_mut().enumerate() {
                let number = M::input(input[row / 3].add(row % 3 * tile.stride));
                for (sum, weights) in sums.iter_mut().zip(vectors) {
                    *sum = M::add(*sum, number, weights);
                }
            }
            for group in &mut input {
                *group = group.wrapping_add(M::INPUT_WORDS);
            }
            weights = weights.add(width);
            soon = soon.wrapping_add(tile.soon_words);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                sum.store(tile.sums.add(row * width + vector * M::Sum::LANES));
            }
        }
    }
}

/// Asks for a cache line without waiting for it. Any address will do.
#[inline(always)]
pub(super) fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
