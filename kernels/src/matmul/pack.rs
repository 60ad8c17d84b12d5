//! Weights and inputs in the order and in the numbers that the innermost loops read.

use super::kernel::{Input, Kernel};
use super::{Precision, quantize};
use crate::aligned::Aligned;
use crate::isa::Isa;

/// Words of 32 bits that one panel takes.
pub(super) fn panel_words(kernel: &Kernel, inputs: usize) -> usize {
    inputs.div_ceil(kernel.weights_per_step) * kernel.width
}

/// Panels of [`Kernel::width`] outputs, one after the other: `[panels, steps, width, weights_per_step]`, zeros where there is
/// no output and behind the last input. Behind the last panel stand the parameters of each, where it has any.
pub(super) fn pack(isa: Isa, precision: Precision, weight: &[f32], outputs: usize, inputs: usize) -> Aligned {
    let kernel = Kernel::of(isa, precision);
    let panel_words = panel_words(kernel, inputs);
    let count = outputs.div_ceil(kernel.width);
    let parameter_words = if precision == Precision::Int8 { quantize::parameter_words(kernel.width) } else { 0 };
    let mut panels = Aligned::zeroed(4 * count * (panel_words + parameter_words));
    if weight.is_empty() {
        return panels;
    }
    let rows = weight.chunks(kernel.width * inputs);
    match precision {
        Precision::F32 => {
            let panels = panels.as_mut_slice::<f32>().chunks_exact_mut(panel_words);
            panels.zip(rows).for_each(|(panel, rows)| transpose(panel, kernel.width, rows, inputs));
        }
        Precision::Bf16 => {
            let panels = panels.as_mut_slice::<[u16; 2]>().chunks_exact_mut(panel_words);
            panels.zip(rows).for_each(|(panel, rows)| transpose_pairs(panel, kernel.width, rows, inputs));
        }
        Precision::Int8 => {
            assert!(inputs <= quantize::MOST_INPUTS, "sums over {inputs} products of integers may not fit into 32 bits");
            let (panels, parameters) = panels.as_mut_slice::<f32>().split_at_mut(count * panel_words);
            let parameters = parameters.chunks_exact_mut(parameter_words);
            for ((panel, parameters), rows) in panels.chunks_exact_mut(panel_words).zip(parameters).zip(rows) {
                quantize::pack(bytemuck::cast_slice_mut(panel), parameters, kernel.width, rows, inputs);
            }
        }
    }
    panels
}

/// Inputs that are transposed at a time: a cache line of each row, so that what is written stays in the nearest cache.
const BLOCK: usize = 16;

/// `panel: [inputs, width]` from `rows: [up to width, inputs]`.
fn transpose(panel: &mut [f32], width: usize, rows: &[f32], inputs: usize) {
    for (block, panel) in panel.chunks_mut(BLOCK * width).enumerate() {
        for (column, row) in rows.chunks_exact(inputs).enumerate() {
            let row = &row[block * BLOCK..];
            for (to, from) in panel[column..].iter_mut().step_by(width).zip(row) {
                *to = *from;
            }
        }
    }
}

/// `panel: [inputs / 2 rounded up, width]` of pairs from `rows: [up to width, inputs]`, rounded.
fn transpose_pairs(panel: &mut [[u16; 2]], width: usize, rows: &[f32], inputs: usize) {
    for (block, panel) in panel.chunks_mut(BLOCK / 2 * width).enumerate() {
        for (column, row) in rows.chunks_exact(inputs).enumerate() {
            let row = &row[block * BLOCK..];
            for (to, from) in panel[column..].iter_mut().step_by(width).zip(row.chunks(2)) {
                to[0] = round(from[0]);
                to[1] = from.get(1).map_or(0, |from| round(*from));
            }
        }
    }
}

/// The bits of the nearest bf16, of two equally near the even one. NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding could carry the last bits of a NaN into its sign; one bit that is set keeps it what it is.
    (if x.is_nan() { bits >> 16 | 0x40 } else { nearest }) as u16
}

/// Words of one row of the input as a kernel reads it.
pub(super) fn row_words(kernel: &Kernel, inputs: usize) -> usize {
    let parameters = if matches!(kernel.input, Input::Bytes | Input::Wide) { quantize::ROW_WORDS } else { 0 };
    inputs.div_ceil(kernel.weights_per_step) * kernel.input_words + parameters
}

/// Brings rows of the input into the form that `kernel` reads, `stride` words from one to the next. What lies between the
/// end of a row and the next is left as it is.
pub(super) fn convert(isa: Isa, kernel: &Kernel, input: &[f32], inputs: usize, to: &mut [f32], stride: usize) {
    let words = row_words(kernel, inputs);
    for (from, to) in input.chunks_exact(inputs).zip(to.chunks_mut(stride)) {
        let to = &mut to[..words];
        match kernel.input {
            Input::F32 => to.copy_from_slice(from),
            Input::RoundedF32 => round_wide(from, to),
            Input::Wide => quantize::row_wide(from, to),
            Input::Bytes => quantize::row_bytes(isa, from, to),
            #[cfg(target_arch = "x86_64")]
            Input::Bf16 => {
                assert_eq!(isa, Isa::Avx512Bf16, "pairs are for the instructions that multiply them");
                // SAFETY: the processor has the instructions, or no team would hold them.
                unsafe { x86::round_pairs(from, to) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Input::Bf16 => unreachable!("no kernel of this architecture reads pairs of bf16, not with {isa:?} either"),
        }
    }
}

/// Rounded to bf16 and widened; a number that completes the last pair is 0.
fn round_wide(from: &[f32], to: &mut [f32]) {
    let (whole, rest) = to.split_at_mut(from.len());
    for (to, from) in whole.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(round(*from)) << 16);
    }
    rest.fill(0.0);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// `to` becomes the pairs of bf16 nearest to `from`, the last one completed by 0.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) fn round_pairs(from: &[f32], to: &mut [f32]) {
        assert_eq!(to.len(), from.len().div_ceil(2));
        let whole = from.len() / 32;
        for block in 0..whole {
            // SAFETY: 32 numbers from `32 * block` on lie in `from`, 16 words from `16 * block` on in `to`.
            unsafe {
                let lower = _mm512_loadu_ps(from.as_ptr().add(32 * block));
                let upper = _mm512_loadu_ps(from.as_ptr().add(32 * block + 16));
                let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(upper, lower));
                _mm512_storeu_si512(to.as_mut_ptr().add(16 * block).cast(), pairs);
            }
        }
        let (from, to) = (&from[32 * whole..], &mut to[16 * whole..]);
        for (block, to) in to.chunks_mut(8).enumerate() {
            let from = &from[16 * block..];
            let read = (1u32 << from.len().min(16)) - 1;
            let written = (1u32 << to.len()) - 1;
            // SAFETY: the masks are as long as the slices, and what is not read is 0.
            unsafe {
                let numbers = _mm512_maskz_loadu_ps(read as __mmask16, from.as_ptr());
                let pairs: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(numbers));
                _mm256_mask_storeu_epi32(to.as_mut_ptr().cast(), written as __mmask8, pairs);
            }
        }
    }
}
