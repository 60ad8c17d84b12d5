//! Operations on f32 and f64. Approximate instructions are computed as exactly as the standard library does.

use super::convert::directed;
use super::{Lanes, Rounding, lane_operations};

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn s(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn w(value: f64) -> u64 {
    value.to_bits()
}

const NAN: u64 = 0x7FFF_FFFF;

/// The smaller one; a NaN only where both are; minus zero is below zero.
fn smaller(a: f32, b: f32) -> f32 {
    if a < b || (a == b && a.is_sign_negative()) || b.is_nan() { a } else { b }
}

fn larger(a: f32, b: f32) -> f32 {
    if a > b || (a == b && a.is_sign_positive()) || b.is_nan() { a } else { b }
}

/// `a * b + c`, of which the product is exact in f64, with the last bit set where the sum is not.
///
/// Rounding that to a narrower type is as if the exact value had been rounded once.
pub(super) fn fused_to_odd(a: f32, b: f32, c: f32) -> f64 {
    let (product, addend) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + addend;
    let back = sum - product;
    let lost = (product - (sum - back)) + (addend - back);
    if lost == 0.0 || !lost.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let away = (lost > 0.0) == (sum > 0.0);
    f64::from_bits(if away { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// `a * b + c` rounded the given way.
fn fused_directed(a: u64, b: u64, c: u64, rounding: Rounding) -> u64 {
    let exact = fused_to_odd(f(a), f(b), f(c));
    let near = exact as f32;
    directed(s(near), f64::from(near), exact, rounding, 1 << 31)
}

const ONE: u64 = 0x3F80_0000;
const SIGN: u64 = 0x8000_0000;

lane_operations! {
    /// One input.
    UnaryFloat(a) {
        NegateSingle ["neg.f32"] => a ^ 0x8000_0000;
        AbsoluteSingle ["abs.f32"] => a & 0x7FFF_FFFF;
        NegateDouble ["neg.f64"] => a ^ (1 << 63);
        AbsoluteDouble ["abs.f64"] => a & !(1 << 63);
        RootSingle ["sqrt.rn.f32" | "sqrt.approx.f32"] => s(f(a).sqrt());
        RootDouble ["sqrt.rn.f64"] => w(d(a).sqrt());
        InverseRootSingle ["rsqrt.approx.f32"] => s((1.0 / f64::from(f(a)).sqrt()) as f32);
        InverseRootDouble ["rsqrt.approx.f64"] => w(1.0 / d(a).sqrt());
        InverseSingle ["rcp.rn.f32" | "rcp.approx.f32"] => s(1.0 / f(a));
        InverseDouble ["rcp.rn.f64" | "rcp.approx.f64"] => w(1.0 / d(a));
        PowerOfTwo ["ex2.approx.f32"] => s(f(a).exp2());
        LogarithmToTwo ["lg2.approx.f32"] => s(f(a).log2());
        Sine ["sin.approx.f32"] => s(f(a).sin());
        Cosine ["cos.approx.f32"] => s(f(a).cos());
        Tangent ["tanh.approx.f32"] => s(f(a).tanh());
    }
}

lane_operations! {
    /// Two inputs.
    BinaryFloat(a, b) {
        AddSingle ["add.f32"] => s(f(a) + f(b));
        SubtractSingle ["sub.f32"] => s(f(a) - f(b));
        MultiplySingle ["mul.f32"] => s(f(a) * f(b));
        DivideSingle ["div.rn.f32" | "div.full.f32" | "div.approx.f32"] => s(f(a) / f(b));
        MinSingle ["min.f32"] => s(smaller(f(a), f(b)));
        MaxSingle ["max.f32"] => s(larger(f(a), f(b)));
        MinNanSingle ["min.NaN.f32"] => if f(a).is_nan() || f(b).is_nan() { NAN } else { s(smaller(f(a), f(b))) };
        MaxNanSingle ["max.NaN.f32"] => if f(a).is_nan() || f(b).is_nan() { NAN } else { s(larger(f(a), f(b))) };
        CopySignSingle ["copysign.f32"] => (b & 0x7FFF_FFFF) | (a & 0x8000_0000);
        AddZero ["add.rz.f32"] => fused_directed(a, ONE, b, Rounding::Zero);
        AddDown ["add.rm.f32"] => fused_directed(a, ONE, b, Rounding::Down);
        AddUp ["add.rp.f32"] => fused_directed(a, ONE, b, Rounding::Up);
        SubtractZero ["sub.rz.f32"] => fused_directed(a, ONE, b ^ SIGN, Rounding::Zero);
        SubtractDown ["sub.rm.f32"] => fused_directed(a, ONE, b ^ SIGN, Rounding::Down);
        SubtractUp ["sub.rp.f32"] => fused_directed(a, ONE, b ^ SIGN, Rounding::Up);
        MultiplyZero ["mul.rz.f32"] => fused_directed(a, b, (a ^ b) & SIGN, Rounding::Zero);
        MultiplyDown ["mul.rm.f32"] => fused_directed(a, b, (a ^ b) & SIGN, Rounding::Down);
        MultiplyUp ["mul.rp.f32"] => fused_directed(a, b, (a ^ b) & SIGN, Rounding::Up);
        AddDouble ["add.f64"] => w(d(a) + d(b));
        SubtractDouble ["sub.f64"] => w(d(a) - d(b));
        MultiplyDouble ["mul.f64"] => w(d(a) * d(b));
        DivideDouble ["div.rn.f64"] => w(d(a) / d(b));
        MinDouble ["min.f64"] => w(d(a).min(d(b)));
        MaxDouble ["max.f64"] => w(d(a).max(d(b)));
        CopySignDouble ["copysign.f64"] => (b & !(1 << 63)) | (a & (1 << 63));
    }
}

lane_operations! {
    /// Three inputs.
    TernaryFloat(a, b, c) {
        FusedSingle ["fma.rn.f32" | "mad.rn.f32"] => s(f(a).mul_add(f(b), f(c)));
        FusedZero ["fma.rz.f32"] => fused_directed(a, b, c, Rounding::Zero);
        FusedDown ["fma.rm.f32"] => fused_directed(a, b, c, Rounding::Down);
        FusedUp ["fma.rp.f32"] => fused_directed(a, b, c, Rounding::Up);
        FusedDouble ["fma.rn.f64" | "mad.rn.f64"] => w(d(a).mul_add(d(b), d(c)));
    }
}
