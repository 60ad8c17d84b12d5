//! Statements to instructions: registers, addresses and labels are resolved, and calls are put in place.
//!
//! Owns: the resolution of names and the meaning of opcodes. May import: the rest of `ptx`. Must never import: the
//! interpreter.

mod arithmetic;
mod control;
mod matrix;
mod memory;
mod names;
mod warp;

use std::collections::HashMap;

use names::Scopes;

use super::element::Element;
use super::instruction::{
    CONSTANT, Condition, Constant, FALSE_SINK, FIRST_PREDICATE, FIRST_REGISTER, Instruction, Operation, Register,
};
use super::syntax::{Declared, Function, Initial, Raw, Space, Statement, Unit};
use super::{Global, Kernel, Parameter, PtxError};

/// The opcode of an instruction, in parts, with its operands.
struct Parts<'a> {
    raw: &'a Raw,
    base: &'a str,
    suffixes: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    fn new(raw: &'a Raw) -> Self {
        let mut words = raw.opcode.split('.');
        let base = words.next().unwrap_or_default();
        Self { raw, base, suffixes: words.collect() }
    }

    fn line(&self) -> u32 {
        self.raw.line
    }

    fn unsupported(&self) -> PtxError {
        PtxError::new(self.raw.line, format!("the instruction '{}' is not supported", self.raw.opcode))
    }

    fn has(&self, suffix: &str) -> bool {
        self.suffixes.contains(&suffix)
    }

    /// Removes a suffix and says whether it was there.
    fn take(&mut self, suffix: &str) -> bool {
        let before = self.suffixes.len();
        self.suffixes.retain(|other| *other != suffix);
        self.suffixes.len() < before
    }

    /// The types among the suffixes, in order.
    fn elements(&self) -> Vec<Element> {
        self.suffixes.iter().filter_map(|suffix| Element::named(suffix)).collect()
    }

    fn element(&self) -> Result<Element, PtxError> {
        self.elements().last().copied().ok_or_else(|| self.unsupported())
    }

    fn spelling(&self) -> String {
        let mut spelling = self.base.to_owned();
        for suffix in &self.suffixes {
            spelling.push('.');
            spelling.push_str(suffix);
        }
        spelling
    }

    fn operands(&self, least: usize, most: usize) -> Result<(), PtxError> {
        let found = self.raw.operands.len();
        if (least..=most).contains(&found) {
            return Ok(());
        }
        let reason = format!("'{}' with {found} operands is not supported ({least} to {most})", self.raw.opcode);
        Err(PtxError::new(self.raw.line, reason))
    }
}

/// A label of one of the functions that are put in place.
type Label = (u32, String);

/// A kernel in the making.
struct Lowering<'u> {
    unit: &'u Unit,
    globals: &'u [Global],
    scopes: Scopes,
    instructions: Vec<Instruction>,
    constants: Vec<Constant>,
    constant_index: HashMap<Constant, u32>,
    registers: u32,
    predicates: u32,
    local_bytes: u64,
    shared: HashMap<String, u64>,
    shared_bytes: u64,
    dynamic_align: u64,
    labels: HashMap<Label, u32>,
    /// Branches whose targets are not known yet: the instruction, the place in its table, the label.
    pending: Vec<(usize, usize, Label)>,
    /// Functions that are being put in place, outermost first, and the number of the innermost.
    calls: Vec<String>,
    frame: u32,
    frames: u32,
    granule_bytes: u32,
}

fn aligned(value: u64, align: u64) -> u64 {
    value.next_multiple_of(align.max(1))
}

/// Variables of a text that live in global and constant memory, those inside functions too.
pub(super) fn globals(unit: &Unit) -> Result<Vec<Global>, PtxError> {
    fn inside<'a>(statements: &'a [Statement], found: &mut Vec<&'a Declared>) {
        for statement in statements {
            match statement {
                Statement::Variable(declared) => found.push(declared),
                Statement::Scope(inner) => inside(inner, found),
                _ => {}
            }
        }
    }
    let mut declared: Vec<&Declared> = unit.variables.iter().collect();
    unit.functions.iter().filter_map(|function| function.body.as_deref()).for_each(|body| inside(body, &mut declared));
    declared.retain(|variable| matches!(variable.space, Space::Global | Space::Constant));
    let places: HashMap<&str, usize> = declared.iter().enumerate().map(|(at, variable)| (variable.name.as_str(), at)).collect();
    declared.iter().map(|variable| global(variable, &places)).collect()
}

fn global(variable: &Declared, places: &HashMap<&str, usize>) -> Result<Global, PtxError> {
    let missing = || PtxError::new(variable.line, format!("'{}' has no size", variable.name));
    let bytes = variable.bytes.ok_or_else(missing)? as usize;
    let (mut contents, mut addresses) = (vec![0u8; bytes], Vec::new());
    let size = variable.element.bytes() as usize;
    for (index, initial) in variable.initial.iter().enumerate() {
        let at = index * size;
        if at + size > bytes {
            return Err(PtxError::new(variable.line, format!("'{}' has more values than it holds", variable.name)));
        }
        match initial {
            Initial::Literal(literal) => {
                contents[at..at + size].copy_from_slice(&literal.bits(variable.element).to_le_bytes()[..size]);
            }
            Initial::Address(name, offset) => {
                let unknown = || PtxError::new(variable.line, format!("'{name}' is no variable of this module"));
                addresses.push((at, *places.get(name.as_str()).ok_or_else(unknown)?, *offset));
            }
        }
    }
    let align = variable.align as usize;
    Ok(Global { name: variable.name.clone(), align, contents, addresses, constant: variable.space == Space::Constant })
}

/// Every kernel of a text.
pub(super) fn kernels(unit: &Unit, globals: &[Global]) -> Result<Vec<Kernel>, PtxError> {
    let mut kernels = Vec::new();
    for function in unit.functions.iter().filter(|function| function.entry) {
        let Some(body) = function.body.as_deref() else { continue };
        let kernel = Lowering::new(unit, globals).kernel(function, body);
        kernels.push(kernel.map_err(|error| {
            let reason = format!("{}, in kernel '{}'", error.reason, function.name);
            PtxError::new(error.line, reason)
        })?);
    }
    Ok(kernels)
}

impl<'u> Lowering<'u> {
    fn new(unit: &'u Unit, globals: &'u [Global]) -> Self {
        Self {
            unit,
            globals,
            scopes: Scopes::default(),
            instructions: Vec::new(),
            constants: Vec::new(),
            constant_index: HashMap::new(),
            registers: FIRST_REGISTER,
            predicates: FIRST_PREDICATE,
            local_bytes: 0,
            shared: HashMap::new(),
            shared_bytes: 0,
            dynamic_align: 16,
            labels: HashMap::new(),
            pending: Vec::new(),
            calls: Vec::new(),
            frame: 0,
            frames: 1,
            granule_bytes: 4,
        }
    }

    fn kernel(mut self, function: &'u Function, body: &'u [Statement]) -> Result<Kernel, PtxError> {
        let mut parameters = Vec::new();
        let mut end = 0u64;
        self.scopes.open();
        for declared in &function.parameters {
            let bytes = declared.bytes.unwrap_or(0);
            end = aligned(end, u64::from(declared.align));
            parameters.push(Parameter { offset: end as usize, bytes: bytes as usize, align: declared.align as usize });
            self.scopes.add_parameter(&declared.name, end);
            end += bytes;
        }
        self.calls.push(function.name.clone());
        self.body(body)?;
        self.push(None, function.line, Operation::Exit);
        self.resolve(function.line)?;
        let dynamic = aligned(self.shared_bytes, self.dynamic_align);
        for constant in &mut self.constants {
            if let Constant::Dynamic(offset) = *constant {
                *constant = Constant::Value(dynamic.wrapping_add_signed(offset));
            }
        }
        Ok(Kernel {
            name: function.name.clone(),
            parameters,
            static_shared_bytes: self.shared_bytes as u32,
            local_bytes: aligned(self.local_bytes, 16) as u32,
            max_threads: function.max_threads,
            dynamic_shared_offset: dynamic as u32,
            instructions: self.instructions,
            constants: self.constants,
            registers: self.registers,
            predicates: self.predicates,
            granule_bytes: self.granule_bytes,
        })
    }

    fn body(&mut self, statements: &'u [Statement]) -> Result<(), PtxError> {
        self.scopes.open();
        for statement in statements {
            match statement {
                Statement::Registers { element, names } => self.declare_registers(*element, names),
                Statement::Variable(declared) => self.declare(declared)?,
                Statement::Label(name) => {
                    self.labels.insert((self.frame, name.clone()), self.instructions.len() as u32);
                }
                Statement::Targets(name, targets) => self.scopes.add_targets(name, targets.clone()),
                Statement::Scope(inner) => self.body(inner)?,
                Statement::Instruction(raw) => self.instruction(raw)?,
            }
        }
        self.scopes.close();
        Ok(())
    }

    fn declare_registers(&mut self, element: Element, names: &[(String, Option<u32>)]) {
        for (name, count) in names {
            let next = if element == Element::Pred { &mut self.predicates } else { &mut self.registers };
            self.scopes.add_registers(name, *count, element, *next);
            *next += count.unwrap_or(1);
        }
    }

    fn declare(&mut self, declared: &Declared) -> Result<(), PtxError> {
        match declared.space {
            Space::Local | Space::Parameter => {
                let bytes = declared.bytes.ok_or_else(|| PtxError::new(declared.line, "a local array has no size"))?;
                let offset = self.reserve_local(bytes, u64::from(declared.align));
                self.scopes.add_local(&declared.name, offset);
            }
            Space::Shared | Space::Global | Space::Constant => {}
        }
        Ok(())
    }

    fn reserve_local(&mut self, bytes: u64, align: u64) -> u64 {
        let offset = aligned(self.local_bytes, align);
        self.local_bytes = offset + bytes;
        offset
    }

    fn constant(&mut self, constant: Constant) -> Register {
        let next = self.constants.len() as u32;
        let index = *self.constant_index.entry(constant).or_insert(next);
        if index == next {
            self.constants.push(constant);
        }
        index | CONSTANT
    }

    fn value(&mut self, value: u64) -> Register {
        self.constant(Constant::Value(value))
    }

    fn push(&mut self, condition: Option<Condition>, line: u32, operation: Operation) {
        self.instructions.push(Instruction { operation, condition, line });
    }

    fn resolve(&mut self, line: u32) -> Result<(), PtxError> {
        for (instruction, place, label) in std::mem::take(&mut self.pending) {
            let unknown = || PtxError::new(line, format!("the label '{}' is nowhere", label.1));
            let found = *self.labels.get(&label).ok_or_else(unknown)?;
            match &mut self.instructions[instruction].operation {
                Operation::Branch { target } => *target = found,
                Operation::BranchTable { targets, .. } => targets[place] = found,
                _ => {}
            }
        }
        Ok(())
    }

    fn instruction(&mut self, raw: &'u Raw) -> Result<(), PtxError> {
        let parts = Parts::new(raw);
        let condition = match &raw.guard {
            None => None,
            Some(guard) => Some(Condition { predicate: self.predicate(&guard.predicate, raw.line)?, negated: guard.negated }),
        };
        let operation = match parts.base {
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" => return self.control(parts, condition),
            "ld" | "ldu" => self.load(parts)?,
            "st" => self.store(parts)?,
            "atom" | "red" => self.atomic(parts)?,
            "cvta" => self.convert_address(parts)?,
            "isspacep" => self.is_place(&parts)?,
            "cp" => self.copy_async(&parts)?,
            "ldmatrix" | "stmatrix" => self.matrix_move(parts)?,
            "mma" => self.matrix_product(&parts)?,
            "shfl" => self.shuffle(&parts)?,
            "vote" => self.vote(&parts)?,
            "match" => self.matching(&parts)?,
            "redux" => self.reduce(&parts)?,
            "activemask" => Operation::ActiveMask { to: self.destination(&raw.operands[0], raw.line)? },
            "bar" | "barrier" => self.barrier(parts)?,
            "membar" | "fence" | "prefetch" | "prefetchu" | "nanosleep" | "pmevent" => Operation::Nothing,
            _ => self.arithmetic(parts)?,
        };
        self.push(condition, raw.line, operation);
        Ok(())
    }

    fn predicate_destination(&self, operand: &super::syntax::Operand, line: u32) -> Result<u32, PtxError> {
        match operand {
            super::syntax::Operand::Name(name) if name == "_" => Ok(FALSE_SINK),
            super::syntax::Operand::Name(name) => self.predicate(name, line),
            other => Err(PtxError::new(line, format!("{other:?} where a predicate was expected"))),
        }
    }
}
