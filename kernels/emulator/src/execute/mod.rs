//! The interpreter: runs the blocks of a launch, a warp at a time.
//!
//! Owns: [`Launch`], [`GlobalMemory`], [`Options`], [`Fault`] and the execution of instructions: `block` (blocks and the turns
//! of their warps), `warp` (registers, and which lanes are where), `arithmetic`, `lane_memory`, `shared` (with the watch for
//! races), `collective` and `matrix`. May import: `ptx`. Must never import: the
//! driver.

mod arithmetic;
mod block;
mod collective;
mod lane_memory;
mod matrix;
mod shared;
#[cfg(test)]
mod tests;
mod warp;

use std::fmt;

use crate::ptx::Kernel;

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
    /// Where the bytes `address..address + bytes` are in this process. Called before every access; lanes whose addresses
    /// follow each other, or are the same, are asked for at once. The place must not move while the launch runs.
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

/// How a launch is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides in which order the blocks of the grid and the warps of a block take turns.
    pub seed: u64,
    /// Warp instructions after which the launch is taken for one that never ends.
    pub instruction_budget: u64,
    /// Whether two blocks that write the same global bytes in one launch, without atomics, are an error.
    pub watch_blocks: bool,
    /// Whether lanes of one warp see each other's shared memory only after `bar.warp.sync` or a block barrier, as CUDA
    /// promises, and not after shuffles and votes too.
    pub strict_warps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 0, instruction_budget: 20_000_000_000, watch_blocks: true, strict_warps: false }
    }
}

/// What a launch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Instructions of warps.
    pub instructions: u64,
    /// Bytes that lanes read from global memory.
    pub global_read: u64,
    /// Bytes that lanes wrote there, atomics included.
    pub global_written: u64,
}

/// Runs every block of a launch. `globals` are the addresses of the module's variables, in the order of
/// [`crate::ptx::Module::globals`].
///
/// Blocks run one after another, so one that waits for another in a loop runs out of its budget.
///
/// # Errors
/// The first thing that a thread does wrong. Blocks before it have run.
pub fn run(
    kernel: &Kernel,
    launch: &Launch<'_>,
    globals: &[u64],
    memory: &mut dyn GlobalMemory,
    options: &Options,
) -> Result<Counts, Fault> {
    block::Grid::new(kernel, launch, globals, memory, options)?.run()
}
