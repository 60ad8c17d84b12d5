//! Memory of a device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr};

use super::{DeviceError, DeviceType, Gpu, Stream, View};

/// Memory of a device, freed on its stream when dropped.
#[derive(Debug)]
pub struct Buffer {
    slice: CudaSlice<u8>,
    address: u64,
    gpu: Arc<Gpu>,
}

impl Buffer {
    /// So many bytes, not initialized; at least one.
    ///
    /// # Errors
    /// The device has no such memory left.
    pub fn new(stream: &Stream, bytes: usize) -> Result<Self, DeviceError> {
        let gpu = Arc::clone(stream.gpu());
        let failed = |error| DeviceError::failed(gpu.ordinal(), format!("allocating {bytes} bytes"), error);
        // SAFETY: bytes need no initialization to be valid; kernels write before they read.
        let slice = unsafe { stream.inner().alloc::<u8>(bytes.max(1)) }.map_err(failed)?;
        let address = slice.device_ptr(stream.inner()).0;
        Ok(Buffer { slice, address, gpu })
    }

    /// A copy of `bytes` in memory of the device; it is there when this returns.
    ///
    /// # Errors
    /// The device has no such memory left, or copying fails.
    pub fn upload(stream: &Stream, bytes: &[u8]) -> Result<Self, DeviceError> {
        let mut buffer = Self::new(stream, bytes.len())?;
        if !bytes.is_empty() {
            let failed =
                |error| DeviceError::failed(buffer.gpu.ordinal(), format!("copying {} bytes to the device", bytes.len()), error);
            stream.inner().memcpy_htod(bytes, &mut buffer.slice).map_err(failed)?;
            stream.synchronize()?;
        }
        Ok(buffer)
    }

    /// A copy in memory of the host, once everything enqueued on `stream` is done.
    ///
    /// # Errors
    /// Something enqueued failed, or copying fails.
    pub fn download(&self, stream: &Stream) -> Result<Vec<u8>, DeviceError> {
        let failed = |error| DeviceError::failed(self.gpu.ordinal(), "copying from the device", error);
        let bytes = stream.inner().clone_dtoh(&self.slice).map_err(failed)?;
        stream.synchronize()?;
        Ok(bytes)
    }

    /// All of it as numbers of a type.
    pub fn view(&self, dtype: DeviceType) -> View {
        View { address: self.address, len: self.slice.len() / dtype.bytes(), dtype }
    }
}
