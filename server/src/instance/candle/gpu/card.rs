//! The GPUs of the machine: whether they can be used, opened ones, and what models take of their memory.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use models::ModelError;
use models::cuda::{self, Gpu, GpuDescription, GpuOptions};

use crate::observe::metrics::MemorySeries;

use super::super::super::device::SharedDevice;

/// Most GPUs that are looked for.
const MAX_GPUS: u32 = 64;

/// GPUs that models have open, for whoever asks for their memory.
static OPEN: Mutex<Vec<Weak<Gpu>>> = Mutex::new(Vec::new());

/// What a GPU is, as part of a sentence.
///
/// # Errors
/// Why it cannot be used.
pub(in super::super) fn probe(ordinal: u32) -> Result<String, String> {
    cuda::probe(ordinal).map(|description| told(&description)).map_err(|error| error.to_string())
}

fn told(description: &GpuDescription) -> String {
    let GpuDescription { name, capability, total_bytes, free_bytes, driver_version, .. } = description;
    let gib = |bytes: usize| {
        let tenths = bytes / ((1 << 30) / 10);
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    };
    format!(
        "it is usable: {name}, compute capability {}.{}, {} of {} free, driver for CUDA {}.{}",
        capability / 10,
        capability % 10,
        gib(*free_bytes),
        gib(*total_bytes),
        driver_version / 1000,
        driver_version % 1000 / 10
    )
}

/// How many GPUs can be used, from the first on without a gap.
///
/// # Errors
/// Why not even the first can be used.
pub(in super::super) fn count() -> Result<u32, String> {
    probe(0)?;
    let others = (1..MAX_GPUS).take_while(|ordinal| probe(*ordinal).is_ok()).count();
    Ok(u32::try_from(others).unwrap_or(0) + 1)
}

/// Opens a GPU, or gives it as it is open.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn open(ordinal: u32, overcommit: bool) -> Result<Arc<Gpu>, ModelError> {
    let gpu = Gpu::open(ordinal, GpuOptions { overcommit })?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|known| known.upgrade().is_some_and(|known| !Arc::ptr_eq(&known, &gpu)));
    open.push(Arc::downgrade(&gpu));
    Ok(gpu)
}

/// What the ledger of a GPU calls the memory of a model's version.
pub(super) fn owner(model: &str, version: u64) -> String {
    format!("{model}/{version}")
}

/// The GPUs that models have open.
fn opened() -> Vec<Arc<Gpu>> {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.iter().filter_map(Weak::upgrade).collect()
}

/// The GPUs that a fault has left unusable, and why: models may not have met it, having had nothing to do.
pub fn lost_gpus() -> Vec<(SharedDevice, String)> {
    let lost = |gpu: &Arc<Gpu>| {
        let device = SharedDevice::cuda(gpu.ordinal());
        let reason = lost_reason(&device.name, &gpu.is_poisoned()?);
        Some((device, reason))
    };
    opened().iter().filter_map(lost).collect()
}

/// How the loss of a device is told.
pub(super) fn lost_reason(device: &str, cause: &str) -> String {
    format!("the device '{device}' is lost: {cause}")
}

/// What models take of the memory of GPUs, by what it is for.
pub fn gpu_memory() -> Vec<MemorySeries> {
    let open = opened();
    let lines = open.iter().flat_map(|gpu| {
        let device = SharedDevice::cuda(gpu.ordinal()).name.to_string();
        gpu.ledger().into_iter().map(move |line| {
            let (model, version) = line.tag.owner.rsplit_once('/').unwrap_or((&line.tag.owner, ""));
            MemorySeries {
                device: device.clone(),
                model: model.to_owned(),
                version: version.to_owned(),
                kind: line.tag.kind.name(),
                bytes: u64::try_from(line.bytes).unwrap_or(u64::MAX),
            }
        })
    });
    lines.collect()
}
