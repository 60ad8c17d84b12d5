//! Exponentials and the functions that activations are made of, on vectors.
//!
//! All of them let NaN through: a bound is written `bound.max(x)`, which is `x` where `x` is NaN. Errors are the largest that
//! the tests have found, on all instruction sets; without fused multiply-add they are the larger ones. Polynomials were fitted
//! by linear programming for the least largest error and are given from the highest power down.

use std::f32::consts::{LN_2, LOG2_E};

use super::Simd;

/// Adding this rounds a number of up to 22 bits to an integer, which then stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first with few enough bits that its products with small integers are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `exp(r)` on |r| <= ln(2) / 2, relative error 9.2e-8 before rounding.
const EXP: [f32; 6] = [0.008_290_272, 0.041_898_16, 0.166_676_39, 0.499_991_48, 0.999_999_7, 1.0];
/// `2^r` on |r| <= 1 / 2, relative error 1.05e-7 before rounding.
pub(crate) const EXP2: [f32; 6] = [0.001_330_022_7, 0.009_669_758, 0.055_505_604, 0.240_222_81, LN_2, 1.0];
/// `(exp(r) - 1) / r` on |r| <= ln(2) / 2, relative error below 1e-8 before rounding.
const EXP_LESS_1: [f32; 6] = [0.001_381_454, 0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94, 1.0];

/// Beyond this |x|, `Phi(x)` is 0 or 1 to 8e-8.
const PHI_END: f32 = 5.25;
/// `(Phi(x) - 1/2) / x` as a polynomial in `2 * (x / PHI_END)^2 - 1`, on which its terms hardly cancel; `x` times it is off by
/// 9.6e-8 before rounding. At both ends it gives just beyond 1/2, so that the sum with 1/2 rounds to exactly 1 and to at most 0.
const PHI: [f32; 14] = [
    -0.000_497_195_3,
    0.001_454_090_7,
    -0.001_521_766_1,
    0.001_874_876_2,
    -0.004_890_992,
    0.009_066_474,
    -0.013_082_25,
    0.018_326_987,
    -0.024_960_535,
    0.032_064_24,
    -0.039_772_555,
    0.049_643_885,
    -0.067_126_53,
    0.134_659_36,
];

/// The polynomial of those coefficients, from the highest power down.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn polynomial<S: Simd, const N: usize>(coefficients: &[f32; N], x: S) -> S {
    // SAFETY: as of this function.
    unsafe {
        let mut sum = S::splat(coefficients[0]);
        let mut index = 1;
        while index < N {
            sum = sum.mul_add(x, S::splat(coefficients[index]));
            index += 1;
        }
        sum
    }
}

/// `(n, r)` with `y = n ln(2) + r`: `n` as [`Simd::times_exp2`] takes it, and |r| <= ln(2) / 2.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn reduce<S: Simd>(y: S) -> (S, S) {
    // SAFETY: as of this function.
    unsafe {
        let rounded = y.mul_add(S::splat(LOG2_E), S::splat(ROUND));
        let n = rounded.sub(S::splat(ROUND));
        let r = n.mul_add(S::splat(-LN2_HIGH), y);
        (rounded, n.mul_add(S::splat(-LN2_LOW), r))
    }
}

/// `exp(y)` with a relative error below 2e-7 for `y` from -87 to 88, and the value there for `y` beyond.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(y: S) -> S {
    // SAFETY: as of this function; between these bounds the result is a normal number.
    unsafe {
        let (rounded, r) = reduce(S::splat(88.0).min(S::splat(-87.0).max(y)));
        polynomial(&EXP, r).times_exp2(rounded)
    }
}

/// `2^t` with a relative error below 2e-7 for `t` from -126 to 126, and the value there for `t` beyond.
///
/// Softmax takes its exponentials with this one, with `log2(e)` multiplied into the factor of its scores: that is what makes
/// it cheap, and costs |t| * 6e-8 of relative error where the product is rounded.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(t: S) -> S {
    // SAFETY: as of this function; between these bounds the result is a normal number.
    unsafe {
        let t = S::splat(126.0).min(S::splat(-126.0).max(t));
        let rounded = t.add(S::splat(ROUND));
        let r = t.sub(rounded.sub(S::splat(ROUND)));
        polynomial(&EXP2, r).times_exp2(rounded)
    }
}

/// `1 / (1 + exp(-x))` with a relative error below 2.5e-7 for `x` from -87, and the value there for `x` below.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S) -> S {
    // SAFETY: as of this function.
    unsafe { S::splat(1.0).div(S::splat(1.0).add(exp(S::splat(0.0).sub(x)))) }
}

/// `tanh(x)` with a relative error below 2.5e-7, next to 0 too.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S) -> S {
    // SAFETY: as of this function; 2^n of the bounded argument is a normal number.
    unsafe {
        // With e = exp(2x) - 1 this is e / (e + 2); e itself is computed without subtracting 1 from a number next to 1.
        let (rounded, r) = reduce(S::splat(40.0).min(S::splat(-40.0).max(x.add(x))));
        let power = S::splat(1.0).times_exp2(rounded);
        let e = polynomial(&EXP_LESS_1, r).mul(r).mul_add(power, power.sub(S::splat(1.0)));
        e.div(e.add(S::splat(2.0)))
    }
}

/// `x * Phi(x)`, with the distribution function of the normal distribution: an error below 2.5e-7 * |x|, and 0 below -5.25.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S) -> S {
    // SAFETY: as of this function.
    unsafe {
        let bounded = S::splat(PHI_END).min(S::splat(-PHI_END).max(x));
        let u = bounded.mul(bounded).mul_add(S::splat(2.0 / (PHI_END * PHI_END)), S::splat(-1.0));
        let phi = S::splat(0.0).max(polynomial(&PHI, u).mul_add(bounded, S::splat(0.5)));
        // The bound keeps minus infinity from meeting 0.
        S::splat(-PHI_END).max(x).mul(phi)
    }
}
