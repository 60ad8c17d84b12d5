//! Names: scopes of registers and variables, and operands as registers.

use std::collections::HashMap;

use super::{Lowering, aligned};
use crate::ptx::PtxError;
use crate::ptx::element::Element;
use crate::ptx::instruction::{Address, Condition, Constant, LOCAL_WINDOW, Place, Register, SINK, SPECIAL, Several, TRUE};
use crate::ptx::syntax::{Declared, Literal, Operand, Space};

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Named {
    /// A register or predicate.
    Register(u32, Element),
    /// The kernel's parameter at an offset.
    Parameter(u64),
    /// Local memory at an offset; parameters of calls are there too.
    Local(u64),
    Targets(Vec<String>),
}

#[derive(Debug, Default)]
struct Scope {
    names: HashMap<String, Named>,
    /// Numbered registers by prefix: the first, how many, their type.
    ranges: HashMap<String, (u32, u32, Element)>,
}

/// Scopes, innermost last.
#[derive(Debug, Default)]
pub(super) struct Scopes(Vec<Scope>);

impl Scopes {
    pub(super) fn open(&mut self) {
        self.0.push(Scope::default());
    }

    pub(super) fn close(&mut self) {
        self.0.pop();
    }

    fn innermost(&mut self) -> &mut Scope {
        if self.0.is_empty() {
            self.open();
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    pub(super) fn add(&mut self, name: &str, named: Named) {
        self.innermost().names.insert(name.to_owned(), named);
    }

    pub(super) fn add_parameter(&mut self, name: &str, offset: u64) {
        self.add(name, Named::Parameter(offset));
    }

    pub(super) fn add_local(&mut self, name: &str, offset: u64) {
        self.add(name, Named::Local(offset));
    }

    pub(super) fn add_targets(&mut self, name: &str, targets: Vec<String>) {
        self.add(name, Named::Targets(targets));
    }

    pub(super) fn add_registers(&mut self, name: &str, count: Option<u32>, element: Element, first: u32) {
        match count {
            None => self.add(name, Named::Register(first, element)),
            Some(count) => {
                self.innermost().ranges.insert(name.to_owned(), (first, count, element));
            }
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Named> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u32> = name[prefix.len()..].parse().ok();
        self.0.iter().rev().find_map(|scope| {
            if let Some(named) = scope.names.get(name) {
                return Some(named.clone());
            }
            let &(first, count, element) = scope.ranges.get(prefix)?;
            number.filter(|number| *number < count).map(|number| Named::Register(first + number, element))
        })
    }

    /// Sets aside every scope, for a function that sees none of its caller's names.
    pub(super) fn set_aside(&mut self) -> Self {
        std::mem::take(self)
    }
}

fn unknown(name: &str, line: u32) -> PtxError {
    PtxError::new(line, format!("nothing is named '{name}'"))
}

impl Lowering<'_> {
    pub(super) fn predicate(&self, name: &str, line: u32) -> Result<u32, PtxError> {
        match self.scopes.find(name) {
            Some(Named::Register(index, Element::Pred)) => Ok(index),
            _ => Err(PtxError::new(line, format!("'{name}' is no predicate"))),
        }
    }

    /// A predicate that is read.
    pub(super) fn condition(&self, operand: &Operand, line: u32) -> Result<Condition, PtxError> {
        match operand {
            Operand::Name(name) => Ok(Condition { predicate: self.predicate(name, line)?, negated: false }),
            Operand::Not(name) => Ok(Condition { predicate: self.predicate(name, line)?, negated: true }),
            Operand::Literal(Literal::Integer(value)) => Ok(Condition { predicate: TRUE, negated: *value == 0 }),
            other => Err(PtxError::new(line, format!("{other:?} where a predicate was expected"))),
        }
    }

    /// A register that is written, with its bits.
    pub(super) fn sized_destination(&self, operand: &Operand, line: u32) -> Result<(Register, u32), PtxError> {
        match operand {
            Operand::Name(name) if name == "_" => Ok((SINK, 64)),
            Operand::Name(name) => match self.scopes.find(name) {
                Some(Named::Register(index, element)) if element != Element::Pred => Ok((index, element.bits())),
                _ => Err(PtxError::new(line, format!("'{name}' is no register"))),
            },
            other => Err(PtxError::new(line, format!("{other:?} where a register was expected"))),
        }
    }

    pub(super) fn destination(&self, operand: &Operand, line: u32) -> Result<Register, PtxError> {
        self.sized_destination(operand, line).map(|(register, _)| register)
    }

    /// A value that is read, of a type that says what a literal's bits are.
    pub(super) fn source(&mut self, operand: &Operand, element: Element, line: u32) -> Result<Register, PtxError> {
        match operand {
            Operand::Literal(literal) => Ok(self.value(literal.bits(element))),
            Operand::Name(name) => self.named_value(name, 0, line),
            Operand::Sum(name, offset) => self.named_value(name, *offset, line),
            other => Err(PtxError::new(line, format!("{other:?} where a value was expected"))),
        }
    }

    fn named_value(&mut self, name: &str, offset: i64, line: u32) -> Result<Register, PtxError> {
        if let Some(place) = SPECIAL.iter().position(|special| *special == name) {
            return Ok(place as Register);
        }
        match self.scopes.find(name) {
            Some(Named::Register(index, element)) if element != Element::Pred && offset == 0 => Ok(index),
            Some(Named::Parameter(at) | Named::Local(at)) => Ok(self.value(at.wrapping_add_signed(offset))),
            Some(_) => Err(PtxError::new(line, format!("'{name}' is no value here"))),
            None => {
                let constant = self.symbol(name, offset, line)?;
                Ok(self.constant(constant))
            }
        }
    }

    /// The address of a variable of the module.
    fn symbol(&mut self, name: &str, offset: i64, line: u32) -> Result<Constant, PtxError> {
        if let Some(index) = self.globals.iter().position(|global| global.name == name) {
            return Ok(Constant::Global(index, offset));
        }
        if let Some(&at) = self.shared.get(name) {
            return Ok(Constant::Value(at.wrapping_add_signed(offset)));
        }
        let declared = self.find_shared(name).ok_or_else(|| unknown(name, line))?;
        let (bytes, align) = (declared.bytes, u64::from(declared.align));
        let Some(bytes) = bytes else {
            self.dynamic_align = self.dynamic_align.max(align);
            return Ok(Constant::Dynamic(offset));
        };
        let at = aligned(self.shared_bytes, align);
        self.shared_bytes = at + bytes;
        self.shared.insert(name.to_owned(), at);
        Ok(Constant::Value(at.wrapping_add_signed(offset)))
    }

    fn find_shared(&self, name: &str) -> Option<&Declared> {
        use crate::ptx::syntax::Statement;
        fn inside<'a>(statements: &'a [Statement], name: &str) -> Option<&'a Declared> {
            statements.iter().find_map(|statement| match statement {
                Statement::Variable(declared) if declared.name == name && declared.space == Space::Shared => Some(declared),
                Statement::Scope(inner) => inside(inner, name),
                _ => None,
            })
        }
        let module = self.unit.variables.iter().find(|variable| variable.name == name && variable.space == Space::Shared);
        let bodies = || self.unit.functions.iter().filter_map(|function| function.body.as_deref());
        module.or_else(|| bodies().find_map(|body| inside(body, name)))
    }

    /// Up to four registers that are read.
    pub(super) fn sources(&mut self, operand: &Operand, element: Element, line: u32) -> Result<Several, PtxError> {
        let single = std::slice::from_ref(operand);
        let parts = if let Operand::Vector(parts) = operand { parts } else { single };
        let mut registers = [SINK; 4];
        if parts.len() > 4 {
            return Err(PtxError::new(line, "more than four values at once are not supported"));
        }
        for (register, part) in registers.iter_mut().zip(parts) {
            *register = self.source(part, element, line)?;
        }
        Ok(Several { registers, count: parts.len() as u8 })
    }

    /// Up to four registers that are written, and the bits of the first.
    pub(super) fn destinations(&self, operand: &Operand, line: u32) -> Result<(Several, u32), PtxError> {
        let single = std::slice::from_ref(operand);
        let parts = if let Operand::Vector(parts) = operand { parts } else { single };
        let (mut registers, mut bits) = ([SINK; 4], 64);
        if parts.len() > 4 {
            return Err(PtxError::new(line, "more than four values at once are not supported"));
        }
        for (register, part) in registers.iter_mut().zip(parts) {
            let (found, width) = self.sized_destination(part, line)?;
            *register = found;
            if found != SINK {
                bits = width;
            }
        }
        Ok((Several { registers, count: parts.len() as u8 }, bits))
    }

    /// An address in memory of a kind.
    pub(super) fn address(&mut self, operand: &Operand, place: Place, line: u32) -> Result<Address, PtxError> {
        let Operand::Address(base, offset) = operand else {
            return Err(PtxError::new(line, format!("{operand:?} where an address was expected")));
        };
        let Some(name) = base else {
            return Ok(Address { place, base: self.value(0), offset: *offset });
        };
        match self.scopes.find(name) {
            // Parameters of calls are local memory of the caller.
            Some(Named::Local(at)) => {
                let place = if place == Place::Generic { Place::Generic } else { Place::Local };
                let window = if place == Place::Generic { LOCAL_WINDOW } else { 0 };
                Ok(Address { place, base: self.value(at + window), offset: *offset })
            }
            Some(Named::Parameter(at)) => Ok(Address { place: Place::Parameter, base: self.value(at), offset: *offset }),
            _ => Ok(Address { place, base: self.named_value(name, 0, line)?, offset: *offset }),
        }
    }
}
