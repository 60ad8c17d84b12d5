//! Owns `ensemble_scheduling`: parsed once into a graph ([`EnsembleGraph`]), and compared with the models it
//! is made of. May import the words, `proto` and the rest of `config`; must never import `scheduler`,
//! `instance`, `repository` or `grpc`. Pure.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use proto::inference::{ModelEnsembling, model_ensembling::Step};

use crate::error::{EnsembleProblem, TensorSide};
use crate::request::VersionChoice;
use crate::tensor::TensorSpec;

use super::ModelConfig;

mod check;
#[cfg(test)]
mod tests;

pub use check::CheckedEnsemble;

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
    /// Its mapped inputs, by name; at least one.
    pub inputs: Vec<StepTensor>,
    /// Its mapped outputs, by name; at least one.
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
    ///
    /// `model_version` 0 (what protobuf reads where nothing is written) and -1 both ask for the latest version.
    ///
    /// # Errors
    /// Everything that is wrong with the steps; where they are in order, everything that is wrong with
    /// what flows between them.
    pub(super) fn parse(
        ensemble: &str,
        written: &ModelEnsembling,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        max_requests: NonZeroUsize,
    ) -> Result<Self, Vec<EnsembleProblem>> {
        if written.step.is_empty() {
            return Err(vec![EnsembleProblem::NoStep { ensemble: ensemble.to_owned() }]);
        }
        let mut draft = Draft::new(ensemble);
        let inputs = draft.inputs(inputs, written);
        let mut steps: Vec<EnsembleStep> =
            written.step.iter().enumerate().filter_map(|(number, step)| draft.step(number, step)).collect();
        if !draft.problems.is_empty() {
            return Err(draft.problems);
        }
        let order = draft.order(&steps);
        let outputs = draft.outputs(outputs, &steps);
        if draft.problems.is_empty() {
            draft.refuse_unused(&outputs);
        }
        if !draft.problems.is_empty() {
            return Err(draft.problems);
        }
        // Every step has an output, and every output is ready: no step is missing from the order.
        let mut sorted: Vec<(usize, EnsembleStep)> = order.into_iter().zip(steps.drain(..)).collect();
        sorted.sort_by_key(|(position, _)| *position);
        Ok(Self {
            tensors: draft.tensors.into_iter().map(|tensor| tensor.name).collect(),
            inputs,
            outputs,
            steps: sorted.into_iter().map(|(_, step)| step).collect(),
            max_requests,
            max_inflight: usize::try_from(written.max_inflight_requests).ok().and_then(NonZeroUsize::new),
        })
    }
}

/// A tensor while the graph is being made.
struct DraftTensor {
    name: Arc<str>,
    /// The step that writes it, as written.
    writer: Option<usize>,
    /// The steps that read it, as written; once per input that does.
    readers: Vec<usize>,
    /// It is an input of the ensemble, or everything that it depends on is ready.
    ready: bool,
}

/// The graph while it is being made; steps are numbered as they were written.
struct Draft<'a> {
    ensemble: &'a str,
    tensors: Vec<DraftTensor>,
    index: HashMap<Arc<str>, usize>,
    problems: Vec<EnsembleProblem>,
}

impl<'a> Draft<'a> {
    fn new(ensemble: &'a str) -> Self {
        Self { ensemble, tensors: Vec::new(), index: HashMap::new(), problems: Vec::new() }
    }

    fn name(&self) -> String {
        self.ensemble.to_owned()
    }

    fn tensor(&mut self, name: &str) -> usize {
        if let Some(index) = self.index.get(name) {
            return *index;
        }
        let (index, name) = (self.tensors.len(), Arc::<str>::from(name));
        self.index.insert(Arc::clone(&name), index);
        self.tensors.push(DraftTensor { name, writer: None, readers: Vec::new(), ready: false });
        index
    }

    /// The ensemble's inputs are there from the start.
    fn inputs(&mut self, specs: &[TensorSpec], written: &ModelEnsembling) -> Vec<usize> {
        let read: BTreeSet<&str> = written.step.iter().flat_map(|step| step.input_map.values()).map(String::as_str).collect();
        let mut inputs = Vec::with_capacity(specs.len());
        for spec in specs {
            if !read.contains(&*spec.name) {
                self.problems.push(EnsembleProblem::NotUsed {
                    ensemble: self.name(),
                    side: TensorSide::Input,
                    tensor: spec.name.to_string(),
                });
            }
            let index = self.tensor(&spec.name);
            if let Some(tensor) = self.tensors.get_mut(index) {
                tensor.ready = true;
            }
            inputs.push(index);
        }
        inputs
    }

    fn step(&mut self, number: usize, step: &Step) -> Option<EnsembleStep> {
        let ensemble = self.name();
        let missing = [
            ("model_name", step.model_name.is_empty()),
            ("input_map", step.input_map.is_empty()),
            ("output_map", step.output_map.is_empty()),
        ];
        if let Some((field, _)) = missing.into_iter().find(|(_, is_missing)| *is_missing) {
            self.problems.push(EnsembleProblem::StepWithout { ensemble, step: number, field });
            return None;
        }
        if !step.model_namespace.is_empty() {
            self.problems.push(EnsembleProblem::Namespace {
                ensemble: self.name(),
                step: number,
                got: step.model_namespace.clone(),
            });
        }
        let version = match step.model_version {
            -1 | 0 => VersionChoice::Latest,
            version => u64::try_from(version).map(VersionChoice::Exact).unwrap_or_else(|_| {
                self.problems.push(EnsembleProblem::StepVersion { ensemble, step: number, got: version });
                VersionChoice::Latest
            }),
        };
        let inputs = step.input_map.iter().map(|(input, tensor)| self.read(number, input, tensor)).collect();
        let outputs = step.output_map.iter().map(|(output, tensor)| self.write(number, output, tensor)).collect();
        Some(EnsembleStep { model: step.model_name.as_str().into(), version, inputs, outputs })
    }

    fn read(&mut self, step: usize, input: &str, name: &str) -> StepTensor {
        let index = self.tensor(name);
        if let Some(tensor) = self.tensors.get_mut(index) {
            tensor.readers.push(step);
        }
        StepTensor { name: input.into(), tensor: index }
    }

    fn write(&mut self, step: usize, output: &str, name: &str) -> StepTensor {
        let index = self.tensor(name);
        let mut written_twice = false;
        if let Some(tensor) = self.tensors.get_mut(index) {
            // What the client sends must not be written over either.
            written_twice = tensor.ready || tensor.writer.is_some();
            tensor.writer.get_or_insert(step);
        }
        if written_twice {
            self.problems.push(EnsembleProblem::WrittenTwice { ensemble: self.name(), tensor: name.to_owned(), step });
        }
        StepTensor { name: output.into(), tensor: index }
    }

    /// The place of each step in topological order, as close to the order of the file as can be. Marks
    /// the tensors that come to be; steps in a circle, or behind a tensor that nobody writes, get the last places.
    fn order(&mut self, steps: &[EnsembleStep]) -> Vec<usize> {
        let mut places = vec![steps.len(); steps.len()];
        let is_ready = |tensors: &[DraftTensor], index: usize| tensors.get(index).is_some_and(|tensor| tensor.ready);
        let mut waiting: Vec<usize> =
            steps.iter().map(|step| step.inputs.iter().filter(|input| !is_ready(&self.tensors, input.tensor)).count()).collect();
        let mut ready: BTreeSet<usize> =
            waiting.iter().enumerate().filter(|(_, count)| **count == 0).map(|(step, _)| step).collect();
        let mut place = 0;
        while let Some(number) = ready.pop_first() {
            if let Some(slot) = places.get_mut(number) {
                *slot = place;
                place += 1;
            }
            for output in steps.get(number).into_iter().flat_map(|step| &step.outputs) {
                let Some(tensor) = self.tensors.get_mut(output.tensor) else { continue };
                tensor.ready = true;
                for reader in &tensor.readers {
                    let Some(count) = waiting.get_mut(*reader) else { continue };
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(*reader);
                    }
                }
            }
        }
        places
    }

    fn outputs(&mut self, specs: &[TensorSpec], steps: &[EnsembleStep]) -> Vec<usize> {
        let mut outputs = Vec::with_capacity(specs.len());
        for spec in specs {
            let tensor = spec.name.to_string();
            let Some((index, found)) = self.index.get(&spec.name).and_then(|index| Some((*index, self.tensors.get(*index)?)))
            else {
                self.problems.push(EnsembleProblem::NotUsed { ensemble: self.name(), side: TensorSide::Output, tensor });
                continue;
            };
            if found.ready {
                outputs.push(index);
                continue;
            }
            let depends_on = found.writer.and_then(|writer| steps.get(writer)).into_iter().flat_map(|step| &step.inputs);
            let unconnected = depends_on
                .filter_map(|input| self.tensors.get(input.tensor))
                .find(|tensor| !tensor.ready)
                .map(|tensor| tensor.name.to_string());
            self.problems.push(EnsembleProblem::NotWritten { ensemble: self.name(), tensor, unconnected });
        }
        outputs
    }

    /// What is written must be read, or be an output.
    fn refuse_unused(&mut self, outputs: &[usize]) {
        let outputs: BTreeSet<usize> = outputs.iter().copied().collect();
        let unused =
            |(index, tensor): &(usize, &DraftTensor)| !outputs.contains(index) && (!tensor.ready || tensor.readers.is_empty());
        let found: Vec<EnsembleProblem> = self
            .tensors
            .iter()
            .enumerate()
            .filter(unused)
            .map(|(_, tensor)| EnsembleProblem::Unused { ensemble: self.name(), tensor: tensor.name.to_string() })
            .collect();
        self.problems.extend(found);
    }
}
