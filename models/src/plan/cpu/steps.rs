//! The steps of a plan over one chunk.

use std::ops::Range;
use std::time::{Duration, Instant};

use kernels::aligned::Aligned;
use kernels::attention::{self, Bias, Heads, Span, attention};
use kernels::embed::{Ids, Lookup, embed};
use kernels::gate::gate;
use kernels::matmul::{Epilogue, Residual, matmul};
use kernels::norm::{self, norm};
use kernels::pool::{normalize, pool};
use kernels::rotary::rotary;
use kernels::team::Team;

use super::memory::most_rows;
use super::{CpuModel, spans};
use crate::plan::{AttentionStep, Axis, Batch, BufferId, Input, NormStep, Plan, Sequence, Step, TableId, Taken, VectorId};

/// The buffers of a plan for one chunk at a time.
#[derive(Debug)]
pub(super) struct Arena {
    /// One per buffer of the plan; those that are outputs are empty.
    buffers: Vec<Aligned>,
    spans: Vec<Span>,
    ranges: Vec<Range<usize>>,
}

impl Arena {
    /// Room for chunks of at most so many tokens.
    pub(super) fn new(plan: &Plan, tokens: usize) -> Self {
        let bytes = |buffer: &crate::plan::BufferSpec| match buffer.output {
            Some(_) => 0,
            None => most_rows(plan, buffer.axis, tokens) * buffer.columns * size_of::<f32>(),
        };
        Arena {
            buffers: plan.buffers.iter().map(|buffer| Aligned::zeroed(bytes(buffer))).collect(),
            spans: Vec::new(),
            ranges: Vec::new(),
        }
    }

    /// Memory of all buffers.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(Aligned::len_bytes).sum()
    }

    /// Runs all steps over `sequences` of the batch into `outputs`.
    pub(super) fn run(
        &mut self,
        model: &CpuModel,
        team: &Team,
        batch: &Batch<'_>,
        sequences: Range<usize>,
        outputs: Vec<&mut [f32]>,
    ) {
        self.run_observed(model, team, batch, sequences, outputs, None);
    }

    /// As [`Arena::run`], telling an observer how long each step took.
    pub(super) fn run_observed(
        &mut self,
        model: &CpuModel,
        team: &Team,
        batch: &Batch<'_>,
        sequences: Range<usize>,
        outputs: Vec<&mut [f32]>,
        mut observe: Option<&mut dyn FnMut(&'static str, Duration)>,
    ) {
        let plan = &model.plan;
        let sequences_in = &batch.sequences()[sequences.clone()];
        let (Some(first), Some(last)) = (sequences_in.first(), sequences_in.last()) else { return };
        let tokens = first.tokens.start..last.tokens.end;
        let patches = match plan.input() {
            Input::Tokens(_) => 0,
            Input::Images(images) => images.patches() * sequences.len(),
        };
        let rows = |axis: Axis| match axis {
            Axis::Tokens => tokens.len(),
            Axis::Patches => patches,
            Axis::Items => sequences.len(),
        };
        spans(sequences_in, &mut self.spans);
        let mut outputs: Vec<Option<&mut [f32]>> = outputs.into_iter().map(Some).collect();
        let slots = plan.buffers.iter().zip(&mut self.buffers).map(|(spec, memory)| match spec.output {
            Some(output) => outputs[output].take().unwrap_or_default(),
            None => &mut memory.as_mut_slice::<f32>()[..rows(spec.axis) * spec.columns],
        });
        let mut chunk = ChunkRun {
            model,
            team,
            batch,
            items: sequences.clone(),
            tokens: tokens.clone(),
            sequences: sequences_in,
            spans: &self.spans,
            ranges: &mut self.ranges,
            slots: slots.collect(),
        };
        for step in &plan.steps {
            match &mut observe {
                None => chunk.step(step),
                Some(observe) => {
                    let started = Instant::now();
                    chunk.step(step);
                    observe(step.name(), started.elapsed());
                }
            }
        }
    }
}

/// One chunk on its way through the steps.
struct ChunkRun<'a, 'b> {
    model: &'a CpuModel,
    team: &'a Team,
    batch: &'a Batch<'b>,
    items: Range<usize>,
    tokens: Range<usize>,
    sequences: &'a [Sequence],
    spans: &'a [Span],
    ranges: &'a mut Vec<Range<usize>>,
    slots: Vec<&'a mut [f32]>,
}

impl<'a> ChunkRun<'a, '_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Embed { words, positions, types, output } => self.embed(*words, *positions, *types, *output),
            Step::Patches { output } => self.patches(*output),
            Step::Assemble { patches, first, positions, output } => self.assemble(*patches, *first, *positions, *output),
            Step::Norm { input, norm: NormStep { weight, bias, eps }, output } => {
                let parameters = norm::Norm { weight: self.vector(*weight), bias: bias.map(|bias| self.vector(bias)), eps: *eps };
                let (team, [input, output]) = (self.team, self.slots([*input, *output]));
                norm(team, input, None, &parameters, output);
            }
            Step::Linear { .. } => self.linear(step),
            Step::Gate { input, activation, output } => {
                let columns = self.columns(*output);
                let (team, [input, output]) = (self.team, self.slots([*input, *output]));
                gate(team, input, columns, *activation, output);
            }
            Step::Rotary { values, heads, head_size, table } => {
                let (stride, table) = (self.columns(*values), &self.model.rotaries[table.0]);
                let positions = &self.batch.positions[self.tokens.clone()];
                let (team, [values]) = (self.team, self.slots([*values]));
                // Queries and keys stand before the values, so their heads are the first.
                rotary(team, values, stride, (2 * heads, *head_size), positions, table);
            }
            Step::Attention { qkv, attention: step, output } => {
                let width = step.heads * step.head_size;
                let (spec, bias, spans) = (spec(step), bias(self.model, step), self.spans);
                let (team, [qkv, output]) = (self.team, self.slots([*qkv, *output]));
                let part = |index: usize| Heads { values: qkv, stride: 3 * width, offset: index * width };
                attention(team, [part(0), part(1), part(2)], spans, &spec, bias, output);
            }
            Step::Probe { query, kv, attention: step, output } => self.probe(*query, *kv, step, *output),
            Step::Pool { input, spec, skip, output } => {
                self.ranges.clear();
                let first = self.tokens.start;
                self.ranges.extend(self.sequences.iter().map(|sequence| {
                    let start = sequence.tokens.start - first;
                    (start + skip).min(start + sequence.real)..start + sequence.real
                }));
                let (columns, n) = (&self.batch.columns[self.tokens.clone()], self.columns(*input));
                let ranges = std::mem::take(self.ranges);
                let (team, [input, output]) = (self.team, self.slots([*input, *output]));
                pool(team, input, n, &ranges, columns, spec, output);
                *self.ranges = ranges;
            }
            Step::Take { input, taken, output } => self.take(*input, *taken, *output),
            Step::Normalize { values } => {
                let n = self.columns(*values);
                let (team, [values]) = (self.team, self.slots([*values]));
                normalize(team, values, n);
            }
        }
    }

    /// The rows of different buffers.
    fn slots<const N: usize>(&mut self, ids: [BufferId; N]) -> [&mut [f32]; N] {
        let slots = self.slots.get_disjoint_mut(ids.map(|id| id.0)).expect("a plan never reads and writes the same buffer");
        slots.map(|slot| &mut **slot)
    }

    fn columns(&self, buffer: BufferId) -> usize {
        self.model.plan.buffers[buffer.0].columns
    }

    fn vector(&self, id: VectorId) -> &'a [f32] {
        &self.model.vectors[id.0]
    }

    fn embed(&mut self, words: TableId, positions: Option<TableId>, types: Option<TableId>, output: BufferId) {
        let (model, batch, tokens) = (self.model, self.batch, self.tokens.clone());
        let lookup = |table: TableId, ids| {
            let table = &model.tables[table.0];
            Lookup { bytes: table.as_bytes(), dtype: table.dtype(), ids }
        };
        let mut lookups = [lookup(words, Ids::Each(&batch.ids[tokens.clone()])); 3];
        let mut count = 1;
        if let Some(positions) = positions {
            lookups[count] = lookup(positions, Ids::Each(&batch.positions[tokens.clone()]));
            count += 1;
        }
        if let Some(types) = types {
            let ids = if batch.types.is_empty() { Ids::All(0) } else { Ids::Each(&batch.types[tokens]) };
            lookups[count] = lookup(types, ids);
            count += 1;
        }
        let n = self.columns(output);
        let (team, [output]) = (self.team, self.slots([output]));
        embed(team, &lookups[..count], n, output);
    }

    /// Reads every pixel once from the received message, in the order of the convolution's weights.
    fn patches(&mut self, output: BufferId) {
        let Input::Images(spec) = &self.model.plan.input else { unreachable!("plans over texts have no patches") };
        let (images, columns) = (&self.batch.images[self.items.clone()], self.columns(output));
        let ((patch_height, patch_width), across) = (spec.patch, spec.width / spec.patch.1);
        let [output] = self.slots([output]);
        for (image, patches) in images.iter().zip(output.chunks_exact_mut(spec.patches() * columns)) {
            let pixels = image.as_chunks::<4>().0;
            for (patch, to) in patches.chunks_exact_mut(columns).enumerate() {
                let (top, left) = (patch / across * patch_height, patch % across * patch_width);
                for (line, to) in to.chunks_exact_mut(patch_width).enumerate() {
                    let (channel, y) = (line / patch_height, top + line % patch_height);
                    let from = (channel * spec.height + y) * spec.width + left;
                    for (to, from) in to.iter_mut().zip(&pixels[from..from + patch_width]) {
                        *to = f32::from_le_bytes(*from);
                    }
                }
            }
        }
    }

    fn assemble(&mut self, patches: BufferId, first: Option<VectorId>, positions: VectorId, output: BufferId) {
        let first = first.map_or(&[][..], |first| self.vector(first));
        let positions = self.vector(positions);
        let [patches, output] = self.slots([patches, output]);
        let of_patches = positions.len() - first.len();
        if of_patches == 0 {
            return;
        }
        for (patches, output) in patches.chunks_exact(of_patches).zip(output.chunks_exact_mut(positions.len())) {
            for ((to, from), position) in output.iter_mut().zip(first.iter().chain(patches)).zip(positions) {
                *to = from + position;
            }
        }
    }

    fn linear(&mut self, step: &Step) {
        let Step::Linear { input, weight, bias, activation, residual, output } = step else {
            unreachable!("called for linear steps alone")
        };
        let (team, weight) = (self.team, &self.model.matrices[weight.0]);
        let bias = bias.map(|bias| self.vector(bias));
        let multiply = |input: &[f32], residual: Residual<'_>, output: &mut [f32]| {
            matmul(team, input, weight, &Epilogue { bias, activation: *activation, residual }, output);
        };
        match residual {
            Some(residual) if residual != output => {
                let [input, residual, output] = self.slots([*input, *residual, *output]);
                multiply(input, Residual::Add(residual), output);
            }
            accumulated => {
                let residual = if accumulated.is_some() { Residual::Accumulate } else { Residual::None };
                let [input, output] = self.slots([*input, *output]);
                multiply(input, residual, output);
            }
        }
    }

    fn probe(&mut self, query: VectorId, kv: BufferId, step: &AttentionStep, output: BufferId) {
        let width = step.heads * step.head_size;
        let (spec, query) = (spec(step), self.vector(query));
        let (team, sequences) = (self.team, self.spans);
        let [kv, output] = self.slots([kv, output]);
        for (span, output) in sequences.iter().zip(output.chunks_exact_mut(width)) {
            let spans = [Span { queries: 0..1, keys: span.keys.clone() }];
            let query = Heads { values: query, stride: width, offset: 0 };
            let part = |index: usize| Heads { values: kv, stride: 2 * width, offset: index * width };
            attention(team, [query, part(0), part(1)], &spans, &spec, Bias::None, output);
        }
    }

    fn take(&mut self, input: BufferId, taken: Taken, output: BufferId) {
        let (n, first) = (self.columns(input), self.tokens.start);
        let (sequences, ids) = (self.sequences, &self.batch.ids);
        let [input, output] = self.slots([input, output]);
        for (sequence, output) in sequences.iter().zip(output.chunks_exact_mut(n)) {
            let tokens = sequence.tokens.start..sequence.tokens.start + sequence.real;
            let token = taken.of(sequence.real, || &ids[tokens.clone()]);
            let from = (sequence.tokens.start - first + token) * n;
            output.copy_from_slice(&input[from..from + n]);
        }
    }
}

/// The kernel's view of an attention step.
pub(super) fn spec(step: &AttentionStep) -> attention::Spec {
    let AttentionStep { heads, head_size, scale, causal, window, .. } = *step;
    attention::Spec { heads, head_size, scale, causal, window }
}

/// The position bias of an attention step.
pub(super) fn bias<'m>(model: &'m CpuModel, step: &AttentionStep) -> Bias<'m> {
    step.bias.map_or(Bias::None, |bias| model.biases[bias.0].as_bias())
}
