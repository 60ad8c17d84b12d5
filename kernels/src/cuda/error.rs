//! Why a device cannot be used or failed.

use cudarc::driver::DriverError;

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
    /// The device has too little free memory.
    #[error("GPU {ordinal}: out of memory: {needed_bytes} bytes were asked for, {free_bytes} are free")]
    OutOfMemory {
        /// Which device.
        ordinal: u32,
        /// What was asked for.
        needed_bytes: usize,
        /// What there is.
        free_bytes: usize,
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

impl DeviceError {
    /// What a call of the driver says of itself.
    pub(crate) fn failed(ordinal: u32, what: impl Into<String>, error: DriverError) -> Self {
        DeviceError::Failed { ordinal, what: what.into(), reason: error.to_string() }
    }
}
