//! Branches, and calls, which are put in place.

use super::names::Named;
use super::{Lowering, Parts};
use crate::ptx::PtxError;
use crate::ptx::element::Element;
use crate::ptx::instruction::{Condition, Operation};
use crate::ptx::syntax::{Operand, Raw};

/// The label where an inlined function ends; no label of PTX is empty.
const RETURN: &str = "";

fn name_of<'a>(operand: Option<&'a Operand>, raw: &Raw) -> Result<&'a str, PtxError> {
    match operand {
        Some(Operand::Name(name)) => Ok(name),
        other => Err(PtxError::new(raw.line, format!("'{}' of {other:?} is not supported", raw.opcode))),
    }
}

impl<'u> Lowering<'u> {
    pub(super) fn control(&mut self, parts: Parts<'u>, condition: Option<Condition>) -> Result<(), PtxError> {
        let raw = parts.raw;
        let operation = match (parts.base, parts.suffixes.as_slice()) {
            ("bra", [] | ["uni"]) => {
                let label = (self.frame, name_of(raw.operands.first(), raw)?.to_owned());
                self.pending.push((self.instructions.len(), 0, label));
                Operation::Branch { target: 0 }
            }
            ("brx", ["idx"] | ["idx", "uni"]) => self.branch_table(raw)?,
            ("call", [] | ["uni"]) => return self.call(raw, condition),
            ("ret", [] | ["uni"]) if self.calls.len() > 1 => {
                self.pending.push((self.instructions.len(), 0, (self.frame, RETURN.to_owned())));
                Operation::Branch { target: 0 }
            }
            ("ret", [] | ["uni"]) | ("exit", []) => Operation::Exit,
            ("trap" | "brkpt", []) => Operation::Trap,
            _ => return Err(parts.unsupported()),
        };
        self.push(condition, raw.line, operation);
        Ok(())
    }

    fn branch_table(&mut self, raw: &Raw) -> Result<Operation, PtxError> {
        let [index, table] = raw.operands.as_slice() else {
            return Err(PtxError::new(raw.line, "'brx.idx' takes an index and a table"));
        };
        let index = self.source(index, Element::U32, raw.line)?;
        let name = name_of(Some(table), raw)?;
        let Some(Named::Targets(targets)) = self.scopes.find(name) else {
            return Err(PtxError::new(raw.line, format!("'{name}' is no table of branch targets")));
        };
        let at = self.instructions.len();
        for (place, target) in targets.iter().enumerate() {
            self.pending.push((at, place, (self.frame, target.clone())));
        }
        Ok(Operation::BranchTable { index, targets: vec![0; targets.len()].into() })
    }

    fn call(&mut self, raw: &'u Raw, condition: Option<Condition>) -> Result<(), PtxError> {
        let (returns, rest) = match raw.operands.split_first() {
            Some((Operand::Group(returns), rest)) => (returns.as_slice(), rest),
            _ => (&[][..], raw.operands.as_slice()),
        };
        let name = name_of(rest.first(), raw)?;
        let arguments = match rest.get(1) {
            None => &[][..],
            Some(Operand::Group(arguments)) => arguments.as_slice(),
            Some(_) => return Err(PtxError::new(raw.line, "indirect calls are not supported")),
        };
        if name == "__assertfail" {
            self.push(condition, raw.line, Operation::Assert);
            return Ok(());
        }
        let unit = self.unit;
        let found = unit.functions.iter().find(|function| function.name == name && function.body.is_some());
        let function =
            found.ok_or_else(|| PtxError::new(raw.line, format!("calls of '{name}', which has no body, are not supported")))?;
        if self.calls.iter().any(|caller| caller == name) {
            return Err(PtxError::new(raw.line, format!("'{name}' calls itself, which is not supported")));
        }
        let mut formal = Vec::new();
        for (declared, actual) in function.returns.iter().zip(returns).chain(function.parameters.iter().zip(arguments)) {
            match self.scopes.find(name_of(Some(actual), raw)?) {
                Some(Named::Local(at)) => formal.push((declared.name.as_str(), Named::Local(at))),
                _ => return Err(PtxError::new(raw.line, "arguments outside parameter space are not supported")),
            }
        }
        if formal.len() != function.returns.len() + function.parameters.len() {
            return Err(PtxError::new(raw.line, format!("'{name}' is called with another number of arguments than it has")));
        }
        // Lanes that do not call jump over the function's body.
        if let Some(condition) = condition {
            self.pending.push((self.instructions.len(), 0, (self.frames, RETURN.to_owned())));
            let skip = Condition { negated: !condition.negated, ..condition };
            self.push(Some(skip), raw.line, Operation::Branch { target: 0 });
        }
        let (outer_scopes, outer_frame) = (self.scopes.set_aside(), self.frame);
        self.frame = self.frames;
        self.frames += 1;
        self.calls.push(name.to_owned());
        self.scopes.open();
        formal.into_iter().for_each(|(name, named)| self.scopes.add(name, named));
        if let Some(body) = &function.body {
            self.body(body)?;
        }
        self.labels.insert((self.frame, RETURN.to_owned()), self.instructions.len() as u32);
        self.calls.pop();
        self.scopes = outer_scopes;
        self.frame = outer_frame;
        Ok(())
    }
}
