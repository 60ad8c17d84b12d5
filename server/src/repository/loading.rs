//! Opening the versions of a model, on blocking threads of which only so many run at a time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::{BackendKind, Composing, EnsembleGraph, InstanceGroup, InstanceKind, ModelConfig, Scheduling};
use crate::error::{ConfigError, ConfigProblem, EnsembleProblem, InferError, LoadError};
use crate::instance::device::{Devices, SharedDevice};
use crate::instance::{Backend, InstancePool, InstanceSlot, ModelInstance, ServedVersion, open_backend, place};
use crate::observe::statistics::{Extent, ModelStatistics};
use crate::request::VersionChoice;
use crate::scheduler::ensemble::EnsembleScheduler;
use crate::scheduler::reuse::ResponseCache;
use crate::scheduler::{ComposingModels, ModelHandle};

use super::Repository;
use super::definition::Definition;
use super::table::Live;

/// Time between two lines about a load that takes long.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Most batches that wait for the instances of a model; the room for them is taken when the model is loaded.
const MAX_QUEUE_BATCHES: usize = 1 << 20;

/// What opening the versions of a model comes to: all of them, or those that failed with their reasons.
type OpenResult = Result<Vec<(u64, Opened)>, Vec<(u64, LoadError)>>;

/// A version that could take requests.
pub(super) struct Opened {
    pub(super) generation: u64,
    pub(super) config: Arc<ModelConfig>,
    pub(super) statistics: Arc<ModelStatistics>,
    pub(super) live: Live,
    pub(super) load_seconds: f64,
}

/// What the statistics of a model's version count.
fn extent(config: &ModelConfig) -> Extent {
    let instances = config.instance_groups.iter().map(|group| group.count).fold(0, usize::saturating_add);
    Extent {
        levels: config.priority_levels(),
        instances: if config.backend == BackendKind::Ensemble { 0 } else { instances },
        max_rows: config.max_batch_rows.map(NonZeroUsize::get),
        first_response_bounds: config.first_response_bounds.clone(),
    }
}

/// Held by everything that keeps a version open; dropped last, it reports that the version is gone.
struct Farewell {
    repository: Weak<Repository>,
    model: String,
    version: u64,
    generation: u64,
    /// Overriding files are removed with the last version that was made from them.
    _files: Option<Arc<TempDir>>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(repository) = self.repository.upgrade() {
            repository.alive.fetch_sub(1, Ordering::AcqRel);
            repository.change(|records| records.gone(&self.model, self.version, self.generation));
        }
    }
}

/// A backend that says farewell: the threads of its instances hold it until they end.
struct WatchedBackend {
    backend: Arc<dyn Backend>,
    _farewell: Farewell,
}

impl Backend for WatchedBackend {
    fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        self.backend.instantiate(slot)
    }

    fn device(&self, slot: &InstanceSlot) -> Option<SharedDevice> {
        self.backend.device(slot)
    }

    fn turn_slots(&self, slot: &InstanceSlot, available: NonZeroUsize) -> Result<NonZeroUsize, LoadError> {
        self.backend.turn_slots(slot, available)
    }

    fn depth(&self, slot: &InstanceSlot) -> NonZeroUsize {
        self.backend.depth(slot)
    }
}

/// The way from an ensemble to its models. It does not keep the repository alive. The ensemble and every
/// request that runs through it hold it, as instances hold [`WatchedBackend`].
struct Composers {
    repository: Weak<Repository>,
    _farewell: Farewell,
}

impl ComposingModels for Composers {
    fn resolve(&self, model: &str, version: VersionChoice) -> Result<Arc<ModelHandle>, InferError> {
        self.repository.upgrade().ok_or(InferError::ServerExiting)?.resolve(model, version)
    }
}

/// The parts of a version that its instances are made from.
struct Blank {
    served: Arc<ServedVersion>,
    generation: u64,
    farewell: Farewell,
}

impl Repository {
    /// Opens every version of a definition.
    ///
    /// # Errors
    /// The versions that could not be opened, each with its reason; those that could are closed again.
    pub(super) async fn open(&self, definition: &Arc<Definition>, failures: &BTreeMap<String, String>) -> OpenResult {
        if definition.config.reuse.response_cache && self.cache.is_none() {
            tracing::warn!(
                model = %definition.config.name,
                "response_cache is enabled, but the server has no cache; served without (--cache-config local,size=BYTES)"
            );
        }
        if definition.config.backend == BackendKind::Ensemble {
            return self.open_ensemble(definition, failures);
        }
        let config = match self.place(&definition.config).await {
            Ok(config) => config,
            Err(error) => return Err(definition.versions.keys().map(|version| (*version, error.clone())).collect()),
        };
        let mut tasks: Vec<(u64, JoinHandle<Result<Opened, LoadError>>)> = Vec::new();
        for version in definition.versions.keys() {
            let blank = self.blank(definition, &config, *version);
            let permits = Arc::clone(&self.permits);
            let devices = Arc::clone(&self.devices);
            let cache = self.cache.clone();
            let this = self.this.clone();
            tasks.push((
                *version,
                tokio::spawn(async move {
                    let opened = open_instances(blank, permits, devices, cache).await?;
                    if let Some(instances) = &opened.live.instances {
                        // Readiness depends on it, so whoever watches that must look again.
                        instances.on_failure(move || this.upgrade().iter().for_each(|repository| repository.announce()));
                    }
                    Ok(opened)
                }),
            ));
        }
        let (mut opened, mut failed) = (Vec::new(), Vec::new());
        for (version, task) in tasks {
            match wait(task, &definition.config.name, version).await {
                Ok(version_opened) => opened.push((version, version_opened)),
                Err(error) => failed.push((version, error)),
            }
        }
        if failed.is_empty() { Ok(opened) } else { Err(failed) }
    }

    /// The configuration with each group of instances on its device. Looking for a device may block.
    async fn place(&self, config: &Arc<ModelConfig>) -> Result<Arc<ModelConfig>, LoadError> {
        let (config, devices) = (Arc::clone(config), Arc::clone(&self.devices));
        let model = config.name.to_string();
        let placed = tokio::task::spawn_blocking(move || place(&config, &devices)).await;
        placed.unwrap_or_else(|error| Err(LoadError::Panicked { model, message: error.to_string() }))
    }

    fn blank(&self, definition: &Definition, config: &Arc<ModelConfig>, version: u64) -> Blank {
        let generation = self.next_number();
        let served = ServedVersion {
            config: Arc::clone(config),
            version,
            statistics: Arc::new(ModelStatistics::new(&extent(config), &self.options.metrics)),
            model_directory: definition.directory.clone(),
            version_directory: definition.versions.get(&version).cloned().unwrap_or_default(),
        };
        Blank { served: Arc::new(served), generation, farewell: self.farewell(definition, version, generation) }
    }

    fn farewell(&self, definition: &Definition, version: u64, generation: u64) -> Farewell {
        self.alive.fetch_add(1, Ordering::AcqRel);
        Farewell {
            repository: self.this.clone(),
            model: definition.config.name.to_string(),
            version,
            generation,
            _files: definition.files.clone(),
        }
    }

    fn open_ensemble(&self, definition: &Arc<Definition>, failures: &BTreeMap<String, String>) -> OpenResult {
        let mut opened = Vec::new();
        for version in definition.versions.keys() {
            let one = self.open_ensemble_version(definition, *version, failures);
            opened.push((*version, one.map_err(|error| vec![(*version, error.into())])?));
        }
        Ok(opened)
    }

    fn open_ensemble_version(
        &self,
        definition: &Definition,
        version: u64,
        failures: &BTreeMap<String, String>,
    ) -> Result<Opened, ConfigError> {
        let started = clock::now();
        let config = self.check_ensemble(&definition.config, failures).map_err(ConfigProblem::from)?;
        let generation = self.next_number();
        let statistics = Arc::new(ModelStatistics::new(&extent(&config), &self.options.metrics));
        let farewell = self.farewell(definition, version, generation);
        let composers = Arc::new(Composers { repository: self.this.clone(), _farewell: farewell });
        let scheduler = EnsembleScheduler::new(Arc::clone(&config), version, Arc::clone(&statistics), composers)?;
        let handle = ModelHandle::new(Arc::clone(&config), version, Arc::clone(&statistics), scheduler);
        let handle = handle.with_cache(self.cache.as_ref());
        let live = Live { handle: Arc::new(handle), instances: None };
        Ok(Opened { generation, config, statistics, live, load_seconds: clock::now().since(started).as_secs_f64() })
    }

    /// Compares an ensemble with the models that it is made of, as they serve now. What comes back says whether
    /// it is decoupled and how deep it nests, which only its models know. `failures` says why composing models are not there.
    pub(super) fn check_ensemble(
        &self,
        config: &Arc<ModelConfig>,
        failures: &BTreeMap<String, String>,
    ) -> Result<Arc<ModelConfig>, EnsembleProblem> {
        let Scheduling::Ensemble(graph) = &config.scheduling else {
            return Ok(Arc::clone(config));
        };
        self.check_composing(&config.name, graph, failures)?;
        let resolve = |model: &str, version: VersionChoice| {
            let handle = self.resolve(model, version)?;
            Ok(Composing { config: Arc::clone(&handle.config) })
        };
        let checked = graph.check(config, &resolve)?;
        let known = (config.decoupled, config.sequential, config.nesting);
        if (checked.decoupled, checked.sequential, checked.nesting) == known {
            return Ok(Arc::clone(config));
        }
        let mut changed = ModelConfig::clone(config);
        (changed.sequential, changed.nesting) = (checked.sequential, checked.nesting);
        if checked.decoupled != config.decoupled {
            changed.decoupled = checked.decoupled;
            changed.wire.model_transaction_policy =
                Some(proto::inference::ModelTransactionPolicy { decoupled: checked.decoupled });
        }
        Ok(Arc::new(changed))
    }

    /// Whether every composing model serves, in the version that is asked for.
    fn check_composing(
        &self,
        ensemble: &str,
        graph: &EnsembleGraph,
        failures: &BTreeMap<String, String>,
    ) -> Result<(), EnsembleProblem> {
        for step in &graph.steps {
            if self.resolve(&step.model, step.version).is_ok() {
                continue;
            }
            let (ensemble, model) = (ensemble.to_owned(), step.model.to_string());
            return Err(match step.version {
                VersionChoice::Exact(version) if self.versions(&step.model).is_ok() => {
                    EnsembleProblem::DependencyVersion { ensemble, model, version }
                }
                _ => {
                    let failure = self.lock().get(&step.model).and_then(|record| record.failure.clone());
                    let reason =
                        failure.or_else(|| failures.get(&model).cloned()).unwrap_or_else(|| "it is not loaded".to_owned());
                    EnsembleProblem::DependencyFailed { ensemble, model, reason: reason.trim_end().to_owned() }
                }
            });
        }
        Ok(())
    }
}

/// Opens the backend and starts the instances on a blocking thread, then the scheduler on the runtime.
async fn open_instances(
    blank: Blank,
    permits: Arc<tokio::sync::Semaphore>,
    devices: Arc<Devices>,
    cache: Option<Arc<ResponseCache>>,
) -> Result<Opened, LoadError> {
    let Blank { served, generation, farewell } = blank;
    let gone = |reason: &str| LoadError::Thread { model: served.config.name.to_string(), reason: reason.to_owned() };
    let permit = permits.acquire_owned().await.map_err(|_| gone("the server is ending"))?;
    let started = clock::now();
    let for_thread = Arc::clone(&served);
    let task = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let backend = open_backend(&for_thread, &devices)?;
        let watched: Arc<dyn Backend> = Arc::new(WatchedBackend { backend, _farewell: farewell });
        InstancePool::start(Arc::clone(&for_thread), &watched, queue_batches(&for_thread.config), &devices)
    });
    let instances = task.await.map_err(|error| {
        let message = error.try_into_panic().ok().and_then(|panic| {
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        });
        let message = message.unwrap_or_else(|| "the load was ended".to_owned());
        LoadError::Panicked { model: served.config.name.to_string(), message }
    })??;
    let config = Arc::clone(&served.config);
    let statistics = Arc::clone(&served.statistics);
    let handle = ModelHandle::over_instances(Arc::clone(&config), served.version, Arc::clone(&statistics), instances.clone());
    let handle = handle.with_cache(cache.as_ref());
    let live = Live { handle: Arc::new(handle), instances: Some(instances) };
    Ok(Opened { generation, config, statistics, live, load_seconds: clock::now().since(started).as_secs_f64() })
}

/// Waits for a load, and says from time to time that it is still under way.
async fn wait(task: JoinHandle<Result<Opened, LoadError>>, model: &str, version: u64) -> Result<Opened, LoadError> {
    let started = clock::now();
    let mut task = task;
    let mut ticker = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            ended = &mut task => {
                return ended.unwrap_or_else(|error| Err(LoadError::Panicked { model: model.to_owned(), message: error.to_string() }));
            }
            _ = ticker.tick() => {
                tracing::info!(model, version, seconds = clock::now().since(started).as_secs(), "still loading");
            }
        }
    }
}

/// How many batches may wait for an instance. A request on its own is a batch; the dynamic batcher keeps its
/// queue itself and prepares one batch per instance while another runs.
fn queue_batches(config: &ModelConfig) -> usize {
    match &config.scheduling {
        Scheduling::Direct(policy) => {
            let entries = policy.max_entries.get();
            if entries > MAX_QUEUE_BATCHES {
                tracing::warn!(model = %config.name, entries, limit = MAX_QUEUE_BATCHES, "the queue is shorter than configured");
            }
            entries.min(MAX_QUEUE_BATCHES)
        }
        Scheduling::Dynamic(_) | Scheduling::Sequence(_) | Scheduling::Ensemble(_) => {
            let instances: usize = config.instance_groups.iter().map(|group| group.count).sum();
            instances.saturating_mul(2).max(1)
        }
    }
}

/// Where a model's instances run, for the log.
pub(super) fn device(config: &ModelConfig) -> String {
    let name = |group: &InstanceGroup| match &group.kind {
        InstanceKind::Gpu(ordinals) => ordinals.iter().map(|ordinal| format!("{}{ordinal}", SharedDevice::CUDA)).collect(),
        InstanceKind::Auto | InstanceKind::Cpu | InstanceKind::Model => vec![SharedDevice::CPU.to_owned()],
    };
    let mut names: Vec<String> = config.instance_groups.iter().flat_map(name).collect();
    names.sort_unstable();
    names.dedup();
    if config.backend == BackendKind::Ensemble { "none".to_owned() } else { names.join(",") }
}
