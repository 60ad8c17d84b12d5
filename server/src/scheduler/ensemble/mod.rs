//! Owns ensembles: requests that run through a graph of other models. May import what `scheduler` may;
//! its `run` is pure.
//!
//! There is no thread here: whatever delivers a step's response goes on with the graph, from the instance
//! thread that made it. Each step is a request of its own on the composing model's scheduler, where it
//! queues and batches with others. Tensors go from step to step by reference.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock;
use crate::config::{EnsembleGraph, EnsembleStep, ModelConfig, Scheduling};
use crate::error::{ConfigError, ConfigProblem, EnsembleProblem, InferError};
use crate::observe::statistics::{ModelStatistics, Stage};
use crate::request::Entry;
use crate::sync;

use super::{ComposingModels, ModelHandle, Scheduler};

mod call;
mod convert;
mod gate;
mod run;
#[cfg(test)]
mod tests;

use call::Call;
use gate::Gate;
use run::{StepFacts, needed_steps};

/// Runs the requests of one version of an ensemble.
pub struct EnsembleScheduler {
    served: Arc<ServedEnsemble>,
}

/// What the requests of an ensemble share.
struct ServedEnsemble {
    config: Arc<ModelConfig>,
    graph: EnsembleGraph,
    version: u64,
    statistics: Arc<ModelStatistics>,
    models: Arc<dyn ComposingModels>,
    /// Requests under way, and how many may be.
    under_way: AtomicUsize,
    max_requests: NonZeroUsize,
    /// Holds decoupled steps back, where the configuration limits what is behind them.
    gate: Option<Gate>,
}

/// The composing models of one request, by step; nothing for steps that it does not need. They are held
/// until it ends, so that one that is replaced meanwhile still serves it.
type Handles = Vec<Option<Arc<ModelHandle>>>;

impl EnsembleScheduler {
    /// A scheduler of the ensemble `config`, whose steps run on what `models` resolves when a request starts.
    ///
    /// # Errors
    /// [`EnsembleProblem::NotAnEnsemble`].
    pub fn new(
        config: Arc<ModelConfig>,
        version: u64,
        statistics: Arc<ModelStatistics>,
        models: Arc<dyn ComposingModels>,
    ) -> Result<Arc<Self>, ConfigError> {
        let Scheduling::Ensemble(graph) = &config.scheduling else {
            let problem = EnsembleProblem::NotAnEnsemble { model: config.name.to_string() };
            return Err(ConfigProblem::from(problem).into());
        };
        let graph = graph.clone();
        let gate = graph.max_inflight.map(|limit| Gate::new(limit.get(), graph.steps.len()));
        let max_requests = graph.max_requests;
        let under_way = AtomicUsize::new(0);
        let served = ServedEnsemble { config, graph, version, statistics, models, under_way, max_requests, gate };
        Ok(Arc::new(Self { served: Arc::new(served) }))
    }
}

impl Scheduler for EnsembleScheduler {
    fn enqueue(&self, group: Vec<Entry>) {
        for entry in group {
            self.served.begin(entry);
        }
    }

    /// A step's model that is not there counts too: it may come.
    fn composing(&self) -> Vec<u64> {
        let served = &self.served;
        let loads = |step: &EnsembleStep| {
            served.models.resolve(&step.model, step.version).map_or_else(|_| vec![0], |model| model.loads())
        };
        served.graph.steps.iter().flat_map(loads).collect()
    }
}

impl ServedEnsemble {
    fn begin(self: &Arc<Self>, entry: Entry) {
        let now = clock::now();
        if let Some(error) = entry.lapsed(now) {
            return self.statistics.refuse(entry, error, Stage::Admission, now);
        }
        let Some(permit) = Permit::take(self) else {
            let error = entry.queue_full();
            return self.statistics.refuse(entry, error, Stage::Admission, now);
        };
        match self.resolve(&entry.request.outputs) {
            Ok((handles, facts)) => Call::start(permit, handles, &facts, entry, now),
            Err(error) => {
                drop(permit);
                self.statistics.refuse(entry, self.inside(error), Stage::Ensemble, now);
            }
        }
    }

    /// The models of the steps that these outputs need, and what a run must know of them.
    fn resolve(&self, requested: &[bool]) -> Result<(Handles, Vec<Option<StepFacts>>), InferError> {
        let mut handles = Vec::with_capacity(self.graph.steps.len());
        let mut facts = Vec::with_capacity(self.graph.steps.len());
        for (step, needed) in self.graph.steps.iter().zip(needed_steps(&self.graph, requested)) {
            let handle = if needed { Some(self.models.resolve(&step.model, step.version)?) } else { None };
            facts.push(handle.as_ref().map(|handle| {
                let is_optional = |name: &Arc<str>| handle.config.inputs.iter().any(|spec| spec.optional && spec.name == *name);
                StepFacts {
                    decoupled: handle.config.decoupled,
                    optional: step.inputs.iter().map(|input| is_optional(&input.name)).collect(),
                }
            }));
            handles.push(handle);
        }
        Ok((handles, facts))
    }

    /// An error from inside the graph, as the ensemble's client sees it. That the client has left is its own error.
    fn inside(&self, error: InferError) -> InferError {
        match error {
            InferError::Cancelled => InferError::Cancelled,
            error => InferError::EnsembleStep { ensemble: self.config.name.to_string(), source: Box::new(error) },
        }
    }
}

/// The right to be under way, given back when dropped.
struct Permit {
    served: Arc<ServedEnsemble>,
}

impl Permit {
    fn take(served: &Arc<ServedEnsemble>) -> Option<Self> {
        let limit = served.max_requests.get();
        let taken =
            served.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < limit).then_some(count + 1));
        taken.is_ok().then(|| Self { served: Arc::clone(served) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.served.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}
