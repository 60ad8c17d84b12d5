//! What the lanes of a warp do together, and barriers.

use super::{Lowering, Parts};
use crate::ptx::PtxError;
use crate::ptx::element::Element;
use crate::ptx::instruction::{BarrierKind, FALSE_SINK, Operation, Reduction, SINK, Shuffle, Vote};
use crate::ptx::syntax::Operand;

impl Lowering<'_> {
    pub(super) fn shuffle(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(5, 5)?;
        let mode = match parts.suffixes.as_slice() {
            ["sync", "up", "b32"] => Shuffle::Up,
            ["sync", "down", "b32"] => Shuffle::Down,
            ["sync", "bfly", "b32"] => Shuffle::Butterfly,
            ["sync", "idx", "b32"] => Shuffle::Index,
            _ => return Err(parts.unsupported()),
        };
        let line = parts.line();
        let [to, from, lane, clamp, members] = parts.raw.operands.as_slice() else { return Err(parts.unsupported()) };
        let (to, inside) = self.with_predicate(to, line)?;
        let [from, lane, clamp, members] = [
            self.source(from, Element::B32, line)?,
            self.source(lane, Element::B32, line)?,
            self.source(clamp, Element::B32, line)?,
            self.source(members, Element::B32, line)?,
        ];
        Ok(Operation::Shuffle { mode, to, inside, from, lane, clamp, members })
    }

    /// A register and, where there is one, a predicate.
    fn with_predicate(&self, operand: &Operand, line: u32) -> Result<(u32, u32), PtxError> {
        match operand {
            Operand::Pair(to, inside) => Ok((self.destination(to, line)?, self.predicate_destination(inside, line)?)),
            to => Ok((self.destination(to, line)?, FALSE_SINK)),
        }
    }

    pub(super) fn vote(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(3, 3)?;
        let vote = match parts.suffixes.as_slice() {
            ["sync", "all", "pred"] => Vote::All,
            ["sync", "any", "pred"] => Vote::Any,
            ["sync", "uni", "pred"] => Vote::Uniform,
            ["sync", "ballot", "b32"] => Vote::Ballot,
            _ => return Err(parts.unsupported()),
        };
        let line = parts.line();
        let operands = &parts.raw.operands;
        let (to, to_predicate) = match vote {
            Vote::Ballot => (self.destination(&operands[0], line)?, FALSE_SINK),
            _ => (SINK, self.predicate_destination(&operands[0], line)?),
        };
        let condition = self.condition(&operands[1], line)?;
        let members = self.source(&operands[2], Element::B32, line)?;
        Ok(Operation::Vote { vote, to, to_predicate, condition, members })
    }

    pub(super) fn matching(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(3, 3)?;
        let (all, element) = match parts.suffixes.as_slice() {
            ["any", "sync", name @ ("b32" | "b64")] => (false, Element::named(name)),
            ["all", "sync", name @ ("b32" | "b64")] => (true, Element::named(name)),
            _ => return Err(parts.unsupported()),
        };
        let element = element.ok_or_else(|| parts.unsupported())?;
        let line = parts.line();
        let (to, same) = self.with_predicate(&parts.raw.operands[0], line)?;
        let value = self.source(&parts.raw.operands[1], element, line)?;
        let members = self.source(&parts.raw.operands[2], Element::B32, line)?;
        Ok(Operation::Match { all, to, same, value, bits: element.bits(), members })
    }

    pub(super) fn reduce(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(3, 3)?;
        let ["sync", name, kind @ ("u32" | "s32" | "b32")] = parts.suffixes.as_slice() else {
            return Err(parts.unsupported());
        };
        let reduction = match *name {
            "add" => Reduction::Add,
            "min" => Reduction::Min,
            "max" => Reduction::Max,
            "and" => Reduction::And,
            "or" => Reduction::Or,
            "xor" => Reduction::Xor,
            _ => return Err(parts.unsupported()),
        };
        let line = parts.line();
        let to = self.destination(&parts.raw.operands[0], line)?;
        let from = self.source(&parts.raw.operands[1], Element::B32, line)?;
        let members = self.source(&parts.raw.operands[2], Element::B32, line)?;
        Ok(Operation::Reduce { reduction, signed: *kind == "s32", to, from, members })
    }

    pub(super) fn barrier(&mut self, mut parts: Parts<'_>) -> Result<Operation, PtxError> {
        parts.take("cta");
        // `bar` is the short name of the aligned `barrier`.
        let aligned = parts.take("aligned") || parts.base == "bar";
        let line = parts.line();
        let operands = parts.raw.operands.as_slice();
        if parts.suffixes == ["warp", "sync"] {
            parts.operands(1, 1)?;
            return Ok(Operation::WarpBarrier { members: self.source(&operands[0], Element::B32, line)? });
        }
        let (kind, first, last) = match parts.suffixes.as_slice() {
            ["sync"] => (BarrierKind::Sync, 0, operands.len()),
            ["arrive"] => (BarrierKind::Arrive, 0, operands.len()),
            ["red", what, _] if operands.len() >= 3 => {
                let condition = self.condition(&operands[operands.len() - 1], line)?;
                let kind = match *what {
                    "popc" => BarrierKind::Count { to: self.destination(&operands[0], line)?, condition },
                    "and" => BarrierKind::All { to: self.predicate_destination(&operands[0], line)?, condition },
                    "or" => BarrierKind::Any { to: self.predicate_destination(&operands[0], line)?, condition },
                    _ => return Err(parts.unsupported()),
                };
                (kind, 1, operands.len() - 1)
            }
            _ => return Err(parts.unsupported()),
        };
        let numbers = &operands[first..last];
        if numbers.is_empty() || numbers.len() > 2 || (kind == BarrierKind::Arrive && numbers.len() < 2) {
            return Err(parts.unsupported());
        }
        let id = self.source(&numbers[0], Element::U32, line)?;
        let count = match numbers.get(1) {
            Some(operand) => Some(self.source(operand, Element::U32, line)?),
            None => None,
        };
        Ok(Operation::Barrier { kind, id, count, aligned })
    }
}
