//! Reading the numbers of a request's inputs, and making small outputs.

use std::ops::Range;

use bytes::Bytes;

use crate::error::ExecuteError;
use crate::tensor::{DataType, Shape, Tensor};

use super::super::Execution;
use crate::request::ValidRequest;

/// An input that the configuration requires.
///
/// # Errors
/// The request came without it, which validation does not let happen.
pub(super) fn required(request: &ValidRequest, input: usize) -> Result<&Tensor, ExecuteError> {
    request
        .inputs
        .get(input)
        .and_then(Option::as_ref)
        .ok_or_else(|| ExecuteError::Internal { message: format!("the request came without required input number {input}") })
}

/// The elements of a tensor of `N`-byte numbers.
pub(super) fn elements<const N: usize>(tensor: &Tensor) -> impl ExactSizeIterator<Item = [u8; N]> + '_ {
    tensor.bytes().as_chunks::<N>().0.iter().copied()
}

/// The first element of an input.
///
/// # Errors
/// The input has no element.
pub(super) fn first<const N: usize>(name: &str, tensor: &Tensor) -> Result<[u8; N], ExecuteError> {
    elements::<N>(tensor).next().ok_or_else(|| ExecuteError::InvalidArgument {
        message: format!("expected {name} to have at least one element, got shape {}", tensor.shape()),
    })
}

/// A tensor of one number, behind a batch dimension of one where the model batches.
///
/// # Errors
/// Never for a number of the datatype's size.
pub(super) fn single(execution: &Execution, datatype: DataType, number: &[u8]) -> Result<Tensor, ExecuteError> {
    single_of(has_batch(execution), datatype, number)
}

/// Whether tensors have a batch dimension.
pub(super) fn has_batch(execution: &Execution) -> bool {
    execution.config().max_batch_rows.is_some()
}

/// As [`single`], away from the execution.
pub(super) fn single_of(has_batch: bool, datatype: DataType, number: &[u8]) -> Result<Tensor, ExecuteError> {
    let shape = Shape::new(if has_batch { vec![1, 1] } else { vec![1] });
    Tensor::new(datatype, shape, Bytes::copy_from_slice(number))
        .ok_or_else(|| ExecuteError::Internal { message: format!("{} bytes are no {datatype}", number.len()) })
}

/// Refuses a request of several rows: the streaming kinds answer one row with many responses, and responses
/// of several rows would have nothing to tell them apart.
///
/// # Errors
/// The request has another number of rows than one.
pub(super) fn single_row(rows: &Range<usize>) -> Result<(), ExecuteError> {
    match rows.len() {
        1 => Ok(()),
        rows => Err(ExecuteError::InvalidArgument {
            message: format!("expected a batch of one row, as each row has responses of its own, got {rows} rows"),
        }),
    }
}
