//! The build and the machine, without its GPUs.

use std::num::NonZeroUsize;
use std::thread;

use nvml_wrapper::Nvml;
use procfs::Current;

use crate::instance::processor_instructions;

/// What runs, and on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Version of this build.
    pub(super) version: &'static str,
    /// Its features.
    pub(super) features: Vec<&'static str>,
    /// What its maker calls the processor, where the system tells.
    pub(super) processor: Option<String>,
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// The vector instructions in use.
    pub(super) instructions: &'static str,
    /// Bytes of memory: all, and what can still be taken.
    pub(super) memory: Option<(u64, u64)>,
    /// The version that NVIDIA's management library gives the driver, such as `580.65.06`.
    pub(super) driver_release: Option<String>,
}

impl Host {
    /// Looks at this machine.
    pub(super) fn look() -> Self {
        let processor = procfs::CpuInfo::current().ok().and_then(|all| all.model_name(0).map(str::to_owned));
        let memory = procfs::Meminfo::current().ok();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            features: if cfg!(feature = "cuda") { vec!["cuda"] } else { Vec::new() },
            processor,
            cores: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            instructions: processor_instructions(),
            memory: memory.map(|memory| (memory.mem_total, memory.mem_available.unwrap_or(memory.mem_free))),
            driver_release: Nvml::init().ok().and_then(|nvml| nvml.sys_driver_version().ok()),
        }
    }
}
