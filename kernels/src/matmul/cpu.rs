//! Plain products; the fast versions are being written.

use super::{Epilogue, Packed, Precision, Residual};
use crate::activation;
use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::simd::{Portable, Simd};
use crate::team::Team;

pub(super) fn pack(_isa: Isa, precision: Precision, weight: &[f32], _outputs: usize, _inputs: usize) -> Aligned {
    let mut panels = Aligned::zeroed(size_of_val(weight));
    for (to, from) in panels.as_mut_slice::<f32>().iter_mut().zip(weight) {
        *to = match precision {
            Precision::F32 => *from,
            Precision::Bf16 => half::bf16::from_f32(*from).to_f32(),
        };
    }
    panels
}

pub(super) fn scratch_bytes(_weights: &Packed) -> usize {
    0
}

pub(super) fn matmul(_team: &Team, input: &[f32], weights: &Packed, epilogue: &Epilogue<'_>, output: &mut [f32]) {
    let (k, n) = (weights.inputs, weights.outputs);
    let w = weights.panels.as_slice::<f32>();
    for (row, (x, out)) in input.chunks_exact(k).zip(output.chunks_exact_mut(n)).enumerate() {
        for (column, out) in out.iter_mut().enumerate() {
            let w = &w[column * k..][..k];
            let mut sum = 0f32;
            for (x, w) in x.iter().zip(w) {
                let x = match weights.precision {
                    Precision::F32 => *x,
                    Precision::Bf16 => half::bf16::from_f32(*x).to_f32(),
                };
                sum += x * w;
            }
            sum += epilogue.bias.map_or(0.0, |bias| bias[column]);
            // SAFETY: needs no instructions that not every processor has; `sum` has room for one number.
            unsafe { activation::cpu::apply(epilogue.activation, Portable::splat(sum)).store_first(&mut sum, 1) };
            *out = match epilogue.residual {
                Residual::None => sum,
                Residual::Add(residual) => sum + residual[row * n + column],
                Residual::Accumulate => sum + *out,
            };
        }
    }
}
