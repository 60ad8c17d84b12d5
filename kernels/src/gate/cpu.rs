//! Plain gating; the fast version is being written.

use crate::activation::{self, Activation};
use crate::simd::{Portable, Simd};
use crate::team::Team;

pub(super) fn gate(_team: &Team, input: &[f32], n: usize, activation: Activation, output: &mut [f32]) {
    for (input, output) in input.chunks_exact(2 * n).zip(output.chunks_exact_mut(n)) {
        for (index, out) in output.iter_mut().enumerate() {
            // SAFETY: needs no instructions that not every processor has; `out` has room for one number.
            unsafe { activation::cpu::apply(activation, Portable::splat(input[index])).store_first(out, 1) };
            *out *= input[n + index];
        }
    }
}
