//! Instructions that compute registers from registers.

use super::warp::{Warp, lanes};
use crate::ptx::element::Element;
use crate::ptx::instruction::{Carrying, Logic, Modes, Operation, Register, WINDOW_MASK};
use crate::ptx::instruction::{LOCAL_WINDOW, PARAMETER_WINDOW, Place, SHARED_WINDOW};
use crate::ptx::operation::{Class, Lanes, outcomes};

/// Whether the processor has what the wide version of [`compute`] is built for.
pub(super) fn has_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("bmi2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Runs an instruction that touches nothing but registers; says whether it was one.
pub(super) fn compute(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32, wide: bool) -> bool {
    #[cfg(target_arch = "x86_64")]
    if wide {
        // SAFETY: `wide` comes from `has_wide`, which found every feature that this version is built for.
        return unsafe { compute_wide(warp, constants, operation, mask) };
    }
    let _ = wide;
    compute_any(warp, constants, operation, mask)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi2")]
fn compute_wide(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) -> bool {
    compute_any(warp, constants, operation, mask)
}

fn flushed(values: &Lanes) -> Lanes {
    values.map(|bits| {
        let value = f32::from_bits(bits as u32);
        if value.is_subnormal() { bits & 0x8000_0000 } else { bits }
    })
}

fn saturated(values: &Lanes) -> Lanes {
    values.map(|bits| {
        let value = f32::from_bits(bits as u32);
        u64::from(if value.is_nan() { 0.0f32 } else { value.clamp(0.0, 1.0) + 0.0 }.to_bits())
    })
}

/// An input as an operation with modes sees it.
#[inline(always)]
fn input<'a>(warp: &'a Warp, constants: &'a [Lanes], register: Register, modes: Modes, room: &'a mut Lanes) -> &'a Lanes {
    let values = warp.read(constants, register);
    if modes.flush {
        *room = flushed(values);
        return room;
    }
    values
}

#[inline(always)]
fn output(values: &mut Lanes, modes: Modes) {
    if modes.flush {
        *values = flushed(values);
    }
    if modes.saturate {
        *values = saturated(values);
    }
}

#[inline(always)]
fn compute_any(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) -> bool {
    let mut out: Lanes = [0; 32];
    let (mut room_a, mut room_b, mut room_c) = ([0; 32], [0; 32], [0; 32]);
    let to = match operation {
        Operation::UnaryInteger(what, to, a) => {
            what.apply(warp.read(constants, *a), &mut out);
            to
        }
        Operation::BinaryInteger(what, to, [a, b]) => {
            what.apply(warp.read(constants, *a), warp.read(constants, *b), &mut out);
            to
        }
        Operation::TernaryInteger(what, to, [a, b, c]) => {
            what.apply(warp.read(constants, *a), warp.read(constants, *b), warp.read(constants, *c), &mut out);
            to
        }
        Operation::UnaryFloat(what, to, a, modes) => {
            what.apply(input(warp, constants, *a, *modes, &mut room_a), &mut out);
            output(&mut out, *modes);
            to
        }
        Operation::BinaryFloat(what, to, [a, b], modes) => {
            let (a, b) = (input(warp, constants, *a, *modes, &mut room_a), input(warp, constants, *b, *modes, &mut room_b));
            what.apply(a, b, &mut out);
            output(&mut out, *modes);
            to
        }
        Operation::TernaryFloat(what, to, [a, b, c], modes) => {
            let a = input(warp, constants, *a, *modes, &mut room_a);
            let b = input(warp, constants, *b, *modes, &mut room_b);
            let c = input(warp, constants, *c, *modes, &mut room_c);
            what.apply(a, b, c, &mut out);
            output(&mut out, *modes);
            to
        }
        Operation::UnaryHalf(what, to, a) => {
            what.apply(warp.read(constants, *a), &mut out);
            to
        }
        Operation::BinaryHalf(what, to, [a, b]) => {
            what.apply(warp.read(constants, *a), warp.read(constants, *b), &mut out);
            to
        }
        Operation::TernaryHalf(what, to, [a, b, c]) => {
            what.apply(warp.read(constants, *a), warp.read(constants, *b), warp.read(constants, *c), &mut out);
            to
        }
        Operation::Convert(how, to, a) => {
            how.apply(warp.read(constants, *a), &mut out);
            to
        }
        Operation::Select { to, inputs, condition } => {
            let holds = warp.holds(*condition);
            let (a, b) = (warp.read(constants, inputs[0]), warp.read(constants, inputs[1]));
            for lane in 0..32 {
                out[lane] = if holds & (1 << lane) != 0 { a[lane] } else { b[lane] };
            }
            to
        }
        Operation::Compare { .. } | Operation::Predicate { .. } => {
            compute_predicate(warp, constants, operation, mask);
            return true;
        }
        _ => return compute_rare(warp, constants, operation, mask),
    };
    warp.write(*to, &out, mask);
    true
}

/// Instructions whose results are predicates, the common ones.
#[inline(always)]
fn compute_predicate(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) {
    match operation {
        Operation::Compare { class, relation, to, other, inputs, combine } => {
            let (a, b) = (warp.read(constants, inputs[0]), warp.read(constants, inputs[1]));
            let (mut first, mut second) = outcomes(*class, *relation, a, b);
            if let Some((logic, condition)) = combine {
                let with = warp.holds(*condition);
                (first, second) = (combined(*logic, first, with), combined(*logic, second, with));
            }
            warp.write_predicate(*to, first, mask);
            warp.write_predicate(*other, second, mask);
        }
        Operation::Predicate { logic, negated, to, inputs } => {
            let bits = combined(*logic, warp.holds(inputs[0]), warp.holds(inputs[1]));
            warp.write_predicate(*to, if *negated { !bits } else { bits }, mask);
        }
        _ => {}
    }
}

fn combined(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// Instructions whose speed matters less.
#[inline(never)]
fn compute_rare(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) -> bool {
    let mut out: Lanes = [0; 32];
    let to = match operation {
        Operation::ConvertPair(how, to, [high, low]) => {
            let (mut low_out, high, low) = ([0; 32], warp.read(constants, *high), warp.read(constants, *low));
            how.apply(high, &mut out);
            how.apply(low, &mut low_out);
            (0..32).for_each(|lane| out[lane] = (out[lane] << 16) | low_out[lane]);
            to
        }
        Operation::Lookup { to, inputs, table } => {
            let [a, b, c] = inputs.map(|input| warp.read(constants, input));
            (0..32).for_each(|lane| out[lane] = looked_up(a[lane] as u32, b[lane] as u32, c[lane] as u32, *table));
            to
        }
        Operation::InsertBits { to, field, base, position, length, bits } => {
            for (lane, out) in out.iter_mut().enumerate() {
                let read = |register: &Register| warp.read(constants, *register)[lane];
                *out = inserted(read(field), read(base), read(position), read(length), *bits);
            }
            to
        }
        Operation::CompareToValue { class, relation, result, to, inputs } => {
            let (a, b) = (warp.read(constants, inputs[0]), warp.read(constants, inputs[1]));
            let (low, high) = outcomes(*class, *relation, a, b);
            (0..32).for_each(|lane| out[lane] = as_value(*class, *result, low >> lane & 1 == 1, high >> lane & 1 == 1));
            to
        }
        Operation::Pack { to, parts, bits } => {
            for (place, part) in parts.list().iter().enumerate() {
                let values = warp.read(constants, *part);
                let keep = (1u64 << bits) - 1;
                (0..32).for_each(|lane| out[lane] |= (values[lane] & keep) << (place as u32 * bits));
            }
            to
        }
        Operation::Unpack { to, from, bits } => {
            let values = *warp.read(constants, *from);
            for (place, part) in to.list().iter().enumerate() {
                let keep = (1u64 << bits) - 1;
                (0..32).for_each(|lane| out[lane] = values[lane] >> (place as u32 * bits) & keep);
                warp.write(*part, &out, mask);
            }
            return true;
        }
        Operation::Carry { .. } => {
            carry(warp, constants, operation, mask);
            return true;
        }
        Operation::IsPlace { .. } | Operation::Classify { .. } => {
            tested(warp, constants, operation, mask);
            return true;
        }
        Operation::ActiveMask { to } => {
            out = [u64::from(mask); 32];
            to
        }
        Operation::Nothing => return true,
        _ => return false,
    };
    warp.write(*to, &out, mask);
    true
}

/// Predicates about single values.
fn tested(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) {
    let (to, bits) = match operation {
        Operation::IsPlace { to, address, place } => {
            let values = warp.read(constants, *address);
            (*to, lanes(mask).filter(|&lane| is_place(values[lane], *place)).fold(0, |bits, lane| bits | 1 << lane))
        }
        Operation::Classify { double, classes, to, input } => {
            let values = warp.read(constants, *input);
            let class =
                |bits: u64| if *double { f64::from_bits(bits).classify() } else { f32::from_bits(bits as u32).classify() };
            let is_one = |lane: usize| u32::from(classes >> class(values[lane]) as u8 & 1);
            (*to, (0..32).fold(0, |bits, lane| bits | is_one(lane) << lane))
        }
        _ => return,
    };
    warp.write_predicate(to, bits, mask);
}

fn looked_up(a: u32, b: u32, c: u32, table: u8) -> u64 {
    let mut out = 0;
    for row in 0..8u32 {
        if table >> row & 1 == 1 {
            let pick = |value: u32, bit: u32| if row >> bit & 1 == 1 { value } else { !value };
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    u64::from(out)
}

fn inserted(field: u64, base: u64, position: u64, length: u64, bits: u32) -> u64 {
    let (position, length) = ((position & 0xFF) as u32, (length & 0xFF) as u32);
    if length == 0 || position >= bits {
        return base;
    }
    let length = length.min(bits - position);
    let mask = if length >= 64 { u64::MAX } else { (1 << length) - 1 } << position;
    (base & !mask) | ((field << position) & mask)
}

fn as_value(class: Class, result: Element, low: bool, high: bool) -> u64 {
    let one = match result {
        Element::F32 => 0x3F80_0000,
        Element::F16 | Element::F16x2 => 0x3C00,
        Element::Bf16 | Element::Bf16x2 => 0x3F80,
        Element::U16 | Element::S16 | Element::B16 => 0xFFFF,
        _ if matches!(class, Class::HalfPair | Class::BfloatPair) => 0xFFFF,
        _ => 0xFFFF_FFFF,
    };
    let low = if low { one } else { 0 };
    if matches!(class, Class::HalfPair | Class::BfloatPair) && high { low | one << 16 } else { low }
}

fn is_place(address: u64, place: Place) -> bool {
    let window = address & WINDOW_MASK;
    match place {
        Place::Shared => window == SHARED_WINDOW,
        Place::Local => window == LOCAL_WINDOW,
        Place::Parameter => window == PARAMETER_WINDOW,
        Place::Global | Place::Generic => ![SHARED_WINDOW, LOCAL_WINDOW, PARAMETER_WINDOW].contains(&window),
    }
}

fn carry(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) {
    let Operation::Carry { what, to, inputs, bits, takes, gives } = operation else { return };
    let (mut out, mut carries) = ([0; 32], 0u32);
    for lane in lanes(mask) {
        let [a, b, c] = inputs.map(|input| warp.read(constants, input)[lane]);
        let taken = u64::from(*takes && warp.carry >> lane & 1 == 1);
        let keep = if *bits == 64 { u64::MAX } else { 0xFFFF_FFFF };
        let product = |signed: bool| match (bits, signed) {
            (32, true) => (i128::from(a as i32) * i128::from(b as i32)) as u128,
            (_, true) => (i128::from(a as i64) * i128::from(b as i64)) as u128,
            (_, false) => u128::from(a & keep) * u128::from(b & keep),
        };
        let (left, right) = match *what {
            Carrying::Add | Carrying::Subtract => (a & keep, b & keep),
            Carrying::MultiplyLow { signed } => (product(signed) as u64 & keep, c & keep),
            Carrying::MultiplyHigh { signed } => ((product(signed) >> bits) as u64 & keep, c & keep),
        };
        // A subtraction's carry is its borrow.
        let (value, over) = if *what == Carrying::Subtract {
            let value = i128::from(left) - i128::from(right) - i128::from(taken);
            (value as u64 & keep, value < 0)
        } else {
            let value = u128::from(left) + u128::from(right) + u128::from(taken);
            (value as u64 & keep, value > u128::from(keep))
        };
        out[lane] = value;
        carries |= u32::from(over) << lane;
    }
    warp.write(*to, &out, mask);
    if *gives {
        warp.carry = (warp.carry & !mask) | carries;
    }
}
