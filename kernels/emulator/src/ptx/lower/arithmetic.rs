//! Arithmetic: opcodes to the tables of operations.

use super::{Lowering, Parts};
use crate::ptx::PtxError;
use crate::ptx::element::Element;
use crate::ptx::instruction::{Carrying, Condition, FALSE_SINK, Logic, Modes, Operation, Register, SINK, Several, TRUE};
use crate::ptx::operation::{
    BinaryFloat, BinaryHalf, BinaryInteger, Class, Conversion, Relation, Rounding, TernaryFloat, TernaryHalf, TernaryInteger,
    UnaryFloat, UnaryHalf, UnaryInteger,
};
use crate::ptx::syntax::{Literal, Operand};

impl Lowering<'_> {
    pub(super) fn arithmetic(&mut self, parts: Parts<'_>) -> Result<Operation, PtxError> {
        let last = parts.suffixes.last().copied();
        match parts.base {
            "mov" if last == Some("pred") => self.predicate_logic(&parts),
            "mov" if parts.raw.operands.iter().any(|operand| matches!(operand, Operand::Vector(_))) => self.packing(&parts),
            "mov" if self.reads_clock(&parts) => {
                Ok(Operation::Clock { to: self.destination(&parts.raw.operands[0], parts.line())? })
            }
            "and" | "or" | "xor" | "not" if last == Some("pred") => self.predicate_logic(&parts),
            "setp" | "set" => self.comparison(parts),
            "testp" => self.classification(&parts),
            "selp" => self.selection(&parts),
            "cvt" => self.conversion(parts),
            "lop3" => self.lookup(&parts),
            "bfi" => self.bit_insertion(&parts),
            "add" | "sub" | "mad" if parts.has("cc") => self.carrying(parts),
            "addc" | "subc" | "madc" => self.carrying(parts),
            _ => self.plain(parts),
        }
    }

    fn reads_clock(&self, parts: &Parts<'_>) -> bool {
        matches!(parts.raw.operands.get(1), Some(Operand::Name(name))
            if matches!(name.as_str(), "%clock" | "%clock64" | "%clock_hi" | "%globaltimer"))
    }

    /// What the tables have.
    fn plain(&mut self, mut parts: Parts<'_>) -> Result<Operation, PtxError> {
        let element = parts.element()?;
        let mut modes = Modes::default();
        if matches!(element, Element::F32 | Element::F64) {
            modes.flush = parts.take("ftz") && element == Element::F32;
            modes.saturate = element == Element::F32 && parts.take("sat");
        }
        if matches!(parts.base, "add" | "sub" | "mul") {
            parts.take("rn");
        }
        let spelling = parts.spelling();
        let line = parts.line();
        let operands = &parts.raw.operands;
        let Some((to, inputs)) = operands.split_first() else { return Err(parts.unsupported()) };
        let to = self.destination(to, line)?;
        // The addend of a wide product is twice as wide as its factors; counts and shifts are 32 bits.
        let wide = parts.has("wide");
        let mut sources = [SINK; 3];
        for (place, (source, operand)) in sources.iter_mut().zip(inputs).enumerate() {
            let hint = match (parts.base, place) {
                _ if wide && place == 2 => Element::B64,
                ("shl" | "shr", 1) | ("bfe", 1 | 2) | ("slct", 2) => Element::B32,
                _ => element,
            };
            *source = self.source(operand, hint, line)?;
        }
        let [a, b, c] = sources;
        let found = match inputs.len() {
            1 => UnaryInteger::named(&spelling)
                .map(|operation| Operation::UnaryInteger(operation, to, a))
                .or_else(|| UnaryFloat::named(&spelling).map(|operation| Operation::UnaryFloat(operation, to, a, modes)))
                .or_else(|| UnaryHalf::named(&spelling).map(|operation| Operation::UnaryHalf(operation, to, a))),
            2 => BinaryInteger::named(&spelling)
                .map(|operation| Operation::BinaryInteger(operation, to, [a, b]))
                .or_else(|| BinaryFloat::named(&spelling).map(|operation| Operation::BinaryFloat(operation, to, [a, b], modes)))
                .or_else(|| BinaryHalf::named(&spelling).map(|operation| Operation::BinaryHalf(operation, to, [a, b]))),
            3 => TernaryInteger::named(&spelling)
                .map(|operation| Operation::TernaryInteger(operation, to, [a, b, c]))
                .or_else(|| {
                    TernaryFloat::named(&spelling).map(|operation| Operation::TernaryFloat(operation, to, [a, b, c], modes))
                })
                .or_else(|| TernaryHalf::named(&spelling).map(|operation| Operation::TernaryHalf(operation, to, [a, b, c]))),
            _ => None,
        };
        found.ok_or_else(|| parts.unsupported())
    }

    fn predicate_logic(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        let line = parts.line();
        parts.operands(2, 3)?;
        let operands = &parts.raw.operands;
        let to = self.predicate_destination(&operands[0], line)?;
        let first = self.condition(&operands[1], line)?;
        let second = match operands.get(2) {
            Some(operand) => self.condition(operand, line)?,
            None => Condition { predicate: TRUE, negated: false },
        };
        let logic = match parts.base {
            "or" => Logic::Or,
            "xor" => Logic::Xor,
            _ => Logic::And,
        };
        Ok(Operation::Predicate { logic, negated: parts.base == "not", to, inputs: [first, second] })
    }

    fn packing(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(2, 2)?;
        let line = parts.line();
        let bits = parts.element()?.bits();
        match parts.raw.operands.as_slice() {
            [Operand::Vector(whole), from] => {
                let (to, _) = self.destinations(&Operand::Vector(whole.clone()), line)?;
                let from = self.source(from, parts.element()?, line)?;
                Ok(Operation::Unpack { to, from, bits: bits / u32::from(to.count.max(1)) })
            }
            [to, whole] => {
                let to = self.destination(to, line)?;
                let count = if let Operand::Vector(pieces) = whole { pieces.len() as u32 } else { 1 };
                let element = match bits / count.max(1) {
                    8 => Element::B8,
                    16 => Element::B16,
                    _ => Element::B32,
                };
                let pieces: Several = self.sources(whole, element, line)?;
                Ok(Operation::Pack { to, parts: pieces, bits: element.bits() })
            }
            _ => Err(parts.unsupported()),
        }
    }

    fn comparison(&mut self, mut parts: Parts<'_>) -> Result<Operation, PtxError> {
        parts.take("ftz");
        let line = parts.line();
        let elements = parts.elements();
        let (element, to_value) = match (parts.base, elements.as_slice()) {
            ("setp", [element]) => (*element, None),
            ("set", [result, element]) => (*element, Some(*result)),
            _ => return Err(parts.unsupported()),
        };
        let class = Class::of(element).ok_or_else(|| parts.unsupported())?;
        let names = &parts.suffixes[..parts.suffixes.len() - elements.len()];
        let (relation, logic) = match names {
            [relation] => (relation, None),
            [relation, logic] => (relation, Some(*logic)),
            _ => return Err(parts.unsupported()),
        };
        let relation = Relation::named(relation).ok_or_else(|| parts.unsupported())?;
        let most = 3 + usize::from(logic.is_some());
        parts.operands(most, most)?;
        let operands = &parts.raw.operands;
        let inputs = [self.source(&operands[1], element, line)?, self.source(&operands[2], element, line)?];
        if let Some(result) = to_value {
            if logic.is_some() || result.bits() < 16 {
                return Err(parts.unsupported());
            }
            let to = self.destination(&operands[0], line)?;
            return Ok(Operation::CompareToValue { class, relation, result, to, inputs });
        }
        let combine = match logic {
            None => None,
            Some("and") => Some((Logic::And, self.condition(&operands[3], line)?)),
            Some("or") => Some((Logic::Or, self.condition(&operands[3], line)?)),
            Some("xor") => Some((Logic::Xor, self.condition(&operands[3], line)?)),
            Some(_) => return Err(parts.unsupported()),
        };
        let (to, other) = match &operands[0] {
            Operand::Pair(to, other) => (self.predicate_destination(to, line)?, self.predicate_destination(other, line)?),
            to => (self.predicate_destination(to, line)?, FALSE_SINK),
        };
        Ok(Operation::Compare { class, relation, to, other, inputs, combine })
    }

    fn classification(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(2, 2)?;
        let [name, kind @ ("f32" | "f64")] = parts.suffixes.as_slice() else { return Err(parts.unsupported()) };
        // Bits: NaN, infinite, zero, subnormal, normal.
        let classes = match *name {
            "finite" => 0b11100,
            "infinite" => 0b00010,
            "number" => 0b11110,
            "notanumber" => 0b00001,
            "normal" => 0b10000,
            "subnormal" => 0b01000,
            _ => return Err(parts.unsupported()),
        };
        let to = self.predicate_destination(&parts.raw.operands[0], parts.line())?;
        let input = self.source(&parts.raw.operands[1], parts.element()?, parts.line())?;
        Ok(Operation::Classify { double: *kind == "f64", classes, to, input })
    }

    fn selection(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(4, 4)?;
        let (line, element) = (parts.line(), parts.element()?);
        let operands = &parts.raw.operands;
        let to = self.destination(&operands[0], line)?;
        let inputs = [self.source(&operands[1], element, line)?, self.source(&operands[2], element, line)?];
        let condition = self.condition(&operands[3], line)?;
        Ok(Operation::Select { to, inputs, condition })
    }

    fn conversion(&mut self, mut parts: Parts<'_>) -> Result<Operation, PtxError> {
        let (flush, saturate, relu) = (parts.take("ftz"), parts.take("sat"), parts.take("relu"));
        let line = parts.line();
        let elements = parts.elements();
        let (rounding, whole) = match &parts.suffixes[..parts.suffixes.len().saturating_sub(elements.len())] {
            [] | ["rn"] => (Rounding::NearestEven, false),
            ["rz"] => (Rounding::Zero, false),
            ["rm"] => (Rounding::Down, false),
            ["rp"] => (Rounding::Up, false),
            ["rna"] => (Rounding::NearestAway, false),
            ["rni"] => (Rounding::NearestEven, true),
            ["rzi"] => (Rounding::Zero, true),
            ["rmi"] => (Rounding::Down, true),
            ["rpi"] => (Rounding::Up, true),
            _ => return Err(parts.unsupported()),
        };
        let &[to_element, from] = elements.as_slice() else { return Err(parts.unsupported()) };
        if rounding == Rounding::NearestAway || to_element == Element::Pred || from == Element::Pred {
            return Err(parts.unsupported());
        }
        let operands = &parts.raw.operands;
        let (to, width) = match operands.first() {
            Some(operand) => self.sized_destination(operand, line)?,
            None => return Err(parts.unsupported()),
        };
        let how = Conversion { to: to_element, from, rounding, whole, saturate, relu, flush, width };
        match (to_element, from, operands.len()) {
            (Element::F16x2 | Element::Bf16x2, Element::F32, 3) => {
                let half = if to_element == Element::F16x2 { Element::F16 } else { Element::Bf16 };
                let inputs = [self.source(&operands[1], from, line)?, self.source(&operands[2], from, line)?];
                Ok(Operation::ConvertPair(Conversion { to: half, ..how }, to, inputs))
            }
            (Element::F16x2 | Element::Bf16x2, _, _) | (_, Element::F16x2 | Element::Bf16x2, _) => Err(parts.unsupported()),
            (_, _, 2) => Ok(Operation::Convert(how, to, self.source(&operands[1], from, line)?)),
            _ => Err(parts.unsupported()),
        }
    }

    fn lookup(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(5, 5)?;
        let line = parts.line();
        let [to, a, b, c, Operand::Literal(Literal::Integer(table))] = parts.raw.operands.as_slice() else {
            return Err(parts.unsupported());
        };
        if parts.suffixes != ["b32"] {
            return Err(parts.unsupported());
        }
        let to = self.destination(to, line)?;
        let inputs =
            [self.source(a, Element::B32, line)?, self.source(b, Element::B32, line)?, self.source(c, Element::B32, line)?];
        Ok(Operation::Lookup { to, inputs, table: *table as u8 })
    }

    fn bit_insertion(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(5, 5)?;
        let (line, element) = (parts.line(), parts.element()?);
        let operands = &parts.raw.operands;
        let to = self.destination(&operands[0], line)?;
        let field = self.source(&operands[1], element, line)?;
        let base = self.source(&operands[2], element, line)?;
        let position = self.source(&operands[3], Element::B32, line)?;
        let length = self.source(&operands[4], Element::B32, line)?;
        Ok(Operation::InsertBits { to, field, base, position, length, bits: element.bits() })
    }

    fn carrying(&mut self, mut parts: Parts<'_>) -> Result<Operation, PtxError> {
        let gives = parts.take("cc");
        let takes = parts.base.ends_with('c');
        let element = parts.element()?;
        let line = parts.line();
        let signed = element.is_signed();
        let what = match (parts.base, parts.suffixes.first()) {
            ("add" | "addc", _) => Carrying::Add,
            ("sub" | "subc", _) => Carrying::Subtract,
            ("mad" | "madc", Some(&"lo")) => Carrying::MultiplyLow { signed },
            ("mad" | "madc", Some(&"hi")) => Carrying::MultiplyHigh { signed },
            _ => return Err(parts.unsupported()),
        };
        if !element.is_integer() || element.bits() < 32 {
            return Err(parts.unsupported());
        }
        let operands = &parts.raw.operands;
        let multiplies = matches!(what, Carrying::MultiplyLow { .. } | Carrying::MultiplyHigh { .. });
        let count = if multiplies { 4 } else { 3 };
        parts.operands(count, count)?;
        let to = self.destination(&operands[0], line)?;
        let mut inputs: [Register; 3] = [SINK; 3];
        for (input, operand) in inputs.iter_mut().zip(&operands[1..]) {
            *input = self.source(operand, element, line)?;
        }
        Ok(Operation::Carry { what, to, inputs, bits: element.bits(), takes, gives })
    }
}
