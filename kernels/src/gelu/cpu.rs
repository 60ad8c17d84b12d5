//! GELU on the CPU, written so that the compiler turns the loop into vector instructions: no branches, no calls.
//!
//! With `z = |s| / sqrt(2)` and `u = 1 / (1 + z / 2)`, `erfc(z) = exp(-z^2) * u * p(u)`, where `p` has degree 8. This form
//! keeps its relative precision in the tail, where `1 + erf(s / sqrt(2))` would cancel.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// `p` of the module's documentation from the highest power down, fitted to `exp(z^2) * erfc(z)` on 0 to 10 by linear
/// programming for the least relative error, which is 4.3e-8.
const TAIL: [f32; 9] =
    [-0.059_070_997, 0.284_584_1, -0.487_217_2, 0.278_085, -0.026_636_632, 0.202_690_96, 0.243_102_86, 0.282_375_43, 0.282_086_4];

/// Fills `out` with GELU of `x + bias`; `x` holds rows of the length of `bias`.
pub(super) fn bias_gelu(x: &[f32], bias: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "x and the result disagree");
    if bias.is_empty() {
        return;
    }
    for (x, out) in x.chunks_exact(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
        for ((o, x), b) in out.iter_mut().zip(x).zip(bias) {
            *o = gelu(x + b);
        }
    }
}

/// What `s` is bounded to from below before it is multiplied by its tail, so that infinity times 0 cannot arise. At this
/// value and below the tail is 0 or next to it.
const LEAST_FACTOR: f32 = -1e4;

#[inline(always)]
fn gelu(s: f32) -> f32 {
    // Beyond this bound (|s| above 14) the tail is below the smallest normal number; the bound keeps infinity out of the
    // arithmetic, and NaN too, which comes back through the multiplication by `s`.
    let z = (s.abs() * FRAC_1_SQRT_2).min(10.0);
    let u = 1.0 / (1.0 + 0.5 * z);
    let mut p = TAIL[0];
    for coefficient in &TAIL[1..] {
        p = p * u + coefficient;
    }
    let half_tail = p * u * exp_negative(-(z * z)) * 0.5;
    let lower = s.max(LEAST_FACTOR) * half_tail;
    let upper = s * (1.0 - half_tail);
    if s < 0.0 { lower } else { upper }
}

/// `exp(y)` for `y` in -100 to 0, with a relative error below 3e-7 where the result is a normal number.
#[inline(always)]
fn exp_negative(y: f32) -> f32 {
    /// Adding this rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few enough bits that its products with small integers are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let y = y.max(-87.0);
    let shifted = y * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (y - n * LN2_HIGH) - n * LN2_LOW;
    // The Taylor polynomial: on |r| <= ln(2) / 2 its error is below 1e-7 of the result.
    let e = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    e * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}
