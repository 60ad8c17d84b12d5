//! Owns the way from a checked request to a batch: validation, reuse of answers, queues, the dynamic batcher,
//! ensembles.
//! May import the words, `config`, `instance` (its handle) and `observe`; must never import `grpc`,
//! `repository`, `proto` or `models`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{self, Timestamp};
use crate::config::{ModelConfig, TimeoutAction};
use crate::error::InferError;
use crate::instance::InstancePool;
use crate::observe::statistics::ModelStatistics;
use crate::request::{Entry, InferRequest, Responder, ValidRequest, VersionChoice};
use crate::sync;

pub mod batcher;
pub mod direct;
pub mod dynamic;
pub mod ensemble;
pub mod queue;
pub mod reuse;
pub mod sequence;
pub mod simulation;
pub mod validate;

mod drive;
#[cfg(test)]
mod drive_tests;
mod driver;
mod look;
mod mailbox;
mod timer;
mod watch;

use reuse::{ResponseCache, SharedAnswers};

/// Decides when entries run, and with which others.
pub trait Scheduler: Send + Sync {
    /// Takes a group of entries: one request, or the requests of a whole batch. Every entry is answered
    /// through its responder, refusals included. It never blocks.
    fn enqueue(&self, group: Vec<Entry>);

    /// The numbers of the loads of all models that a request would run through now, besides this one: none but for an
    /// ensemble.
    fn composing(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Holds nothing back any more: the server is stopping or another version serves, and what waits for more to come
    /// would wait in vain.
    fn release(&self) {}
}

/// Gives each load of a model version a number of its own.
static LOADS: AtomicU64 = AtomicU64::new(1);

/// A model version that takes requests. It serves until the last handle is dropped: a version that was
/// replaced finishes what holds it.
pub struct ModelHandle {
    /// Its configuration.
    pub config: Arc<ModelConfig>,
    /// Its version.
    pub version: u64,
    /// Its statistics.
    pub statistics: Arc<ModelStatistics>,
    /// Which of all loads made it.
    load: u64,
    /// Answers what need not run, where the configuration asks for that.
    shared: Option<Arc<SharedAnswers>>,
    scheduler: Arc<dyn Scheduler>,
}

impl ModelHandle {
    /// A handle over the scheduler that its configuration asks for.
    ///
    /// Must be called within a tokio runtime where the model has single flight.
    pub fn new(config: Arc<ModelConfig>, version: u64, statistics: Arc<ModelStatistics>, scheduler: Arc<dyn Scheduler>) -> Self {
        let load = LOADS.fetch_add(1, Ordering::Relaxed);
        let handle = Self { config, version, statistics, load, shared: None, scheduler };
        handle.with_cache(None)
    }

    /// The same, with the server's response cache for its answers, where the configuration asks for it.
    #[must_use]
    pub fn with_cache(self, cache: Option<&Arc<ResponseCache>>) -> Self {
        let origin = reuse::Origin {
            config: Arc::clone(&self.config),
            version: self.version,
            load: self.load,
            statistics: Arc::clone(&self.statistics),
        };
        Self { shared: SharedAnswers::start(origin, cache), ..self }
    }

    /// Starts the scheduler of a model that runs on instances (any but an ensemble).
    ///
    /// Must be called within a tokio runtime: the dynamic batcher is one of its tasks.
    pub fn over_instances(
        config: Arc<ModelConfig>,
        version: u64,
        statistics: Arc<ModelStatistics>,
        instances: InstancePool,
    ) -> Self {
        let scheduler: Arc<dyn Scheduler> = match &config.scheduling {
            crate::config::Scheduling::Dynamic(policy) => {
                Arc::new(dynamic::DynamicScheduler::start(policy.clone(), instances, Arc::clone(&statistics)))
            }
            crate::config::Scheduling::Sequence(policy) => {
                Arc::new(sequence::SequenceScheduler::start(policy, instances, Arc::clone(&statistics)))
            }
            _ => Arc::new(direct::DirectScheduler::start(instances, Arc::clone(&statistics))),
        };
        Self::new(config, version, statistics, scheduler)
    }

    /// Whether its answers go through the response cache.
    pub fn is_cached(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_cached())
    }

    /// The numbers of its load and of the loads of all that it is composed of now.
    pub(super) fn loads(&self) -> Vec<u64> {
        let mut loads = self.scheduler.composing();
        loads.push(self.load);
        loads
    }

    /// Holds nothing back any more; called when the server stops, and when the version is replaced or unloaded.
    pub fn release(&self) {
        self.scheduler.release();
    }

    /// Checks a request and enqueues it. A request that is not valid is answered with its error and
    /// never counted; all others are counted.
    pub fn submit(&self, request: InferRequest, mut responder: Responder) {
        match validate::validate(request, &self.config) {
            Ok(request) => {
                let entry = entry(&self.config, request, responder, clock::now());
                match &self.shared {
                    None => self.scheduler.enqueue(vec![entry]),
                    Some(shared) => shared.submit(entry, &self.scheduler),
                }
            }
            Err(error) => responder.fail(error),
        }
    }
}

/// A request that is queued now, with its deadline: the earliest of what its client and its queue say.
fn entry(config: &ModelConfig, request: ValidRequest, responder: Responder, queued_at: Timestamp) -> Entry {
    let policy = config.queue_policy(request.options.priority);
    let timeout = policy.timeout_for(request.options.timeout).map(|timeout| queued_at.plus(timeout));
    let client = request.deadline;
    let (deadline, delayed_from) = match policy.action {
        TimeoutAction::Reject => (client.into_iter().chain(timeout).min(), None),
        TimeoutAction::Delay => (client, timeout),
    };
    Entry { level: config.level(request.options.priority), request, responder, queued_at, deadline, delayed_from, stand_in: None }
}

/// Where an ensemble finds the models of its steps.
pub trait ComposingModels: Send + Sync {
    /// The model version that serves now.
    ///
    /// # Errors
    /// The lookup errors of [`InferError`], as a client's own request would get them.
    fn resolve(&self, model: &str, version: VersionChoice) -> Result<Arc<ModelHandle>, InferError>;
}
