//! How much memory a plan takes on the processor, known before any of it is allocated.

use kernels::attention;
use kernels::matmul::Packed;

use super::{CHUNK_TOKENS, CpuModel, chunk_tokens};
use crate::plan::{Axis, Input, Plan, Step};

/// Memory of a model on the processor, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Packed matrices, vectors and tables of angles: once per model.
    pub weights: usize,
    /// Lookup tables that stay in the mapped files: once per file, given back to the system when memory is short.
    pub mapped: usize,
    /// Buffers of one instance, for its largest chunks.
    pub arena: usize,
    /// Intermediate results inside operations of one instance.
    pub scratch: usize,
}

impl Memory {
    /// Of a model with instances of so many threads, and of one such instance.
    pub fn of(model: &CpuModel, threads: usize) -> Memory {
        let plan = &model.plan;
        let matrices: usize = model.matrices.iter().map(Packed::bytes).sum();
        let floats: usize = plan.recipes.vectors.iter().map(|vector| vector.len * size_of::<f32>()).sum();
        let rotaries: usize = model.rotaries.iter().map(kernels::rotary::Rotary::bytes).sum();
        let biases: usize = plan.recipes.biases.iter().map(|bias| bias.bytes).sum();
        let mapped = model.tables.iter().map(|table| table.as_bytes().len()).sum();
        let largest = plan.longest().max(CHUNK_TOKENS);
        let (mut arena, mut scratch) = (arena_bytes(plan, largest), threads * scratch_bytes(model, largest));
        if threads > 1 {
            let chunk = chunk_tokens(plan);
            arena += threads * arena_bytes(plan, chunk);
            scratch += threads * scratch_bytes(model, chunk);
        }
        Memory { weights: matrices + floats + rotaries + biases, mapped, arena, scratch }
    }
}

/// Rows of an axis in a chunk of at most so many tokens.
pub(super) fn most_rows(plan: &Plan, axis: Axis, tokens: usize) -> usize {
    match (axis, plan.input()) {
        // Every text has a token.
        (Axis::Tokens, _) | (Axis::Items, Input::Tokens(_)) => tokens,
        (Axis::Patches, Input::Tokens(_)) => 0,
        (Axis::Patches, Input::Images(images)) => tokens / images.tokens().max(1) * images.patches(),
        (Axis::Items, Input::Images(images)) => tokens / images.tokens().max(1),
    }
}

/// The buffers for chunks of at most so many tokens.
fn arena_bytes(plan: &Plan, tokens: usize) -> usize {
    let axes = [Axis::Tokens, Axis::Patches, Axis::Items];
    axes.iter().map(|axis| most_rows(plan, *axis, tokens) * plan.columns(*axis) * size_of::<f32>()).sum()
}

/// Scratch memory that each thread needs for chunks of at most so many tokens.
pub(super) fn scratch_bytes(model: &CpuModel, tokens: usize) -> usize {
    let plan = &model.plan;
    let keys = tokens.min(plan.longest());
    let step = |step: &Step| match step {
        Step::Linear { weight, .. } => model.matrices[weight.0].scratch_bytes(),
        Step::Attention { attention, .. } | Step::Probe { attention, .. } => {
            attention::scratch_bytes(&super::steps::spec(attention), super::steps::bias(model, attention), keys)
        }
        _ => 0,
    };
    plan.steps.iter().map(step).max().unwrap_or(0)
}
