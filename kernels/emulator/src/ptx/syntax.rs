//! What PTX text says, before anything is resolved: declarations, functions and statements.

use super::PtxError;
use super::element::Element;

/// A number as written: an integer, or the bits of a float.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Literal {
    Integer(i128),
    Single(u32),
    Double(u64),
}

impl Literal {
    /// The bits of the number as an element of `bits` bits; a float when `element` is one.
    pub(super) fn bits(self, element: Element) -> u64 {
        let raw = match (self, element) {
            (Self::Integer(value), _) => value as u64,
            (Self::Single(bits), Element::F64) => f64::from(f32::from_bits(bits)).to_bits(),
            (Self::Single(bits), _) => u64::from(bits),
            (Self::Double(bits), Element::F32) => u64::from((f64::from_bits(bits) as f32).to_bits()),
            (Self::Double(bits), _) => bits,
        };
        if element.bits() >= 64 { raw } else { raw & ((1 << element.bits()) - 1) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Name(String),
    Literal(Literal),
    /// `!p`.
    Not(String),
    /// `symbol+4`.
    Sum(String, i64),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// `[base+offset]`; no base is an absolute address.
    Address(Option<String>, i64),
    /// `(a, b)` of calls.
    Group(Vec<Operand>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Guard {
    pub(super) predicate: String,
    pub(super) negated: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Raw {
    pub(super) guard: Option<Guard>,
    pub(super) opcode: String,
    pub(super) operands: Vec<Operand>,
    pub(super) line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Global,
    Constant,
    Shared,
    Local,
    Parameter,
}

/// A piece of an initializer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Initial {
    Literal(Literal),
    Address(String, i64),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) space: Space,
    pub(super) element: Element,
    pub(super) align: u32,
    /// Nothing for the array without a size that is the dynamic shared memory.
    pub(super) bytes: Option<u64>,
    pub(super) initial: Vec<Initial>,
    pub(super) line: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Statement {
    Registers { element: Element, names: Vec<(String, Option<u32>)> },
    Variable(Declared),
    Label(String),
    Targets(String, Vec<String>),
    Scope(Vec<Statement>),
    Instruction(Raw),
}

#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) entry: bool,
    pub(super) returns: Vec<Declared>,
    pub(super) parameters: Vec<Declared>,
    pub(super) body: Option<Vec<Statement>>,
    pub(super) max_threads: Option<[u32; 3]>,
    pub(super) line: u32,
}

/// All of a text.
#[derive(Debug, Default)]
pub(super) struct Unit {
    pub(super) target: String,
    pub(super) variables: Vec<Declared>,
    pub(super) functions: Vec<Function>,
}

/// Reads a number as PTX writes it.
pub(super) fn literal(text: &str, line: u32) -> Result<Literal, PtxError> {
    let bad = || PtxError::new(line, format!("'{text}' is no number"));
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| bad());
    match text.get(..2) {
        Some("0f" | "0F") => return Ok(Literal::Single(hexadecimal(&text[2..])? as u32)),
        Some("0d" | "0D") => return Ok(Literal::Double(hexadecimal(&text[2..])?)),
        Some("0x" | "0X") => return Ok(Literal::Integer(i128::from(hexadecimal(text[2..].trim_end_matches('U'))?))),
        Some("0b" | "0B") => {
            let value = u64::from_str_radix(text[2..].trim_end_matches('U'), 2).map_err(|_| bad())?;
            return Ok(Literal::Integer(i128::from(value)));
        }
        _ => {}
    }
    if text.contains('.') {
        return Ok(Literal::Double(text.parse::<f64>().map_err(|_| bad())?.to_bits()));
    }
    let digits = text.trim_end_matches('U');
    let value = if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(digits, 8).map_err(|_| bad())?
    } else {
        digits.parse().map_err(|_| bad())?
    };
    Ok(Literal::Integer(value))
}
