//! `ensemble_scheduling`: parsed once into a graph.

use std::num::NonZeroUsize;
use std::sync::Arc;

use proto::inference::ModelEnsembling;

use crate::error::EnsembleProblem;
use crate::request::VersionChoice;
use crate::tensor::TensorSpec;

use super::ModelConfig;

/// A tensor of a composing model and the ensemble tensor (by index) it is mapped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTensor {
    /// Name in the composing model.
    pub name: Arc<str>,
    /// Index into [`EnsembleGraph::tensors`].
    pub tensor: usize,
}

/// One use of a composing model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsembleStep {
    /// Composing model.
    pub model: Arc<str>,
    /// Its version.
    pub version: VersionChoice,
    /// Its mapped inputs.
    pub inputs: Vec<StepTensor>,
    /// Its mapped outputs.
    pub outputs: Vec<StepTensor>,
}

/// A checked graph: steps in topological order, tensors by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsembleGraph {
    /// Names of the ensemble tensors.
    pub tensors: Vec<Arc<str>>,
    /// Per input of the ensemble's configuration: its tensor.
    pub inputs: Vec<usize>,
    /// Per output of the ensemble's configuration: its tensor.
    pub outputs: Vec<usize>,
    /// Steps, each behind all that write what it reads.
    pub steps: Vec<EnsembleStep>,
    /// Most requests of the ensemble under way.
    pub max_requests: NonZeroUsize,
    /// Most requests under way in a step behind a decoupled model, where limited.
    pub max_inflight: Option<NonZeroUsize>,
}

/// A composing model, as far as an ensemble must agree with it.
#[derive(Clone, Debug)]
pub struct Composing {
    /// Its configuration.
    pub config: Arc<ModelConfig>,
}

impl EnsembleGraph {
    /// Parses the message against the ensemble's own tensors.
    pub(super) fn parse(
        _ensemble: &str,
        _written: &ModelEnsembling,
        _inputs: &[TensorSpec],
        _outputs: &[TensorSpec],
        _max_requests: NonZeroUsize,
    ) -> Result<Self, Vec<EnsembleProblem>> {
        Err(Vec::new())
    }
}
