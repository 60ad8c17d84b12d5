//! Putting a plan together.

use kernels::activation::Activation;

use super::recipe::{MatrixPart, read_matrix, read_vector};
use super::{
    Axis, BiasId, BiasRecipe, BufferId, BufferSpec, Input, MatrixId, MatrixRecipe, NormStep, OutputSpec, Plan, Recipes, RotaryId,
    RotaryRecipe, Step, TableId, TableRecipe, VectorId, VectorRecipe,
};

/// A plan in the making.
pub(crate) struct PlanBuilder {
    steps: Vec<Step>,
    buffers: Vec<BufferSpec>,
    outputs: Vec<OutputSpec>,
    recipes: Recipes,
    input: Input,
}

/// A linear layer: its matrix and its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinearIds {
    pub(crate) weight: MatrixId,
    pub(crate) bias: Option<VectorId>,
}

impl PlanBuilder {
    pub(crate) fn new(input: Input) -> Self {
        PlanBuilder { steps: Vec::new(), buffers: Vec::new(), outputs: Vec::new(), recipes: Recipes::default(), input }
    }

    /// An intermediate buffer.
    pub(crate) fn buffer(&mut self, axis: Axis, columns: usize) -> BufferId {
        self.buffers.push(BufferSpec { axis, columns, output: None });
        BufferId(self.buffers.len() - 1)
    }

    /// The axis of a buffer.
    pub(crate) fn axis(&self, buffer: BufferId) -> Axis {
        self.buffers[buffer.0].axis
    }

    /// The columns of a buffer.
    pub(crate) fn columns(&self, buffer: BufferId) -> usize {
        self.buffers[buffer.0].columns
    }

    /// Makes `buffer` an output of the plan. What was written to it last is what the caller gets.
    pub(crate) fn output(&mut self, name: &str, buffer: BufferId) {
        let spec = &mut self.buffers[buffer.0];
        spec.output = Some(self.outputs.len());
        self.outputs.push(OutputSpec { name: name.to_owned(), axis: spec.axis, columns: spec.columns });
    }

    pub(crate) fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// A matrix of which `parts` are the rows.
    pub(crate) fn matrix(&mut self, parts: Vec<MatrixPart>, inputs: usize) -> MatrixId {
        let outputs = parts.iter().map(|part| part.rows).sum();
        let name = first_name(&parts);
        self.computed_matrix(MatrixRecipe {
            name,
            outputs,
            inputs,
            exact: false,
            read: Box::new(move |weights| read_matrix(weights, &parts, inputs)),
        })
    }

    /// A matrix made in any other way.
    pub(crate) fn computed_matrix(&mut self, recipe: MatrixRecipe) -> MatrixId {
        self.recipes.matrices.push(recipe);
        MatrixId(self.recipes.matrices.len() - 1)
    }

    /// The tensor `name` of shape `shape`, read as one vector.
    pub(crate) fn vector(&mut self, name: &str, shape: &[usize]) -> VectorId {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        let len = shape.iter().product();
        self.computed_vector(VectorRecipe {
            name: name.clone(),
            len,
            read: Box::new(move |weights| weights.floats(&name, &shape)),
        })
    }

    /// A vector made in any other way.
    pub(crate) fn computed_vector(&mut self, recipe: VectorRecipe) -> VectorId {
        self.recipes.vectors.push(recipe);
        VectorId(self.recipes.vectors.len() - 1)
    }

    /// A lookup table `[rows, columns]`.
    pub(crate) fn table(&mut self, tensor: &str, rows: usize, columns: usize) -> TableId {
        self.recipes.tables.push(TableRecipe { tensor: tensor.to_owned(), rows, columns });
        TableId(self.recipes.tables.len() - 1)
    }

    /// A table of angles; layers with the same angles share it.
    pub(crate) fn rotary(&mut self, recipe: RotaryRecipe) -> RotaryId {
        let known = self.recipes.rotaries.iter().position(|other| *other == recipe);
        RotaryId(known.unwrap_or_else(|| {
            self.recipes.rotaries.push(recipe);
            self.recipes.rotaries.len() - 1
        }))
    }

    /// A position bias.
    pub(crate) fn bias(&mut self, recipe: BiasRecipe) -> BiasId {
        self.recipes.biases.push(recipe);
        BiasId(self.recipes.biases.len() - 1)
    }

    /// A linear layer of the tensors `{part.name}.weight` and, with `bias`, `{part.name}.bias`, joined in this order.
    pub(crate) fn linear(&mut self, parts: &[MatrixPart], inputs: usize, bias: bool) -> LinearIds {
        let outputs = parts.iter().map(|part| part.rows).sum();
        let weights = parts.iter().map(|part| part.suffixed("weight")).collect();
        let biases: Vec<MatrixPart> = parts.iter().map(|part| part.suffixed("bias")).collect();
        LinearIds {
            weight: self.matrix(weights, inputs),
            bias: bias.then(|| {
                self.computed_vector(VectorRecipe {
                    name: first_name(&biases),
                    len: outputs,
                    read: Box::new(move |weights| read_vector(weights, &biases)),
                })
            }),
        }
    }

    /// A linear layer of a head: always multiplied in f32.
    pub(crate) fn exact_linear(&mut self, name: &str, (outputs, inputs): (usize, usize), bias: bool) -> LinearIds {
        let ids = self.linear(&[MatrixPart::rows(name, outputs)], inputs, bias);
        self.recipes.matrices[ids.weight.0].exact = true;
        ids
    }

    /// Layer normalization with `{name}.weight` and, with `bias`, `{name}.bias`.
    pub(crate) fn norm(&mut self, name: &str, size: usize, eps: f64, bias: bool) -> NormStep {
        let read = |kind: usize| -> VectorRecipe {
            let name = name.to_owned();
            VectorRecipe { name: name.clone(), len: size, read: Box::new(move |weights| weights.norm(&name, kind, size)) }
        };
        let (weight, shift) = (read(0), bias.then(|| read(1)));
        NormStep { weight: self.computed_vector(weight), bias: shift.map(|shift| self.computed_vector(shift)), eps: eps as f32 }
    }

    /// The step of a linear layer without residual.
    pub(crate) fn apply(&mut self, linear: LinearIds, activation: Activation, input: BufferId, output: BufferId) {
        self.step(Step::Linear { input, weight: linear.weight, bias: linear.bias, activation, residual: None, output });
    }

    /// As [`PlanBuilder::apply`], with a new buffer of the input's axis for the result.
    pub(crate) fn applied(&mut self, linear: LinearIds, activation: Activation, input: BufferId) -> BufferId {
        let columns = self.recipes.matrices[linear.weight.0].outputs;
        let output = self.buffer(self.axis(input), columns);
        self.apply(linear, activation, input, output);
        output
    }

    /// A normalization step into a new buffer.
    pub(crate) fn normed(&mut self, norm: NormStep, input: BufferId) -> BufferId {
        let output = self.buffer(self.axis(input), self.columns(input));
        self.step(Step::Norm { input, norm, output });
        output
    }

    /// The finished plan.
    pub(crate) fn build(self) -> Plan {
        Plan { steps: self.steps, buffers: self.buffers, outputs: self.outputs, recipes: self.recipes, input: self.input }
    }
}

fn first_name(parts: &[MatrixPart]) -> String {
    parts.first().map_or_else(String::new, |part| part.name.clone())
}
