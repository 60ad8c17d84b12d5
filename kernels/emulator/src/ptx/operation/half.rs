//! Operations on f16 and bf16, single and in pairs.
//!
//! Sums, products and quotients of two halves rounded to f32 and then to a half are as if rounded once, because f32 has more
//! than twice the digits. Fused products go through f64 rounded to odd, which is as if rounded once too.

use half::{bf16, f16};

use super::float::fused_to_odd;
use super::{Lanes, lane_operations};

/// The f32 of an f16's bits.
#[inline(always)]
pub(crate) fn half_to_single(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7FFF) << 13;
    // Scaling by 2^112 moves the exponent's bias and makes normal numbers of subnormal ones.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = u32::from(bits & 0x7C00 == 0x7C00) * 0x7F80_0000;
    f32::from_bits(scaled | special | (u32::from(bits & 0x8000) << 16))
}

/// The bits of the nearest f16.
#[inline(always)]
pub(crate) fn single_to_half(value: f32) -> u16 {
    f16::from_f32(value).to_bits()
}

/// The f32 of a bf16's bits.
#[inline(always)]
pub(crate) fn bfloat_to_single(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bits of the nearest bf16.
#[inline(always)]
pub(crate) fn single_to_bfloat(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7FFF;
    }
    ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
}

fn fused_half(a: f32, b: f32, c: f32) -> u16 {
    f16::from_f64(fused_to_odd(a, b, c)).to_bits()
}

fn fused_bfloat(a: f32, b: f32, c: f32) -> u16 {
    bf16::from_f64(fused_to_odd(a, b, c)).to_bits()
}

fn smaller(a: f32, b: f32) -> f32 {
    if a < b || (a == b && a.is_sign_negative()) || b.is_nan() { a } else { b }
}

fn larger(a: f32, b: f32) -> f32 {
    if a > b || (a == b && a.is_sign_positive()) || b.is_nan() { a } else { b }
}

fn smaller_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { smaller(a, b) }
}

fn larger_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { larger(a, b) }
}

#[inline(always)]
fn h(bits: u64) -> f32 {
    half_to_single(bits as u16)
}

#[inline(always)]
fn g(bits: u64) -> f32 {
    bfloat_to_single(bits as u16)
}

#[inline(always)]
fn th(value: f32) -> u64 {
    u64::from(single_to_half(value))
}

#[inline(always)]
fn tg(value: f32) -> u64 {
    u64::from(single_to_bfloat(value))
}

/// An operation on each half of words.
#[inline(always)]
fn each(a: u64, b: u64, c: u64, on: impl Fn(u64, u64, u64) -> u64) -> u64 {
    on(a & 0xFFFF, b & 0xFFFF, c & 0xFFFF) | (on((a >> 16) & 0xFFFF, (b >> 16) & 0xFFFF, (c >> 16) & 0xFFFF) << 16)
}

lane_operations! {
    /// One input.
    UnaryHalf(a) {
        Negate ["neg.f16" | "neg.bf16"] => a ^ 0x8000;
        NegatePair ["neg.f16x2" | "neg.bf16x2"] => a ^ 0x8000_8000;
        Absolute ["abs.f16" | "abs.bf16"] => a & 0x7FFF;
        AbsolutePair ["abs.f16x2" | "abs.bf16x2"] => a & 0x7FFF_7FFF;
        Power ["ex2.approx.f16"] => th(h(a).exp2());
        PowerPair ["ex2.approx.f16x2"] => each(a, 0, 0, |a, _, _| th(h(a).exp2()));
        PowerBfloat ["ex2.approx.ftz.bf16"] => tg(g(a).exp2());
        PowerBfloatPair ["ex2.approx.ftz.bf16x2"] => each(a, 0, 0, |a, _, _| tg(g(a).exp2()));
        Tangent ["tanh.approx.f16"] => th(h(a).tanh());
        TangentPair ["tanh.approx.f16x2"] => each(a, 0, 0, |a, _, _| th(h(a).tanh()));
        TangentBfloat ["tanh.approx.bf16"] => tg(g(a).tanh());
        TangentBfloatPair ["tanh.approx.bf16x2"] => each(a, 0, 0, |a, _, _| tg(g(a).tanh()));
    }
}

lane_operations! {
    /// Two inputs.
    BinaryHalf(a, b) {
        Add ["add.f16"] => th(h(a) + h(b));
        AddPair ["add.f16x2"] => each(a, b, 0, |a, b, _| th(h(a) + h(b)));
        AddBfloat ["add.bf16"] => tg(g(a) + g(b));
        AddBfloatPair ["add.bf16x2"] => each(a, b, 0, |a, b, _| tg(g(a) + g(b)));
        Subtract ["sub.f16"] => th(h(a) - h(b));
        SubtractPair ["sub.f16x2"] => each(a, b, 0, |a, b, _| th(h(a) - h(b)));
        SubtractBfloat ["sub.bf16"] => tg(g(a) - g(b));
        SubtractBfloatPair ["sub.bf16x2"] => each(a, b, 0, |a, b, _| tg(g(a) - g(b)));
        Multiply ["mul.f16"] => th(h(a) * h(b));
        MultiplyPair ["mul.f16x2"] => each(a, b, 0, |a, b, _| th(h(a) * h(b)));
        MultiplyBfloat ["mul.bf16"] => tg(g(a) * g(b));
        MultiplyBfloatPair ["mul.bf16x2"] => each(a, b, 0, |a, b, _| tg(g(a) * g(b)));
        Min ["min.f16"] => th(smaller(h(a), h(b)));
        MinPair ["min.f16x2"] => each(a, b, 0, |a, b, _| th(smaller(h(a), h(b))));
        MinBfloat ["min.bf16"] => tg(smaller(g(a), g(b)));
        MinBfloatPair ["min.bf16x2"] => each(a, b, 0, |a, b, _| tg(smaller(g(a), g(b))));
        Max ["max.f16"] => th(larger(h(a), h(b)));
        MaxPair ["max.f16x2"] => each(a, b, 0, |a, b, _| th(larger(h(a), h(b))));
        MaxBfloat ["max.bf16"] => tg(larger(g(a), g(b)));
        MaxBfloatPair ["max.bf16x2"] => each(a, b, 0, |a, b, _| tg(larger(g(a), g(b))));
        MinNan ["min.NaN.f16"] => th(smaller_nan(h(a), h(b)));
        MinNanPair ["min.NaN.f16x2"] => each(a, b, 0, |a, b, _| th(smaller_nan(h(a), h(b))));
        MinNanBfloat ["min.NaN.bf16"] => tg(smaller_nan(g(a), g(b)));
        MinNanBfloatPair ["min.NaN.bf16x2"] => each(a, b, 0, |a, b, _| tg(smaller_nan(g(a), g(b))));
        MaxNan ["max.NaN.f16"] => th(larger_nan(h(a), h(b)));
        MaxNanPair ["max.NaN.f16x2"] => each(a, b, 0, |a, b, _| th(larger_nan(h(a), h(b))));
        MaxNanBfloat ["max.NaN.bf16"] => tg(larger_nan(g(a), g(b)));
        MaxNanBfloatPair ["max.NaN.bf16x2"] => each(a, b, 0, |a, b, _| tg(larger_nan(g(a), g(b))));
    }
}

lane_operations! {
    /// Three inputs.
    TernaryHalf(a, b, c) {
        Fused ["fma.rn.f16"] => u64::from(fused_half(h(a), h(b), h(c)));
        FusedPair ["fma.rn.f16x2"] => each(a, b, c, |a, b, c| u64::from(fused_half(h(a), h(b), h(c))));
        FusedBfloat ["fma.rn.bf16"] => u64::from(fused_bfloat(g(a), g(b), g(c)));
        FusedBfloatPair ["fma.rn.bf16x2"] => each(a, b, c, |a, b, c| u64::from(fused_bfloat(g(a), g(b), g(c))));
        FusedRelu ["fma.rn.relu.f16"] => th(larger(h(u64::from(fused_half(h(a), h(b), h(c)))), 0.0));
        FusedReluPair ["fma.rn.relu.f16x2"] =>
            each(a, b, c, |a, b, c| th(larger(h(u64::from(fused_half(h(a), h(b), h(c)))), 0.0)));
    }
}
