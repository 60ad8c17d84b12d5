//! Conversions between types (`cvt`).

use half::{bf16, f16};

use super::{Lanes, bfloat_to_single, half_to_single, single_to_bfloat, single_to_half};
use crate::ptx::element::Element;

/// Which way an inexact value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Rounding {
    NearestEven,
    /// To the nearest, and away from zero in the middle.
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A conversion of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub(crate) to: Element,
    pub(crate) from: Element,
    /// How inexact values round, and whether floats round to whole numbers.
    pub(crate) rounding: Rounding,
    pub(crate) whole: bool,
    pub(crate) saturate: bool,
    pub(crate) relu: bool,
    /// Whether subnormal f32 become zero.
    pub(crate) flush: bool,
    /// Bits of the destination's register, to which signs extend.
    pub(crate) width: u32,
}

/// A value on its way.
#[derive(Clone, Copy)]
enum Between {
    Integer(i128),
    Float(f64),
}

fn flushed(value: f32, flush: bool) -> f32 {
    if flush && value.is_subnormal() { 0.0f32.copysign(value) } else { value }
}

fn round_whole(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

/// Moves the nearest value, given by its bits, one step where rounding goes the other way. `back` is its exact value.
pub(super) fn directed(bits: u64, back: f64, exact: f64, rounding: Rounding, sign: u64) -> u64 {
    let (up, down) = match rounding {
        Rounding::NearestEven | Rounding::NearestAway => return bits,
        Rounding::Zero => (exact < 0.0, exact > 0.0),
        Rounding::Up => (true, false),
        Rounding::Down => (false, true),
    };
    let negative = bits & sign != 0;
    if up && back < exact {
        return if negative { bits - 1 } else { bits + 1 };
    }
    if down && back > exact {
        return match (negative, bits) {
            (true, _) => bits + 1,
            (false, 0) => sign | 1,
            (false, _) => bits - 1,
        };
    }
    bits
}

impl Conversion {
    fn read(&self, bits: u64) -> Between {
        match self.from {
            Element::S8 => Between::Integer(i128::from(bits as i8)),
            Element::S16 => Between::Integer(i128::from(bits as i16)),
            Element::S32 => Between::Integer(i128::from(bits as i32)),
            Element::S64 => Between::Integer(i128::from(bits as i64)),
            Element::U8 | Element::B8 => Between::Integer(i128::from(bits as u8)),
            Element::U16 | Element::B16 => Between::Integer(i128::from(bits as u16)),
            Element::U32 | Element::B32 => Between::Integer(i128::from(bits as u32)),
            Element::F16 => Between::Float(f64::from(half_to_single(bits as u16))),
            Element::Bf16 => Between::Float(f64::from(bfloat_to_single(bits as u16))),
            Element::F32 => Between::Float(f64::from(flushed(f32::from_bits(bits as u32), self.flush))),
            Element::F64 => Between::Float(f64::from_bits(bits)),
            _ => Between::Integer(i128::from(bits)),
        }
    }

    fn integer(&self, value: Between) -> u64 {
        let bits = self.to.bits();
        let (low, high) =
            if self.to.is_signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
        let whole = match value {
            Between::Integer(value) if self.saturate => value.clamp(low, high),
            Between::Integer(value) => value,
            Between::Float(value) => (round_whole(value, self.rounding) as i128).clamp(low, high),
        };
        let shift = 128 - bits;
        let extended =
            if self.to.is_signed() { (whole << shift) >> shift } else { (((whole as u128) << shift) >> shift) as i128 };
        let out = extended as u64;
        if self.width >= 64 { out } else { out & ((1 << self.width) - 1) }
    }

    fn float(&self, value: Between) -> u64 {
        let exact = match value {
            // An integer beyond 2^53 rounds once here and is right only to the nearest; PTX programs use no other.
            Between::Integer(value) if self.to == Element::F32 && self.rounding == Rounding::NearestEven => {
                return u64::from((value as f32).to_bits());
            }
            Between::Integer(value) => value as f64,
            Between::Float(value) => value,
        };
        let exact = if self.whole { round_whole(exact, self.rounding) } else { exact };
        let exact = match exact {
            value if self.saturate => {
                if value.is_nan() {
                    0.0
                } else {
                    value.clamp(0.0, 1.0) + 0.0
                }
            }
            value if self.relu && !value.is_nan() => value.max(0.0),
            value => value,
        };
        let round = self.rounding;
        match self.to {
            Element::F64 => exact.to_bits(),
            Element::F32 => {
                let near = flushed(exact as f32, self.flush);
                directed(u64::from(near.to_bits()), f64::from(near), exact, round, 1 << 31)
            }
            Element::F16 => {
                let near = f16::from_f64(exact);
                directed(u64::from(near.to_bits()), near.to_f64(), exact, round, 1 << 15)
            }
            _ => {
                if exact.is_nan() {
                    return 0x7FFF;
                }
                let near = bf16::from_f64(exact);
                directed(u64::from(near.to_bits()), near.to_f64(), exact, round, 1 << 15)
            }
        }
    }

    /// One value.
    pub(crate) fn convert(&self, bits: u64) -> u64 {
        let value = self.read(bits);
        if self.to.is_integer() { self.integer(value) } else { self.float(value) }
    }

    fn is_plain(&self) -> bool {
        self.rounding == Rounding::NearestEven && !(self.whole || self.saturate || self.relu || self.flush)
    }

    /// Every lane; conversions that hot loops have do not go through 128 bits.
    #[inline(always)]
    pub(crate) fn apply(&self, a: &Lanes, out: &mut Lanes) {
        let unchanged = self.to.is_integer() && self.from.is_integer() && !self.saturate;
        match (self.from, self.to) {
            (Element::F16, Element::F32) if self.is_plain() => {
                (0..32).for_each(|lane| out[lane] = u64::from(half_to_single(a[lane] as u16).to_bits()));
            }
            (Element::Bf16, Element::F32) if self.is_plain() => (0..32).for_each(|lane| out[lane] = (a[lane] & 0xFFFF) << 16),
            (Element::F32, Element::F16) if self.is_plain() => {
                (0..32).for_each(|lane| out[lane] = u64::from(single_to_half(f32::from_bits(a[lane] as u32))));
            }
            (Element::F32, Element::Bf16) if self.is_plain() => {
                (0..32).for_each(|lane| out[lane] = u64::from(single_to_bfloat(f32::from_bits(a[lane] as u32))));
            }
            (Element::S32, Element::S64) => (0..32).for_each(|lane| out[lane] = i64::from(a[lane] as i32) as u64),
            (Element::U32, Element::U64 | Element::S64) => (0..32).for_each(|lane| out[lane] = a[lane] & 0xFFFF_FFFF),
            (_, Element::U32 | Element::B32) if unchanged && self.from.bits() >= 32 => {
                (0..32).for_each(|lane| out[lane] = a[lane] & 0xFFFF_FFFF);
            }
            (Element::U16, Element::U32 | Element::S32) => (0..32).for_each(|lane| out[lane] = a[lane] & 0xFFFF),
            (Element::S32, Element::F32) if self.is_plain() => {
                (0..32).for_each(|lane| out[lane] = u64::from((a[lane] as i32 as f32).to_bits()));
            }
            _ => (0..32).for_each(|lane| out[lane] = self.convert(a[lane])),
        }
    }
}
