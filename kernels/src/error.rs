//! The one error type of the operations.

use candle_core::DType;

/// Why an operation refused its arguments or could not run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// An argument has the wrong element type.
    #[error("{op}: argument '{argument}' must be {expected:?}, got {got:?}")]
    WrongDType {
        /// The operation.
        op: &'static str,
        /// The argument of the operation.
        argument: &'static str,
        /// The element type that the contract asks for.
        expected: DType,
        /// The element type that was passed.
        got: DType,
    },
    /// An argument has the wrong shape.
    #[error("{op}: argument '{argument}' must have shape {expected}, got {got:?}")]
    WrongShape {
        /// The operation.
        op: &'static str,
        /// The argument of the operation.
        argument: &'static str,
        /// The shape that the contract asks for, in words.
        expected: String,
        /// The shape that was passed.
        got: Vec<usize>,
    },
    /// A list argument that must not be empty is empty.
    #[error("{op}: argument '{argument}' must name at least one entry")]
    Empty {
        /// The operation.
        op: &'static str,
        /// The argument of the operation.
        argument: &'static str,
    },
    /// An argument lies on a device that the operation has no version for.
    #[error("{op}: argument '{argument}' lies on {device}, where this operation is not available; move it to the CPU")]
    UnsupportedDevice {
        /// The operation.
        op: &'static str,
        /// The argument of the operation.
        argument: &'static str,
        /// The device of the argument.
        device: &'static str,
    },
    /// A product of dimensions does not fit in memory's index type.
    #[error("{op}: the result of shape {shape:?} has more elements than can be addressed")]
    TooLarge {
        /// The operation.
        op: &'static str,
        /// The shape of the result.
        shape: Vec<usize>,
    },
    /// The tensor library failed.
    #[error("{op}: {source}")]
    Tensor {
        /// The operation.
        op: &'static str,
        /// What the tensor library said.
        #[source]
        source: candle_core::Error,
    },
}
