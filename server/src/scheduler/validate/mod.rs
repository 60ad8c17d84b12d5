//! Comparing a decoded request with its model: what comes out can be run.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)
)]

use std::collections::HashSet;

use bytes::Bytes;

use crate::config::{BackendKind, BatchCost, ModelConfig, Scheduling, SequenceBatching, SequenceStrategy, Signal};
use crate::error::{InferError, RequestProblem, RequestTag, SequenceFault, WireShape};
use crate::request::{BatchKey, InferRequest, InputTensor, SequenceId, ValidRequest};
use crate::tensor::{DataType, Dims, Shape, StringsFault, Tensor, TensorSpec, check_strings};

/// Said to clients whose shape does not fit a model that batches: the usual cause is a forgotten first dimension.
const BATCH_NOTE: &str = "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension \
    in front of the configured dims in every input shape; to let 'dims' describe the whole shape, set max_batch_size to 0.";

/// Checks a request against its model's configuration, in Triton's order: duplicates, outputs, number of
/// inputs, batch size, then each input's name, datatype, shape and contents, in request order.
///
/// # Errors
/// The first thing that is wrong, with the text that clients know.
pub fn validate(request: InferRequest, config: &ModelConfig) -> Result<ValidRequest, InferError> {
    let tag = RequestTag(request.id.clone());
    check(&request, config)
        .map_err(|fault| match fault {
            Fault::Request(problem) => InferError::Request { tag, problem },
            Fault::Plain(error) => error,
        })
        .map(|checked| ValidRequest {
            id: request.id,
            options: request.options,
            parameters: request.parameters,
            batch_key: batch_key(config, &checked.inputs),
            cost: batch_cost(config).of(checked.rows, &checked.inputs),
            inputs: checked.inputs,
            outputs: checked.outputs,
            rows: checked.rows,
            received_at: request.received_at,
            deadline: request.deadline,
            timeline: request.timeline,
        })
}

/// What checking finds out.
struct Checked {
    inputs: Vec<Option<Tensor>>,
    outputs: Vec<bool>,
    rows: usize,
}

/// A fault whose text names the request, or one whose text does not.
enum Fault {
    Request(RequestProblem),
    Plain(InferError),
}

impl From<RequestProblem> for Fault {
    fn from(problem: RequestProblem) -> Self {
        Self::Request(problem)
    }
}

impl From<InferError> for Fault {
    fn from(error: InferError) -> Self {
        Self::Plain(error)
    }
}

fn check(request: &InferRequest, config: &ModelConfig) -> Result<Checked, Fault> {
    refuse_duplicates(request)?;
    let outputs = requested_outputs(request, config)?;
    check_input_count(request, config)?;
    let rows = batch_rows(request, config)?;
    let mut inputs = vec![None; config.inputs.len()];
    for input in &request.inputs {
        let found = config.input_index(&input.name).and_then(|index| Some((config.inputs.get(index)?, inputs.get_mut(index)?)));
        let Some((spec, slot)) = found.filter(|(spec, _)| spec.is_for_clients()) else {
            return Err(InferError::UnexpectedInput { input: input.name.clone(), model: config.name.to_string() }.into());
        };
        *slot = Some(check_input(config, spec, input)?);
    }
    let is_needed = |spec: &TensorSpec| spec.is_for_clients() && !spec.optional;
    if config.inputs.iter().zip(&inputs).any(|(spec, input)| input.is_none() && is_needed(spec)) {
        return Err(missing_inputs(request, config).into());
    }
    if let Scheduling::Sequence(sequence) = &config.scheduling {
        check_sequence(sequence, &request.options.sequence_id, rows, config).map_err(InferError::from)?;
    }
    Ok(Checked { inputs, outputs, rows })
}

/// Longest name of a sequence, in bytes: Triton's. Names are kept as long as their sequences.
const MAX_ID_BYTES: usize = 128;

/// What every request of a sequence must be; whether it comes in turn is for the scheduler to say.
fn check_sequence(sequence: &SequenceBatching, id: &SequenceId, rows: usize, config: &ModelConfig) -> Result<(), SequenceFault> {
    let model = || config.name.to_string();
    if rows != 1 {
        return Err(SequenceFault::BatchSize { model: model() });
    }
    match id {
        SequenceId::None => return Err(SequenceFault::NoId { model: model() }),
        SequenceId::Text(text) if text.len() > MAX_ID_BYTES => {
            return Err(SequenceFault::IdTooLong { model: model(), limit: MAX_ID_BYTES, got: text.len() });
        }
        SequenceId::Number(_) | SequenceId::Text(_) => {}
    }
    for control in &sequence.controls {
        if let Signal::CorrelationId(datatype) = control.signal
            && correlation_id(id, datatype).is_none()
        {
            return Err(SequenceFault::IdUnfit { model: model(), id: id.to_string(), datatype });
        }
    }
    Ok(())
}

/// A sequence's id as an element of this datatype; `None` where it does not fit.
pub(super) fn correlation_id(id: &SequenceId, datatype: DataType) -> Option<Bytes> {
    if datatype == DataType::Bytes {
        let text = id.to_string();
        let length = u32::try_from(text.len()).ok()?.to_le_bytes();
        return Some([&length, text.as_bytes()].concat().into());
    }
    let SequenceId::Number(number) = *id else {
        return None;
    };
    Some(match datatype {
        DataType::Uint64 => Bytes::copy_from_slice(&number.to_le_bytes()),
        DataType::Int64 => Bytes::copy_from_slice(&i64::try_from(number).ok()?.to_le_bytes()),
        DataType::Uint32 => Bytes::copy_from_slice(&u32::try_from(number).ok()?.to_le_bytes()),
        DataType::Int32 => Bytes::copy_from_slice(&i32::try_from(number).ok()?.to_le_bytes()),
        _ => return None,
    })
}

fn refuse_duplicates(request: &InferRequest) -> Result<(), RequestProblem> {
    let mut names = HashSet::new();
    if let Some(input) = request.inputs.iter().find(|input| !names.insert(input.name.as_str())) {
        return Err(RequestProblem::DuplicateInput { input: input.name.clone() });
    }
    names.clear();
    match request.outputs.iter().find(|output| !names.insert(output.as_str())) {
        Some(output) => Err(RequestProblem::DuplicateOutput { output: output.clone() }),
        None => Ok(()),
    }
}

fn requested_outputs(request: &InferRequest, config: &ModelConfig) -> Result<Vec<bool>, InferError> {
    let is_all = request.outputs.is_empty();
    let mut wanted: Vec<bool> = config.outputs.iter().map(|spec| is_all && spec.is_for_clients()).collect();
    for output in &request.outputs {
        let found = config.output_index(output).and_then(|index| Some((config.outputs.get(index)?, wanted.get_mut(index)?)));
        match found {
            Some((spec, slot)) if spec.is_for_clients() => *slot = true,
            _ => return Err(InferError::UnexpectedOutput { output: output.clone(), model: config.name.to_string() }),
        }
    }
    Ok(wanted)
}

fn check_input_count(request: &InferRequest, config: &ModelConfig) -> Result<(), RequestProblem> {
    let required = config.client_inputs().filter(|input| !input.optional).count();
    if (required..=config.client_inputs().count()).contains(&request.inputs.len()) {
        Ok(())
    } else {
        Err(missing_inputs(request, config))
    }
}

fn missing_inputs(request: &InferRequest, config: &ModelConfig) -> RequestProblem {
    let required = config.client_inputs().filter(|input| !input.optional);
    let names = |names: Vec<&str>| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(",");
    let most = config.client_inputs().count();
    let least = config.client_inputs().filter(|input| !input.optional).count();
    let expected = if least == most { format!("{most} inputs") } else { format!("number of inputs between {least} and {most}") };
    let missing = required.map(|input| &*input.name).filter(|name| request.inputs.iter().all(|input| input.name != **name));
    RequestProblem::InputCount {
        expected,
        got: request.inputs.len(),
        model: config.name.to_string(),
        present: names(request.inputs.iter().map(|input| input.name.as_str()).collect()),
        missing: names(missing.collect()),
    }
}

/// The request's batch size: the first dimension that all its inputs share.
fn batch_rows(request: &InferRequest, config: &ModelConfig) -> Result<usize, RequestProblem> {
    let model = || config.name.to_string();
    for input in &request.inputs {
        if let Some(dim) = input.shape.iter().find(|dim| **dim < -1) {
            return Err(RequestProblem::InvalidDim {
                input: input.name.clone(),
                model: model(),
                dim: *dim,
                got: WireShape(input.shape.clone()),
            });
        }
    }
    let Some(limit) = config.max_batch_rows else {
        return Ok(1);
    };
    let mut rows = None;
    for input in &request.inputs {
        let Some(first) = input.shape.first() else {
            return Err(RequestProblem::NoBatchDimension { input: input.name.clone(), model: model() });
        };
        let first = usize::try_from(*first).map_err(|_| RequestProblem::UnspecifiedDim {
            input: input.name.clone(),
            model: model(),
            got: WireShape(input.shape.clone()),
        })?;
        if *rows.get_or_insert(first) != first {
            return Err(RequestProblem::BatchMismatch { input: input.name.clone(), model: model() });
        }
    }
    // All inputs left out, which optional inputs allow: one row.
    let rows = rows.unwrap_or(1);
    if rows > limit.get() {
        return Err(RequestProblem::BatchTooLarge { limit: limit.get(), model: model() });
    }
    Ok(rows)
}

/// Checks one input; the tensor that comes out has the shape that the model sees. Its bytes are those of the message.
fn check_input(config: &ModelConfig, spec: &TensorSpec, input: &InputTensor) -> Result<Tensor, RequestProblem> {
    let (name, model) = (|| input.name.clone(), || config.name.to_string());
    if input.datatype.as_ref() != Ok(&spec.datatype) {
        let got = match &input.datatype {
            Ok(datatype) => datatype.to_string(),
            Err(word) => word.clone(),
        };
        return Err(RequestProblem::WrongType { input: name(), got, model: model(), expected: spec.datatype });
    }
    let sizes = check_shape(config, spec, input)?;
    let got = || WireShape(input.shape.clone());
    let shape = Shape::new(sizes);
    let elements = shape.element_count().filter(|elements| isize::try_from(*elements).is_ok()).ok_or_else(|| {
        RequestProblem::TooManyElements { input: name(), model: model(), got: got(), limit: isize::MAX.unsigned_abs() }
    })?;
    match spec.datatype.element_bytes() {
        Some(size) => {
            let expected = elements.checked_mul(size).ok_or_else(|| RequestProblem::ByteOverflow {
                input: name(),
                model: model(),
                got: got(),
            })?;
            if expected != input.contents.len() {
                return Err(RequestProblem::ByteSize { input: name(), model: model(), expected, got: input.contents.len() });
            }
        }
        None => check_strings(&input.contents, elements).map_err(|fault| strings_problem(config, input, elements, fault))?,
    }
    // The byte count was just checked, so the tensor exists.
    Tensor::new(spec.datatype, shape, input.contents.clone()).ok_or_else(|| RequestProblem::ByteOverflow {
        input: name(),
        model: model(),
        got: got(),
    })
}

/// Compares a shape with the configuration and returns the sizes that the model sees, batch included.
fn check_shape(config: &ModelConfig, spec: &TensorSpec, input: &InputTensor) -> Result<Vec<usize>, RequestProblem> {
    let (name, model, got) = (|| input.name.clone(), || config.name.to_string(), || WireShape(input.shape.clone()));
    let batching = config.max_batch_rows.is_some();
    let wrong = || {
        let expected = if batching { spec.dims.with_batch() } else { spec.dims.clone() };
        let note = if batching { BATCH_NOTE } else { "" };
        RequestProblem::WrongShape { input: name(), model: model(), expected, got: got(), note }
    };
    let rank = spec.dims.as_slice().len() + usize::from(batching);
    if input.shape.len() != rank {
        return Err(wrong());
    }
    let sizes = input
        .shape
        .iter()
        .map(|dim| usize::try_from(*dim).ok())
        .collect::<Option<Vec<usize>>>()
        .ok_or_else(|| RequestProblem::UnspecifiedDim { input: name(), model: model(), got: got() })?;
    let (batch, inner) = sizes.split_at_checked(usize::from(batching)).ok_or_else(wrong)?;
    if !spec.dims.admits(inner) {
        return Err(wrong());
    }
    match &spec.reshape {
        None => Ok(sizes),
        Some(reshape) => {
            let seen = spec.dims.carry(inner, reshape).ok_or_else(wrong)?;
            Ok(batch.iter().copied().chain(seen).collect())
        }
    }
}

fn strings_problem(config: &ModelConfig, input: &InputTensor, expected: usize, fault: StringsFault) -> RequestProblem {
    let (input, model) = (input.name.clone(), config.name.to_string());
    match fault {
        StringsFault::TooFew { got } => RequestProblem::TooFewStrings { input, model, expected, got },
        StringsFault::TooMany => RequestProblem::TooManyStrings { input, model, expected, got: expected.saturating_add(1) },
        StringsFault::CutLength { available } => RequestProblem::CutStringLength { input, model, available },
        StringsFault::CutElement { announced, available } => RequestProblem::CutString { input, model, announced, available },
    }
}

/// What must be equal for two requests of this model to share a batch.
fn batch_key(config: &ModelConfig, inputs: &[Option<Tensor>]) -> BatchKey {
    let mut key = Vec::new();
    // Models on candle look at the rows of each request by themselves, whatever their length and optional inputs.
    let takes_any_mix = config.backend == BackendKind::Candle && matches!(config.scheduling, Scheduling::Dynamic(_));
    if config.max_batch_rows.is_none() || takes_any_mix {
        return BatchKey(key);
    }
    for (spec, input) in config.inputs.iter().zip(inputs).filter(|(spec, _)| spec.is_for_clients()) {
        if spec.optional {
            key.push(usize::from(input.is_some()));
        }
        if !spec.ragged && !seen_dims(spec).is_fixed() {
            key.extend(input.iter().flat_map(|tensor| tensor.shape().row_sizes()));
        }
    }
    BatchKey(key)
}

/// What is counted as the work of a request of this model.
fn batch_cost(config: &ModelConfig) -> BatchCost {
    match &config.scheduling {
        Scheduling::Dynamic(dynamic) => dynamic.cost,
        Scheduling::Sequence(sequence) => match &sequence.strategy {
            SequenceStrategy::Oldest { batching, .. } => batching.cost,
            SequenceStrategy::Direct { .. } => BatchCost::Rows,
        },
        _ => BatchCost::Rows,
    }
}

fn seen_dims(spec: &TensorSpec) -> &Dims {
    spec.reshape.as_ref().unwrap_or(&spec.dims)
}

#[cfg(test)]
mod tests;
