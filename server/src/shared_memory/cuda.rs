//! Regions of a GPU's memory, which clients hand over as CUDA IPC handles.
//!
//! Tensors are copied between the GPU and the host here, also where a model on the same GPU works on them.

use std::thread;

use kernels::cuda::Gpu;
use kernels::cuda::ipc::{HANDLE_BYTES, IpcMemory};

use super::region::{RegionFault, SharedRegion};
use crate::error::SharedMemoryError;

/// Memory of a GPU, open in this process.
#[derive(Debug)]
pub(super) struct CudaRegion {
    /// `None` only while it is dropped.
    memory: Option<IpcMemory>,
}

impl CudaRegion {
    /// Opens the memory of a handle on a device for the region `region` of `byte_size` bytes.
    ///
    /// # Errors
    /// [`SharedMemoryError::NoGpu`], where the GPU cannot be used; [`SharedMemoryError::Unfit`], where the handle is
    /// none, or stands for less memory.
    pub(super) fn open(region: &str, handle: &[u8], device: u32, byte_size: u64) -> Result<Self, SharedMemoryError> {
        let unfit = |reason| SharedMemoryError::Unfit { region: region.to_owned(), reason };
        let handle: [u8; HANDLE_BYTES] = handle
            .try_into()
            .map_err(|_| unfit(format!("raw_handle has {} bytes, a CUDA IPC handle has {HANDLE_BYTES}", handle.len())))?;
        let without_gpu = |reason| SharedMemoryError::NoGpu { region: region.to_owned(), reason };
        let gpu = Gpu::open(device).map_err(|error| without_gpu(error.to_string()))?;
        let memory = IpcMemory::open(&gpu, handle).map_err(|error| unfit(error.to_string()))?;
        if byte_size > memory.bytes() {
            return Err(unfit(format!("byte size {byte_size} is more than the {} bytes of the memory", memory.bytes())));
        }
        Ok(Self { memory: Some(memory) })
    }

    fn memory(&self) -> Result<&IpcMemory, RegionFault> {
        self.memory.as_ref().ok_or_else(|| RegionFault::Failed("it has been closed".to_owned()))
    }
}

impl SharedRegion for CudaRegion {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RegionFault> {
        self.memory()?.read(offset, into).map_err(|error| RegionFault::Failed(error.to_string()))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RegionFault> {
        self.memory()?.write(offset, bytes).map_err(|error| RegionFault::Failed(error.to_string()))
    }

    /// Never: whoever calls CUDA may have to wait for it.
    fn is_quick(&self, _: u64) -> bool {
        false
    }
}

impl Drop for CudaRegion {
    fn drop(&mut self) {
        // The last to let go may be a thread that serves connections, and closing may wait for the GPU. Where no thread
        // can be had, the closure is dropped, and the memory with it, here.
        let memory = self.memory.take();
        let closing = thread::Builder::new().name("alcedo-cuda-close".to_owned()).spawn(move || drop(memory));
        if let Err(error) = closing {
            tracing::debug!("no thread to close a region of CUDA shared memory: {error}");
        }
    }
}
