//! Checks of the interpreter.
//!
//! Owns: memory for tests and launches from texts. May import: `execute` and `ptx`. Must never import: the driver.

mod checks;
mod instructions;
mod mutants;
mod programs;
mod tensor;

use std::sync::Arc;

use super::{AccessKind, Counts, Fault, GlobalMemory, Launch, Options, run};
use crate::ptx::{Kernel, Module};

/// Memory with gaps between its buffers.
#[derive(Default)]
struct Memory {
    buffers: Vec<(u64, Vec<u8>)>,
}

impl Memory {
    fn add(&mut self, bytes: &[u8]) -> u64 {
        let last = self.buffers.last().map_or(0x7_0000_0000, |(start, bytes)| start + bytes.len() as u64);
        let start = (last + 4096).next_multiple_of(256);
        self.buffers.push((start, bytes.to_vec()));
        start
    }

    fn floats(&mut self, values: &[f32]) -> u64 {
        self.add(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    fn words(&mut self, values: &[u32]) -> u64 {
        self.add(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    fn bytes(&self, start: u64) -> &[u8] {
        self.buffers.iter().find(|(other, _)| *other == start).map(|(_, bytes)| bytes.as_slice()).expect("a buffer starts there")
    }

    fn read_words(&self, start: u64) -> Vec<u32> {
        self.bytes(start).chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
    }

    fn read_floats(&self, start: u64) -> Vec<f32> {
        self.read_words(start).into_iter().map(f32::from_bits).collect()
    }

    fn globals(&mut self, module: &Module) -> Vec<u64> {
        module.globals().iter().map(|global| self.add(&global.contents)).collect()
    }
}

impl GlobalMemory for Memory {
    fn access(&mut self, address: u64, bytes: usize, _: AccessKind) -> Result<*mut u8, String> {
        let found = self
            .buffers
            .iter_mut()
            .find(|(start, buffer)| address >= *start && address + bytes as u64 <= *start + buffer.len() as u64);
        let (start, buffer) = found.ok_or_else(|| format!("{bytes} bytes at {address:#x} are outside every allocation"))?;
        Ok(buffer[(address - *start) as usize..].as_mut_ptr())
    }
}

/// A kernel's arguments, each of its own size.
#[derive(Default)]
struct Arguments(Vec<u8>);

impl Arguments {
    fn pointer(mut self, address: u64) -> Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.0.extend(address.to_le_bytes());
        self
    }

    fn word(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(self, value: f32) -> Self {
        self.word(value.to_bits())
    }
}

struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic: u32,
}

fn line(grid: u32, block: u32) -> Shape {
    Shape { grid: [grid, 1, 1], block: [block, 1, 1], dynamic: 0 }
}

fn launch(
    memory: &mut Memory,
    kernel: &Kernel,
    globals: &[u64],
    shape: &Shape,
    arguments: &Arguments,
    options: &Options,
) -> Result<Counts, Fault> {
    let Shape { grid, block, dynamic } = *shape;
    let launch = Launch { grid, block, dynamic_shared_bytes: dynamic, parameters: &arguments.0 };
    run(kernel, &launch, globals, memory, options)
}

fn kernel(text: &str, name: &str) -> (Module, Arc<Kernel>) {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let kernel = module.kernel(name).expect("the text has the kernel");
    (module, kernel)
}

/// Numbers between -2 and 2 that look like nothing.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..count).map(|_| next()).collect()
}
