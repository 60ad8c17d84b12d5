//! Owns the model repository: which models there are, which versions serve, and how they come and go.
//! May import the words, `config`, `scheduler`, `instance`, `observe` and the written configurations of
//! `proto`; must never import `grpc`, `http` or tonic.
//!
//! **Invariant:** requests see one immutable [`Table`], replaced in one store. A load builds the new versions
//! beside those that serve, and the store is its last step; what fails before it changes nothing for clients.
//! **Invariant:** the lock on the records is never held while a model is opened, dropped or called.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use crate::clock;
use crate::error::{ControlError, InferError};
use crate::instance::device::{ChosenDevice, DeviceOptions, DeviceUsage, Devices};
use crate::instance::{gpu_memory, lost_gpus};
use crate::observe::busy::BusyShare;
use crate::observe::host::HostReading;
use crate::observe::metrics::{self, DeviceSeries, Page};
use crate::observe::options::MetricsOptions;
use crate::observe::statistics::ModelStatistics;
use crate::request::VersionChoice;
use crate::scheduler::reuse::ResponseCache;
use crate::scheduler::{ComposingModels, ModelHandle};

mod definition;
mod dependencies;
mod index;
mod lifecycle;
mod loading;
mod overrides;
mod records;
mod scan;
mod swap;
mod table;
mod zero_config;

pub use definition::{ReadModel, read_directory, read_repositories};
pub use index::IndexEntry;
pub use records::VersionState;

use lifecycle::Gates;
use records::Records;
use scan::Reading;
use table::Table;

/// How models come to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlMode {
    /// Every model of the repositories is loaded at start-up, and that is all.
    None,
    /// The listed models are loaded at start-up, and clients load and unload others.
    Explicit,
}

/// Where models come from and how they are loaded.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// Model repositories; each may also be a single Hugging Face directory.
    pub roots: Vec<PathBuf>,
    /// How models come to be loaded.
    pub control_mode: ControlMode,
    /// Models to load at start-up in explicit mode; `*` stands for all.
    pub startup_models: Vec<String>,
    /// Most model versions that are opened side by side.
    pub load_threads: NonZeroUsize,
    /// Whether a start-up model that failed keeps the server from being ready.
    pub strict_readiness: bool,
    /// Prefer `configs/<name>.pbtxt` of a model to its `config.pbtxt`.
    pub config_name: Option<String>,
    /// Whether what a configuration leaves out is filled in from the model's files.
    pub auto_complete: bool,
    /// What is recorded for the metrics page, and shown there.
    pub metrics: MetricsOptions,
    /// How models share devices.
    pub devices: DeviceOptions,
    /// Bytes of the response cache of all models; without it there is none.
    pub response_cache_bytes: Option<NonZeroU64>,
}

impl RepositoryOptions {
    /// All models of these roots, with the defaults of the command line.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        const LOAD_THREADS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        Self {
            roots,
            control_mode: ControlMode::None,
            startup_models: Vec::new(),
            load_threads: LOAD_THREADS,
            strict_readiness: true,
            config_name: None,
            auto_complete: true,
            metrics: MetricsOptions::default(),
            devices: DeviceOptions::default(),
            response_cache_bytes: None,
        }
    }
}

/// What a load request may bring along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadParameters {
    /// A whole model configuration as JSON, in place of the one on disk.
    pub config: Option<String>,
    /// The model's files by path below its directory (`1/model.safetensors`, without the prefix `file:`), in
    /// place of all that is on disk.
    pub files: BTreeMap<String, Bytes>,
}

/// Every model that could not be loaded at start-up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", describe_failures(.failures))]
pub struct StartupError {
    /// Models and why each failed; at least one. A repository that cannot be read stands under its path.
    pub failures: Vec<(String, String)>,
}

fn describe_failures(failures: &[(String, String)]) -> String {
    let lines: Vec<String> = failures.iter().map(|(model, reason)| format!("{model}: {}", reason.trim_end())).collect();
    format!("{} failed to load at start-up:\n{}", if lines.len() == 1 { "one model" } else { "several models" }, lines.join("\n"))
}

/// Statistics of one version that is ready.
#[derive(Clone, Debug)]
pub struct VersionStatistics {
    /// Model.
    pub model: String,
    /// Version.
    pub version: u64,
    /// Its counts.
    pub statistics: Arc<ModelStatistics>,
}

/// The model repository.
pub struct Repository {
    options: RepositoryOptions,
    reading: Reading,
    /// Itself, for what outlives a call: tasks that load, and versions that report that they are gone.
    this: Weak<Repository>,
    table: ArcSwap<Table>,
    records: Mutex<Records>,
    gates: Gates,
    permits: Arc<Semaphore>,
    /// What the instances of all models share.
    devices: Arc<Devices>,
    /// How busy each device was of late.
    device_shares: Mutex<BTreeMap<Arc<str>, BusyShare>>,
    cache: Option<Arc<ResponseCache>>,
    /// Gives each version that is opened, and each override, a number of its own.
    numbers: AtomicU64,
    /// Versions that are open, serving or not.
    alive: AtomicUsize,
    startup_done: AtomicBool,
    /// A repository could not be read, or an unknown model was to be loaded, and readiness is strict.
    startup_failed: AtomicBool,
    exiting: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Repository {
    /// A repository of which nothing is loaded yet.
    pub fn new(options: RepositoryOptions) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            permits: Arc::new(Semaphore::new(options.load_threads.get())),
            devices: Arc::new(Devices::new(options.devices.clone())),
            device_shares: Mutex::default(),
            cache: options.response_cache_bytes.map(|size| Arc::new(ResponseCache::new(size))),
            reading: Reading {
                roots: scan::distinct(&options.roots),
                config_name: options.config_name.clone(),
                auto_complete: options.auto_complete,
            },
            options,
            this: this.clone(),
            table: ArcSwap::default(),
            records: Mutex::default(),
            gates: Gates::default(),
            numbers: AtomicU64::new(1),
            alive: AtomicUsize::new(0),
            startup_done: AtomicBool::new(false),
            startup_failed: AtomicBool::new(false),
            exiting: AtomicBool::new(false),
            changes: watch::channel(0).0,
        })
    }

    /// The model version that serves now. Takes no lock.
    ///
    /// # Errors
    /// [`InferError::UnknownModel`], [`InferError::UnknownVersion`], [`InferError::NoAvailableVersions`] and
    /// [`InferError::VersionNotReady`].
    pub fn resolve(&self, model: &str, version: VersionChoice) -> Result<Arc<ModelHandle>, InferError> {
        self.table.load().resolve(model, version)
    }

    /// The ready versions of a model, ascending.
    ///
    /// # Errors
    /// [`InferError::UnknownModel`], [`InferError::NoAvailableVersions`].
    pub fn versions(&self, model: &str) -> Result<Vec<u64>, InferError> {
        self.table.load().versions(model)
    }

    /// Whether this version is ready and has an instance that works. A model that is not known is not ready.
    pub fn model_ready(&self, model: &str, version: VersionChoice) -> bool {
        self.table.load().is_working(model, version)
    }

    /// How much each device that models share has been used.
    pub fn device_usage(&self) -> Vec<DeviceUsage> {
        self.devices.usage()
    }

    /// Whether [`Repository::load_startup`] has ended, well or not.
    pub fn is_startup_done(&self) -> bool {
        self.startup_done.load(Ordering::Acquire)
    }

    /// Whether the start-up set is loaded and works. Later loads and unloads do not change it; a start-up model
    /// none of whose instances works any more does, and under strict readiness one that failed to load. A device that was
    /// lost ends it for good, whatever runs elsewhere: only a new process can use the device again.
    pub fn is_ready(&self) -> bool {
        self.is_startup_done()
            && !self.startup_failed.load(Ordering::Acquire)
            && !self.exiting.load(Ordering::Acquire)
            && self.table.load().required_work()
            && self.devices.lost().is_none()
    }

    /// The device of models whose configuration leaves it open.
    pub fn chosen_device(&self) -> &ChosenDevice {
        self.devices.chosen()
    }

    /// Changes whenever a version comes, goes or fails, and with the readiness of the server; the value itself
    /// means nothing.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Statistics of the ready versions: of all models where `model` is empty, of all versions where `version` is
    /// [`VersionChoice::Latest`].
    ///
    /// # Errors
    /// [`ControlError::StatisticsModel`], [`ControlError::StatisticsVersion`].
    pub fn statistics(&self, model: &str, version: VersionChoice) -> Result<Vec<VersionStatistics>, ControlError> {
        self.table.load().statistics(model, version)
    }

    /// The counters of every version, loaded or not, as a Prometheus page, together with what is known of the machine.
    pub fn render_metrics(&self, host: &HostReading, requests_in_flight: u64) -> String {
        let now = clock::now();
        let (models, devices) = (self.lock().series(now), self.device_series());
        let options = &self.options.metrics;
        let gpu_memory = gpu_memory();
        let (models, devices, gpu_memory) = (&models, &devices, &gpu_memory);
        metrics::render(&Page { models, host, options, devices, gpu_memory, requests_in_flight, now })
    }

    fn device_series(&self) -> Vec<DeviceSeries> {
        let shares = self.device_shares.lock().unwrap_or_else(PoisonError::into_inner);
        let series = |usage: DeviceUsage| DeviceSeries {
            name: usage.name.to_string(),
            slots: usage.slots,
            busy: usage.busy,
            share: shares.get(&usage.name).copied().unwrap_or_default().share(),
            executions: usage.executions,
            by_model: usage.by_model.iter().map(|model| (model.model.to_string(), model.version, model.busy)).collect(),
        };
        self.devices.usage().into_iter().map(series).collect()
    }

    /// Looks at how loaded every model and every device is. Call it every few seconds.
    pub fn measure_load(&self) {
        for (device, reason) in lost_gpus() {
            self.devices.lose(&device, &reason);
        }
        let serving = self.lock().serving();
        let now = clock::now();
        serving.iter().for_each(|statistics| statistics.measure_load(now));
        let usage = self.devices.usage();
        let mut shares = self.device_shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|name, _| usage.iter().any(|device| device.name == *name));
        for device in usage {
            shares.entry(device.name).or_default().look(now, device.busy, device.slots);
        }
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the records, and publishes what came of it in one store.
    fn change<R>(&self, change: impl FnOnce(&mut Records) -> R) -> R {
        let mut records = self.lock();
        let result = change(&mut records);
        let old = self.table.swap(Arc::new(records.table()));
        let retired = records.take_retired();
        drop(records);
        // No more requests come to what is replaced: it must not hold back those that it has until more do.
        retired.iter().for_each(|live| live.handle.release());
        // Dropping a version may run its last instance's farewell, which takes the lock again.
        drop(old);
        drop(retired);
        self.announce();
        result
    }

    /// Makes everyone look again who watches the repository.
    fn announce(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl ComposingModels for Repository {
    fn resolve(&self, model: &str, version: VersionChoice) -> Result<Arc<ModelHandle>, InferError> {
        Repository::resolve(self, model, version)
    }
}
