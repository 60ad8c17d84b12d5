//! Numbers rounded to 8-bit integers: weights when they are packed, rows of the input when they are multiplied.

use crate::isa::Isa;

/// Words behind the numbers of a rounded row: its scale, and the bits of its zero.
pub(super) const ROW_WORDS: usize = 2;

/// The most inputs whose products, of at most 255 times 127, add up in 32 bits whatever they are.
pub(super) const MOST_INPUTS: usize = 65_536;

/// Adding and subtracting this rounds a number below 2^22 to the nearest integer, of two equally near to the even one.
const ROUND: f32 = 12_582_912.0;

/// The integer nearest to `x`, whose absolute value is below 2^22.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    ((x + ROUND) - ROUND) as i32
}

/// Words of the parameters of one panel: the sum of each output's integers, and its scale.
pub(super) fn parameter_words(width: usize) -> usize {
    2 * width
}

/// `panel: [inputs / 4 rounded up, width, 4]` from `rows: [up to width, inputs]`, and the panel's parameters.
pub(super) fn pack(panel: &mut [[i8; 4]], parameters: &mut [f32], width: usize, rows: &[f32], inputs: usize) {
    let (sums, scales) = parameters.split_at_mut(width);
    for (column, row) in rows.chunks_exact(inputs).enumerate() {
        let largest = row.iter().map(|x| x.to_bits() & !(1 << 31)).max().map_or(0.0, f32::from_bits);
        let inverse = 127.0 / largest;
        let mut sum = 0i32;
        // Otherwise all are 0, or so small that they may as well be, or there is one that has no place among integers.
        if largest.is_finite() && inverse.is_finite() {
            for (to, from) in panel[column..].iter_mut().step_by(width).zip(row.chunks(4)) {
                for (to, from) in to.iter_mut().zip(from) {
                    let integer = nearest(from * inverse);
                    sum += integer;
                    *to = integer as i8;
                }
            }
        }
        sums[column] = f32::from_bits(sum as u32);
        scales[column] = match (largest.is_finite(), inverse.is_finite()) {
            (true, true) => largest / 127.0,
            (true, false) => 0.0,
            (false, _) => f32::NAN,
        };
    }
}

/// How the numbers of a row become integers from 0 to 255.
struct Row {
    inverse: f32,
    scale: f32,
    zero: i32,
}

impl Row {
    /// From the least and the largest number of a row, which are 0 if all others lie beyond, and whether all are finite.
    fn of(low: f32, high: f32, finite: bool) -> Row {
        let range = high - low;
        let inverse = 255.0 / range;
        match (finite && range.is_finite(), inverse.is_finite()) {
            (false, _) => Row { inverse: 0.0, scale: f32::NAN, zero: 0 },
            (true, false) => Row { inverse: 0.0, scale: 0.0, zero: 0 },
            (true, true) => Row { inverse, scale: range / 255.0, zero: nearest(-low * inverse) },
        }
    }

    /// The parameters as they stand behind the row.
    fn words(&self) -> [f32; ROW_WORDS] {
        [self.scale, f32::from_bits(self.zero as u32)]
    }
}

/// Rounds a row to integers less its zero, in 16 bits, four at a time in the order 0, 2, 1, 3; then its parameters.
pub(super) fn row_wide(from: &[f32], to: &mut [f32]) {
    let (words, parameters) = to.split_at_mut(to.len() - ROW_WORDS);
    let low = from.iter().fold(0.0, |low: f32, x| low.min(*x));
    let high = from.iter().fold(0.0, |high: f32, x| high.max(*x));
    let row = Row::of(low, high, from.iter().all(|x| x.is_finite()));
    let integer = |x: Option<&f32>| match x {
        Some(x) if row.inverse > 0.0 => (nearest(x * row.inverse) + row.zero).min(255) - row.zero,
        _ => 0,
    };
    let pair = |low: i32, high: i32| f32::from_bits(low as u16 as u32 | (high as u32) << 16);
    for (to, from) in words.chunks_exact_mut(2).zip(from.chunks(4)) {
        to[0] = pair(integer(from.first()), integer(from.get(2)));
        to[1] = pair(integer(from.get(1)), integer(from.get(3)));
    }
    // The zero has been taken off.
    parameters.copy_from_slice(&Row { zero: 0, ..row }.words());
}

/// Rounds a row to bytes, then its parameters.
pub(super) fn row_bytes(isa: Isa, from: &[f32], to: &mut [f32]) {
    assert_eq!(isa, Isa::Avx512Bf16, "bytes are for the instructions that multiply them");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor has the instructions, or no team would hold them.
    unsafe {
        x86::row_bytes(from, to)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, to);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ROW_WORDS, Row};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn row_bytes(from: &[f32], to: &mut [f32]) {
        let (words, parameters) = to.split_at_mut(to.len() - ROW_WORDS);
        assert_eq!(words.len(), from.len().div_ceil(4));
        let row = measure(from);
        parameters.copy_from_slice(&row.words());
        let (inverse, zero) = (_mm512_set1_ps(row.inverse), _mm512_set1_epi32(row.zero));
        let whole = from.len() / 16;
        for block in 0..whole {
            // SAFETY: 16 numbers from `16 * block` on lie in `from`, four words from `4 * block` on in `words`.
            unsafe {
                let numbers = _mm512_loadu_ps(from.as_ptr().add(16 * block));
                _mm_storeu_si128(words.as_mut_ptr().add(4 * block).cast(), bytes(numbers, inverse, zero));
            }
        }
        let (from, words) = (&from[16 * whole..], &mut words[4 * whole..]);
        let (read, written) = ((1u32 << from.len()) - 1, (1u32 << (4 * words.len())) - 1);
        // SAFETY: the masks are as long as the slices; what is not read is 0.
        unsafe {
            let numbers = _mm512_maskz_loadu_ps(read as __mmask16, from.as_ptr());
            _mm_mask_storeu_epi8(words.as_mut_ptr().cast(), written as __mmask16, bytes(numbers, inverse, zero));
        }
    }

    /// A row without finite parameters has the inverse 0, and what is not a number may become anything.
    #[target_feature(enable = "avx512f")]
    fn bytes(numbers: __m512, inverse: __m512, zero: __m512i) -> __m128i {
        let integers = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(numbers, inverse)), zero);
        _mm512_cvtusepi32_epi8(integers)
    }

    /// Vectors that are measured at a time, because each measure waits for the last of its own.
    const CHAINS: usize = 4;

    #[target_feature(enable = "avx512f")]
    fn measure(from: &[f32]) -> Row {
        let nothing = _mm512_setzero_ps();
        let (mut low, mut high, mut spoiled) = ([nothing; CHAINS], [nothing; CHAINS], [nothing; CHAINS]);
        let mut blocks = from.chunks_exact(16 * CHAINS);
        for block in &mut blocks {
            for chain in 0..CHAINS {
                // SAFETY: 16 numbers from `16 * chain` on lie in the block.
                let numbers = unsafe { _mm512_loadu_ps(block.as_ptr().add(16 * chain)) };
                low[chain] = _mm512_min_ps(low[chain], numbers);
                high[chain] = _mm512_max_ps(high[chain], numbers);
                // 0 times anything but a finite number is NaN, and stays it.
                spoiled[chain] = _mm512_fmadd_ps(numbers, nothing, spoiled[chain]);
            }
        }
        for (chain, from) in blocks.remainder().chunks(16).enumerate() {
            // SAFETY: the mask is as long as the slice; what is not read is 0.
            let numbers = unsafe { _mm512_maskz_loadu_ps(((1u32 << from.len()) - 1) as __mmask16, from.as_ptr()) };
            low[chain] = _mm512_min_ps(low[chain], numbers);
            high[chain] = _mm512_max_ps(high[chain], numbers);
            spoiled[chain] = _mm512_fmadd_ps(numbers, nothing, spoiled[chain]);
        }
        for chain in 1..CHAINS {
            low[0] = _mm512_min_ps(low[0], low[chain]);
            high[0] = _mm512_max_ps(high[0], high[chain]);
            spoiled[0] = _mm512_add_ps(spoiled[0], spoiled[chain]);
        }
        let finite = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(spoiled[0], spoiled[0]) == 0;
        Row::of(_mm512_reduce_min_ps(low[0]), _mm512_reduce_max_ps(high[0]), finite)
    }
}
