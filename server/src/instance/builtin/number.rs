//! Numbers of every datatype: read, added, converted, written.
//!
//! Sums and differences are taken in the datatype of the inputs and wrap around as unsigned C arithmetic does
//! (`UINT8` 0 - 1 = 255); `BOOL` is promoted to a 32-bit integer first, as in C. Half precision is computed
//! in single precision and rounded. Results are then converted as a C cast does: to a shorter integer by
//! dropping high bits, to `BOOL` by comparing with zero, to a floating datatype by rounding to nearest. Where
//! C leaves a conversion from floating to integer undefined it saturates, and NaN becomes 0.

use std::fmt::Write;

use crate::tensor::DataType;

/// A number between two datatypes: no integer or floating datatype loses anything on the way here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wide {
    /// Of an integer datatype.
    Integer(i128),
    /// Of single precision or less; kept apart because its shortest text is not that of the same double.
    Single(f32),
    /// Of double precision.
    Double(f64),
}

impl Wide {
    /// The number as an `f64`, rounded where it must be.
    pub(super) fn as_f64(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Single(value) => f64::from(value),
            Self::Double(value) => value,
        }
    }

    fn as_f32(self) -> f32 {
        match self {
            Self::Integer(value) => value as f32,
            Self::Single(value) => value,
            Self::Double(value) => value as f32,
        }
    }

    fn is_zero(self) -> bool {
        match self {
            Self::Integer(value) => value == 0,
            Self::Single(value) => value == 0.0,
            Self::Double(value) => value == 0.0,
        }
    }

    /// Appends the number as decimal text in its shortest form.
    pub(super) fn write_text(self, text: &mut String) {
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Integer(value) => write!(text, "{value}"),
            Self::Single(value) => write!(text, "{value}"),
            Self::Double(value) => write!(text, "{value}"),
        };
    }

    /// The sum; two integers wrap around at 64 bits.
    pub(super) fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Self::Integer(i128::from((a as i64).wrapping_add(b as i64))),
            (a, b) => Self::Double(a.as_f64() + b.as_f64()),
        }
    }

    /// The difference; two integers wrap around at 64 bits.
    pub(super) fn minus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Self::Integer(i128::from((a as i64).wrapping_sub(b as i64))),
            (a, b) => Self::Double(a.as_f64() - b.as_f64()),
        }
    }

    /// Parses decimal text: an integer of 64 bits, or a decimal number with point or exponent.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let is_decimal = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
        if !text.iter().all(is_decimal) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        if text.contains(['.', 'e', 'E']) {
            text.parse().ok().map(Self::Double)
        } else {
            text.parse::<i64>().ok().map(|value| Self::Integer(i128::from(value)))
        }
    }
}

/// An element of a fixed-size datatype.
pub(super) trait Number: Copy {
    /// Its datatype.
    const DATATYPE: DataType;
    /// Bytes of one element.
    const SIZE: usize;

    /// Reads [`Number::SIZE`] little-endian bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Writes [`Number::SIZE`] little-endian bytes.
    fn write(self, bytes: &mut [u8]);
    /// The sum, in this datatype.
    fn plus(self, other: Self) -> Self;
    /// The difference, in this datatype.
    fn minus(self, other: Self) -> Self;
    /// The number itself, on its way to another datatype.
    fn widen(self) -> Wide;
    /// The number in this datatype, as a C cast gives it.
    fn narrow(wide: Wide) -> Self;
}

/// Reads and writes as `from_le_bytes` and `to_le_bytes` do.
macro_rules! little_endian {
    ($datatype:ident) => {
        const DATATYPE: DataType = DataType::$datatype;
        const SIZE: usize = size_of::<Self>();

        fn read(bytes: &[u8]) -> Self {
            let mut own = [0; size_of::<Self>()];
            own.copy_from_slice(bytes);
            Self::from_le_bytes(own)
        }

        fn write(self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.to_le_bytes());
        }
    };
}

macro_rules! integers {
    ($($number:ty, $datatype:ident;)*) => {$(
        impl Number for $number {
            little_endian!($datatype);

            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            fn widen(self) -> Wide {
                Wide::Integer(i128::from(self))
            }

            fn narrow(wide: Wide) -> Self {
                match wide {
                    Wide::Integer(value) => value as Self,
                    Wide::Single(value) => value as Self,
                    Wide::Double(value) => value as Self,
                }
            }
        }
    )*};
}

integers! {
    u8, Uint8;
    u16, Uint16;
    u32, Uint32;
    u64, Uint64;
    i8, Int8;
    i16, Int16;
    i32, Int32;
    i64, Int64;
}

impl Number for f32 {
    little_endian!(Fp32);

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn minus(self, other: Self) -> Self {
        self - other
    }

    fn widen(self) -> Wide {
        Wide::Single(self)
    }

    fn narrow(wide: Wide) -> Self {
        wide.as_f32()
    }
}

impl Number for f64 {
    little_endian!(Fp64);

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn minus(self, other: Self) -> Self {
        self - other
    }

    fn widen(self) -> Wide {
        Wide::Double(self)
    }

    fn narrow(wide: Wide) -> Self {
        wide.as_f64()
    }
}

/// A double in single precision on its way to half precision. Rounding to nearest twice may end one step
/// off; rounding to odd here (towards zero, with the last bit set where anything was lost) keeps on which side
/// of a middle the number lay.
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if nearest.is_nan() || nearest.is_infinite() || f64::from(nearest) == value {
        return nearest;
    }
    let is_farther = f64::from(nearest).abs() > value.abs();
    // The bits of a number without its sign count the numbers from zero on.
    f32::from_bits((nearest.to_bits() - u32::from(is_farther)) | 1)
}

macro_rules! halves {
    ($($number:ty, $datatype:ident;)*) => {$(
        impl Number for $number {
            little_endian!($datatype);

            fn plus(self, other: Self) -> Self {
                Self::from_f32(self.to_f32() + other.to_f32())
            }

            fn minus(self, other: Self) -> Self {
                Self::from_f32(self.to_f32() - other.to_f32())
            }

            fn widen(self) -> Wide {
                Wide::Single(self.to_f32())
            }

            fn narrow(wide: Wide) -> Self {
                Self::from_f32(match wide {
                    Wide::Double(value) => to_odd(value),
                    wide => wide.as_f32(),
                })
            }
        }
    )*};
}

halves! {
    half::f16, Fp16;
    half::bf16, Bf16;
}

/// A `BOOL` element, promoted: any non-zero byte reads as 1, any non-zero number is written as 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Truth(i32);

impl Number for Truth {
    const DATATYPE: DataType = DataType::Bool;
    const SIZE: usize = 1;

    fn read(bytes: &[u8]) -> Self {
        Self(i32::from(bytes.iter().any(|byte| *byte != 0)))
    }

    fn write(self, bytes: &mut [u8]) {
        bytes.fill(u8::from(self.0 != 0));
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }

    fn widen(self) -> Wide {
        Wide::Integer(i128::from(self.0))
    }

    fn narrow(wide: Wide) -> Self {
        Self(i32::from(!wide.is_zero()))
    }
}

/// Evaluates an expression with `$number` standing for the type of a datatype's elements; `None` for `BYTES`.
macro_rules! with_number {
    ($datatype:expr, $number:ident => $value:expr) => {
        match $datatype {
            DataType::Bool => Some({
                type $number = $crate::instance::builtin::number::Truth;
                $value
            }),
            DataType::Uint8 => Some({
                type $number = u8;
                $value
            }),
            DataType::Uint16 => Some({
                type $number = u16;
                $value
            }),
            DataType::Uint32 => Some({
                type $number = u32;
                $value
            }),
            DataType::Uint64 => Some({
                type $number = u64;
                $value
            }),
            DataType::Int8 => Some({
                type $number = i8;
                $value
            }),
            DataType::Int16 => Some({
                type $number = i16;
                $value
            }),
            DataType::Int32 => Some({
                type $number = i32;
                $value
            }),
            DataType::Int64 => Some({
                type $number = i64;
                $value
            }),
            DataType::Fp16 => Some({
                type $number = half::f16;
                $value
            }),
            DataType::Bf16 => Some({
                type $number = half::bf16;
                $value
            }),
            DataType::Fp32 => Some({
                type $number = f32;
                $value
            }),
            DataType::Fp64 => Some({
                type $number = f64;
                $value
            }),
            DataType::Bytes => None,
        }
    };
}
pub(super) use with_number;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_those_of_c() {
        assert_eq!(i8::narrow(Wide::Integer(300)), 44);
        assert_eq!(u8::narrow(Wide::Integer(-1)), 255);
        assert_eq!(i32::narrow(Wide::Double(-1.9)), -1);
        assert_eq!(i32::narrow(Wide::Double(f64::NAN)), 0);
        assert_eq!(u8::narrow(Wide::Single(300.0)), u8::MAX);
        assert_eq!(f32::narrow(Wide::Integer(16_777_217)), 16_777_216.0);
        assert_eq!(Truth::narrow(Wide::Double(-0.5)), Truth(1));
        assert_eq!(Truth::narrow(Wide::Single(-0.0)), Truth(0));
        assert_eq!(u64::narrow(u64::MAX.widen()), u64::MAX);
    }

    #[test]
    fn halves_round_a_double_once() {
        // Just above the middle of two neighbors: the middle itself in single precision, where it would go down.
        let above = 1.0 + f64::from(half::f16::EPSILON) / 2.0 + 1e-12;
        assert_eq!(half::f16::narrow(Wide::Double(above)), half::f16::from_f32(1.0) + half::f16::EPSILON);
        let middle = 1.0 + f64::from(half::f16::EPSILON) / 2.0;
        assert_eq!(half::f16::narrow(Wide::Double(middle)), half::f16::ONE);
        assert_eq!(half::f16::narrow(Wide::Double(-1e300)), half::f16::NEG_INFINITY);
        assert_eq!(half::bf16::narrow(Wide::Double(1e-300)), half::bf16::ZERO);
        assert!(half::bf16::narrow(Wide::Double(f64::NAN)).is_nan());
    }

    #[test]
    fn text_is_decimal_and_exact() {
        let text = |wide: Wide| {
            let mut text = String::new();
            wide.write_text(&mut text);
            text
        };
        assert_eq!(text(Wide::Single(0.1)), "0.1");
        assert_eq!(text(Wide::Double(-2.0)), "-2");
        assert_eq!(text(u64::MAX.widen()), "18446744073709551615");
        assert_eq!(Wide::parse(b"-7"), Some(Wide::Integer(-7)));
        assert_eq!(Wide::parse(b"+7"), Some(Wide::Integer(7)));
        assert_eq!(Wide::parse(b"2.5e1"), Some(Wide::Double(25.0)));
        for refused in [&b""[..], b" 1", b"0x1", b"nan", b"inf", b"1-2", b"9223372036854775808", b".", b"\xff"] {
            assert_eq!(Wide::parse(refused), None, "{refused:?}");
        }
        assert_eq!(Wide::Integer(i128::from(i64::MAX)).plus(Wide::Integer(1)), Wide::Integer(i128::from(i64::MIN)));
    }
}
