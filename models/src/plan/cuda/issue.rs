//! The launches of a batch: every action with its addresses.

use kernels::activation::cuda::activate;
use kernels::attention::Spec;
use kernels::attention::cuda::{DeviceBias, DeviceHeads, DeviceSpans, attention};
use kernels::cuda::{DeviceError, DeviceType, Event, Stream, View};
use kernels::embed::cuda::{DeviceIds, DeviceLookup, embed};
use kernels::gate::cuda::gate;
use kernels::matmul::cuda::{DeviceEpilogue, DeviceMatrix, Multiplier};
use kernels::norm::cuda::{DeviceNorm, norm};
use kernels::patches::PatchSpec;
use kernels::patches::cuda::{assemble, patches};
use kernels::pool::cuda::{normalize, pool};
use kernels::rotary::cuda::{DeviceRotary, rotary};
use kernels::rows::cuda::{convert, gather};

use super::bucket::Bucket;
use super::layout::Layout;
use super::model::{BiasPlace, CudaModel, shelf_view};
use super::place::Placement;
use super::program::{Action, SectionId, Stored, ValueId};
use super::residency::Resident;
use crate::plan::{AttentionStep, Input, NormStep, TableId, VectorId};

/// Where a lane's memory begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Regions {
    pub(super) inputs: u64,
    pub(super) outputs: u64,
    pub(super) activations: u64,
}

/// Everything that the launches of a bucket depend on.
pub(super) struct Launches<'a> {
    pub(super) stream: &'a Stream,
    pub(super) model: &'a CudaModel,
    pub(super) weights: &'a Resident,
    pub(super) regions: Regions,
    pub(super) placement: &'a Placement,
    pub(super) bucket: &'a Bucket,
    pub(super) layout: &'a Layout,
}

impl Launches<'_> {
    /// Enqueues all of them, in order.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn enqueue(&self, multiplier: &mut Multiplier) -> Result<(), DeviceError> {
        self.model.program.actions.iter().try_for_each(|action| self.action(action, multiplier))
    }

    /// As [`enqueue`](Self::enqueue), with the first of `marks` recorded before the first launch, and another behind each.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn marked(&self, multiplier: &mut Multiplier, marks: &[Event]) -> Result<(), DeviceError> {
        let (first, behind) = marks.split_first().expect("there is a mark before the first launch");
        first.record(self.stream)?;
        self.model.program.actions.iter().zip(behind).try_for_each(|(action, mark)| {
            self.action(action, multiplier)?;
            mark.record(self.stream)
        })
    }

    /// What a profile calls the launches, in order; products by their sizes.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.model.program.actions.iter().map(|action| match action {
            Action::Multiply { weight, .. } => {
                let recipe = &self.model.plan.recipes.matrices[weight.0];
                format!("multiply {} to {}", recipe.inputs, recipe.outputs)
            }
            other => other.name().to_owned(),
        })
    }

    fn action(&self, action: &Action, multiplier: &mut Multiplier) -> Result<(), DeviceError> {
        let stream = self.stream;
        match action {
            Action::Embed { .. } => self.embed(action),
            Action::Multiply { .. } => self.multiply(action, multiplier),
            Action::Patches { pixels, output } => {
                patches(stream, self.section(*pixels, Stored::F32), &self.patch_spec(), self.value(*output))
            }
            Action::Assemble { patches, first, positions, output } => {
                let (first, positions) = (first.map(|first| self.exact(first)), self.exact(*positions));
                let (n, items) = (self.columns(*output), self.bucket.items);
                assemble(stream, self.value(*patches), first, positions, n, items, self.value(*output))
            }
            Action::Norm { input, residual, norm: step, output } => {
                let residual = residual.map(|residual| self.value(residual));
                norm(stream, self.value(*input), residual, &self.norm(*step), None, self.value(*output))
            }
            Action::Activate { values, activation } => activate(stream, self.value(*values), None, *activation),
            Action::Gate { input, activation, output } => {
                gate(stream, self.value(*input), self.columns(*output), *activation, self.value(*output))
            }
            Action::Rotary { values, positions, heads, head_size, table } => {
                let [cos, sin] = self.model.shelf.rotaries[table.0].each_ref();
                let recipe = &self.model.plan.recipes.rotaries[table.0];
                let table = DeviceRotary {
                    cos: shelf_view(self.weights, cos, Stored::F32),
                    sin: shelf_view(self.weights, sin, Stored::F32),
                    dims: recipe.dims,
                    pairs: recipe.pairs,
                };
                let (stride, positions) = (self.columns(*values), self.section(*positions, Stored::U32));
                // Queries and keys stand before the values, so their heads are the first.
                rotary(stream, self.value(*values), stride, (2 * heads, *head_size), positions, &table)
            }
            Action::Attention { qkv, spans, attention: step, output } => {
                let width = step.heads * step.head_size;
                let values = self.value(*qkv);
                let part = |index: usize| DeviceHeads { values, stride: 3 * width, offset: index * width };
                let spans = self.spans(*spans, self.bucket.spans(), self.bucket.longest);
                attention(stream, [part(0), part(1), part(2)], &spans, &spec(step), self.bias(step), self.value(*output))
            }
            Action::Probe { query, kv, spans, attention: step, output } => {
                let width = step.heads * step.head_size;
                let values = self.value(*kv);
                // The same query for every item.
                let query = DeviceHeads { values: self.vector(*query, values.dtype), stride: 0, offset: 0 };
                let part = |index: usize| DeviceHeads { values, stride: 2 * width, offset: index * width };
                let spans = self.spans(*spans, self.bucket.items, 1);
                attention(stream, [query, part(0), part(1)], &spans, &spec(step), DeviceBias::None, self.value(*output))
            }
            Action::Pool { input, spec, ranges, columns, output } => {
                let (ranges, columns) = (self.section(*ranges, Stored::U32), self.section(*columns, Stored::U32));
                let n = self.columns(*input);
                pool(stream, self.value(*input), n, ranges, self.bucket.items, columns, spec, self.value(*output))
            }
            Action::Gather { input, rows, output } => {
                let rows = self.section(*rows, Stored::U32);
                gather(stream, self.value(*input), self.columns(*input), rows, self.value(*output))
            }
            Action::Normalize { values } => normalize(stream, self.value(*values), self.columns(*values)),
            Action::Convert { input, output } => convert(stream, self.value(*input), self.value(*output)),
        }
    }

    fn embed(&self, action: &Action) -> Result<(), DeviceError> {
        let Action::Embed { ids, words, positions, types, norm, output } = action else {
            unreachable!("called for lookups alone")
        };
        let lookup = |section: SectionId, table: TableId| {
            let (range, stored) = &self.model.shelf.tables[table.0];
            let ids = DeviceIds::Each(self.section(section, Stored::U32));
            DeviceLookup { table: shelf_view(self.weights, range, *stored), ids }
        };
        let mut lookups = [lookup(*ids, *words); 3];
        let mut count = 1;
        for (section, table) in positions.iter().chain(types) {
            lookups[count] = lookup(*section, *table);
            count += 1;
        }
        let norm = norm.map(|norm| self.norm(norm));
        embed(self.stream, &lookups[..count], self.columns(*output), norm.as_ref(), self.value(*output))
    }

    fn multiply(&self, action: &Action, multiplier: &mut Multiplier) -> Result<(), DeviceError> {
        let Action::Multiply { input, weight, bias, activation, residual, output } = action else {
            unreachable!("called for products alone")
        };
        let recipe = &self.model.plan.recipes.matrices[weight.0];
        let stored = self.model.program.matrices[weight.0];
        let values = shelf_view(self.weights, &self.model.shelf.matrices[weight.0], stored);
        let matrix = DeviceMatrix { values, outputs: recipe.outputs, inputs: recipe.inputs };
        let rows = self.bucket.rows(self.model.program.values[output.0].axis);
        let output = self.value(*output);
        let epilogue = DeviceEpilogue {
            bias: bias.map(|bias| self.vector(bias, output.dtype)),
            activation: *activation,
            residual: residual.map(|residual| self.value(residual)),
        };
        multiplier.run(self.stream, self.value(*input), rows, &matrix, epilogue, output)
    }

    /// All rows of a value.
    fn value(&self, id: ValueId) -> View {
        let value = &self.model.program.values[id.0];
        let start = match value.output {
            Some(output) => self.regions.outputs + self.layout.outputs[output].start as u64,
            None => self.regions.activations + self.placement.offsets[id.0] as u64,
        };
        View { address: start, len: self.bucket.rows(value.axis) * value.columns, dtype: value.stored.into() }
    }

    fn columns(&self, id: ValueId) -> usize {
        self.model.program.values[id.0].columns
    }

    fn section(&self, id: SectionId, stored: Stored) -> View {
        let range = &self.layout.sections[id.0];
        View { address: self.regions.inputs + range.start as u64, len: range.len() / stored.bytes(), dtype: stored.into() }
    }

    /// A vector in f32.
    fn exact(&self, id: VectorId) -> View {
        let range = self.model.shelf.exact[id.0].as_ref().expect("the program says which vectors are wanted in f32");
        shelf_view(self.weights, range, Stored::F32)
    }

    /// A vector in f32 or the type of activations.
    fn vector(&self, id: VectorId, dtype: DeviceType) -> View {
        if dtype == DeviceType::F32 {
            return self.exact(id);
        }
        let range = self.model.shelf.working[id.0].as_ref().expect("the program says which vectors are wanted in its type");
        shelf_view(self.weights, range, self.model.program.working)
    }

    fn norm(&self, step: NormStep) -> DeviceNorm {
        DeviceNorm { weight: self.exact(step.weight), bias: step.bias.map(|bias| self.exact(bias)), eps: step.eps }
    }

    fn spans(&self, section: SectionId, count: usize, longest_queries: usize) -> DeviceSpans {
        DeviceSpans { spans: self.section(section, Stored::U32), count, longest_queries, longest_keys: self.bucket.longest }
    }

    fn bias(&self, step: &AttentionStep) -> DeviceBias {
        let Some(bias) = step.bias else { return DeviceBias::None };
        let stored = self.model.program.biases[bias.0];
        match &self.model.biases[bias.0] {
            BiasPlace::Distance { table, reach } => {
                DeviceBias::Distance { table: shelf_view(self.weights, table, Stored::F32), reach: *reach }
            }
            BiasPlace::Disentangled { keys, queries, rows } => {
                let vectors = |range: &std::ops::Range<usize>| shelf_view(self.weights, range, stored);
                DeviceBias::Disentangled {
                    keys: keys.as_ref().map(vectors),
                    queries: queries.as_ref().map(vectors),
                    rows: shelf_view(self.weights, rows, Stored::U32),
                }
            }
        }
    }

    fn patch_spec(&self) -> PatchSpec {
        let Input::Images(image) = self.model.plan.input() else { unreachable!("plans over texts have no patches") };
        let (height, width) = image.covered();
        PatchSpec { channels: image.channels, height, width, patch: image.patch }
    }
}

/// The kernel's view of an attention step.
fn spec(step: &AttentionStep) -> Spec {
    let AttentionStep { heads, head_size, scale, causal, window, .. } = *step;
    Spec { heads, head_size, scale, causal, window }
}
