//! PTX as text, and as the instructions that the interpreter runs.
//!
//! Owns: the parser. May import: nothing. Must never import: the driver.

pub(crate) mod element;
pub(crate) mod instruction;
mod lex;
mod lower;
pub(crate) mod operation;
mod parse;
mod syntax;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use instruction::{Constant, Instruction};

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtxError {
    /// The line of the text.
    pub line: u32,
    /// What is wrong with it, or not supported.
    pub reason: String,
}

impl PtxError {
    fn new(line: u32, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

impl fmt::Display for PtxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for PtxError {}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Where it lies in [`crate::execute::Launch::parameters`].
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// Its alignment.
    pub align: usize,
}

/// A variable in global or constant memory. Whoever loads the module allocates it and fills it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Its name.
    pub name: String,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its contents when the module is loaded; the length is its size.
    pub contents: Vec<u8>,
    /// Addresses of 8 bytes to write into the contents: where, of which variable, and how much to add.
    pub addresses: Vec<(usize, usize, i64)>,
    /// Whether kernels only read it.
    pub constant: bool,
}

/// A kernel, ready to run.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its name as the text has it.
    pub name: String,
    /// Its parameters in order.
    pub parameters: Vec<Parameter>,
    /// Shared memory that it declares.
    pub static_shared_bytes: u32,
    /// Local memory of a thread.
    pub local_bytes: u32,
    /// The block that `.maxntid` or `.reqntid` allows.
    pub max_threads: Option<[u32; 3]>,
    pub(crate) dynamic_shared_offset: u32,
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) registers: u32,
    pub(crate) predicates: u32,
    /// Of the smallest access to shared memory, which is how closely races on it are watched.
    pub(crate) granule_bytes: u32,
}

impl Kernel {
    /// Bytes of all parameters.
    pub fn parameter_bytes(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.offset + parameter.bytes).max().unwrap_or(0)
    }

    /// Instructions, with the functions that it calls in place.
    pub fn instruction_count(&self) -> usize {
        self.instructions.len()
    }
}

/// A text, parsed.
#[derive(Debug, Clone)]
pub struct Module {
    target: String,
    globals: Vec<Global>,
    kernels: BTreeMap<String, Arc<Kernel>>,
}

impl Module {
    /// Parses PTX and prepares its kernels.
    ///
    /// # Errors
    /// The line and what is wrong there or is not supported. Every instruction of every kernel is looked at.
    pub fn parse(text: &str) -> Result<Self, PtxError> {
        let unit = parse::unit(text)?;
        let globals = lower::globals(&unit)?;
        let kernels = lower::kernels(&unit, &globals)?;
        let kernels = kernels.into_iter().map(|kernel| (kernel.name.clone(), Arc::new(kernel))).collect();
        Ok(Self { target: unit.target, globals, kernels })
    }

    /// What `.target` says, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The kernel of a name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.get(name).cloned()
    }

    /// Every kernel by name.
    pub fn kernels(&self) -> impl Iterator<Item = &Arc<Kernel>> {
        self.kernels.values()
    }

    /// Variables, in the order in which [`crate::execute::run`] wants their addresses.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }
}
