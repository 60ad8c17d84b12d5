//! Plans on the processor.
//!
//! Owns: [`CpuModel`] (a plan with its weights packed for this processor, shared by all instances), [`CpuExecutor`] (the
//! arenas and threads of one instance), what each step does (`steps`) and how much memory all of it takes (`memory`).
//!
//! # How a batch runs
//! A batch is cut into chunks of whole texts of about `CHUNK_TOKENS` tokens, few enough that the activations of a chunk stay
//! in the caches of a core, and enough that a pass over the weights is worth its traffic. With several threads and several
//! chunks each thread takes whole chunks and none waits for another; a chunk that is alone (one long text, or a small batch)
//! is worked on by all threads, which share every operation. Neither changes a bit of any result.
//!
//! # Memory
//! Every buffer of the plan is allocated when the executor is made, for its largest chunk; pages that no batch has needed yet
//! are not resident. Per batch only the outputs are allocated, and they leave with the answer.

mod memory;
mod steps;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kernels::attention::Span;
use kernels::isa::Isa;
use kernels::matmul::{Packed, Precision};
use kernels::rotary::Rotary;
use kernels::team::Team;

pub use memory::Memory;

use super::{Axis, Batch, BiasValues, Executor, MappedTable, Output, Plan, Sequence};
use crate::error::ModelError;
use crate::weights::Weights;

/// Tokens of a chunk, unless one text has more.
const CHUNK_TOKENS: usize = 256;
/// Tokens of a chunk below which it is not worth a pass over the weights of its own.
const FEWEST_TOKENS: usize = 64;

/// A plan with its weights in the processor's form. Shared by all instances of a model.
#[derive(Debug)]
pub struct CpuModel {
    plan: Plan,
    precision: Precision,
    isa: Isa,
    matrices: Vec<Packed>,
    vectors: Vec<Vec<f32>>,
    tables: Vec<MappedTable>,
    rotaries: Vec<Rotary>,
    biases: Vec<BiasValues>,
}

impl CpuModel {
    /// Reads and packs the weights of `plan`. Tables stay in their files; everything else is copied once.
    ///
    /// # Errors
    /// A tensor is missing or has another shape or type than the plan expects.
    pub fn load(plan: Plan, weights: &Weights, precision: Precision) -> Result<Self, ModelError> {
        Self::load_for(plan, weights, precision, Isa::detect())
    }

    fn load_for(plan: Plan, weights: &Weights, precision: Precision, isa: Isa) -> Result<Self, ModelError> {
        let recipes = &plan.recipes;
        let mut matrices = Vec::with_capacity(recipes.matrices.len());
        for recipe in &recipes.matrices {
            let precision = if recipe.exact { Precision::F32 } else { precision };
            let (inputs, limit) = (recipe.inputs, precision.most_inputs());
            if inputs > limit {
                return Err(ModelError::TooWide { inputs, limit, precision });
            }
            // One matrix at a time, so that loading needs little more memory than the packed weights.
            let values = (recipe.read)(weights)?;
            matrices.push(Packed::pack(isa, precision, &values, recipe.outputs, recipe.inputs));
        }
        let vectors = recipes.vectors.iter().map(|recipe| (recipe.read)(weights)).collect::<Result<_, _>>()?;
        let table = |recipe: &super::TableRecipe| weights.table(&recipe.tensor, &[recipe.rows, recipe.columns]);
        let tables = recipes.tables.iter().map(table).collect::<Result<_, _>>()?;
        let rotaries = recipes.rotaries.iter().map(|recipe| recipe.make()).collect();
        let biases = recipes.biases.iter().map(|recipe| (recipe.read)(weights)).collect::<Result<_, _>>()?;
        Ok(CpuModel { matrices, vectors, tables, rotaries, biases, plan, precision, isa })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What weights and activations are rounded to before they are multiplied.
    pub fn precision(&self) -> Precision {
        self.precision
    }
}

/// Buffers and threads of one instance.
#[derive(Debug)]
pub struct CpuExecutor {
    model: Arc<CpuModel>,
    /// One per thread, each for chunks of up to [`CHUNK_TOKENS`].
    lanes: Vec<Mutex<Lane>>,
    /// For a chunk that all threads work on; with one thread, the only lane.
    whole: Lane,
    /// The threads that run lanes side by side; `None` for one thread.
    threads: Option<Team>,
}

/// Buffers for one chunk, and the threads that work on it.
#[derive(Debug)]
struct Lane {
    team: Team,
    arena: steps::Arena,
}

/// A part of a batch that runs in one pass.
#[derive(Debug)]
struct Chunk<'o> {
    /// Sequences of the batch.
    sequences: std::ops::Range<usize>,
    /// The parts of the outputs that this chunk fills.
    outputs: Vec<&'o mut [f32]>,
}

impl CpuExecutor {
    /// Buffers for the largest chunk and so many threads, whose names begin with `name`.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(model: Arc<CpuModel>, name: &str, threads: NonZeroUsize) -> Result<Self, ModelError> {
        let longest = model.plan.longest();
        let largest = longest.max(CHUNK_TOKENS);
        let lane = |team: Result<Team, _>, tokens: usize| -> Result<Lane, ModelError> {
            let team: Team = team.map_err(|source| ModelError::Threads { source })?;
            Ok(Lane { team: team.with_isa(model.isa), arena: steps::Arena::new(&model.plan, tokens) })
        };
        let scratch = memory::scratch_bytes(&model, largest);
        let whole = lane(Team::new(name, threads, scratch), largest)?;
        let (mut lanes, mut runners) = (Vec::new(), None);
        if threads.get() > 1 {
            let chunk = chunk_tokens(&model.plan);
            let scratch = memory::scratch_bytes(&model, chunk);
            for _ in 0..threads.get() {
                lanes.push(Mutex::new(lane(Ok(Team::single(scratch)), chunk)?));
            }
            let team = Team::new(&format!("{name}-lane"), threads, 0).map_err(|source| ModelError::Threads { source })?;
            runners = Some(team);
        }
        Ok(CpuExecutor { model, lanes, whole, threads: runners })
    }

    /// The model.
    pub fn model(&self) -> &Arc<CpuModel> {
        &self.model
    }

    /// Runs a batch with all threads together and tells of every step how long it took: a profile.
    pub fn timed(&mut self, batch: &Batch<'_>, observe: &mut dyn FnMut(&'static str, std::time::Duration)) {
        let plan = &self.model.plan;
        for sequences in Self::cut(batch.sequences(), chunk_tokens(plan)) {
            let tokens: usize = batch.sequences()[sequences.clone()].iter().map(|sequence| sequence.tokens.len()).sum();
            let size =
                |output: &super::OutputSpec| output.columns * if output.axis == Axis::Items { sequences.len() } else { tokens };
            let mut outputs: Vec<Vec<f32>> = plan.outputs.iter().map(|output| vec![0.0; size(output)]).collect();
            let outputs = outputs.iter_mut().map(|values| &mut values[..]).collect();
            let Lane { team, arena } = &mut self.whole;
            arena.run_observed(&self.model, team, batch, sequences, outputs, Some(observe));
        }
    }

    /// Which sequences run together: in order, whole, of up to `tokens` tokens unless one has more alone.
    fn cut(sequences: &[Sequence], tokens: usize) -> Vec<std::ops::Range<usize>> {
        let mut chunks: Vec<std::ops::Range<usize>> = Vec::new();
        let mut taken = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            let length = sequence.tokens.len();
            match chunks.last_mut() {
                Some(chunk) if taken + length <= tokens => chunk.end = index + 1,
                _ => {
                    chunks.push(index..index + 1);
                    taken = 0;
                }
            }
            taken += length;
        }
        chunks
    }
}

/// The tokens of a lane's chunk: at least one image.
fn chunk_tokens(plan: &Plan) -> usize {
    match plan.input() {
        super::Input::Tokens(_) => CHUNK_TOKENS,
        super::Input::Images(images) => CHUNK_TOKENS.max(images.tokens()),
    }
}

impl Executor for CpuExecutor {
    fn enqueue(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>, ModelError> {
        let plan = &self.model.plan;
        let rows = |axis: Axis| if axis == Axis::Items { batch.sequences().len() } else { batch.tokens() };
        // The only memory that a batch allocates for numbers: it leaves with the answer.
        let mut outputs: Vec<Vec<f32>> =
            plan.outputs.iter().map(|output| vec![0.0; rows(output.axis) * output.columns]).collect();
        let most = chunk_tokens(plan);
        let share = batch.tokens().div_ceil(self.lanes.len().max(1)).max(FEWEST_TOKENS);
        let cuts = Self::cut(batch.sequences(), most.min(share));
        let mut rest: Vec<&mut [f32]> = outputs.iter_mut().map(|output| &mut output[..]).collect();
        let mut chunks = Vec::with_capacity(cuts.len());
        for sequences in cuts {
            let tokens: usize = batch.sequences()[sequences.clone()].iter().map(|sequence| sequence.tokens.len()).sum();
            let part = plan.outputs.iter().zip(&mut rest).map(|(output, rest)| {
                let rows = if output.axis == Axis::Items { sequences.len() } else { tokens };
                let (part, behind) = std::mem::take(rest).split_at_mut(rows * output.columns);
                *rest = behind;
                part
            });
            chunks.push((tokens, Chunk { outputs: part.collect(), sequences }));
        }
        // Long texts, and what would leave threads idle, are worked on together.
        let alone = |tokens: usize| self.lanes.is_empty() || tokens > most;
        let apart = chunks.iter().filter(|(tokens, _)| !alone(*tokens)).count() >= self.lanes.len();
        let mut side_by_side = Vec::new();
        for (tokens, chunk) in chunks {
            if apart && !alone(tokens) {
                side_by_side.push(Mutex::new(chunk));
            } else {
                let Lane { team, arena } = &mut self.whole;
                let model = &self.model;
                team.enter(|| arena.run(model, team, batch, chunk.sequences, chunk.outputs));
            }
        }
        if let Some(threads) = self.threads.as_ref().filter(|_| !side_by_side.is_empty()) {
            let next = AtomicUsize::new(0);
            threads.run(|share, _| {
                let mut lane = self.lanes[share.index].lock().unwrap_or_else(PoisonError::into_inner);
                let Lane { team, arena } = &mut *lane;
                while let Some(chunk) = side_by_side.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut chunk = chunk.lock().unwrap_or_else(PoisonError::into_inner);
                    let Chunk { sequences, outputs } = &mut *chunk;
                    arena.run(&self.model, team, batch, sequences.clone(), std::mem::take(outputs));
                }
            });
        }
        let outputs = outputs.into_iter().zip(&plan.outputs);
        Ok(outputs.map(|(values, output)| Output { values: values.into(), columns: output.columns }).collect())
    }
}

/// The spans of self-attention of sequences, relative to the first token of the first. Padding that is computed has a span of
/// its own over the same keys: how queries share a pass depends on their number, and so would the last bits of real ones.
/// There is one span per sequence where nothing is padded, as images never are.
fn spans(sequences: &[Sequence], spans: &mut Vec<Span>) {
    let first = sequences.first().map_or(0, |sequence| sequence.tokens.start);
    spans.clear();
    for sequence in sequences {
        let (start, end) = (sequence.tokens.start - first, sequence.tokens.end - first);
        let keys = start..start + sequence.real;
        spans.push(Span { queries: keys.clone(), keys: keys.clone() });
        if keys.end < end {
            spans.push(Span { queries: keys.end..end, keys });
        }
    }
}
