//! The tensors that the server fills in: what a model is told about a row, and what is kept for it. Pure.

use std::sync::Arc;

use crate::config::{FalseTrue, ModelConfig, SequenceBatching, Signal};
use crate::request::{InferResponse, Parameters, RequestOptions, ValidRequest};
use crate::tensor::{DataType, Shape, Tensor};

use super::super::validate::correlation_id;

/// What is kept for a sequence between its requests: its states, in the order of the configuration. Empty before the
/// first request, when they have their first values.
pub(super) type Memory = Vec<Tensor>;

/// The control and state tensors of a model.
#[derive(Debug)]
pub(super) struct Tensors {
    /// A tensor of one row has the sizes of one row, or these behind a batch dimension of one.
    one: Shape,
    inputs: usize,
    outputs: usize,
    flags: Vec<Flag>,
    id: Option<(usize, DataType)>,
    states: Vec<StateTensor>,
    first: Memory,
    /// States may differ in shape from sequence to sequence.
    are_variable: bool,
}

#[derive(Debug)]
struct Flag {
    input: usize,
    says: Says,
    no: Tensor,
    yes: Tensor,
}

#[derive(Clone, Copy, Debug)]
enum Says {
    Start,
    Ready,
    End,
}

#[derive(Debug)]
struct StateTensor {
    input: usize,
    output: usize,
    output_name: Arc<str>,
}

impl Tensors {
    /// The tensors that the configuration asks for; `None` where a first value is not of its state's shape, which
    /// loading does not let happen.
    pub(super) fn new(config: &ModelConfig, sequence: &SequenceBatching) -> Option<Self> {
        let batching = config.max_batch_rows.is_some();
        let one = Shape::new(if batching { vec![1, 1] } else { vec![1] });
        let (mut flags, mut id) = (Vec::new(), None);
        for control in &sequence.controls {
            let (says, values) = match &control.signal {
                Signal::Start(values) => (Says::Start, values),
                Signal::Ready(values) => (Says::Ready, values),
                Signal::End(values) => (Says::End, values),
                Signal::CorrelationId(datatype) => {
                    id = Some((control.input, *datatype));
                    continue;
                }
            };
            let FalseTrue { datatype, values: [no, yes] } = values;
            let tensor = |bytes: &bytes::Bytes| Tensor::new(*datatype, one.clone(), bytes.clone());
            flags.push(Flag { input: control.input, says, no: tensor(no)?, yes: tensor(yes)? });
        }
        let (mut states, mut first) = (Vec::new(), Vec::new());
        let mut are_variable = false;
        for state in &sequence.states {
            let (input, output) = (config.inputs.get(state.input)?, config.outputs.get(state.output)?);
            first.push(state.first(input.datatype, batching)?);
            are_variable |= !input.dims.is_fixed();
            states.push(StateTensor { input: state.input, output: state.output, output_name: Arc::clone(&output.name) });
        }
        let (inputs, outputs) = (config.inputs.len(), config.outputs.len());
        Some(Self { one, inputs, outputs, flags, id, states, first, are_variable })
    }

    /// Whether two requests can share a batch, with what is kept for their sequences.
    pub(super) fn are_alike(&self, a: (&ValidRequest, &Memory), b: (&ValidRequest, &Memory)) -> bool {
        a.0.batch_key == b.0.batch_key
            && (!self.are_variable
                || self.current(a.0, a.1).iter().map(Tensor::shape).eq(self.current(b.0, b.1).iter().map(Tensor::shape)))
    }

    fn current<'a>(&'a self, request: &ValidRequest, memory: &'a Memory) -> &'a Memory {
        if request.options.sequence_start || memory.is_empty() { &self.first } else { memory }
    }

    /// Fills in a request that is the next of its sequence. With the first of a sequence, its states begin anew.
    pub(super) fn fill(&self, request: &mut ValidRequest, memory: &mut Memory) {
        if request.options.sequence_start || memory.is_empty() {
            memory.clone_from(&self.first);
        }
        let options = &request.options;
        for flag in &self.flags {
            let is_true = match flag.says {
                Says::Start => options.sequence_start,
                Says::Ready => true,
                Says::End => options.sequence_end,
            };
            request.inputs[flag.input] = Some(if is_true { flag.yes.clone() } else { flag.no.clone() });
        }
        if let Some((input, datatype)) = self.id {
            // Validation has made sure that the id fits.
            let id = correlation_id(&options.sequence_id, datatype);
            request.inputs[input] = id.and_then(|bytes| Tensor::new(datatype, self.one.clone(), bytes));
        }
        for (state, value) in self.states.iter().zip(memory.iter()) {
            request.inputs[state.input] = Some(value.clone());
            request.outputs[state.output] = true;
            if self.are_variable {
                request.batch_key.0.extend(value.shape().row_sizes());
            }
        }
    }

    /// What fills the rows of a batch that belong to no request: zeros in the shapes of `model`, a request of the batch.
    pub(super) fn padding(&self, model: &ValidRequest) -> ValidRequest {
        let zeros = |tensor: &Tensor| {
            // Contents as large as those of a request that is here; where not even zeros can be had, any will do.
            Tensor::zeros(tensor.datatype(), tensor.shape().clone()).unwrap_or_else(|| tensor.clone())
        };
        let mut inputs: Vec<Option<Tensor>> = model.inputs.iter().map(|input| input.as_ref().map(zeros)).collect();
        inputs.resize(self.inputs, None);
        for flag in &self.flags {
            inputs[flag.input] = Some(flag.no.clone());
        }
        ValidRequest {
            id: String::new(),
            options: RequestOptions::default(),
            parameters: Parameters::new(),
            inputs,
            outputs: vec![false; self.outputs],
            rows: 1,
            batch_key: model.batch_key.clone(),
            cost: 1,
            received_at: model.received_at,
            deadline: None,
            timeline: None,
        }
    }

    /// Takes the states out of a response, before it leaves; each with its number.
    pub(super) fn take_states(&self, response: &mut InferResponse) -> Vec<(usize, Tensor)> {
        let mut taken = Vec::new();
        for (number, state) in self.states.iter().enumerate() {
            let found = response.outputs.iter().position(|output| output.name == state.output_name);
            if let Some(index) = found {
                taken.push((number, own(response.outputs.remove(index).tensor)));
            }
        }
        taken
    }
}

/// The same contents in memory of their own: a slice of a batch's output would keep the whole of it.
fn own(tensor: Tensor) -> Tensor {
    let bytes = bytes::Bytes::copy_from_slice(tensor.bytes());
    Tensor::new(tensor.datatype(), tensor.shape().clone(), bytes).unwrap_or(tensor)
}
