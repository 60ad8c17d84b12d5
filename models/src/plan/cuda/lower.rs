//! From the steps of a plan to launches: which are joined, and what every value is stored in.
//!
//! | steps | launches |
//! |---|---|
//! | lookup, then normalization | one |
//! | product with a residual of its own buffer, then normalization | the product; the sum with its normalization |
//! | product added to the stream in place | one: the library adds, which moves fewer bytes than a sum of our own |
//! | product with an activation that the library has (none, ReLU, GELU by tanh) | one |
//! | product with another activation | the product; the activation in place |
//!
//! Activations of tokens and patches are stored in the model's precision; rows per item, everything behind an exact matrix
//! and outputs are f32. So are products whose rows are no multiple of eight numbers, which tensor cores do not take; no published
//! model has many of them. A value that a product or an output needs in another type is converted by a launch of its own, which
//! happens once per batch at most in the models there are.

use kernels::activation::Activation;

use super::Precision;
use super::program::{Action, Program, Section, SectionId, Stored, Value, ValueId, VectorUse};
use crate::plan::{Axis, BufferId, MatrixId, NormStep, Plan, Step, VectorId};

/// Numbers of 16 bits that rows of a product of tensor cores are made of.
const PACK: usize = 8;

/// Whether the library computes the activation exactly, as part of a product.
pub(crate) fn is_fused(activation: Activation) -> bool {
    matches!(activation, Activation::Identity | Activation::Relu | Activation::GeluTanh)
}

/// The launches of a plan in a precision.
pub(crate) fn lower(plan: &Plan, precision: Precision) -> Program {
    let mut lowering = Lowering {
        plan,
        current: vec![None; plan.buffers.len()],
        program: Program {
            sections: Vec::new(),
            values: Vec::new(),
            actions: Vec::new(),
            outputs: Vec::new(),
            matrices: vec![Stored::F32; plan.recipes.matrices.len()],
            vectors: vec![VectorUse::default(); plan.recipes.vectors.len()],
            biases: vec![precision.into(); plan.recipes.biases.len()],
            working: precision.into(),
        },
    };
    let mut index = 0;
    while index < plan.steps.len() {
        index += lowering.step(index);
    }
    lowering.finish()
}

struct Lowering<'p> {
    plan: &'p Plan,
    /// The value that stands for each buffer of the plan now.
    current: Vec<Option<ValueId>>,
    program: Program,
}

impl Lowering<'_> {
    /// Lowers the step `index` and those that it is joined with: how many they are.
    fn step(&mut self, index: usize) -> usize {
        match &self.plan.steps[index] {
            Step::Embed { .. } => return self.embed(index),
            Step::Linear { .. } => return self.linear(index),
            Step::Patches { output } => {
                let pixels = self.section(Section::Pixels);
                let output = self.write(*output, self.program.working);
                self.push(Action::Patches { pixels, output });
            }
            Step::Assemble { patches, first, positions, output } => {
                let (patches, first, positions) = (self.read(*patches), *first, *positions);
                for vector in first.into_iter().chain([positions]) {
                    self.program.vectors[vector.0].exact = true;
                }
                let output = self.write(*output, self.program.working);
                self.push(Action::Assemble { patches, first, positions, output });
            }
            Step::Norm { input, norm, output } => {
                let input = self.read(*input);
                self.norm(index, input, None, *norm, *output);
            }
            Step::Gate { input, activation, output } => {
                let input = self.read(*input);
                let output = self.write(*output, self.stored(input));
                self.push(Action::Gate { input, activation: *activation, output });
            }
            Step::Rotary { values, heads, head_size, table } => {
                let (values, positions) = (self.read(*values), self.section(Section::Positions));
                self.push(Action::Rotary { values, positions, heads: *heads, head_size: *head_size, table: *table });
            }
            Step::Attention { qkv, attention, output } => {
                let (qkv, spans) = (self.read(*qkv), self.section(Section::Spans));
                if let Some(bias) = attention.bias {
                    self.program.biases[bias.0] = self.stored(qkv);
                }
                let output = self.write(*output, self.stored(qkv));
                self.push(Action::Attention { qkv, spans, attention: *attention, output });
            }
            Step::Probe { query, kv, attention, output } => {
                let (kv, spans) = (self.read(*kv), self.section(Section::Probes));
                self.want_vector(*query, self.stored(kv));
                let columns = attention.heads * attention.head_size;
                let attended = self.value(Axis::Items, columns, self.stored(kv));
                self.push(Action::Probe { query: *query, kv, spans, attention: *attention, output: attended });
                let exact = self.converted(attended, Stored::F32);
                self.current[output.0] = Some(exact);
            }
            Step::Pool { input, spec, skip, output } => {
                let input = self.read(*input);
                let (ranges, columns) = (self.section(Section::Ranges { skip: *skip }), self.section(Section::Columns));
                let output = self.write(*output, Stored::F32);
                self.push(Action::Pool { input, spec: spec.clone(), ranges, columns, output });
            }
            Step::Take { input, taken, output } => {
                let (input, rows) = (self.read(*input), self.section(Section::Rows(*taken)));
                let output = self.write(*output, Stored::F32);
                self.push(Action::Gather { input, rows, output });
            }
            Step::Normalize { values } => {
                let read = self.read(*values);
                let exact = self.converted(read, Stored::F32);
                self.current[values.0] = Some(exact);
                self.push(Action::Normalize { values: exact });
            }
        }
        1
    }

    fn embed(&mut self, index: usize) -> usize {
        let Step::Embed { words, positions, types, output } = &self.plan.steps[index] else {
            unreachable!("called for lookups alone")
        };
        let ids = self.section(Section::Ids);
        let positions = positions.map(|table| (self.section(Section::Positions), table));
        let types = types.map(|table| (self.section(Section::Types), table));
        let (norm, written, steps) = match self.norm_behind(index, *output) {
            Some((norm, written)) => (Some(norm), written, 2),
            None => (None, *output, 1),
        };
        norm.iter().for_each(|norm| self.want_norm(*norm));
        let output = self.write(written, self.program.working);
        self.push(Action::Embed { ids, words: *words, positions, types, norm, output });
        steps
    }

    fn linear(&mut self, index: usize) -> usize {
        let Step::Linear { input, weight, bias, activation, residual, output } = &self.plan.steps[index] else {
            unreachable!("called for linear steps alone")
        };
        let read = self.read(*input);
        let axis = self.program.values[read.0].axis;
        let result = residual.is_none() && is_fused(*activation) && self.is_result(index, *output);
        let recipe = &self.plan.recipes.matrices[weight.0];
        let is_whole = |numbers: usize| numbers.is_multiple_of(PACK);
        let fits = is_whole(recipe.inputs) && (result || is_whole(recipe.outputs));
        let exact = recipe.exact || axis == Axis::Items || !fits;
        let inside = if exact { Stored::F32 } else { self.program.working };
        self.program.matrices[weight.0] = inside;
        let input = self.converted(read, inside);
        match residual {
            // Added in place: the stream of models that normalize first.
            Some(stream) if stream == output => {
                let stream = self.converted(self.read(*stream), inside);
                self.current[output.0] = Some(stream);
                self.multiply(input, *weight, *bias, *activation, Some(stream), stream);
            }
            Some(residual) => {
                let residual = self.read(*residual);
                if let Some((norm, normed)) = self.norm_behind(index, *output).filter(|_| self.stored(residual) == inside) {
                    let columns = self.plan.buffers[output.0].columns;
                    let product = self.value(axis, columns, inside);
                    self.multiply(input, *weight, *bias, *activation, None, product);
                    self.norm(index + 1, product, Some(residual), norm, normed);
                    return 2;
                }
                let residual = self.converted(residual, inside);
                let output = self.write(*output, inside);
                self.multiply(input, *weight, *bias, *activation, Some(residual), output);
            }
            None => {
                // The library writes f32 from numbers of 16 bits as well.
                let stored = if result { Stored::F32 } else { inside };
                let output = self.write(*output, stored);
                self.multiply(input, *weight, *bias, *activation, None, output);
            }
        }
        1
    }

    fn multiply(
        &mut self,
        input: ValueId,
        weight: MatrixId,
        bias: Option<VectorId>,
        activation: Activation,
        residual: Option<ValueId>,
        output: ValueId,
    ) {
        // The library applies its activation behind the residual, and the activation in place would follow it too.
        assert!(residual.is_none() || activation == Activation::Identity, "no family adds a residual behind an activation");
        bias.iter().for_each(|bias| self.want_vector(*bias, self.stored(output)));
        let fused = if is_fused(activation) { activation } else { Activation::Identity };
        self.push(Action::Multiply { input, weight, bias, activation: fused, residual, output });
        if fused != activation {
            self.push(Action::Activate { values: output, activation });
        }
    }

    fn norm(&mut self, index: usize, input: ValueId, residual: Option<ValueId>, norm: NormStep, output: BufferId) {
        self.want_norm(norm);
        let result = self.is_result(index, output);
        let stored = if result { Stored::F32 } else { self.stored(input) };
        let output = self.write(output, stored);
        self.push(Action::Norm { input, residual, norm, output });
    }

    /// The normalization that follows the step `index` and is the only one to read what it wrote to `buffer`.
    fn norm_behind(&self, index: usize, buffer: BufferId) -> Option<(NormStep, BufferId)> {
        match self.plan.steps.get(index + 1)? {
            Step::Norm { input, norm, output } if *input == buffer && !self.is_read(index + 1, buffer) => Some((*norm, *output)),
            _ => None,
        }
    }

    /// Whether what `buffer` holds after the step `index` is read by a later one, or is an output of the plan.
    fn is_read(&self, index: usize, buffer: BufferId) -> bool {
        for step in &self.plan.steps[index + 1..] {
            let (read, written) = uses(step);
            if read.contains(&Some(buffer)) {
                return true;
            }
            if written == buffer {
                return false;
            }
        }
        self.plan.buffers[buffer.0].output.is_some()
    }

    /// Whether what the step `index` writes to `buffer` is an output of the plan and nothing else.
    fn is_result(&self, index: usize, buffer: BufferId) -> bool {
        let later = self.plan.steps[index + 1..].iter().map(uses);
        let mut touched = later.filter(|(read, written)| read.contains(&Some(buffer)) || *written == buffer);
        self.plan.buffers[buffer.0].output.is_some() && touched.next().is_none()
    }

    fn stored(&self, value: ValueId) -> Stored {
        self.program.values[value.0].stored
    }

    fn want_norm(&mut self, norm: NormStep) {
        for vector in [Some(norm.weight), norm.bias].into_iter().flatten() {
            self.program.vectors[vector.0].exact = true;
        }
    }

    fn want_vector(&mut self, vector: VectorId, stored: Stored) {
        let wanted = &mut self.program.vectors[vector.0];
        if stored == Stored::F32 { wanted.exact = true } else { wanted.working = true }
    }

    fn section(&mut self, section: Section) -> SectionId {
        let known = self.program.sections.iter().position(|other| *other == section);
        SectionId(known.unwrap_or_else(|| {
            self.program.sections.push(section);
            self.program.sections.len() - 1
        }))
    }

    /// The value that a buffer holds.
    fn read(&self, buffer: BufferId) -> ValueId {
        self.current[buffer.0].expect("a plan reads what it has written")
    }

    /// A new value in a buffer.
    fn write(&mut self, buffer: BufferId, stored: Stored) -> ValueId {
        let spec = self.plan.buffers[buffer.0];
        let stored = if spec.axis == Axis::Items { Stored::F32 } else { stored };
        let value = self.value(spec.axis, spec.columns, stored);
        self.current[buffer.0] = Some(value);
        value
    }

    fn value(&mut self, axis: Axis, columns: usize, stored: Stored) -> ValueId {
        let first = self.program.actions.len();
        self.program.values.push(Value { axis, columns, stored, output: None, first, last: first });
        ValueId(self.program.values.len() - 1)
    }

    /// The same numbers in another type.
    fn converted(&mut self, value: ValueId, stored: Stored) -> ValueId {
        let Value { axis, columns, stored: now, .. } = self.program.values[value.0];
        if now == stored {
            return value;
        }
        let output = self.value(axis, columns, stored);
        self.push(Action::Convert { input: value, output });
        output
    }

    fn push(&mut self, action: Action) {
        let index = self.program.actions.len();
        for value in action.values() {
            self.program.values[value.0].last = index;
        }
        self.program.actions.push(action);
    }

    /// Outputs in f32.
    fn finish(mut self) -> Program {
        let buffers = (0..self.plan.buffers.len()).map(|index| (index, self.plan.buffers[index].output));
        let mut outputs: Vec<(usize, usize)> = buffers.filter_map(|(index, output)| Some((output?, index))).collect();
        outputs.sort_unstable();
        for (output, buffer) in outputs {
            let value = self.read(BufferId(buffer));
            let exact = self.converted(value, Stored::F32);
            self.program.values[exact.0].output = Some(output);
            self.program.outputs.push(exact);
        }
        self.program
    }
}

/// The buffers that a step reads, those that it changes in place among them; and the one that it writes.
fn uses(step: &Step) -> ([Option<BufferId>; 2], BufferId) {
    match step {
        Step::Embed { output, .. } | Step::Patches { output } => ([None; 2], *output),
        Step::Linear { input, residual, output, .. } => ([Some(*input), *residual], *output),
        Step::Rotary { values, .. } | Step::Normalize { values } => ([Some(*values), None], *values),
        Step::Assemble { patches: input, output, .. }
        | Step::Norm { input, output, .. }
        | Step::Gate { input, output, .. }
        | Step::Attention { qkv: input, output, .. }
        | Step::Probe { kv: input, output, .. }
        | Step::Pool { input, output, .. }
        | Step::Take { input, output, .. } => ([Some(*input), None], *output),
    }
}
