//! What applications may load by name although the emulated device has none of it: each call says that it is not supported.

#![allow(non_snake_case, reason = "names of CUDA")]

use crate::blas::Status as BlasStatus;
use crate::driver::status::Status;

macro_rules! absent {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name() -> Status {
            Status::NOT_SUPPORTED
        }
    )* };
}

absent! {
    /// Contexts with limits of their own; cuCtxCreate_v4 makes plain ones.
    cuCtxCreate_v3;
    /// Managed memory.
    cuMemAllocManaged;
    /// Managed memory.
    cuMemAdvise_v2;
    /// Managed memory.
    cuMemPrefetchAsync_v2;
    /// Memory of other interfaces.
    cuImportExternalMemory;
    /// Memory of other interfaces.
    cuExternalMemoryGetMappedBuffer;
    /// Memory of other interfaces.
    cuDestroyExternalMemory;
    /// Clusters.
    cuOccupancyMaxActiveClusters;
    /// Clusters.
    cuOccupancyMaxPotentialClusterSize;
    /// Launches planned with flags.
    cuOccupancyMaxPotentialBlockSizeWithFlags;
    /// Grids that synchronize.
    cuLaunchCooperativeKernel;
    /// A fat binary holds machine code.
    cuModuleLoadFatBinary;
    /// Pinned memory has no device address here.
    cuMemHostGetDevicePointer_v2;
    /// Graphs are changed by capturing them again.
    cuGraphExecUpdate_v2;
    /// Graphs are changed by capturing them again.
    cuGraphExecKernelNodeSetParams_v2;
    /// Virtual memory.
    cuMemCreate;
    /// Virtual memory.
    cuMemMap;
    /// Events between processes.
    cuIpcGetEventHandle;
    /// Events between processes.
    cuIpcOpenEventHandle;
}

/// Logs are not written.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtLoggerOpenFile() -> BlasStatus {
    BlasStatus::NOT_SUPPORTED
}

/// Logs are not written, at any level.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtLoggerSetLevel(_level: i32) -> BlasStatus {
    BlasStatus::SUCCESS
}
