//! Checks of tensor arguments and access to their values, shared by the operations.

use std::ops::Deref;

use candle_core::{DType, Layout, Storage, Tensor, WithDType};

use crate::error::KernelError;

/// Checks element type and shape, and lays the values out in row-major order if they are not already.
pub(crate) fn dense(
    op: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    dtype: DType,
    dims: &[usize],
) -> Result<Tensor, KernelError> {
    if tensor.dtype() != dtype {
        return Err(KernelError::WrongDType { op, argument, expected: dtype, got: tensor.dtype() });
    }
    if tensor.dims() != dims {
        return Err(wrong_shape(op, argument, &format!("{dims:?}"), tensor));
    }
    tensor.contiguous().map_err(|source| KernelError::Tensor { op, source })
}

/// The values of a tensor that came from [`dense`], given what its `storage_and_layout` returned.
pub(crate) fn slice<'a, T: WithDType>(
    op: &'static str,
    argument: &'static str,
    (storage, layout): &'a (impl Deref<Target = Storage>, &Layout),
) -> Result<&'a [T], KernelError> {
    match &**storage {
        Storage::Cpu(values) => {
            let values = values.as_slice::<T>().map_err(|source| KernelError::Tensor { op, source })?;
            Ok(&values[layout.start_offset()..][..layout.shape().elem_count()])
        }
        Storage::Cuda(_) => Err(KernelError::UnsupportedDevice { op, argument, device: "CUDA" }),
        Storage::Metal(_) => Err(KernelError::UnsupportedDevice { op, argument, device: "Metal" }),
    }
}

/// [`KernelError::WrongShape`] for a tensor.
pub(crate) fn wrong_shape(op: &'static str, argument: &'static str, expected: &str, tensor: &Tensor) -> KernelError {
    KernelError::WrongShape { op, argument, expected: expected.to_owned(), got: tensor.dims().to_vec() }
}

/// A result of the given shape on the device of `like`.
pub(crate) fn result(op: &'static str, values: Vec<f32>, dims: &[usize], like: &Tensor) -> Result<Tensor, KernelError> {
    Tensor::from_vec(values, dims, like.device()).map_err(|source| KernelError::Tensor { op, source })
}
