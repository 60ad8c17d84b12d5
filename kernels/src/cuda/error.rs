//! Why a device cannot be used or failed.

use cudarc::driver::{DriverError, sys};

/// Why a device cannot be used, or failed. The texts are safe to send to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The device cannot be used at all.
    #[error("GPU {ordinal} cannot be used: {reason}")]
    Unusable {
        /// Which device, from 0.
        ordinal: u32,
        /// Why, and what to do.
        reason: String,
    },
    /// The device has too little free memory. Other work on it goes on.
    #[error("GPU {ordinal}: out of memory: {what}; {free_bytes} of {total_bytes} bytes are free")]
    OutOfMemory {
        /// Which device.
        ordinal: u32,
        /// What it was for.
        what: String,
        /// What was asked for; 0 where only the driver knows.
        needed_bytes: usize,
        /// What there is, with what the pool holds unused.
        free_bytes: usize,
        /// What the device has.
        total_bytes: usize,
    },
    /// An earlier fault left the device's context unusable; only a new process can use the device again.
    #[error("GPU {ordinal} is unusable since a fault, and this process must be restarted to use it again: {cause}")]
    Poisoned {
        /// Which device.
        ordinal: u32,
        /// The first fault.
        cause: String,
    },
    /// A call of the driver or of a library failed.
    #[error("GPU {ordinal}: {what} failed: {reason}")]
    Failed {
        /// Which device.
        ordinal: u32,
        /// What was called.
        what: String,
        /// What it said.
        reason: String,
    },
}

/// What the driver calls an error, and what it says of it.
pub(super) fn describe(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{:?} ({})", error.0, text.to_string_lossy()),
        Err(_) => format!("{:?}", error.0),
    }
}

/// Whether the context that met the error answers every later call with one, too.
pub(super) fn is_sticky(error: DriverError) -> bool {
    use sys::CUresult as E;
    matches!(
        error.0,
        E::CUDA_ERROR_ILLEGAL_ADDRESS
            | E::CUDA_ERROR_LAUNCH_TIMEOUT
            | E::CUDA_ERROR_LAUNCH_FAILED
            | E::CUDA_ERROR_ASSERT
            | E::CUDA_ERROR_HARDWARE_STACK_ERROR
            | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | E::CUDA_ERROR_MISALIGNED_ADDRESS
            | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | E::CUDA_ERROR_INVALID_PC
            | E::CUDA_ERROR_ECC_UNCORRECTABLE
            | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | E::CUDA_ERROR_CONTAINED
            | E::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | E::CUDA_ERROR_DEVICE_UNAVAILABLE
            | E::CUDA_ERROR_EXTERNAL_DEVICE
            | E::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | E::CUDA_ERROR_UNKNOWN
    )
}
