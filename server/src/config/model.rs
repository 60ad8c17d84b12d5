//! The configuration of one model, checked and with every default filled in.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use proto::inference::{self as wire, model_config::SchedulingChoice};

use crate::error::{ConfigError, ConfigProblem, EnsembleProblem};
use crate::tensor::TensorSpec;

use super::batching::{self, BatchingSpecs, DynamicBatching, QueuePolicy};
use super::ensemble::EnsembleGraph;
use super::instance_group::{DeviceShare, InstanceGroup};
use super::metrics;
use super::reuse::Reuse;
use super::sequence::{SequenceBatching, Surroundings};
use super::tensors;
use super::version_policy::VersionPolicy;
use super::warmup::WarmupSample;

/// Largest `max_batch_size`; it keeps sums of rows far from overflow.
const MAX_BATCH_SIZE: i32 = 1 << 20;

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// The documented models inside the server.
    Builtin,
    /// Models on candle, from safetensors.
    Candle,
    /// A graph of other models.
    Ensemble,
}

impl BackendKind {
    const KNOWN: &'static str = "builtin, candle, and the platform ensemble";
}

/// How requests come to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// Each request on its own, in order.
    Direct(QueuePolicy),
    /// Requests that are waiting together form batches.
    Dynamic(DynamicBatching),
    /// Requests of one sequence run one after another on one instance, together with those of other sequences.
    Sequence(Box<SequenceBatching>),
    /// Each request runs through a graph of models.
    Ensemble(EnsembleGraph),
}

/// A model's configuration as it is true: nothing in it is unset, out of range or unchecked.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Name, equal to that of the model's directory.
    pub name: Arc<str>,
    /// What runs it.
    pub backend: BackendKind,
    /// Most rows of a batch; `None` where tensors have no batch dimension.
    pub max_batch_rows: Option<NonZeroUsize>,
    /// Inputs, in order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in order.
    pub outputs: Vec<TensorSpec>,
    /// Label files, by output index; their contents go into the outputs' `labels`.
    pub label_files: Vec<(usize, String)>,
    /// Which versions are served.
    pub version_policy: VersionPolicy,
    /// Instances; empty only for an ensemble.
    pub instance_groups: Vec<InstanceGroup>,
    /// Its part of the devices that it shares with other models.
    pub device_share: DeviceShare,
    /// How requests come to run.
    pub scheduling: Scheduling,
    /// What of its answers is used again.
    pub reuse: Reuse,
    /// A request may get any number of responses.
    pub decoupled: bool,
    /// Answers depend on earlier requests of the same sequence. Of an ensemble it is known once it has been compared
    /// with its models.
    pub sequential: bool,
    /// Levels of ensembles, this one included: 0 for a plain model, and for an ensemble that has not been
    /// compared with its models yet.
    pub nesting: usize,
    /// Free settings for the backend.
    pub parameters: BTreeMap<String, String>,
    /// Extra labels of the model's metrics.
    pub metric_tags: BTreeMap<String, String>,
    /// Bounds in nanoseconds of the histogram of first responses, where the model has its own.
    pub first_response_bounds: Option<Arc<[u64]>>,
    /// Requests to run before the model is ready.
    pub warmup: Vec<WarmupSample>,
    /// Fields that were accepted and do nothing here; each names its field.
    pub warnings: Vec<String>,
    /// The same, normalized, as the protocol shows it.
    pub wire: wire::ModelConfig,
}

impl ModelConfig {
    /// Parses what was written for the model in directory `directory`.
    ///
    /// # Errors
    /// Every problem found, each with its field.
    pub fn parse(mut written: wire::ModelConfig, directory: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        if written.name.is_empty() {
            directory.clone_into(&mut written.name);
        } else if written.name != directory {
            return Err(ConfigProblem::NameMismatch { directory: directory.to_owned(), model: written.name }.into());
        }
        let model = written.name.clone();
        let backend = parse_backend(&written).unwrap_or_else(|problem| {
            problems.push(problem);
            BackendKind::Builtin
        });
        let max_batch_rows = parse_max_batch(&written, &mut problems);
        let batching = max_batch_rows.is_some();
        let mut inputs = tensors::parse_inputs(&model, batching, &written.input, &mut problems);
        let mut outputs = tensors::parse_outputs(&model, batching, &written.output, &mut problems);
        if problems.is_empty() {
            require_tensors(&model, &inputs, &outputs, &mut problems);
        }
        let instance_groups = match backend {
            BackendKind::Ensemble => Vec::new(),
            _ => InstanceGroup::parse_all(&model, &written.instance_group, &mut problems),
        };
        let version_policy = VersionPolicy::parse(&model, written.version_policy.as_ref()).unwrap_or_else(|problem| {
            problems.push(problem);
            VersionPolicy::All
        });
        let parameters = written.parameters.iter().map(|(key, value)| (key.clone(), value.string_value.clone())).collect();
        let device_share = DeviceShare::parse(&model, &parameters, &mut problems);
        let warmup = WarmupSample::parse_all(&model, &written.model_warmup, max_batch_rows, &mut problems);
        let first_response_bounds = metrics::first_response_bounds(&model, written.model_metrics.as_ref(), &mut problems);
        refuse_unsupported(&written, &mut problems);
        let reuse = Reuse::parse(&written, &parameters, &mut problems);
        let mut specs = Specs { backend, max_batch_rows, inputs: &mut inputs, outputs: &mut outputs, parameters: &parameters };
        let scheduling = parse_scheduling(&written, &mut specs, &mut problems);
        let (Some(scheduling), true) = (scheduling, problems.is_empty()) else {
            return Err(ConfigError { problems });
        };
        let warnings = unused_fields(&written);
        let label_files = label_files(&written);
        let sequential = matches!(scheduling, Scheduling::Sequence(_));
        let decoupled = written.model_transaction_policy.is_some_and(|policy| policy.decoupled);
        let metric_tags = written.metric_tags.clone();
        let wire = normalize(written, &scheduling, &version_policy, &instance_groups, backend);
        Ok(Self {
            name: model.into(),
            backend,
            max_batch_rows,
            inputs,
            outputs,
            label_files,
            version_policy,
            instance_groups,
            device_share,
            scheduling,
            reuse,
            decoupled,
            sequential,
            nesting: 0,
            parameters,
            metric_tags,
            first_response_bounds,
            warmup,
            warnings,
            wire,
        })
    }

    /// The limits of the queue in which a request of this priority waits.
    pub fn queue_policy(&self, priority: u64) -> QueuePolicy {
        match &self.scheduling {
            Scheduling::Direct(policy) => *policy,
            Scheduling::Dynamic(dynamic) => {
                let level = dynamic.level(priority);
                dynamic
                    .policies
                    .get(level.saturating_sub(1))
                    .copied()
                    .unwrap_or_else(|| QueuePolicy::bounded(batching::default_queue_entries(self.max_batch_rows)))
            }
            Scheduling::Sequence(sequence) => QueuePolicy::bounded(sequence.max_entries),
            Scheduling::Ensemble(graph) => QueuePolicy::bounded(graph.max_requests),
        }
    }

    /// Number of priority levels of the model's queue.
    pub fn priority_levels(&self) -> usize {
        match &self.scheduling {
            Scheduling::Dynamic(dynamic) => dynamic.priority_levels.get(),
            Scheduling::Direct(_) | Scheduling::Sequence(_) | Scheduling::Ensemble(_) => 1,
        }
    }

    /// The level, 1 the highest, of a request of this priority (0 asks for the default).
    pub fn level(&self, priority: u64) -> usize {
        match &self.scheduling {
            Scheduling::Dynamic(dynamic) => dynamic.level(priority),
            Scheduling::Direct(_) | Scheduling::Sequence(_) | Scheduling::Ensemble(_) => 1,
        }
    }

    /// Inputs that clients send.
    pub fn client_inputs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.inputs.iter().filter(|spec| spec.is_for_clients())
    }

    /// Outputs that clients are sent.
    pub fn client_outputs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.outputs.iter().filter(|spec| spec.is_for_clients())
    }

    /// Index of the input of this name.
    pub fn input_index(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|input| &*input.name == name)
    }

    /// Index of the output of this name.
    pub fn output_index(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|output| &*output.name == name)
    }
}

fn parse_backend(written: &wire::ModelConfig) -> Result<BackendKind, ConfigProblem> {
    match (written.backend.as_str(), written.platform.as_str()) {
        ("builtin", "") => Ok(BackendKind::Builtin),
        ("candle", "") => Ok(BackendKind::Candle),
        ("" | "ensemble", "ensemble") | ("ensemble", "") => Ok(BackendKind::Ensemble),
        ("", "") => {
            Err(ConfigProblem::Missing { model: written.name.clone(), what: "'backend' (or 'platform' for an ensemble)" })
        }
        (backend, platform) => Err(ConfigProblem::UnknownBackend {
            model: written.name.clone(),
            backend: backend.to_owned(),
            platform: platform.to_owned(),
            known: BackendKind::KNOWN,
        }),
    }
}

fn parse_max_batch(written: &wire::ModelConfig, problems: &mut Vec<ConfigProblem>) -> Option<NonZeroUsize> {
    let size = written.max_batch_size;
    if !(0..=MAX_BATCH_SIZE).contains(&size) {
        problems.push(ConfigProblem::OutOfRange {
            model: written.name.clone(),
            field: "max_batch_size".to_owned(),
            expected: "a non-negative value of at most 1048576",
            got: size.to_string(),
        });
    }
    usize::try_from(size).ok().and_then(NonZeroUsize::new)
}

fn require_tensors(model: &str, inputs: &[TensorSpec], outputs: &[TensorSpec], problems: &mut Vec<ConfigProblem>) {
    for (tensors, what) in [(inputs, "at least one 'input'"), (outputs, "at least one 'output'")] {
        if tensors.is_empty() {
            problems.push(ConfigProblem::Missing { model: model.to_owned(), what });
        }
    }
}

/// What the scheduling choice is parsed against.
struct Specs<'a> {
    backend: BackendKind,
    max_batch_rows: Option<NonZeroUsize>,
    inputs: &'a mut Vec<TensorSpec>,
    outputs: &'a mut Vec<TensorSpec>,
    parameters: &'a BTreeMap<String, String>,
}

fn parse_scheduling(written: &wire::ModelConfig, specs: &mut Specs<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Scheduling> {
    let model = &written.name;
    let max_entries = parse_queue_bound(model, specs, problems);
    match (&written.scheduling_choice, specs.backend) {
        (Some(SchedulingChoice::EnsembleScheduling(ensemble)), BackendKind::Ensemble) => {
            for (is_set, problem) in ensemble_extras(written) {
                if is_set {
                    problems.push(problem.into());
                }
            }
            match EnsembleGraph::parse(model, ensemble, specs.inputs, specs.outputs, max_entries) {
                Ok(graph) => Some(Scheduling::Ensemble(graph)),
                Err(found) => {
                    problems.extend(found.into_iter().map(ConfigProblem::from));
                    None
                }
            }
        }
        (Some(SchedulingChoice::EnsembleScheduling(_)), _) => {
            problems.push(EnsembleProblem::NotAnEnsemble { model: model.clone() }.into());
            None
        }
        (_, BackendKind::Ensemble) => {
            problems.push(ConfigProblem::Missing { model: model.clone(), what: "'ensemble_scheduling' for platform ensemble" });
            None
        }
        (Some(SchedulingChoice::SequenceBatching(sequence)), _) => {
            let mut around = Surroundings {
                model,
                backend: specs.backend,
                parameters: specs.parameters,
                max_batch_rows: specs.max_batch_rows,
                max_entries,
                inputs: specs.inputs,
                outputs: specs.outputs,
            };
            SequenceBatching::parse(sequence, &mut around, problems).map(|sequence| Scheduling::Sequence(Box::new(sequence)))
        }
        (Some(SchedulingChoice::DynamicBatching(dynamic)), _) => {
            // Without a batch dimension nothing can be put together, but queues and priorities still count.
            let max_rows = specs.max_batch_rows.unwrap_or(NonZeroUsize::MIN);
            let specs = BatchingSpecs { backend: specs.backend, max_rows, inputs: specs.inputs, parameters: specs.parameters };
            Some(Scheduling::Dynamic(DynamicBatching::parse(model, dynamic, &specs, problems)))
        }
        (None, _) => Some(Scheduling::Direct(QueuePolicy::bounded(max_entries))),
    }
}

/// `parameters { key: "max_queue_size" }` bounds models that have no queue policy of their own.
fn parse_queue_bound(model: &str, specs: &Specs<'_>, problems: &mut Vec<ConfigProblem>) -> NonZeroUsize {
    let default = batching::default_queue_entries(specs.max_batch_rows);
    let Some(written) = specs.parameters.get("max_queue_size") else {
        return default;
    };
    written.parse().unwrap_or_else(|_| {
        problems.push(ConfigProblem::OutOfRange {
            model: model.to_owned(),
            field: "parameters['max_queue_size']".to_owned(),
            expected: "an integer >= 1",
            got: written.clone(),
        });
        default
    })
}

fn ensemble_extras(written: &wire::ModelConfig) -> [(bool, EnsembleProblem); 3] {
    let ensemble = || written.name.clone();
    [
        (!written.instance_group.is_empty(), EnsembleProblem::MustNotSpecify { ensemble: ensemble(), field: "instance group" }),
        (written.optimization.is_some(), EnsembleProblem::MustNotSpecify { ensemble: ensemble(), field: "optimization" }),
        (!written.model_warmup.is_empty(), EnsembleProblem::Warmup { ensemble: ensemble() }),
    ]
}

/// Fields that would change an answer or a promise, and that nothing here implements.
fn refuse_unsupported(written: &wire::ModelConfig, problems: &mut Vec<ConfigProblem>) {
    let refused = [
        (!written.batch_input.is_empty(), "batch_input"),
        (!written.batch_output.is_empty(), "batch_output"),
        (written.model_repository_agents.is_some(), "model_repository_agents"),
        (written.model_operations.is_some(), "model_operations"),
        (is_other_weights_file(written), "default_model_filename (models on candle are read from model.safetensors)"),
    ];
    for (is_set, field) in refused {
        if is_set {
            problems.push(ConfigProblem::Unsupported { model: written.name.clone(), field: field.to_owned() });
        }
    }
}

/// Weights have one name, the one that Hugging Face gives them.
fn is_other_weights_file(written: &wire::ModelConfig) -> bool {
    written.backend == "candle" && !["", "model.safetensors"].contains(&written.default_model_filename.as_str())
}

/// Hints for other engines and settings that have nothing to act on here: named in a warning at load.
fn unused_fields(written: &wire::ModelConfig) -> Vec<String> {
    let mut fields = Vec::new();
    if let Some(optimization) = &written.optimization {
        let hints = [
            (optimization.graph.is_some(), "graph"),
            (optimization.priority != 0, "priority"),
            (optimization.cuda.is_some(), "cuda"),
            (optimization.execution_accelerators.is_some(), "execution_accelerators"),
            (optimization.input_pinned_memory.is_some(), "input_pinned_memory"),
            (optimization.output_pinned_memory.is_some(), "output_pinned_memory"),
            (optimization.gather_kernel_buffer_threshold != 0, "gather_kernel_buffer_threshold"),
            (optimization.eager_batching, "eager_batching"),
        ];
        fields.extend(hints.iter().filter(|(is_set, _)| *is_set).map(|(_, field)| format!("optimization.{field}")));
    }
    for (index, group) in written.instance_group.iter().enumerate() {
        let hints = [(!group.profile.is_empty(), "profile"), (!group.host_policy.is_empty(), "host_policy")];
        fields.extend(hints.iter().filter(|(is_set, _)| *is_set).map(|(_, field)| format!("instance_group[{index}].{field}")));
    }
    if let Some(SchedulingChoice::SequenceBatching(sequence)) = &written.scheduling_choice {
        fields.extend(SequenceBatching::unused_fields(sequence));
    }
    let hints = [
        (!written.runtime.is_empty(), "runtime"),
        (!written.cc_model_filenames.is_empty(), "cc_model_filenames"),
        (written.backend != "candle" && !written.default_model_filename.is_empty(), "default_model_filename"),
    ];
    fields.extend(hints.iter().filter(|(is_set, _)| *is_set).map(|(_, field)| (*field).to_owned()));
    fields.extend(metrics::unused(written.model_metrics.as_ref()));
    fields
}

fn label_files(written: &wire::ModelConfig) -> Vec<(usize, String)> {
    written
        .output
        .iter()
        .enumerate()
        .filter(|(_, output)| !output.label_filename.is_empty())
        .map(|(index, output)| (index, output.label_filename.clone()))
        .collect()
}

/// Writes what was decided back into the message that clients ask for.
fn normalize(
    mut written: wire::ModelConfig,
    scheduling: &Scheduling,
    version_policy: &VersionPolicy,
    groups: &[InstanceGroup],
    backend: BackendKind,
) -> wire::ModelConfig {
    written.version_policy = Some(version_policy.to_wire());
    written.instance_group =
        groups.iter().enumerate().map(|(index, group)| group.to_wire(written.instance_group.get(index))).collect();
    if let (Scheduling::Dynamic(dynamic), Some(SchedulingChoice::DynamicBatching(message))) =
        (scheduling, &mut written.scheduling_choice)
    {
        *message = dynamic.to_wire(message);
    }
    if let (Scheduling::Sequence(sequence), Some(SchedulingChoice::SequenceBatching(message))) =
        (scheduling, &mut written.scheduling_choice)
    {
        *message = sequence.to_wire(message);
    }
    if backend == BackendKind::Ensemble {
        "ensemble".clone_into(&mut written.platform);
        written.backend.clear();
        if let Some(SchedulingChoice::EnsembleScheduling(ensemble)) = &mut written.scheduling_choice {
            // Both ask for the latest version; clients that follow the steps only know the one.
            ensemble.step.iter_mut().filter(|step| step.model_version == 0).for_each(|step| step.model_version = -1);
        }
    }
    written
}
