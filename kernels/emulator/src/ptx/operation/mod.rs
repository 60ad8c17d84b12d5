//! What each arithmetic instruction computes, under the spellings that PTX gives it.
//!
//! Owns: the tables of operations by number of inputs, comparisons and conversions. May import: `element`. Must never
//! import: the parser or the interpreter.
//!
//! Registers hold 64 bits; a narrower value has zeros above it. A spelling is an opcode without `.ftz` and `.sat`, which
//! the parser keeps as flags, and without the `.rn` that sums and products have anyway.

mod compare;
mod convert;
mod float;
mod half;
mod integer;

pub(crate) use compare::{Class, Relation, outcomes};
pub(crate) use convert::{Conversion, Rounding};
pub(crate) use float::{BinaryFloat, TernaryFloat, UnaryFloat};
pub(crate) use half::{BinaryHalf, TernaryHalf, UnaryHalf, bfloat_to_single, half_to_single, single_to_bfloat, single_to_half};
pub(crate) use integer::{BinaryInteger, TernaryInteger, UnaryInteger};

/// A value of each of the 32 lanes of a warp.
pub(crate) type Lanes = [u64; 32];

/// A table of operations: an enum, its names, and a loop over the lanes for each.
macro_rules! lane_operations {
    ($(#[$doc:meta])* $name:ident($a:ident) { $($variant:ident [$($spelling:literal)|+] => $meaning:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(clippy::enum_variant_names)]
        pub(crate) enum $name { $($variant),* }
        impl $name {
            /// The operation of an opcode.
            pub(crate) fn named(spelling: &str) -> Option<Self> {
                match spelling { $($($spelling)|+ => Some(Self::$variant),)* _ => None }
            }
            /// Computes every lane.
            #[inline(always)]
            pub(crate) fn apply(self, a: &Lanes, out: &mut Lanes) {
                match self { $(Self::$variant => for lane in 0..32 { let $a = a[lane]; out[lane] = $meaning; },)* }
            }
        }
    };
    ($(#[$doc:meta])* $name:ident($a:ident, $b:ident) { $($variant:ident [$($spelling:literal)|+] => $meaning:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(clippy::enum_variant_names)]
        pub(crate) enum $name { $($variant),* }
        impl $name {
            /// The operation of an opcode.
            pub(crate) fn named(spelling: &str) -> Option<Self> {
                match spelling { $($($spelling)|+ => Some(Self::$variant),)* _ => None }
            }
            /// Computes every lane.
            #[inline(always)]
            pub(crate) fn apply(self, a: &Lanes, b: &Lanes, out: &mut Lanes) {
                match self {
                    $(Self::$variant => for lane in 0..32 { let ($a, $b) = (a[lane], b[lane]); out[lane] = $meaning; },)*
                }
            }
        }
    };
    ($(#[$doc:meta])* $name:ident($a:ident, $b:ident, $c:ident) {
        $($variant:ident [$($spelling:literal)|+] => $meaning:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(clippy::enum_variant_names)]
        pub(crate) enum $name { $($variant),* }
        impl $name {
            /// The operation of an opcode.
            pub(crate) fn named(spelling: &str) -> Option<Self> {
                match spelling { $($($spelling)|+ => Some(Self::$variant),)* _ => None }
            }
            /// Computes every lane.
            #[inline(always)]
            pub(crate) fn apply(self, a: &Lanes, b: &Lanes, c: &Lanes, out: &mut Lanes) {
                match self {
                    $(Self::$variant => for lane in 0..32 {
                        let ($a, $b, $c) = (a[lane], b[lane], c[lane]);
                        out[lane] = $meaning;
                    },)*
                }
            }
        }
    };
}
pub(crate) use lane_operations;
