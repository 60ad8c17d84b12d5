//! Plans: what a model computes, step by step, over packed batches; and who carries them out.
//!
//! Owns: [`Plan`], its steps and buffers, how its weights are made from files (`recipe`), packed input ([`batch`]), and the
//! executors on the processor ([`cpu`]) and on GPUs ([`cuda`]). May import: kernels, this crate's weights and errors. Must never import: cards,
//! architectures, tokenizers.
//!
//! A plan is made once per loaded model and knows no device. Its buffers have a fixed number of columns and as many rows as a
//! batch has tokens, patches or items (texts or images), so everything a batch needs is known before it comes: a device
//! allocates its arena from [`Plan::columns`] and its own limit on tokens, and runs steps from then on without allocating.
//!
//! **Invariant:** no step mixes rows of different sequences, so the result of a sequence does not depend on its batch.

pub mod batch;
mod builder;
pub mod cpu;
pub mod cuda;
mod recipe;
mod values;

use kernels::activation::Activation;
use kernels::pool::PoolSpec;

pub use batch::{Batch, Input, Sequence};
pub(crate) use builder::{LinearIds, PlanBuilder};
pub use recipe::MappedTable;
pub(crate) use recipe::{BiasRecipe, BiasValues, MatrixPart, MatrixRecipe, Recipes, RotaryRecipe, TableRecipe, VectorRecipe};
pub use values::Values;

use crate::error::ModelError;

/// What the rows of a buffer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Axis {
    /// One row per token that is computed.
    Tokens,
    /// One row per patch of an image.
    Patches,
    /// One row per text or image.
    Items,
}

/// A buffer of a plan: `[rows of its axis, columns] f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BufferSpec {
    pub(crate) axis: Axis,
    pub(crate) columns: usize,
    /// Which output of the plan it is; others are intermediate.
    pub(crate) output: Option<usize>,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) struct $name(pub(crate) usize);
    )*};
}

ids! {
    /// A buffer of the plan.
    BufferId,
    /// A weight matrix of the plan.
    MatrixId,
    /// A weight vector of the plan.
    VectorId,
    /// A lookup table of the plan.
    TableId,
    /// A table of angles of the plan.
    RotaryId,
    /// A position bias of the plan.
    BiasId,
}

/// Which token stands for its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The first.
    First,
    /// The last.
    Last,
    /// The first with this id, or the first of all if there is none.
    Id(u32),
    /// The first of those with the largest id.
    LargestId,
}

impl Taken {
    /// Which token of a sequence of so many it is; `ids` tells theirs.
    pub(crate) fn of<'a>(self, tokens: usize, ids: impl Fn() -> &'a [u32]) -> usize {
        match self {
            Taken::First => 0,
            Taken::Last => tokens - 1,
            Taken::Id(id) => ids().iter().position(|other| *other == id).unwrap_or(0),
            Taken::LargestId => {
                let ids = ids();
                let largest = ids.iter().max();
                ids.iter().position(|id| Some(id) == largest).unwrap_or(0)
            }
        }
    }
}

/// Attention of a step; buffers apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AttentionStep {
    pub(crate) heads: usize,
    pub(crate) head_size: usize,
    pub(crate) scale: f32,
    pub(crate) causal: bool,
    pub(crate) window: Option<usize>,
    pub(crate) bias: Option<BiasId>,
}

/// Layer normalization of a step; buffers apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormStep {
    pub(crate) weight: VectorId,
    pub(crate) bias: Option<VectorId>,
    pub(crate) eps: f32,
}

/// One operation. Rows are those of the output's axis; an input and an output are never the same buffer unless it says so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Sum of table rows by token id, position and token type.
    Embed { words: TableId, positions: Option<TableId>, types: Option<TableId>, output: BufferId },
    /// The pixels of every patch in the order of a convolution's weights: `[patches, channels * height * width]`.
    Patches { output: BufferId },
    /// Puts `first` (`[n, columns]`) before the patches of each image; then adds `positions` (`[tokens of an image, columns]`).
    Assemble { patches: BufferId, first: Option<VectorId>, positions: VectorId, output: BufferId },
    /// `norm(input)`.
    Norm { input: BufferId, norm: NormStep, output: BufferId },
    /// `activation(input W^T + bias) + residual`; the residual may be the output itself.
    Linear {
        input: BufferId,
        weight: MatrixId,
        bias: Option<VectorId>,
        activation: Activation,
        residual: Option<BufferId>,
        output: BufferId,
    },
    /// `activation(first half) * second half`.
    Gate { input: BufferId, activation: Activation, output: BufferId },
    /// Turns queries and keys of `[tokens, 3 * heads * head_size]` in place.
    Rotary { values: BufferId, heads: usize, head_size: usize, table: RotaryId },
    /// Self-attention over `qkv: [tokens, 3 * heads * head_size]`.
    Attention { qkv: BufferId, attention: AttentionStep, output: BufferId },
    /// Attention of one query per item (`query: [heads * head_size]`) over `kv: [tokens, 2 * heads * head_size]`.
    Probe { query: VectorId, kv: BufferId, attention: AttentionStep, output: BufferId },
    /// Pools the tokens of each item, the first `skip` of them left out.
    Pool { input: BufferId, spec: PoolSpec, skip: usize, output: BufferId },
    /// One token of each item.
    Take { input: BufferId, taken: Taken, output: BufferId },
    /// Scales rows to unit length in place.
    Normalize { values: BufferId },
}

impl Step {
    /// What a profile calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Step::Embed { .. } => "embed",
            Step::Patches { .. } => "patches",
            Step::Assemble { .. } => "assemble",
            Step::Norm { .. } => "norm",
            Step::Linear { .. } => "linear",
            Step::Gate { .. } => "gate",
            Step::Rotary { .. } => "rotary",
            Step::Attention { .. } => "attention",
            Step::Probe { .. } => "probe",
            Step::Pool { .. } => "pool",
            Step::Take { .. } => "take",
            Step::Normalize { .. } => "normalize",
        }
    }
}

/// What a model computes. See the [module](self).
#[derive(Debug)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) buffers: Vec<BufferSpec>,
    pub(crate) outputs: Vec<OutputSpec>,
    pub(crate) recipes: Recipes,
    pub(crate) input: Input,
}

/// One result of a plan: `[rows of its axis, columns] f32`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Name.
    pub name: String,
    /// Whether there is a row per token or per item.
    pub axis: Axis,
    /// Numbers per row.
    pub columns: usize,
}

/// The values of one output, in the order of [`Plan::outputs`].
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// `[rows, columns]`: rows of all tokens or all items of the batch, in order.
    pub values: Values,
    /// Numbers per row.
    pub columns: usize,
}

impl Plan {
    /// What the plan takes.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// What the plan gives.
    pub fn outputs(&self) -> &[OutputSpec] {
        &self.outputs
    }

    /// Numbers that a batch needs in intermediate buffers per row of an axis.
    pub fn columns(&self, axis: Axis) -> usize {
        let inner = self.buffers.iter().filter(|buffer| buffer.axis == axis && buffer.output.is_none());
        inner.map(|buffer| buffer.columns).sum()
    }

    /// The most tokens that one sequence may have.
    pub fn longest(&self) -> usize {
        self.input.longest()
    }
}

/// Carries out a plan on one device, for one model instance.
pub trait Executor: Send {
    /// Runs the plan on a batch: one [`Output`] per output of the plan. The results of a sequence have the same bits in any
    /// batch.
    ///
    /// # Errors
    /// The device fails; a batch has been checked when it was packed.
    fn enqueue(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>, ModelError>;
}
