//! Operations on integers and bits.

use super::{Lanes, lane_operations};

fn word(value: u32) -> u64 {
    u64::from(value)
}

fn signed(value: i32) -> u64 {
    u64::from(value as u32)
}

fn short(value: u16) -> u64 {
    u64::from(value)
}

/// The place of the highest bit that differs from the sign, or all ones.
fn highest(value: u64, bits: u32) -> u64 {
    let value = if bits == 32 { value & 0xFFFF_FFFF } else { value };
    if value == 0 { 0xFFFF_FFFF } else { u64::from(63 - value.leading_zeros()) }
}

fn shift_amount(value: u64, bits: u32) -> u32 {
    (value & 0xFFFF_FFFF).min(u64::from(bits)) as u32
}

/// Bits `b..b + c` of `a`, both counts of 8 bits; the sign is the field's highest bit, or the value's where the field ends
/// beyond it.
fn extract(a: u64, b: u64, c: u64, bits: u32, is_signed: bool) -> u64 {
    let (position, length) = ((b & 0xFF) as u32, (c & 0xFF) as u32);
    let keep = if bits == 64 { u64::MAX } else { 0xFFFF_FFFF };
    let top = (position + length).saturating_sub(1).min(bits - 1);
    let fill = is_signed && length > 0 && (a >> top) & 1 == 1;
    let field = if position >= bits { 0 } else { a >> position };
    let available = length.min(bits.saturating_sub(position));
    let mask = if available >= 64 { u64::MAX } else { (1 << available) - 1 };
    (if fill { (field & mask) | !mask } else { field & mask }) & keep
}

/// Bytes of `b:a` chosen by the four digits of `c`; a digit above 7 repeats the byte's sign.
fn permute(a: u64, b: u64, c: u64) -> u64 {
    let bytes = (a & 0xFFFF_FFFF) | (b << 32);
    let mut out = 0;
    for place in 0..4 {
        let digit = (c >> (4 * place)) & 0xF;
        let byte = (bytes >> (8 * (digit & 7))) & 0xFF;
        let byte = if digit & 8 == 0 { byte } else { 0xFF * (byte >> 7) };
        out |= byte << (8 * place);
    }
    out
}

fn bytes_dot(a: u64, b: u64, c: u64, a_signed: bool, b_signed: bool) -> u64 {
    let extend = |value: u64, is_signed: bool, place: u32| {
        let byte = (value >> (8 * place)) as u8;
        if is_signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    let sum =
        (0..4).fold(c as i32, |sum, place| sum.wrapping_add(extend(a, a_signed, place).wrapping_mul(extend(b, b_signed, place))));
    signed(sum)
}

lane_operations! {
    /// One input.
    UnaryInteger(a) {
        Move ["mov.b16" | "mov.u16" | "mov.s16" | "mov.f16" | "mov.b32" | "mov.u32" | "mov.s32" | "mov.f32" | "mov.b64"
            | "mov.u64" | "mov.s64" | "mov.f64" | "mov.f16x2" | "mov.bf16" | "mov.bf16x2"] => a;
        Not16 ["not.b16"] => short(!(a as u16));
        Not32 ["not.b32"] => word(!(a as u32));
        Not64 ["not.b64"] => !a;
        LogicalNot32 ["cnot.b32"] => u64::from(a == 0);
        Negate16 ["neg.s16"] => short((a as u16).wrapping_neg());
        Negate32 ["neg.s32"] => word((a as u32).wrapping_neg());
        Negate64 ["neg.s64"] => a.wrapping_neg();
        Absolute16 ["abs.s16"] => short((a as i16).wrapping_abs() as u16);
        Absolute32 ["abs.s32"] => signed((a as i32).wrapping_abs());
        Absolute64 ["abs.s64"] => (a as i64).wrapping_abs() as u64;
        Population32 ["popc.b32"] => word((a as u32).count_ones());
        Population64 ["popc.b64"] => word(a.count_ones());
        LeadingZeros32 ["clz.b32"] => word((a as u32).leading_zeros());
        LeadingZeros64 ["clz.b64"] => word(a.leading_zeros());
        Reverse32 ["brev.b32"] => word((a as u32).reverse_bits());
        Reverse64 ["brev.b64"] => a.reverse_bits();
        FindU32 ["bfind.u32"] => highest(a, 32);
        FindU64 ["bfind.u64"] => highest(a, 64);
        FindS32 ["bfind.s32"] => highest(word(a as u32 ^ ((a as i32) >> 31) as u32), 32);
        FindS64 ["bfind.s64"] => highest(a ^ ((a as i64) >> 63) as u64, 64);
        FindShiftU32 ["bfind.shiftamt.u32"] => if a as u32 == 0 { 0xFFFF_FFFF } else { 31 - highest(a, 32) };
        FindShiftU64 ["bfind.shiftamt.u64"] => if a == 0 { 0xFFFF_FFFF } else { 63 - highest(a, 64) };
    }
}

lane_operations! {
    /// Two inputs.
    BinaryInteger(a, b) {
        Add16 ["add.u16" | "add.s16"] => short((a as u16).wrapping_add(b as u16));
        Add32 ["add.u32" | "add.s32"] => word((a as u32).wrapping_add(b as u32));
        Add64 ["add.u64" | "add.s64"] => a.wrapping_add(b);
        Subtract16 ["sub.u16" | "sub.s16"] => short((a as u16).wrapping_sub(b as u16));
        Subtract32 ["sub.u32" | "sub.s32"] => word((a as u32).wrapping_sub(b as u32));
        Subtract64 ["sub.u64" | "sub.s64"] => a.wrapping_sub(b);
        AddSaturated ["add.sat.s32"] => signed((a as i32).saturating_add(b as i32));
        SubtractSaturated ["sub.sat.s32"] => signed((a as i32).saturating_sub(b as i32));
        Multiply16 ["mul.lo.u16" | "mul.lo.s16"] => short((a as u16).wrapping_mul(b as u16));
        Multiply32 ["mul.lo.u32" | "mul.lo.s32"] => word((a as u32).wrapping_mul(b as u32));
        Multiply64 ["mul.lo.u64" | "mul.lo.s64"] => a.wrapping_mul(b);
        HighU16 ["mul.hi.u16"] => ((a & 0xFFFF) * (b & 0xFFFF)) >> 16;
        HighS16 ["mul.hi.s16"] => short(((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16);
        HighU32 ["mul.hi.u32"] => (word(a as u32) * word(b as u32)) >> 32;
        HighS32 ["mul.hi.s32"] => word(((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
        HighU64 ["mul.hi.u64"] => ((u128::from(a) * u128::from(b)) >> 64) as u64;
        HighS64 ["mul.hi.s64"] => ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64;
        WideU16 ["mul.wide.u16"] => (a & 0xFFFF) * (b & 0xFFFF);
        WideS16 ["mul.wide.s16"] => signed(i32::from(a as i16) * i32::from(b as i16));
        WideU32 ["mul.wide.u32"] => word(a as u32) * word(b as u32);
        WideS32 ["mul.wide.s32"] => (i64::from(a as i32) * i64::from(b as i32)) as u64;
        Multiply24U ["mul24.lo.u32"] => word(((a as u32) & 0xFF_FFFF).wrapping_mul((b as u32) & 0xFF_FFFF));
        Multiply24S ["mul24.lo.s32"] => signed((((a as i32) << 8) >> 8).wrapping_mul(((b as i32) << 8) >> 8));
        DivideU16 ["div.u16"] => short((a as u16).checked_div(b as u16).unwrap_or(u16::MAX));
        DivideS16 ["div.s16"] => short(if b as i16 == 0 { u16::MAX } else { (a as i16).wrapping_div(b as i16) as u16 });
        DivideU32 ["div.u32"] => word((a as u32).checked_div(b as u32).unwrap_or(u32::MAX));
        DivideS32 ["div.s32"] => signed(if b as i32 == 0 { -1 } else { (a as i32).wrapping_div(b as i32) });
        DivideU64 ["div.u64"] => a.checked_div(b).unwrap_or(u64::MAX);
        DivideS64 ["div.s64"] => if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 };
        RemainderU16 ["rem.u16"] => short((a as u16).checked_rem(b as u16).unwrap_or(a as u16));
        RemainderS16 ["rem.s16"] => short(if b as i16 == 0 { a as u16 } else { (a as i16).wrapping_rem(b as i16) as u16 });
        RemainderU32 ["rem.u32"] => word((a as u32).checked_rem(b as u32).unwrap_or(a as u32));
        RemainderS32 ["rem.s32"] => signed(if b as i32 == 0 { a as i32 } else { (a as i32).wrapping_rem(b as i32) });
        RemainderU64 ["rem.u64"] => a.checked_rem(b).unwrap_or(a);
        RemainderS64 ["rem.s64"] => if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 };
        MinU ["min.u16" | "min.u32" | "min.u64"] => a.min(b);
        MaxU ["max.u16" | "max.u32" | "max.u64"] => a.max(b);
        MinS16 ["min.s16"] => short((a as i16).min(b as i16) as u16);
        MaxS16 ["max.s16"] => short((a as i16).max(b as i16) as u16);
        MinS32 ["min.s32"] => signed((a as i32).min(b as i32));
        MaxS32 ["max.s32"] => signed((a as i32).max(b as i32));
        MinS64 ["min.s64"] => (a as i64).min(b as i64) as u64;
        MaxS64 ["max.s64"] => (a as i64).max(b as i64) as u64;
        And ["and.b16" | "and.b32" | "and.b64"] => a & b;
        Or ["or.b16" | "or.b32" | "or.b64"] => a | b;
        Xor ["xor.b16" | "xor.b32" | "xor.b64"] => a ^ b;
        ShiftLeft16 ["shl.b16"] => short(((a as u32) << shift_amount(b, 16)) as u16);
        ShiftLeft32 ["shl.b32"] => word(((a & 0xFFFF_FFFF) << shift_amount(b, 32)) as u32);
        ShiftLeft64 ["shl.b64"] => a.checked_shl(shift_amount(b, 64)).unwrap_or(0);
        ShiftRightU16 ["shr.u16" | "shr.b16"] => (a & 0xFFFF) >> shift_amount(b, 16);
        ShiftRightU32 ["shr.u32" | "shr.b32"] => (a & 0xFFFF_FFFF) >> shift_amount(b, 32);
        ShiftRightU64 ["shr.u64" | "shr.b64"] => a.checked_shr(shift_amount(b, 64)).unwrap_or(0);
        ShiftRightS16 ["shr.s16"] => short((i32::from(a as i16) >> shift_amount(b, 16)) as u16);
        ShiftRightS32 ["shr.s32"] => word((i64::from(a as i32) >> shift_amount(b, 32)) as u32);
        ShiftRightS64 ["shr.s64"] => ((a as i64) >> shift_amount(b, 63)) as u64;
    }
}

lane_operations! {
    /// Three inputs.
    TernaryInteger(a, b, c) {
        MultiplyAdd16 ["mad.lo.u16" | "mad.lo.s16"] => short((a as u16).wrapping_mul(b as u16).wrapping_add(c as u16));
        MultiplyAdd32 ["mad.lo.u32" | "mad.lo.s32"] => word((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32));
        MultiplyAdd64 ["mad.lo.u64" | "mad.lo.s64"] => a.wrapping_mul(b).wrapping_add(c);
        HighAddU32 ["mad.hi.u32"] => word((((word(a as u32) * word(b as u32)) >> 32) as u32).wrapping_add(c as u32));
        HighAddS32 ["mad.hi.s32"] =>
            word((((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c as u32));
        HighAddU64 ["mad.hi.u64"] => (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c);
        HighAddS64 ["mad.hi.s64"] => (((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64).wrapping_add(c);
        WideAddU16 ["mad.wide.u16"] => word(((a & 0xFFFF) * (b & 0xFFFF)) as u32).wrapping_add(c) & 0xFFFF_FFFF;
        WideAddS16 ["mad.wide.s16"] => signed((i32::from(a as i16) * i32::from(b as i16)).wrapping_add(c as i32));
        WideAddU32 ["mad.wide.u32"] => (word(a as u32) * word(b as u32)).wrapping_add(c);
        WideAddS32 ["mad.wide.s32"] => ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c);
        DifferenceU32 ["sad.u32"] => word((a as u32).abs_diff(b as u32).wrapping_add(c as u32));
        DifferenceS32 ["sad.s32"] => word((a as i32).abs_diff(b as i32).wrapping_add(c as u32));
        ExtractU32 ["bfe.u32"] => extract(a, b, c, 32, false);
        ExtractS32 ["bfe.s32"] => extract(a, b, c, 32, true);
        ExtractU64 ["bfe.u64"] => extract(a, b, c, 64, false);
        ExtractS64 ["bfe.s64"] => extract(a, b, c, 64, true);
        FunnelLeftWrap ["shf.l.wrap.b32"] => ((((b << 32) | (a & 0xFFFF_FFFF)) << (c & 31)) >> 32) & 0xFFFF_FFFF;
        FunnelLeftClamp ["shf.l.clamp.b32"] =>
            (((((b as u128) << 32) | (a & 0xFFFF_FFFF) as u128) << shift_amount(c, 32)) >> 32) as u64 & 0xFFFF_FFFF;
        FunnelRightWrap ["shf.r.wrap.b32"] => (((b << 32) | (a & 0xFFFF_FFFF)) >> (c & 31)) & 0xFFFF_FFFF;
        FunnelRightClamp ["shf.r.clamp.b32"] => (((b << 32) | (a & 0xFFFF_FFFF)) >> shift_amount(c, 32)) & 0xFFFF_FFFF;
        Permute ["prmt.b32"] => permute(a, b, c);
        DotUU ["dp4a.u32.u32"] => bytes_dot(a, b, c, false, false);
        DotUS ["dp4a.u32.s32"] => bytes_dot(a, b, c, false, true);
        DotSU ["dp4a.s32.u32"] => bytes_dot(a, b, c, true, false);
        DotSS ["dp4a.s32.s32"] => bytes_dot(a, b, c, true, true);
        ChooseSign ["slct.b32.s32" | "slct.u32.s32" | "slct.s32.s32" | "slct.f32.s32"] => if c as i32 >= 0 { a } else { b };
    }
}
