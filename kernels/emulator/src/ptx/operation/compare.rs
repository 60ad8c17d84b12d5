//! Comparisons of `setp` and `set`.

use super::{Lanes, bfloat_to_single, half_to_single};
use crate::ptx::element::Element;

/// How bits are read for a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Class {
    Unsigned,
    S16,
    S32,
    S64,
    Single,
    Double,
    Half,
    Bfloat,
    HalfPair,
    BfloatPair,
}

impl Class {
    /// How values of a type are compared; nothing where they are not.
    pub(crate) fn of(element: Element) -> Option<Self> {
        Some(match element {
            Element::B16 | Element::B32 | Element::B64 | Element::U16 | Element::U32 | Element::U64 => Self::Unsigned,
            Element::S16 => Self::S16,
            Element::S32 => Self::S32,
            Element::S64 => Self::S64,
            Element::F32 => Self::Single,
            Element::F64 => Self::Double,
            Element::F16 => Self::Half,
            Element::Bf16 => Self::Bfloat,
            Element::F16x2 => Self::HalfPair,
            Element::Bf16x2 => Self::BfloatPair,
            _ => return None,
        })
    }
}

/// Which outcomes of a comparison are true: less, equal, greater, unordered, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relation(u8);

const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;
const UNORDERED: u8 = 8;

impl Relation {
    /// The relation of a name such as `lt`, or `ltu` that holds for NaN too.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(Self(match name {
            "eq" => EQUAL,
            "ne" => LESS | GREATER,
            "lt" | "lo" => LESS,
            "le" | "ls" => LESS | EQUAL,
            "gt" | "hi" => GREATER,
            "ge" | "hs" => GREATER | EQUAL,
            "equ" => EQUAL | UNORDERED,
            "neu" => LESS | GREATER | UNORDERED,
            "ltu" => LESS | UNORDERED,
            "leu" => LESS | EQUAL | UNORDERED,
            "gtu" => GREATER | UNORDERED,
            "geu" => GREATER | EQUAL | UNORDERED,
            "num" => LESS | EQUAL | GREATER,
            "nan" => UNORDERED,
            _ => return None,
        }))
    }
}

#[inline(always)]
fn each<T: PartialOrd>(relation: Relation, a: &Lanes, b: &Lanes, read: impl Fn(u64) -> T) -> u32 {
    let mut bits = [0u32; 32];
    for lane in 0..32 {
        let (a, b) = (read(a[lane]), read(b[lane]));
        let outcome = if a < b {
            LESS
        } else if a == b {
            EQUAL
        } else if a > b {
            GREATER
        } else {
            UNORDERED
        };
        bits[lane] = u32::from(outcome & relation.0 != 0) << lane;
    }
    bits.iter().fold(0, |all, bit| all | bit)
}

/// Lanes where the relation holds; for pairs, of the low halves and of the high ones.
#[inline(always)]
pub(crate) fn outcomes(class: Class, relation: Relation, a: &Lanes, b: &Lanes) -> (u32, u32) {
    let whole = match class {
        Class::Unsigned => each(relation, a, b, |bits| bits),
        Class::S16 => each(relation, a, b, |bits| bits as i16),
        Class::S32 => each(relation, a, b, |bits| bits as i32),
        Class::S64 => each(relation, a, b, |bits| bits as i64),
        Class::Single => each(relation, a, b, |bits| f32::from_bits(bits as u32)),
        Class::Double => each(relation, a, b, f64::from_bits),
        Class::Half | Class::HalfPair => each(relation, a, b, |bits| half_to_single(bits as u16)),
        Class::Bfloat | Class::BfloatPair => each(relation, a, b, |bits| bfloat_to_single(bits as u16)),
    };
    let high = match class {
        Class::HalfPair => each(relation, a, b, |bits| half_to_single((bits >> 16) as u16)),
        Class::BfloatPair => each(relation, a, b, |bits| bfloat_to_single((bits >> 16) as u16)),
        _ => !whole,
    };
    (whole, high)
}
