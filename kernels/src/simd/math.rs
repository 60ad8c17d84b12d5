//! Exponentials and what activations are made of, on vectors.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::Simd;

/// `exp(y)` with a relative error below 2e-7; 0 next to the smallest normal number for `y` below -87, largest power
/// for `y` above 88. NaN gives an arbitrary finite value.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(y: S) -> S {
    /// Adding this rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few enough bits that its products with small integers are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // SAFETY: as of this function.
    unsafe {
        let y = y.max(S::splat(-87.0)).min(S::splat(88.0));
        let shifted = y.mul_add(S::splat(LOG2_E), S::splat(ROUND));
        let n = shifted.sub(S::splat(ROUND));
        let r = n.mul_add(S::splat(-LN2_HIGH), y);
        let r = n.mul_add(S::splat(-LN2_LOW), r);
        // The Taylor polynomial: on |r| <= ln(2) / 2 its error is below 1e-7 of the result.
        let mut e = S::splat(1.0 / 720.0);
        for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            e = e.mul_add(r, S::splat(coefficient));
        }
        e.mul(shifted.exp2_of_rounded())
    }
}

/// `p` of [`gelu`]'s documentation from the highest power down, fitted to `exp(z^2) * erfc(z)` on 0 to 10 by linear
/// programming for the least relative error, which is 4.3e-8.
const TAIL: [f32; 9] =
    [-0.059_070_997, 0.284_584_1, -0.487_217_2, 0.278_085, -0.026_636_632, 0.202_690_96, 0.243_102_86, 0.282_375_43, 0.282_086_4];

/// `x * Phi(x)`, with the distribution function of the normal distribution.
///
/// With `z = |x| / sqrt(2)` and `u = 1 / (1 + z / 2)`, `erfc(z) = exp(-z^2) * u * p(u)`, where `p` has degree 8. This form
/// keeps its relative precision in the tail, where `1 + erf(x / sqrt(2))` would cancel.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S) -> S {
    // SAFETY: as of this function.
    unsafe {
        // Beyond this bound (|x| above 14) the tail is below the smallest normal number; the bound keeps infinity out of
        // the arithmetic, and NaN too, which comes back through the multiplication by `x`.
        let z = x.abs().mul(S::splat(FRAC_1_SQRT_2)).min(S::splat(9.3));
        let u = S::splat(1.0).div(z.mul_add(S::splat(0.5), S::splat(1.0)));
        let mut p = S::splat(TAIL[0]);
        let mut index = 1;
        while index < TAIL.len() {
            p = p.mul_add(u, S::splat(TAIL[index]));
            index += 1;
        }
        let half_tail = p.mul(u).mul(exp(S::splat(0.0).sub(z.mul(z)))).mul(S::splat(0.5));
        // So that infinity times 0 cannot arise; at this value and below the tail is 0 or next to it.
        let lower = S::splat(-1e4).max(x).mul(half_tail);
        let upper = x.sub(x.mul(half_tail));
        x.select_less(S::splat(0.0), lower, upper)
    }
}
