//! Gating on vectors: one pass, a vector of each half at a time.

use super::Activation;
use crate::activation;
use crate::simd::{Simd, with_simd};
use crate::team::Team;

pub(super) fn gate(team: &Team, input: &[f32], n: usize, activation: Activation, output: &mut [f32]) {
    let isa = team.isa();
    team.rows(output, n, input.len(), |rows, output| {
        let input = &input[rows.start * 2 * n..rows.end * 2 * n];
        with_simd!(isa, dispatch(input: &[f32], n: usize, activation: Activation, output: &mut [f32]));
    });
}

/// Makes the activation a constant of the loops, so that it is chosen once and its own constants stay in registers.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn dispatch<S: Simd>(input: &[f32], n: usize, activation: Activation, output: &mut [f32]) {
    use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Relu, Sigmoid, Silu, Tanh};
    // SAFETY: as of this function.
    unsafe {
        match activation {
            Identity => each_row::<S>(input, n, Identity, output),
            Gelu => each_row::<S>(input, n, Gelu, output),
            GeluTanh => each_row::<S>(input, n, GeluTanh, output),
            QuickGelu => each_row::<S>(input, n, QuickGelu, output),
            Relu => each_row::<S>(input, n, Relu, output),
            Silu => each_row::<S>(input, n, Silu, output),
            Tanh => each_row::<S>(input, n, Tanh, output),
            Sigmoid => each_row::<S>(input, n, Sigmoid, output),
        }
    }
}

/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn each_row<S: Simd>(input: &[f32], n: usize, activation: Activation, output: &mut [f32]) {
    for (input, output) in input.chunks_exact(2 * n).zip(output.chunks_exact_mut(n)) {
        let (value, factor) = input.split_at(n);
        let whole = n - n % S::LANES;
        // SAFETY: the instructions as of this function; all three rows have `n` numbers, of which `LANES` from each whole
        // column on, and `n - whole < LANES` from the last one, are read and written. Output and input do not overlap.
        unsafe {
            for column in (0..whole).step_by(S::LANES) {
                let x = activation::cpu::apply(activation, S::load(value.as_ptr().add(column)));
                x.mul(S::load(factor.as_ptr().add(column))).store(output.as_mut_ptr().add(column));
            }
            let rest = n - whole;
            if rest > 0 {
                let x = activation::cpu::apply(activation, S::load_first(value.as_ptr().add(whole), rest));
                let gated = x.mul(S::load_first(factor.as_ptr().add(whole), rest));
                gated.store_first(output.as_mut_ptr().add(whole), rest);
            }
        }
    }
}
