//! An opened device with the kernels of this build.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::driver::{self, Description, capability_text};
use super::error::{describe, is_sticky};
use super::ledger::Ledger;
use super::{DeviceError, images};

/// What a block may have as dynamic shared memory without asking for more.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

/// Devices that are open: one for the process each, so that all models share its kernels, its pool and its ledger.
static OPEN: Mutex<Vec<(u32, Weak<Gpu>)>> = Mutex::new(Vec::new());

/// A handle that the driver lets every thread use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handle<T: Copy>(pub(crate) T);

// SAFETY: the driver's contexts, modules, functions, streams, events and pools are its own objects behind an address, and its
// calls on them may come from any thread. What it does not lock (graphs) is held by types that are used from one at a time.
unsafe impl<T: Copy> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T: Copy> Sync for Handle<T> {}

/// A kernel.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    handle: Handle<sys::CUfunction>,
    /// How much dynamic shared memory it may be launched with.
    shared_bytes: u32,
}

/// An opened device.
pub struct Gpu {
    description: Description,
    context: Arc<CudaContext>,
    pool: Handle<sys::CUmemoryPool>,
    multiprocessors: u32,
    shared_bytes: u32,
    modules: Vec<(&'static str, Handle<sys::CUmodule>)>,
    kernels: Mutex<HashMap<(&'static str, &'static str), Kernel>>,
    ledger: Arc<Ledger>,
    /// The first fault that left the context unusable.
    fault: OnceLock<String>,
    /// Held while launches are recorded: whoever waits for the whole device would spoil the recording.
    recording: Mutex<()>,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gpu").field("description", &self.description).field("fault", &self.fault).finish()
    }
}

/// Memory of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// All of it.
    pub total_bytes: usize,
    /// What can still be taken: what the driver has free, and what the pool holds unused.
    pub free_bytes: usize,
    /// What the pool holds.
    pub reserved_bytes: usize,
    /// What of that is in use.
    pub used_bytes: usize,
}

/// Whether this build has kernels that a device can run.
pub(super) fn check_architecture(capability: u32) -> Result<(), String> {
    match images::least_capability() {
        None => Err("this build has no GPU kernels, as no CUDA compiler was there; use scripts/build-cuda".to_owned()),
        Some(least) if capability < least => Err(format!(
            "its compute capability {} is not supported; this build has kernels from {} on",
            capability_text(capability),
            capability_text(least)
        )),
        Some(_) => Ok(()),
    }
}

impl Gpu {
    /// The device number `ordinal`, with the kernels of this build. It is opened when nobody has it open, and closed when the
    /// last who has it drops it.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] says why it cannot be used, [`DeviceError::Poisoned`] that it no longer can.
    pub fn open(ordinal: u32) -> Result<Arc<Self>, DeviceError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, gpu)| gpu.strong_count() > 0);
        if let Some(gpu) = open.iter().find_map(|(known, gpu)| (*known == ordinal).then(|| gpu.upgrade()).flatten()) {
            gpu.enter()?;
            return Ok(gpu);
        }
        let gpu = Arc::new(Self::load(ordinal)?);
        open.push((ordinal, Arc::downgrade(&gpu)));
        Ok(gpu)
    }

    /// The device, if somebody has it open.
    pub(super) fn opened(ordinal: u32) -> Option<Arc<Self>> {
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().find_map(|(known, gpu)| (*known == ordinal).then(|| gpu.upgrade()).flatten())
    }

    fn load(ordinal: u32) -> Result<Self, DeviceError> {
        let (context, description) = driver::open(ordinal)?;
        let unusable = |error| DeviceError::Unusable { ordinal, reason: describe(error) };
        // SAFETY: the device is the context's. The threshold is a 64-bit number, as the attribute wants, and lives through the
        // call.
        let pool = unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device()).map_err(unusable)?;
            let mut threshold = u64::MAX;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()).map_err(unusable)?;
            Handle(pool)
        };
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| context.attribute(attribute).map(|value| value as u32).map_err(unusable);
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_bytes = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let mut gpu = Gpu {
            description,
            context,
            pool,
            multiprocessors,
            shared_bytes,
            modules: Vec::new(),
            kernels: Mutex::default(),
            ledger: Arc::default(),
            fault: OnceLock::new(),
            recording: Mutex::new(()),
        };
        for (name, image) in images::fitting(gpu.capability()) {
            // SAFETY: the image is a whole fatbin, or text that ends in zero, in memory that outlives the call.
            let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
            let module = loaded.map_err(|error| DeviceError::Unusable {
                ordinal,
                reason: format!(
                    "the kernels of '{name}' do not load on compute capability {}: {}",
                    capability_text(gpu.capability()),
                    describe(error)
                ),
            })?;
            gpu.modules.push((name, Handle(module)));
        }
        Ok(gpu)
    }

    /// Which device it is.
    pub fn ordinal(&self) -> u32 {
        self.description.ordinal
    }

    /// The compute capability, ten times: 80 for 8.0.
    pub fn capability(&self) -> u32 {
        self.description.capability
    }

    /// How many multiprocessors it has.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// The most shared memory that a block can have.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// What it is, with the memory that is free now.
    ///
    /// # Errors
    /// The driver does not tell.
    pub fn describe(&self) -> Result<Description, DeviceError> {
        Ok(Description { free_bytes: self.memory()?.free_bytes, ..self.description.clone() })
    }

    /// Its memory as the driver counts it now.
    ///
    /// # Errors
    /// The driver does not tell.
    pub fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.call("asking for its memory", || self.read_memory())
    }

    fn read_memory(&self) -> Result<DeviceMemory, DriverError> {
        let (free_bytes, total_bytes) = result::mem_get_info()?;
        let (mut reserved, mut used) = (0u64, 0u64);
        use sys::CUmemPool_attribute as Attribute;
        for (attribute, value) in [
            (Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &mut reserved),
            (Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &mut used),
        ] {
            // SAFETY: the pool is the device's own; the attribute is a 64-bit number, which lives through the call.
            unsafe { result::mem_pool::get_attribute(self.pool.0, attribute, (&raw mut *value).cast()) }?;
        }
        let (reserved_bytes, used_bytes) = (reserved as usize, used as usize);
        let free_bytes = free_bytes + reserved_bytes.saturating_sub(used_bytes);
        Ok(DeviceMemory { total_bytes, free_bytes, reserved_bytes, used_bytes })
    }

    /// What its memory is taken for.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Waits until everything enqueued on the device is done, and gives what the pool holds unused back to the driver, so that
    /// others can have it. For unloading; it waits for work of other models, too.
    ///
    /// # Errors
    /// Something enqueued failed.
    pub fn give_back(&self) -> Result<(), DeviceError> {
        let _recording = self.lock_recording();
        self.call("giving memory back", || {
            result::ctx::synchronize()?;
            // SAFETY: the pool is the device's own.
            unsafe { result::mem_pool::trim_to(self.pool.0, 0) }
        })
    }

    /// Gives what the pool holds unused back to the driver, without waiting.
    pub(super) fn trim(&self) -> Result<(), DeviceError> {
        // SAFETY: the pool is the device's own.
        self.call("trimming the pool", || unsafe { result::mem_pool::trim_to(self.pool.0, 0) })
    }

    /// The first fault that left the device unusable for this process, if there was one. Everything fails from then on.
    pub fn poisoned(&self) -> Option<String> {
        self.fault.get().cloned()
    }

    /// Notes a fault. The first one stays.
    pub(super) fn poison(&self, cause: String) {
        let _ = self.fault.set(cause);
    }

    /// Nobody waits for the whole device while this is held.
    pub(super) fn lock_recording(&self) -> MutexGuard<'_, ()> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the device current for this thread.
    ///
    /// # Errors
    /// It is poisoned, or the driver refuses.
    pub(crate) fn enter(&self) -> Result<(), DeviceError> {
        if let Some(cause) = self.poisoned() {
            return Err(DeviceError::Poisoned { ordinal: self.ordinal(), cause });
        }
        // SAFETY: the context lives as long as this.
        unsafe { result::ctx::set_current(self.context.cu_ctx()) }.map_err(|error| self.error("entering the device", error))
    }

    /// Calls the driver with the device current.
    pub(super) fn call<T>(&self, what: impl Display, call: impl FnOnce() -> Result<T, DriverError>) -> Result<T, DeviceError> {
        self.enter()?;
        call().map_err(|error| self.error(what, error))
    }

    /// Calls the driver to free something. A failure poisons: what was not freed is not accounted for any more.
    pub(super) fn free(&self, what: &str, call: impl FnOnce() -> Result<(), DriverError>) {
        // Memory of a poisoned context is gone with it, and the driver refuses every call.
        if self.poisoned().is_none()
            && let Err(error) = self.call(what, call)
        {
            self.poison(error.to_string());
        }
    }

    /// What a failed call means. A fault that stays is noted.
    pub(super) fn error(&self, what: impl Display, error: DriverError) -> DeviceError {
        let ordinal = self.ordinal();
        if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return self.out_of_memory(what.to_string(), 0);
        }
        let failed = DeviceError::Failed { ordinal, what: what.to_string(), reason: describe(error) };
        if is_sticky(error) {
            self.poison(format!("{what}: {}", describe(error)));
            return match self.poisoned() {
                Some(cause) => DeviceError::Poisoned { ordinal, cause },
                None => failed,
            };
        }
        failed
    }

    /// The error with the numbers of now.
    pub(crate) fn out_of_memory(&self, what: String, needed_bytes: usize) -> DeviceError {
        // Without numbers the error is still what it is.
        let memory = self.enter().ok().and_then(|()| self.read_memory().ok());
        let free_bytes = memory.map_or(0, |memory| memory.free_bytes);
        let total_bytes = memory.map_or(self.description.total_bytes, |memory| memory.total_bytes);
        DeviceError::OutOfMemory { ordinal: self.ordinal(), what, needed_bytes, free_bytes, total_bytes }
    }

    /// The kernel `name` of the source file `module`, which may be launched with so much dynamic shared memory.
    ///
    /// # Errors
    /// There is no such kernel, or the device has no such memory.
    pub(super) fn kernel(
        &self,
        module: &'static str,
        name: &'static str,
        shared_bytes: u32,
    ) -> Result<Handle<sys::CUfunction>, DeviceError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kernels.get(&(module, name)).copied();
        let mut kernel = match known {
            Some(kernel) if shared_bytes <= kernel.shared_bytes => return Ok(kernel.handle),
            Some(kernel) => kernel,
            None => Kernel { handle: self.find(module, name)?, shared_bytes: PLAIN_SHARED_BYTES },
        };
        if shared_bytes > kernel.shared_bytes {
            let what = format_args!("giving kernel '{name}' {shared_bytes} bytes of shared memory");
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as Attribute;
            // SAFETY: the function belongs to a module that stays loaded as long as this.
            self.call(what, || unsafe {
                result::function::set_function_attribute(kernel.handle.0, Attribute, shared_bytes as i32)
            })?;
            kernel.shared_bytes = shared_bytes;
        }
        kernels.insert((module, name), kernel);
        Ok(kernel.handle)
    }

    fn find(&self, module: &str, name: &str) -> Result<Handle<sys::CUfunction>, DeviceError> {
        let what = || format!("looking for kernel '{name}'");
        let missing = |reason: String| DeviceError::Failed { ordinal: self.ordinal(), what: what(), reason };
        let (_, loaded) = self
            .modules
            .iter()
            .find(|(known, _)| *known == module)
            .ok_or_else(|| missing(format!("this build has no module '{module}'")))?;
        let symbol = std::ffi::CString::new(name).map_err(|error| missing(error.to_string()))?;
        // SAFETY: the module is loaded, and stays so as long as this.
        let function = self.call(what(), || unsafe { result::module::get_function(loaded.0, symbol) })?;
        Ok(Handle(function))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        for (name, module) in &self.modules {
            // SAFETY: everything that launches holds this, so none of the module's kernels is in use.
            self.free(name, || unsafe { result::module::unload(module.0) });
        }
    }
}
