//! Loads, stores, atomics, asynchronous copies and address spaces.

use super::{Lowering, Parts};
use crate::ptx::PtxError;
use crate::ptx::element::Element;
use crate::ptx::instruction::{AtomicKind, LOCAL_WINDOW, Operation, PARAMETER_WINDOW, Place, Register, SHARED_WINDOW, SINK};
use crate::ptx::operation::BinaryInteger;

/// The memory that a suffix names.
fn place(suffix: &str) -> Option<Place> {
    Some(match suffix {
        // Constants lie in global memory here.
        "global" | "const" => Place::Global,
        "shared" | "shared::cta" => Place::Shared,
        "local" => Place::Local,
        "param" | "param::entry" | "param::func" => Place::Parameter,
        _ => return None,
    })
}

/// Hints that change nothing about what is read or written.
fn is_hint(suffix: &str) -> bool {
    matches!(
        suffix,
        "ca" | "cg"
            | "cs"
            | "lu"
            | "cv"
            | "wb"
            | "wt"
            | "nc"
            | "volatile"
            | "weak"
            | "relaxed"
            | "acquire"
            | "release"
            | "acq_rel"
            | "cta"
            | "gpu"
            | "sys"
            | "noftz"
    ) || suffix.starts_with("L1::")
        || suffix.starts_with("L2::")
}

/// The parts of the opcode of a memory access: where, and what is left over.
fn split<'a>(parts: &Parts<'a>) -> (Place, Vec<&'a str>) {
    let mut found = Place::Generic;
    let mut rest = Vec::new();
    for suffix in parts.suffixes.iter().copied().filter(|suffix| !is_hint(suffix)) {
        match place(suffix) {
            Some(place) => found = place,
            None => rest.push(suffix),
        }
    }
    (found, rest)
}

impl Lowering<'_> {
    /// Remembers how small accesses to shared memory are.
    fn watch(&mut self, place: Place, bytes: u32) {
        if matches!(place, Place::Shared | Place::Generic) {
            self.granule_bytes = self.granule_bytes.min(bytes);
        }
    }

    fn access(&mut self, parts: &Parts<'_>) -> Result<(Place, Element, usize), PtxError> {
        let (place, rest) = split(parts);
        let (count, name) = match rest.as_slice() {
            [name] => (1, name),
            ["v2", name] => (2, name),
            ["v4", name] => (4, name),
            _ => return Err(parts.unsupported()),
        };
        let element = Element::named(name).filter(|element| *element != Element::Pred).ok_or_else(|| parts.unsupported())?;
        self.watch(place, element.bytes());
        Ok((place, element, count))
    }

    pub(super) fn load(&mut self, parts: Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(2, 2)?;
        let (place, element, count) = self.access(&parts)?;
        let (to, width) = self.destinations(&parts.raw.operands[0], parts.line())?;
        if usize::from(to.count) != count {
            return Err(parts.unsupported());
        }
        let address = self.address(&parts.raw.operands[1], place, parts.line())?;
        let signed_width = if element.is_signed() && width > element.bits() { width as u8 } else { 0 };
        Ok(Operation::Load { to, address, bytes: element.bytes() as u8, signed_width })
    }

    pub(super) fn store(&mut self, parts: Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(2, 2)?;
        let (place, element, count) = self.access(&parts)?;
        let from = self.sources(&parts.raw.operands[1], element, parts.line())?;
        if usize::from(from.count) != count {
            return Err(parts.unsupported());
        }
        let address = self.address(&parts.raw.operands[0], place, parts.line())?;
        Ok(Operation::Store { from, address, bytes: element.bytes() as u8 })
    }

    pub(super) fn atomic(&mut self, parts: Parts<'_>) -> Result<Operation, PtxError> {
        let (place, rest) = split(&parts);
        let [name, element] = rest.as_slice() else { return Err(parts.unsupported()) };
        let element = Element::named(element).ok_or_else(|| parts.unsupported())?;
        let kind = match *name {
            "add" => AtomicKind::Add,
            "min" => AtomicKind::Min,
            "max" => AtomicKind::Max,
            "and" => AtomicKind::And,
            "or" => AtomicKind::Or,
            "xor" => AtomicKind::Xor,
            "exch" => AtomicKind::Exchange,
            "cas" => AtomicKind::CompareAndSwap,
            "inc" => AtomicKind::Increment,
            "dec" => AtomicKind::Decrement,
            _ => return Err(parts.unsupported()),
        };
        let float = !element.is_integer();
        if (float && kind != AtomicKind::Add) || element.bits() < 16 || element == Element::Pred {
            return Err(parts.unsupported());
        }
        self.watch(place, element.bytes());
        let returns = parts.base == "atom";
        let first = usize::from(returns);
        let values = if kind == AtomicKind::CompareAndSwap { 2 } else { 1 };
        parts.operands(first + 1 + values, first + 1 + values)?;
        let operands = &parts.raw.operands;
        let to = if returns { self.destination(&operands[0], parts.line())? } else { SINK };
        let address = self.address(&operands[first], place, parts.line())?;
        let mut inputs: [Register; 2] = [SINK; 2];
        for (input, operand) in inputs.iter_mut().zip(&operands[first + 1..]) {
            *input = self.source(operand, element, parts.line())?;
        }
        Ok(Operation::Atomic { kind, element, to, address, inputs })
    }

    /// `cvta`: between an address of a memory and a generic one.
    pub(super) fn convert_address(&mut self, parts: Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(2, 2)?;
        let to_memory = parts.has("to");
        let place = parts.suffixes.iter().find_map(|suffix| place(suffix)).ok_or_else(|| parts.unsupported())?;
        let window = match place {
            Place::Shared => SHARED_WINDOW,
            Place::Local => LOCAL_WINDOW,
            Place::Parameter => PARAMETER_WINDOW,
            Place::Global | Place::Generic => 0,
        };
        let to = self.destination(&parts.raw.operands[0], parts.line())?;
        let from = self.source(&parts.raw.operands[1], Element::U64, parts.line())?;
        let window = self.value(window);
        let operation = if to_memory { BinaryInteger::Subtract64 } else { BinaryInteger::Add64 };
        Ok(Operation::BinaryInteger(operation, to, [from, window]))
    }

    pub(super) fn is_place(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(2, 2)?;
        let place = parts.suffixes.first().and_then(|suffix| place(suffix)).ok_or_else(|| parts.unsupported())?;
        let to = self.predicate_destination(&parts.raw.operands[0], parts.line())?;
        let address = self.source(&parts.raw.operands[1], Element::U64, parts.line())?;
        Ok(Operation::IsPlace { to, address, place })
    }

    /// `cp.async` and its groups.
    pub(super) fn copy_async(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        let suffixes: Vec<&str> = parts.suffixes.iter().copied().filter(|suffix| !suffix.starts_with("L2::")).collect();
        let line = parts.line();
        match suffixes.as_slice() {
            ["async", "commit_group"] => Ok(Operation::CommitCopies),
            ["async", "wait_all"] => Ok(Operation::WaitCopies { pending: None }),
            ["async", "wait_group"] => match parts.raw.operands.as_slice() {
                [crate::ptx::syntax::Operand::Literal(literal)] => {
                    Ok(Operation::WaitCopies { pending: Some(literal.bits(Element::U32) as u32) })
                }
                _ => Err(parts.unsupported()),
            },
            ["async", "ca" | "cg", "shared" | "shared::cta", "global"] => {
                parts.operands(3, 4)?;
                let operands = &parts.raw.operands;
                let to = self.address(&operands[0], Place::Shared, line)?;
                let from = self.address(&operands[1], Place::Global, line)?;
                let crate::ptx::syntax::Operand::Literal(size) = &operands[2] else { return Err(parts.unsupported()) };
                let bytes = size.bits(Element::U32) as u8;
                if !matches!(bytes, 4 | 8 | 16) || (parts.has("cg") && bytes != 16) {
                    return Err(PtxError::new(line, format!("'{}' copies no {bytes} bytes", parts.raw.opcode)));
                }
                let source_bytes = match operands.get(3) {
                    Some(operand) => Some(self.source(operand, Element::U32, line)?),
                    None => None,
                };
                Ok(Operation::CopyAsync { to, from, bytes, source_bytes })
            }
            _ => Err(parts.unsupported()),
        }
    }
}
