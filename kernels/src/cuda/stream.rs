//! Streams, and launches on them.

use std::sync::Arc;

use cudarc::driver::{CudaStream, LaunchConfig, PushKernelArg};

use super::{DeviceError, Gpu, View};

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// An address; 0 stands for nothing.
    Address(u64),
    /// A number of 32 bits.
    U32(u32),
    /// A number of 32 bits with a sign.
    I32(i32),
    /// A number of 64 bits.
    U64(u64),
    /// A real number of 32 bits.
    F32(f32),
}

impl From<View> for Arg {
    fn from(view: View) -> Self {
        Arg::Address(view.address)
    }
}

impl From<Option<View>> for Arg {
    fn from(view: Option<View>) -> Self {
        Arg::Address(view.map_or(0, |view| view.address))
    }
}

/// How many blocks and threads a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: (u32, u32, u32),
    /// Threads of a block.
    pub threads: (u32, u32, u32),
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// A queue of work of a device. Work on it runs in order.
#[derive(Debug, Clone)]
pub struct Stream {
    gpu: Arc<Gpu>,
    inner: Arc<CudaStream>,
}

impl Stream {
    /// A new queue, ordered after no other.
    ///
    /// # Errors
    /// The driver has none left.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        let inner = gpu.context().new_stream().map_err(|error| DeviceError::failed(gpu.ordinal(), "making a stream", error))?;
        Ok(Stream { gpu: Arc::clone(gpu), inner })
    }

    /// Its device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// cudarc's stream.
    pub fn inner(&self) -> &Arc<CudaStream> {
        &self.inner
    }

    /// Waits until everything enqueued is done.
    ///
    /// # Errors
    /// Something enqueued failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.inner.synchronize().map_err(|error| DeviceError::failed(self.gpu.ordinal(), "waiting for a stream", error))
    }

    /// Enqueues the kernel `name` of the source file `module`. For operations: they check what kernels rely on. A grid
    /// without blocks does nothing.
    ///
    /// # Errors
    /// There is no such kernel, or the driver refuses the launch.
    pub(crate) fn launch(&self, module: &str, name: &'static str, grid: Grid, args: &[Arg]) -> Result<(), DeviceError> {
        let (x, y, z) = grid.blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let function = self.gpu.function(module, name)?;
        let mut builder = self.inner.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Address(value) | Arg::U64(value) => builder.arg(value),
                Arg::U32(value) => builder.arg(value),
                Arg::I32(value) => builder.arg(value),
                Arg::F32(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig { grid_dim: grid.blocks, block_dim: grid.threads, shared_mem_bytes: grid.shared_bytes };
        // SAFETY: operations pass the parameters that their kernel declares, of the sizes that it declares, and views whose
        // lengths they have checked; memory of the device is not memory of this process.
        let launched = unsafe { builder.launch(config) };
        launched.map(drop).map_err(|error| DeviceError::failed(self.gpu.ordinal(), format!("launching '{name}'"), error))
    }
}
