//! The interpreter: runs the blocks of a launch, a warp at a time.
//!
//! Owns: [`Launch`], [`GlobalMemory`], [`Fault`] and the execution of instructions. May import: `ptx`. Must never import: the
//! driver.

use std::fmt;

/// The shape and arguments of a launch.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub dynamic_shared_bytes: u32,
    /// The kernel's parameters, each at its own offset.
    pub parameters: &'a [u8],
}

/// What an instruction does with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Loads and stores in one step.
    Atomic,
}

/// Global memory as a kernel sees it; who implements it knows what is allocated and who may touch it.
pub trait GlobalMemory {
    /// Where the bytes `address..address + bytes` are in this process. Called before every access of every lane.
    ///
    /// # Errors
    /// What is wrong with the access, as a sentence: outside every allocation, freed, not ordered after another operation.
    fn access(&mut self, address: u64, bytes: usize, kind: AccessKind) -> Result<*mut u8, String>;
}

/// Why a launch failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// Block and thread, where one thread is to blame.
    pub thread: Option<([u32; 3], [u32; 3])>,
    /// The line of the PTX text.
    pub line: u32,
    /// What was wrong.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel '{}', PTX line {}", self.kernel, self.line)?;
        if let Some((block, thread)) = self.thread {
            write!(f, ", block {block:?}, thread {thread:?}")?;
        }
        write!(f, ": {}", self.reason)
    }
}
