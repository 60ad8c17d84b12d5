//! `mma`, `ldmatrix` and `stmatrix`.

use super::{Lowering, Parts};
use crate::ptx::PtxError;
use crate::ptx::element::Element;
use crate::ptx::instruction::{MatrixElement, MatrixProduct, Operation, Place, Register};
use crate::ptx::syntax::Operand;

impl Lowering<'_> {
    fn fragment(&mut self, operand: &Operand, line: u32) -> Result<Vec<Register>, PtxError> {
        let single = std::slice::from_ref(operand);
        let parts = if let Operand::Vector(parts) = operand { parts } else { single };
        parts.iter().map(|part| self.source(part, Element::F32, line)).collect()
    }

    pub(super) fn matrix_product(&mut self, parts: &Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(4, 4)?;
        let ["sync", "aligned", shape, "row", "col", kinds @ ..] = parts.suffixes.as_slice() else {
            return Err(parts.unsupported());
        };
        let [out, a, b, sum] = kinds else { return Err(parts.unsupported()) };
        let element = match (*a, *b) {
            ("f16", "f16") => MatrixElement::Half,
            ("bf16", "bf16") => MatrixElement::Bfloat,
            ("s8" | "u8", "s8" | "u8") => MatrixElement::Byte { a_signed: *a == "s8", b_signed: *b == "s8" },
            _ => return Err(parts.unsupported()),
        };
        let wide = if matches!(element, MatrixElement::Byte { .. }) { "s32" } else { "f32" };
        let depth = match (*shape, element) {
            ("m16n8k8", MatrixElement::Half | MatrixElement::Bfloat) => 8,
            ("m16n8k16", _) => 16,
            ("m16n8k32", MatrixElement::Byte { .. }) => 32,
            _ => return Err(parts.unsupported()),
        };
        let narrow = |name: &str| element == MatrixElement::Half && name == "f16";
        if [out, sum].iter().any(|name| **name != wide && !narrow(name)) {
            return Err(parts.unsupported());
        }
        let line = parts.line();
        let operands = &parts.raw.operands;
        let Operand::Vector(results) = &operands[0] else { return Err(parts.unsupported()) };
        let to = results.iter().map(|part| self.destination(part, line)).collect::<Result<Vec<_>, _>>()?;
        let (a, b, c) =
            (self.fragment(&operands[1], line)?, self.fragment(&operands[2], line)?, self.fragment(&operands[3], line)?);
        let (wide_in, wide_out) = (*sum == wide, *out == wide);
        let bytes = if matches!(element, MatrixElement::Byte { .. }) { 1 } else { 2 };
        let words = depth * bytes / 16;
        let expected = [if wide_out { 4 } else { 2 }, words * 2, words, if wide_in { 4 } else { 2 }];
        if [to.len(), a.len(), b.len(), c.len()] != expected {
            return Err(PtxError::new(line, format!("'{}' does not take so many registers", parts.raw.opcode)));
        }
        Ok(Operation::MatrixProduct(Box::new(MatrixProduct { depth, element, wide_in, wide_out, to, a, b, c })))
    }

    pub(super) fn matrix_move(&mut self, mut parts: Parts<'_>) -> Result<Operation, PtxError> {
        parts.operands(2, 2)?;
        let transposed = parts.take("trans");
        let count = match parts.suffixes.as_slice() {
            ["sync", "aligned", "m8n8", "x1", "shared" | "shared::cta", "b16"] => 1,
            ["sync", "aligned", "m8n8", "x2", "shared" | "shared::cta", "b16"] => 2,
            ["sync", "aligned", "m8n8", "x4", "shared" | "shared::cta", "b16"] => 4,
            _ => return Err(parts.unsupported()),
        };
        let line = parts.line();
        let operands = &parts.raw.operands;
        let (registers, at) = if parts.base == "ldmatrix" { (0, 1) } else { (1, 0) };
        let address = self.address(&operands[at], Place::Shared, line)?;
        let several = if registers == 0 {
            self.destinations(&operands[0], line)?.0
        } else {
            self.sources(&operands[1], Element::B32, line)?
        };
        if several.count != count {
            return Err(PtxError::new(line, format!("'{}' does not take so many registers", parts.raw.opcode)));
        }
        Ok(match parts.base {
            "ldmatrix" => Operation::LoadMatrix { to: several, address, transposed },
            _ => Operation::StoreMatrix { from: several, address, transposed },
        })
    }
}
