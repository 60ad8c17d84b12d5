//! Putting the inputs of a batch's requests together.

use bytes::BytesMut;

use crate::error::ExecuteError;
use crate::tensor::Tensor;

/// One tensor of all parts, row after row.
///
/// A single part is passed on as it is, without a copy. Several parts are copied once, into one buffer:
/// this is the only copy between the received message and the model.
///
/// # Errors
/// Parts whose rows differ in shape or datatype cannot be put together; a model that lets them share a
/// batch (`allow_ragged_batch`) reads them one by one instead.
pub(super) fn gather(input: &str, parts: &[&Tensor]) -> Result<Tensor, ExecuteError> {
    let Some((first, rest)) = parts.split_first() else {
        return Err(ExecuteError::Internal { message: format!("no request of the batch has input '{input}'") });
    };
    if rest.is_empty() {
        return Ok((*first).clone());
    }
    let mut rows = 0usize;
    let mut length = 0usize;
    for part in parts {
        let fits = part.datatype() == first.datatype()
            && part.shape().rank() > 0
            && part.shape().row_sizes() == first.shape().row_sizes();
        if !fits {
            return Err(ExecuteError::Internal {
                message: format!(
                    "input '{input}' of one batch has shapes {} and {}, which cannot be put together",
                    first.shape(),
                    part.shape()
                ),
            });
        }
        rows += part.shape().sizes().first().copied().unwrap_or(0);
        length += part.bytes().len();
    }
    let mut bytes = BytesMut::with_capacity(length);
    for part in parts {
        bytes.extend_from_slice(part.bytes());
    }
    Tensor::new(first.datatype(), first.shape().with_rows(rows), bytes.freeze())
        .ok_or_else(|| ExecuteError::Internal { message: format!("input '{input}' of the batch is too large") })
}
