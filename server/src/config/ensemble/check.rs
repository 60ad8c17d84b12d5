//! Comparing an ensemble with the models it is made of.

use crate::error::{EnsembleProblem, InferError};
use crate::request::VersionChoice;
use crate::tensor::{DataType, Dims, TensorSpec};

use super::super::ModelConfig;
use super::{Composing, EnsembleGraph, EnsembleStep};

/// Most levels of ensembles. A request goes down through all of them, and an answer up, on one thread's stack.
const MAX_NESTING: usize = 32;

/// What an ensemble takes over from the models it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedEnsemble {
    /// A step is decoupled, so the ensemble may answer any number of times as well.
    pub decoupled: bool,
    /// A step batches sequences, so the ensemble's answers depend on earlier requests.
    pub sequential: bool,
    /// Levels of ensembles, this one included.
    pub nesting: usize,
}

/// What a model says about an ensemble tensor.
struct Claim {
    model: String,
    datatype: DataType,
    dims: Dims,
    /// `dims` with the batch dimension in front, where the model has one.
    full: Dims,
}

impl Claim {
    fn new(config: &ModelConfig, spec: &TensorSpec) -> Self {
        let full = if config.max_batch_rows.is_some() { spec.dims.with_batch() } else { spec.dims.clone() };
        Self { model: config.name.to_string(), datatype: spec.datatype, dims: spec.dims.clone(), full }
    }
}

/// The state of a check: what is known of each tensor so far.
struct Check<'a> {
    graph: &'a EnsembleGraph,
    ensemble: &'a ModelConfig,
    claims: Vec<Option<Claim>>,
    /// Per tensor: the last decoupled step (by position) on the way to it.
    origins: Vec<Option<usize>>,
    decoupled: bool,
    sequential: bool,
    /// Levels of ensembles among the models.
    nesting: usize,
}

impl EnsembleGraph {
    /// Compares the graph with the models that serve now: every mapped tensor exists there, every input
    /// that is not optional is mapped, datatypes and shapes agree, and the ensemble's batches fit.
    ///
    /// Shapes agree where they do as configured (a batch dimension of 1 is added or taken away on the
    /// way), or with every batch dimension written out. A variable dimension agrees with anything; the
    /// composing model checks the real size of each request.
    ///
    /// # Errors
    /// The first thing that does not fit, in the order of the steps.
    pub fn check(
        &self,
        ensemble: &ModelConfig,
        resolve: &dyn Fn(&str, VersionChoice) -> Result<Composing, InferError>,
    ) -> Result<CheckedEnsemble, EnsembleProblem> {
        let tensors = self.tensors.len();
        let claims = std::iter::repeat_with(|| None).take(tensors).collect();
        let origins = vec![None; tensors];
        let mut check = Check { graph: self, ensemble, claims, origins, decoupled: false, sequential: false, nesting: 0 };
        for (specs, tensors) in [(&ensemble.inputs, &self.inputs), (&ensemble.outputs, &self.outputs)] {
            for (spec, tensor) in specs.iter().zip(tensors) {
                check.claim(*tensor, Claim::new(ensemble, spec))?;
            }
        }
        for (position, step) in self.steps.iter().enumerate() {
            let composing = resolve(&step.model, step.version).map_err(|error| check.unresolved(step, &error))?;
            check.step(position, step, &composing.config)?;
        }
        check.outputs()?;
        if let (true, Some(field)) = (check.decoupled, ensemble.reuse.fields().next()) {
            return Err(EnsembleProblem::DecoupledReuse { ensemble: check.name(), field });
        }
        if let (true, Some(field)) = (check.sequential, ensemble.reuse.fields().next()) {
            return Err(EnsembleProblem::SequentialReuse { ensemble: check.name(), field });
        }
        let nesting = check.nesting + 1;
        if nesting > MAX_NESTING {
            return Err(EnsembleProblem::TooDeep { ensemble: check.name(), nesting, limit: MAX_NESTING });
        }
        Ok(CheckedEnsemble { decoupled: check.decoupled, sequential: check.sequential, nesting })
    }
}

impl Check<'_> {
    fn name(&self) -> String {
        self.ensemble.name.to_string()
    }

    fn tensor_name(&self, tensor: usize) -> String {
        self.graph.tensors.get(tensor).map(ToString::to_string).unwrap_or_default()
    }

    fn unresolved(&self, step: &EnsembleStep, error: &InferError) -> EnsembleProblem {
        let (ensemble, model) = (self.name(), step.model.to_string());
        match (step.version, error) {
            (VersionChoice::Exact(version), InferError::UnknownVersion { .. } | InferError::VersionNotReady { .. }) => {
                EnsembleProblem::DependencyVersion { ensemble, model, version }
            }
            _ => EnsembleProblem::DependencyFailed { ensemble, model, reason: error.to_string() },
        }
    }

    fn step(&mut self, position: usize, step: &EnsembleStep, config: &ModelConfig) -> Result<(), EnsembleProblem> {
        let model = || step.model.to_string();
        if let (Some(allowed), Some(limit)) = (self.ensemble.max_batch_rows, config.max_batch_rows)
            && limit < allowed
        {
            let (allowed, limit) = (allowed.get(), limit.get());
            return Err(EnsembleProblem::BatchTooLarge { ensemble: self.name(), allowed, model: model(), limit });
        }
        for input in &step.inputs {
            let Some(spec) = config.client_inputs().find(|spec| spec.name == input.name) else {
                let (tensor, input) = (self.tensor_name(input.tensor), input.name.to_string());
                return Err(EnsembleProblem::NoSuchInput { ensemble: self.name(), tensor, input, model: model() });
            };
            self.claim(input.tensor, Claim::new(config, spec))?;
        }
        let is_mapped = |spec: &&TensorSpec| step.inputs.iter().any(|input| input.name == spec.name);
        if let Some(spec) = config.client_inputs().find(|spec| !spec.optional && !is_mapped(spec)) {
            return Err(EnsembleProblem::InputNotMapped { ensemble: self.name(), input: spec.name.to_string(), model: model() });
        }
        for output in &step.outputs {
            let Some(spec) = config.client_outputs().find(|spec| spec.name == output.name) else {
                let (tensor, output) = (self.tensor_name(output.tensor), output.name.to_string());
                return Err(EnsembleProblem::NoSuchOutput { ensemble: self.name(), tensor, output, model: model() });
            };
            self.claim(output.tensor, Claim::new(config, spec))?;
        }
        let origin = self.single_origin(step.inputs.iter().map(|input| input.tensor), model)?;
        let origin = if config.decoupled { Some(position) } else { origin };
        self.decoupled |= config.decoupled;
        self.sequential |= config.sequential;
        self.nesting = self.nesting.max(config.nesting);
        for output in &step.outputs {
            if let Some(slot) = self.origins.get_mut(output.tensor) {
                *slot = origin;
            }
        }
        Ok(())
    }

    /// Responses of different decoupled models have nothing to do with each other: no step, and no
    /// response of the ensemble, can be made of both.
    fn single_origin(
        &self,
        tensors: impl Iterator<Item = usize>,
        model: impl Fn() -> String,
    ) -> Result<Option<usize>, EnsembleProblem> {
        let mut origins = tensors.filter_map(|tensor| self.origins.get(tensor).copied().flatten());
        let first = origins.next();
        if origins.any(|origin| Some(origin) != first) {
            return Err(EnsembleProblem::DifferentDecoupled { ensemble: self.name(), model: model() });
        }
        Ok(first)
    }

    fn outputs(&self) -> Result<(), EnsembleProblem> {
        self.single_origin(self.graph.outputs.iter().copied(), || self.name()).map(drop)
    }

    /// Compares what a model says about a tensor with what was said first.
    fn claim(&mut self, tensor: usize, claim: Claim) -> Result<(), EnsembleProblem> {
        let (ensemble, name) = (self.name(), self.tensor_name(tensor));
        let Some(slot) = self.claims.get_mut(tensor) else {
            return Ok(());
        };
        let Some(first) = slot else {
            *slot = Some(claim);
            return Ok(());
        };
        if claim.datatype != first.datatype {
            return Err(EnsembleProblem::InconsistentType {
                ensemble,
                tensor: name,
                got: claim.datatype,
                model: claim.model,
                expected: first.datatype,
                other: first.model.clone(),
            });
        }
        if agree(&claim.dims, &first.dims) || agree(&claim.full, &first.full) {
            return Ok(());
        }
        Err(EnsembleProblem::InconsistentShape {
            ensemble,
            tensor: name,
            got: claim.dims,
            model: claim.model,
            expected: first.dims.clone(),
            other: first.model.clone(),
        })
    }
}

fn agree(one: &Dims, other: &Dims) -> bool {
    let (one, other) = (one.as_slice(), other.as_slice());
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.agrees(*other))
}
