//! Modules, kernels, and the checks a launch passes before it is enqueued.

use std::collections::HashMap;
use std::sync::Arc;

use super::ledger::Origin;
use super::mapping::Mapping;
use super::operation::Action;
use super::state::{self, Message};
use super::status::Status;
use super::world::Region;
use crate::execute::{Counts, Fault, GlobalMemory, Launch, Options, run};
use crate::ptx;

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    image: ptx::Module,
    /// Where its variables are, in their order.
    addresses: Arc<[u64]>,
    /// Functions looked up so far.
    functions: HashMap<String, u64>,
}

/// A kernel of a module.
#[derive(Debug)]
pub(crate) struct Function {
    /// Its name.
    pub name: String,
    /// The kernel.
    pub kernel: Arc<ptx::Kernel>,
    /// Where its module's variables are.
    addresses: Arc<[u64]>,
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
    /// Whether its result is to be spoiled, as a test has asked for.
    pub is_wrong: bool,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared_bytes: u32,
}

impl Call {
    /// Runs it.
    pub(crate) fn run(&self, seed: u64, memory: &mut dyn GlobalMemory) -> Result<Counts, Fault> {
        let launch = Launch {
            grid: self.grid,
            block: self.block,
            dynamic_shared_bytes: self.dynamic_shared_bytes,
            parameters: &self.parameters,
        };
        run(&self.function.kernel, &launch, &self.function.addresses, memory, &Options { seed, ..Options::default() })
    }
}

impl Module {
    /// Where a variable is, and its size.
    pub(crate) fn variable(&self, name: &str) -> Option<(u64, usize)> {
        let index = self.image.globals().iter().position(|global| global.name == name)?;
        Some((self.addresses[index], self.image.globals()[index].contents.len()))
    }
}

impl Function {
    /// Threads a block may have.
    pub(crate) fn most_threads(&self) -> u32 {
        self.kernel.max_threads.map_or(1024, |[x, y, z]| x.saturating_mul(y).saturating_mul(z)).min(1024)
    }

    /// Offsets and sizes of its parameters.
    pub(crate) fn parameters(&self) -> Vec<(usize, usize)> {
        self.kernel.parameters.iter().map(|parameter| (parameter.offset, parameter.bytes)).collect()
    }
}

/// Ten times the text's version.
fn version(text: &str) -> Option<u32> {
    let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(".version"))?;
    let (major, minor) = line.trim().split_once('.')?;
    Some(major.parse::<u32>().ok()? * 10 + minor.parse::<u32>().ok()?)
}

/// Ten times the newest version of PTX that a driver takes.
fn newest_version(driver: u32) -> u32 {
    match driver {
        13_010.. => 91,
        13_000.. => 90,
        12_090.. => 88,
        12_080.. => 87,
        12_060.. => 85,
        12_040.. => 84,
        12_030.. => 83,
        12_020.. => 82,
        12_010.. => 81,
        12_000.. => 80,
        _ => 78,
    }
}

/// The number after `sm_` in the text's target line; none for what is not PTX.
fn target(text: &str) -> Option<u32> {
    let line = text.lines().map(str::trim).find(|line| line.starts_with(".target"))?;
    let digits: String = line.split("sm_").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
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
        let Some(target) = target(text) else {
            eprintln!("emulator: the image is not PTX text; build kernels with ALCEDO_CUDA_TARGETS=compute_80, say");
            return Err(Status::NO_BINARY_FOR_GPU);
        };
        let (version, known) = (version(text).unwrap_or(0), newest_version(self.driver.settings.driver_version));
        if version > known {
            eprintln!(
                "emulator: the PTX is of version {}.{}, the driver knows {}.{}",
                version / 10,
                version % 10,
                known / 10,
                known % 10
            );
            return Err(Status::UNSUPPORTED_PTX_VERSION);
        }
        if target > self.driver.settings.capability {
            let own = self.driver.settings.capability;
            eprintln!("emulator: the PTX is for compute_{target}, the device is of compute capability {}.{}", own / 10, own % 10);
            return Err(Status::NO_BINARY_FOR_GPU);
        }
        let image = ptx::Module::parse(text).map_err(|reason| {
            eprintln!("emulator: {reason}");
            Status::INVALID_PTX
        })?;
        let addresses = self.place_variables(&image)?;
        let handle = self.state.handle();
        let module = Module { image, addresses: addresses.into(), functions: HashMap::new() };
        self.state.modules.insert(handle, module);
        Ok(handle)
    }

    /// Allocates a module's variables; they may hold each other's addresses, so that all are placed before any is filled.
    fn place_variables(&mut self, image: &ptx::Module) -> Result<Vec<u64>, Status> {
        let mut addresses = Vec::new();
        for global in image.globals() {
            addresses.push(self.ledger().allocate(global.contents.len() as u64, Origin::Module)?);
        }
        for (global, address) in image.globals().iter().zip(&addresses) {
            let mut contents = global.contents.clone();
            for (place, variable, added) in &global.addresses {
                let value = addresses[*variable].wrapping_add_signed(*added);
                contents[*place..place + 8].copy_from_slice(&value.to_le_bytes());
            }
            self.map_at(*address, contents.len(), Some(&contents))?;
        }
        Ok(addresses)
    }

    /// Allocates device memory that nobody has to order anything after.
    pub(crate) fn map_memory(&mut self, bytes: usize, origin: Origin) -> Result<u64, Status> {
        let address = self.ledger().allocate(bytes as u64, origin)?;
        self.map_at(address, bytes, None)?;
        Ok(address)
    }

    fn map_at(&mut self, address: u64, bytes: usize, initial: Option<&[u8]>) -> Result<(), Status> {
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
        Ok(())
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
            addresses: Arc::clone(&found.addresses),
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
        for address in module.addresses.iter() {
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
            is_wrong: self.state.injection.is_wrong(&function.name),
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
        let most = function.most_threads();
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
