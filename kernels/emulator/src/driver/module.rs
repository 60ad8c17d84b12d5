//! Modules, kernels, and the checks a launch passes before it is enqueued.

use std::collections::HashMap;
use std::sync::Arc;

use super::image::{Image, Kernel};
use super::ledger::Origin;
use super::mapping::Mapping;
use super::operation::Action;
use super::state::{self, Message};
use super::status::Status;
use super::world::Region;
use crate::execute::{Fault, GlobalMemory, Launch};

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    image: Arc<Image>,
    /// Where its variables are, with their sizes.
    pub variables: Arc<HashMap<String, (u64, usize)>>,
    /// Functions looked up so far.
    functions: HashMap<String, u64>,
}

/// A kernel of a module.
#[derive(Debug)]
pub(crate) struct Function {
    /// Its name.
    pub name: String,
    /// The kernel.
    pub kernel: Arc<Kernel>,
    image: Arc<Image>,
    variables: Arc<HashMap<String, (u64, usize)>>,
    /// How much dynamic shared memory a launch may ask for.
    pub dynamic_limit: std::sync::atomic::AtomicU32,
}

/// A launch as enqueued.
#[derive(Debug)]
pub(crate) struct Call {
    pub function: Arc<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    parameters: Vec<u8>,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared_bytes: u32,
}

impl Call {
    /// Runs it; gives the instructions executed.
    pub(crate) fn run(&self, seed: u64, memory: &mut dyn GlobalMemory) -> Result<u64, Fault> {
        let launch = Launch {
            grid: self.grid,
            block: self.block,
            dynamic_shared_bytes: self.dynamic_shared_bytes,
            parameters: &self.parameters,
        };
        self.function.image.run(&self.function.kernel, &launch, &self.function.variables, memory, seed)
    }
}

/// Shared memory a block may have without asking.
pub(crate) const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// Shared memory a block may ask for, by compute capability.
pub(crate) fn most_shared_bytes(capability: u32) -> u32 {
    let kilobytes = match capability {
        75 => 64,
        80 | 87 => 163,
        86 | 89 | 120 | 121 => 99,
        90 | 100 | 103 | 110 => 227,
        _ => 48,
    };
    kilobytes << 10
}

impl state::Call {
    /// Loads a module from an image.
    pub(crate) fn load_module(&mut self, image: &[u8]) -> Result<u64, Status> {
        self.outside_capture("the loading of a module")?;
        if self.state.injection.module() {
            return Err(Status::INVALID_IMAGE);
        }
        let text = std::str::from_utf8(image).map_err(|_| Status::NO_BINARY_FOR_GPU)?;
        let Some(target) = super::image::target(text) else {
            eprintln!("emulator: the image is not PTX text; build kernels with ALCEDO_CUDA_TARGETS=compute_80, say");
            return Err(Status::NO_BINARY_FOR_GPU);
        };
        if target > self.driver.settings.capability {
            let own = self.driver.settings.capability;
            eprintln!("emulator: the PTX is for compute_{target}, the device is of compute capability {}.{}", own / 10, own % 10);
            return Err(Status::NO_BINARY_FOR_GPU);
        }
        let image = Image::parse(text).map_err(|reason| {
            eprintln!("emulator: {reason}");
            Status::INVALID_PTX
        })?;
        let mut variables = HashMap::new();
        for variable in image.variables() {
            let address = self.map_memory(variable.bytes, Origin::Module, Some(&variable.initial))?;
            variables.insert(variable.name.clone(), (address, variable.bytes));
        }
        let handle = self.state.handle();
        let module = Module { image: Arc::new(image), variables: Arc::new(variables), functions: HashMap::new() };
        self.state.modules.insert(handle, module);
        Ok(handle)
    }

    /// Allocates device memory that nobody has to order anything after.
    pub(crate) fn map_memory(&mut self, bytes: usize, origin: Origin, initial: Option<&[u8]>) -> Result<u64, Status> {
        let address = self.ledger().allocate(bytes as u64, origin)?;
        let mapping = Mapping::private(bytes).map_err(|_| {
            let device = self.device as usize;
            self.state.devices[device].ledger.finish_free(address);
            Status::OUT_OF_MEMORY
        })?;
        if let Some(initial) = initial {
            // SAFETY: the mapping is new, at least `bytes` long, and `initial` is cut to that.
            unsafe { std::ptr::copy_nonoverlapping(initial.as_ptr(), mapping.start() as *mut u8, initial.len().min(bytes)) };
        }
        let region = Region::new(address, bytes, mapping, initial.is_none());
        let device = self.device;
        self.state.inbox.push(Message::Device(device, region));
        Ok(address)
    }

    /// A kernel by name.
    pub(crate) fn function(&mut self, module: u64, name: &str) -> Result<u64, Status> {
        let found = self.state.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        if let Some(handle) = found.functions.get(name) {
            return Ok(*handle);
        }
        let kernel = found.image.kernel(name).ok_or(Status::NOT_FOUND)?;
        let function = Function {
            name: name.to_owned(),
            kernel,
            image: Arc::clone(&found.image),
            variables: Arc::clone(&found.variables),
            dynamic_limit: PLAIN_SHARED_BYTES.into(),
        };
        let handle = self.state.handle();
        self.state.functions.insert(handle, Arc::new(function));
        if let Some(module) = self.state.modules.get_mut(&module) {
            module.functions.insert(name.to_owned(), handle);
        }
        Ok(handle)
    }

    /// A kernel by handle.
    pub(crate) fn found_function(&self, handle: u64) -> Result<Arc<Function>, Status> {
        self.state.functions.get(&handle).cloned().ok_or(Status::INVALID_HANDLE)
    }

    /// Forgets a module and gives its variables' memory back.
    pub(crate) fn unload_module(&mut self, module: u64) -> Result<(), Status> {
        self.outside_capture("the unloading of a module")?;
        let module = self.state.modules.remove(&module).ok_or(Status::INVALID_HANDLE)?;
        for handle in module.functions.values() {
            self.state.functions.remove(handle);
        }
        let stream = self.device().host_stream;
        for (address, _) in module.variables.values() {
            self.ledger().start_free(*address)?;
            let action = Action::Free { address: *address, pinned: false };
            self.state.push(&self.driver.names, stream, "unloading of a module", action, &[], &Default::default());
        }
        self.driver.work.notify_one();
        Ok(())
    }

    /// Checks a launch and enqueues it.
    pub(crate) fn launch(
        &mut self,
        function: &Arc<Function>,
        shape: Shape,
        stream: u64,
        parameters: Vec<u8>,
    ) -> Result<(), Status> {
        if let Some((status, reason)) = self.refused(function, shape) {
            eprintln!("emulator: the launch of '{}' is refused: {reason}", function.name);
            return Err(status);
        }
        let name = format!("kernel '{}'", function.name);
        if self.state.injection.launch(&function.name) {
            return self.enqueue(stream, &name, Action::Fail);
        }
        let call = Call {
            function: Arc::clone(function),
            grid: shape.grid,
            block: shape.block,
            dynamic_shared_bytes: shape.dynamic_shared_bytes,
            parameters,
        };
        self.enqueue(stream, &name, Action::Kernel(Arc::new(call)))
    }

    fn refused(&self, function: &Function, shape: Shape) -> Option<(Status, String)> {
        let Shape { grid, block, dynamic_shared_bytes } = shape;
        let limits = [(block, [1024, 1024, 64], "block"), (grid, [0x7fff_ffff, 65_535, 65_535], "grid")];
        for (shape, limits, what) in limits {
            if shape.contains(&0) || shape.iter().zip(limits).any(|(size, limit)| *size > limit) {
                return Some((Status::INVALID_VALUE, format!("its {what} is {shape:?}; each number is from 1 to {limits:?}")));
            }
        }
        let threads = block.iter().map(|size| u64::from(*size)).product::<u64>();
        let most = function.kernel.max_threads.unwrap_or(1024).min(1024);
        if threads > u64::from(most) {
            return Some((Status::INVALID_VALUE, format!("its block has {threads} threads; at most {most} are allowed")));
        }
        let limit = function.dynamic_limit.load(std::sync::atomic::Ordering::Relaxed);
        let total = u64::from(function.kernel.static_shared_bytes) + u64::from(dynamic_shared_bytes);
        let most = u64::from(most_shared_bytes(self.driver.settings.capability));
        if dynamic_shared_bytes > limit || total > most.max(u64::from(PLAIN_SHARED_BYTES)) {
            let reason = format!(
                "it asks for {dynamic_shared_bytes} bytes of dynamic shared memory beside {} static ones; {limit} are allowed by \
                 cuFuncSetAttribute, {most} by the device",
                function.kernel.static_shared_bytes
            );
            return Some((Status::INVALID_VALUE, reason));
        }
        None
    }
}
