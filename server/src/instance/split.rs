//! Dividing the outputs of a batch among its requests, and shaping each request's answer.

use std::ops::Range;
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::error::ExecuteError;
use crate::request::{ComputeTiming, InferResponse, OutputTensor, Parameters, ValidRequest};
use crate::tensor::{Shape, Strings, Tensor, TensorRole, TensorSpec};

use super::ServedVersion;

pub(super) use crate::tensor::{MAX_MADE_BYTES, zeros};

/// The rows `rows` of a batch's output. The bytes are shared with the whole, not copied.
///
/// # Errors
/// The output does not have these rows.
pub(super) fn take_rows(
    config: &ModelConfig,
    output: &TensorSpec,
    whole: &Tensor,
    rows: &Range<usize>,
) -> Result<Tensor, ExecuteError> {
    let total = whole.shape().sizes().first().copied().unwrap_or(0);
    if whole.shape().rank() > 0 && rows.start == 0 && rows.end == total {
        return Ok(whole.clone());
    }
    let wrong = || ExecuteError::WrongOutput {
        model: config.name.to_string(),
        output: output.name.to_string(),
        expected: format!("a first dimension of at least {}", rows.end),
        got: whole.shape().to_string(),
    };
    if rows.end > total {
        return Err(wrong());
    }
    let elements = Shape::new(whole.shape().row_sizes()).element_count().ok_or_else(wrong)?;
    let range = match whole.datatype().element_bytes() {
        Some(size) => rows.start * elements * size..rows.end * elements * size,
        None => string_range(whole.bytes(), rows.start * elements, rows.end * elements),
    };
    let bytes = (range.end <= whole.bytes().len() && range.start <= range.end).then(|| whole.bytes().slice(range));
    bytes.and_then(|bytes| Tensor::new(whole.datatype(), whole.shape().with_rows(rows.len()), bytes)).ok_or_else(wrong)
}

/// Where the elements `start..end` of `BYTES` contents lie.
fn string_range(contents: &[u8], start: usize, end: usize) -> Range<usize> {
    let mut strings = Strings::new(contents);
    let offset = |strings: &Strings<'_>| contents.len() - strings.rest().len();
    for _ in 0..start {
        strings.next();
    }
    let first = offset(&strings);
    for _ in start..end {
        strings.next();
    }
    first..offset(&strings)
}

/// The answer to one request: its wanted outputs in the order of the configuration, in the shapes that
/// clients see.
///
/// # Errors
/// An output has another datatype than configured, another batch size than the request, or a shape that
/// the configured reshape cannot turn back.
pub(super) fn respond(
    served: &ServedVersion,
    request: &ValidRequest,
    outputs: Vec<Option<Tensor>>,
    parameters: Parameters,
    timing: ComputeTiming,
) -> Result<InferResponse, ExecuteError> {
    let config = &served.config;
    let mut tensors = Vec::with_capacity(outputs.len());
    for ((spec, tensor), wanted) in config.outputs.iter().zip(outputs).zip(&request.outputs) {
        if let (Some(tensor), true) = (tensor, *wanted) {
            let tensor = client_view(config, spec, tensor, request.rows)?;
            tensors.push(OutputTensor { name: Arc::clone(&spec.name), tensor });
        }
    }
    Ok(InferResponse {
        model_name: Arc::clone(&config.name),
        model_version: served.version,
        id: request.id.clone(),
        parameters,
        outputs: tensors,
        timing,
        timeline: None,
    })
}

/// An output as clients see it.
fn client_view(config: &ModelConfig, spec: &TensorSpec, tensor: Tensor, rows: usize) -> Result<Tensor, ExecuteError> {
    let wrong = |expected: String, got: String| ExecuteError::WrongOutput {
        model: config.name.to_string(),
        output: spec.name.to_string(),
        expected,
        got,
    };
    if tensor.datatype() != spec.datatype {
        return Err(wrong(spec.datatype.to_string(), tensor.datatype().to_string()));
    }
    let sizes = tensor.shape().sizes();
    let (batch, inner) = if config.max_batch_rows.is_some() {
        match sizes.split_first() {
            Some((first, inner)) if *first == rows || tensor.bytes().is_empty() => (Some(*first), inner),
            _ => return Err(wrong(format!("a batch dimension of {rows}"), tensor.shape().to_string())),
        }
    } else {
        (None, sizes)
    };
    // A state is the next request's input, so its shape is held to the configuration here.
    if spec.role == TensorRole::State && !spec.dims.admits(inner) {
        let expected = format!("shape {} behind the batch dimension, as it is an input of the next request", spec.dims);
        return Err(wrong(expected, tensor.shape().to_string()));
    }
    let Some(reshape) = &spec.reshape else {
        return Ok(tensor);
    };
    let client = reshape
        .carry(inner, &spec.dims)
        .ok_or_else(|| wrong(format!("shape {reshape} behind the batch dimension"), tensor.shape().to_string()))?;
    let shape = Shape::new(batch.into_iter().chain(client).collect::<Vec<_>>());
    let got = tensor.shape().to_string();
    tensor.reshaped(shape).ok_or_else(|| wrong(spec.dims.to_string(), got))
}
