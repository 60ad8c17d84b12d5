//! Regions of shared memory over the wire: register, unregister, status.

use proto::inference::cuda_shared_memory_status_response::RegionStatus as CudaStatus;
use proto::inference::system_shared_memory_status_response::RegionStatus as SystemStatus;
use proto::inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryStatusResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusResponse,
};
use tonic::Status;

use crate::error::{InferError, SharedMemoryError};
use crate::shared_memory::{Description, Kind, Regions};

use super::status;

/// The system regions, or the one of this name.
pub(super) fn system_status(regions: &Regions, name: &str) -> Result<SystemSharedMemoryStatusResponse, Status> {
    let found = regions.status(Kind::System, name).map_err(status::shared_memory_status)?;
    let regions = found.into_iter().filter_map(|(name, description)| match description {
        Description::System { key, offset, byte_size } => Some((name.clone(), SystemStatus { name, key, offset, byte_size })),
        Description::Cuda { .. } => None,
    });
    Ok(SystemSharedMemoryStatusResponse { regions: regions.collect() })
}

/// The regions on GPUs, or the one of this name.
pub(super) fn cuda_status(regions: &Regions, name: &str) -> Result<CudaSharedMemoryStatusResponse, Status> {
    let found = regions.status(Kind::Cuda, name).map_err(status::shared_memory_status)?;
    let regions = found.into_iter().filter_map(|(name, description)| match description {
        Description::Cuda { device, byte_size } => Some((name.clone(), CudaStatus { name, device_id: device, byte_size })),
        Description::System { .. } => None,
    });
    Ok(CudaSharedMemoryStatusResponse { regions: regions.collect() })
}

/// Registers a part of a POSIX object.
pub(super) async fn register_system(regions: &Regions, request: SystemSharedMemoryRegisterRequest) -> Result<(), Status> {
    change(regions, move |regions| {
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request;
        regions.register_system(&name, &key, offset, byte_size)
    })
    .await
}

/// Registers memory of a GPU.
pub(super) async fn register_cuda(regions: &Regions, request: CudaSharedMemoryRegisterRequest) -> Result<(), Status> {
    change(regions, move |regions| {
        let CudaSharedMemoryRegisterRequest { name, raw_handle, device_id, byte_size } = request;
        regions.register_cuda(&name, &raw_handle, device_id, byte_size)
    })
    .await
}

/// Forgets a region, or all of the kind.
pub(super) async fn unregister(regions: &Regions, kind: Kind, name: String) -> Result<(), Status> {
    change(regions, move |regions| regions.unregister(kind, &name)).await
}

/// Makes a change on a thread that may wait: for the file system, and for a GPU.
async fn change(
    regions: &Regions,
    change: impl FnOnce(&Regions) -> Result<(), SharedMemoryError> + Send + 'static,
) -> Result<(), Status> {
    let regions = regions.clone();
    let changed = tokio::task::spawn_blocking(move || change(&regions)).await;
    let changed = changed.map_err(|_| status::infer_status("", &InferError::Abandoned))?;
    changed.map_err(status::shared_memory_status)
}
