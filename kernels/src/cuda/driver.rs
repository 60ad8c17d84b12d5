//! The driver: whether there is one that serves, what devices it has, and why one cannot be used.

use std::env;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::error::describe;
use super::{DeviceError, Gpu, blas};

/// The least version of the driver's interface: that of the compiler of our kernels.
const NEEDED_VERSION: u32 = 13_000;
/// The first driver that has it.
const NEEDED_DRIVER: &str = "580";

/// A device, and what drives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Which device, from 0.
    pub ordinal: u32,
    /// What its maker calls it.
    pub name: String,
    /// Its identity, as `GPU-8-4-4-4-12` digits.
    pub uuid: String,
    /// The compute capability, ten times: 80 for 8.0.
    pub capability: u32,
    /// All of its memory.
    pub total_bytes: usize,
    /// What is free of it.
    pub free_bytes: usize,
    /// The version of CUDA that the driver serves, as the driver counts: 13000 for 13.0.
    pub driver_version: u32,
    /// Where cuBLASLt was found.
    pub blas_path: String,
    /// Its version, as it counts: 130000 for 13.0.0.
    pub blas_version: usize,
}

/// A device that the driver shows, whether or not it can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Which device, from 0.
    pub ordinal: u32,
    /// What its maker calls it.
    pub name: String,
    /// Its identity, as `GPU-8-4-4-4-12` digits.
    pub uuid: String,
    /// The compute capability, ten times: 80 for 8.0.
    pub capability: u32,
    /// All of its memory.
    pub total_bytes: usize,
}

/// The devices that the driver shows. None of them is opened.
///
/// # Errors
/// Why there is no driver that serves, or what it does not tell.
pub fn cards() -> Result<Vec<Card>, String> {
    (0..count()?).map(|ordinal| card(ordinal).map(|(_, card)| card)).collect()
}

fn card(ordinal: u32) -> Result<(sys::CUdevice, Card), String> {
    let device = result::device::get(ordinal as i32).map_err(describe)?;
    use sys::CUdevice_attribute as Attribute;
    // SAFETY: the device is one that the driver has just given.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(describe);
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let name = result::device::get_name(device).map_err(describe)?;
    let uuid = uuid_text(result::device::get_uuid(device).map_err(describe)?);
    // SAFETY: the device is one that the driver has just given.
    let total_bytes = unsafe { result::device::total_mem(device) }.map_err(describe)?;
    Ok((device, Card { ordinal, name, uuid, capability: (major * 10 + minor) as u32, total_bytes }))
}

/// The file that the driver's library was loaded from, where the system tells.
pub fn library() -> Option<String> {
    version().ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = |line: &str| line.split_once('/').map(|(_, path)| format!("/{path}"));
    maps.lines().filter(|line| line.contains("libcuda.so")).find_map(path)
}

/// A version of CUDA as people write it.
pub fn version_text(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// A compute capability, ten times, as people write it.
pub fn capability_text(capability: u32) -> String {
    format!("{}.{}", capability / 10, capability % 10)
}

/// Whether a device can be used, and what it is. Takes a context on it for a moment, unless it is open.
///
/// # Errors
/// [`DeviceError::Unusable`] says why it cannot be used, [`DeviceError::Poisoned`] that it no longer can.
pub fn probe(ordinal: u32) -> Result<Description, DeviceError> {
    if let Some(gpu) = Gpu::opened(ordinal) {
        if let Some(cause) = gpu.poisoned() {
            return Err(DeviceError::Poisoned { ordinal, cause });
        }
        return gpu.describe();
    }
    let (context, mut description) = open(ordinal)?;
    let unusable = |error| DeviceError::Unusable { ordinal, reason: describe(error) };
    description.free_bytes = context.mem_get_info().map_err(unusable)?.0;
    Ok(description)
}

/// The version of CUDA that the driver serves.
///
/// # Errors
/// Why there is no driver that serves.
pub fn version() -> Result<u32, String> {
    // SAFETY: it only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver is installed: neither libcuda.so.1 nor libcuda.so can be loaded (a container needs the \
            NVIDIA runtime to see the driver of its host)"
            .to_owned());
    }
    // cudarc panics for a function that its library lacks, so a library that merely has the name must be found out first.
    for name in ["cuInit", "cuDriverGetVersion"] {
        // SAFETY: the library is there, and what is looked up is not called here.
        let found = unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) };
        if found.is_err() {
            return Err(format!("the library libcuda.so.1 lacks the function {name}, so it is not NVIDIA's driver"));
        }
    }
    let mut version = 0;
    // SAFETY: the function writes one integer, and needs no initialization before.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|error| format!("cuDriverGetVersion: {:?}", error.0))?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// How many devices the driver shows.
///
/// # Errors
/// Why there is no driver that serves.
pub fn count() -> Result<u32, String> {
    let version = version()?;
    if version < NEEDED_VERSION {
        return Err(format!(
            "the NVIDIA driver is too old: it serves CUDA {}, and {} is needed (driver {NEEDED_DRIVER} or newer)",
            version_text(version),
            version_text(NEEDED_VERSION)
        ));
    }
    match result::init().and_then(|()| result::device::get_count()) {
        Ok(count) => Ok(u32::try_from(count).unwrap_or(0)),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => Err("the library libcuda.so.1 that was loaded is the stub \
            that toolkits bring for linking; take its folder out of LD_LIBRARY_PATH"
            .to_owned()),
        Err(DriverError(sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)) => Err("the NVIDIA driver's library and its kernel \
            module are of different versions; reboot after an update of the driver"
            .to_owned()),
        Err(error) => Err(format!("the NVIDIA driver does not start: {}", describe(error))),
    }
}

/// Why there is no device of that number among `count`.
fn absent(ordinal: u32, count: u32) -> String {
    let visible = match env::var("CUDA_VISIBLE_DEVICES") {
        Ok(devices) => format!("; CUDA_VISIBLE_DEVICES is '{devices}'"),
        Err(_) => String::new(),
    };
    match count {
        0 => format!("the driver shows no GPU{visible}"),
        1 => format!("there is no GPU {ordinal}, only GPU 0{visible}"),
        _ => format!("there is no GPU {ordinal}, only GPUs 0 to {}{visible}", count - 1),
    }
}

/// Opens the primary context of a device that can be used; the description lacks the free memory.
pub(super) fn open(ordinal: u32) -> Result<(std::sync::Arc<CudaContext>, Description), DeviceError> {
    let unusable = |reason: String| DeviceError::Unusable { ordinal, reason };
    let count = count().map_err(unusable)?;
    if ordinal >= count {
        return Err(unusable(absent(ordinal, count)));
    }
    let failed = |error| unusable(describe(error));
    let (device, Card { name, uuid, capability, total_bytes, .. }) = card(ordinal).map_err(unusable)?;
    super::gpu::check_architecture(capability).map_err(unusable)?;
    let pools = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
    // SAFETY: the device is one that the driver has just given.
    if unsafe { result::device::get_attribute(device, pools) }.map_err(failed)? == 0 {
        return Err(unusable("its driver has no memory pools (cuMemAllocAsync), which are needed".to_owned()));
    }
    let (blas_path, blas_version) = blas::load().map_err(unusable)?;
    let context = CudaContext::new(ordinal as usize).map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            unusable(format!("too little of its {total_bytes} bytes of memory is free to open it; other processes take the rest"))
        }
        _ => failed(error),
    })?;
    let driver_version = version().map_err(unusable)?;
    let description =
        Description { ordinal, name, uuid, capability, total_bytes, free_bytes: 0, driver_version, blas_path, blas_version };
    Ok((context, description))
}

/// An identity as NVIDIA's tools write it.
fn uuid_text(uuid: sys::CUuuid) -> String {
    let mut text = String::from("GPU");
    for (at, byte) in uuid.bytes.iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", *byte as u8));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!((version_text(13_000).as_str(), version_text(12_080).as_str()), ("13.0", "12.8"));
        assert_eq!((capability_text(75).as_str(), capability_text(120).as_str()), ("7.5", "12.0"));
    }

    #[test]
    fn identities_read_as_other_tools_write_them() {
        let bytes = std::array::from_fn(|at| (at * 17) as _);
        assert_eq!(uuid_text(sys::CUuuid { bytes }), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
