//! An opened device with the kernels of this build.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, sys};
use cudarc::nvrtc::Ptx;

use super::DeviceError;

/// The kernels of one source file.
struct Module {
    name: &'static str,
    images: &'static [Image],
}

/// A module in a form that a driver takes.
struct Image {
    /// The compute capability that PTX is for, ten times; 0 for a fatbin, of which the driver chooses a part.
    capability: u32,
    bytes: &'static [u8],
}

static MODULES: &[Module] = &include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// An opened device.
#[derive(Debug)]
pub struct Gpu {
    ordinal: u32,
    context: Arc<CudaContext>,
    /// The compute capability, ten times.
    capability: u32,
    modules: Vec<(&'static str, Arc<CudaModule>)>,
    functions: Mutex<HashMap<&'static str, CudaFunction>>,
}

impl Gpu {
    /// Opens device number `ordinal` and loads the kernels.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] says why it cannot be used.
    pub fn open(ordinal: u32) -> Result<Arc<Self>, DeviceError> {
        let unusable = |reason: String| DeviceError::Unusable { ordinal, reason };
        if MODULES.is_empty() {
            return Err(unusable(
                "this build has no GPU kernels, as no CUDA compiler was there; use scripts/build-cuda".to_owned(),
            ));
        }
        // SAFETY: it only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(unusable("no NVIDIA driver (libcuda.so.1) is installed".to_owned()));
        }
        let context = CudaContext::new(ordinal as usize).map_err(|error| unusable(error.to_string()))?;
        // SAFETY: streams are ordered by events of our own; nothing has been allocated yet.
        unsafe { context.disable_event_tracking() };
        let (major, minor) = context.compute_capability().map_err(|error| unusable(error.to_string()))?;
        let capability = (major * 10 + minor) as u32;
        let mut modules = Vec::new();
        for module in MODULES {
            let fits = |image: &&Image| image.capability <= capability;
            let image = module.images.iter().filter(fits).max_by_key(|image| image.capability).ok_or_else(|| {
                unusable(format!("its compute capability {major}.{minor} is below what this build has kernels for"))
            })?;
            let ptx = Ptx::from_binary(image.bytes.to_vec());
            let loaded =
                context.load_module(ptx).map_err(|error| unusable(format!("the kernels of '{}': {error}", module.name)))?;
            modules.push((module.name, loaded));
        }
        Ok(Arc::new(Gpu { ordinal, context, capability, modules, functions: Mutex::default() }))
    }

    /// Which device it is.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The compute capability, ten times: 80 for 8.0.
    pub fn capability(&self) -> u32 {
        self.capability
    }

    /// cudarc's context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The kernel `name` of the source file `module`.
    ///
    /// # Errors
    /// There is no such kernel.
    pub fn function(&self, module: &str, name: &'static str) -> Result<CudaFunction, DeviceError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let missing = |reason: String| DeviceError::Failed { ordinal: self.ordinal, what: format!("kernel '{name}'"), reason };
        let (_, loaded) = self
            .modules
            .iter()
            .find(|(known, _)| *known == module)
            .ok_or_else(|| missing(format!("this build has no module '{module}'")))?;
        let function = loaded.load_function(name).map_err(|error| missing(error.to_string()))?;
        functions.insert(name, function.clone());
        Ok(function)
    }
}
