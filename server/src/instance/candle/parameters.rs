//! The parameters of a model on candle, parsed once.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use models::{Choice, DataType, Precision, Task, Tower, cuda};

use crate::config::{ModelConfig, SCHEDULER_PARAMETERS};
use crate::error::LoadError;

use super::placement::gpu_of;

/// The compute capability, ten times, from which GPUs multiply bf16.
const BF16_CAPABILITY: u32 = 80;

/// Which of a directory's two models is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Tokens to embeddings or logits.
    Encoder,
    /// Texts to tokens.
    Tokenizer,
}

/// How the rows of a batch lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchLayout {
    /// One after the other, only real tokens.
    Packed,
    /// Each filled up to the longest with tokens that are computed and thrown away, for comparison. Answers are the same.
    Padded,
}

/// What the parameters of an encoder say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EncoderParameters {
    /// What it computes, and which encoder of a directory it is, where that is left to the user.
    pub(super) choice: Choice,
    /// What numbers are stored or rounded to, where it is written.
    dtype: Option<Dtype>,
    /// How batches are laid out on the processor.
    pub(super) layout: BatchLayout,
    /// Threads that an execution on the processor keeps busy; `None` means all that the device has.
    pub(super) threads: Option<NonZeroUsize>,
    /// Whether lanes on GPUs record what they launch for small batches, and replay it.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(super) graphs: bool,
}

/// The numbers that a model computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dtype {
    F32,
    F16,
    Bf16,
    Int8,
}

/// Parameters that mean something on one kind of device alone.
const OF_THE_CPU: [&str; 2] = [THREADS, BATCH_LAYOUT];

/// As [`OF_THE_CPU`], of GPUs.
const OF_GPUS: [&str; 1] = [GRAPHS];

/// The parameter that says which model of a directory is meant.
const MODEL: &str = "model";

/// The parameter that says on how many threads an execution of an encoder runs.
pub(super) const THREADS: &str = "threads";

/// The parameter that says how the rows of a batch lie in memory.
const BATCH_LAYOUT: &str = "batch_layout";

/// The parameter that says whether launches are recorded.
const GRAPHS: &str = "graphs";

/// Parameters of an encoder, beside those of every model.
const OF_ENCODERS: [&str; 7] = [MODEL, "dtype", THREADS, "task", "tower", BATCH_LAYOUT, GRAPHS];

/// Parameters of a tokenizer, beside those of every model.
const OF_TOKENIZERS: [&str; 3] = [MODEL, "task", "tower"];

/// What is to be read from a directory that leaves a choice: `task` and `tower`.
///
/// # Errors
/// One of them is malformed.
pub(super) fn asked(model: &str, parameters: &BTreeMap<String, String>) -> Result<Choice, LoadError> {
    let tasks = Task::ALL.map(|task| (task.name(), task));
    let expected = "'embedding', 'classification', 'token_classification', 'fill_mask' or 'hidden_states'";
    let towers = [("text", Tower::Text), ("vision", Tower::Vision)];
    Ok(Choice {
        task: choice(model, parameters, "task", &tasks, expected)?,
        tower: choice(model, parameters, "tower", &towers, "'text' or 'vision'")?,
    })
}

/// Which model is meant.
///
/// # Errors
/// It is none of those that there are.
pub(super) fn role(config: &ModelConfig) -> Result<Role, LoadError> {
    let roles = [("encoder", Role::Encoder), ("tokenizer", Role::Tokenizer)];
    choice(&config.name, &config.parameters, MODEL, &roles, "'encoder' or 'tokenizer'").map(|role| role.unwrap_or(Role::Encoder))
}

/// Parses the parameters of a tokenizer: what is to be read from a directory that leaves a choice.
///
/// # Errors
/// A parameter that it does not have, or that is malformed.
pub(super) fn tokenizer(config: &ModelConfig) -> Result<Choice, LoadError> {
    refuse_unknown(config, "candle tokenizer", &OF_TOKENIZERS)?;
    asked(&config.name, &config.parameters)
}

impl EncoderParameters {
    /// Parses the parameters of an encoder.
    ///
    /// # Errors
    /// A parameter that is unknown or malformed.
    pub(super) fn parse(config: &ModelConfig) -> Result<Self, LoadError> {
        refuse_unknown(config, "candle encoder", &OF_ENCODERS)?;
        let (model, parameters) = (&*config.name, &config.parameters);
        let dtypes = [("f32", Dtype::F32), ("f16", Dtype::F16), ("bf16", Dtype::Bf16), ("int8", Dtype::Int8)];
        let layouts = [("packed", BatchLayout::Packed), ("padded", BatchLayout::Padded)];
        let dtype = choice(model, parameters, "dtype", &dtypes, "'f32', 'f16', 'bf16' or 'int8'")?;
        let layout = choice(model, parameters, BATCH_LAYOUT, &layouts, "'packed' or 'padded'")?;
        let graphs = choice(model, parameters, GRAPHS, &[("auto", true), ("off", false)], "'auto' or 'off'")?;
        let parsed = Self {
            choice: asked(model, parameters)?,
            dtype,
            layout: layout.unwrap_or(BatchLayout::Packed),
            threads: count(model, parameters, THREADS)?,
            graphs: graphs.unwrap_or(true),
        };
        parsed.check_devices(config)?;
        Ok(parsed)
    }

    /// Refuses what means nothing on the devices on which the model's instances are.
    fn check_devices(&self, config: &ModelConfig) -> Result<(), LoadError> {
        let groups = &config.instance_groups;
        let (on_cpu, on_gpus) =
            (groups.iter().any(|group| gpu_of(group).is_none()), groups.iter().any(|group| gpu_of(group).is_some()));
        let refused = |parameter: &str, device, instead| LoadError::DeviceParameter {
            model: config.name.to_string(),
            parameter: parameter.to_owned(),
            device,
            instead,
        };
        let written = |names: &[&'static str]| names.iter().copied().find(|name| config.parameters.contains_key(*name));
        if let Some(parameter) = written(&OF_THE_CPU).filter(|_| !on_cpu) {
            return Err(refused(parameter, "the CPU", "KIND_CPU"));
        }
        if let Some(parameter) = written(&OF_GPUS).filter(|_| !on_gpus) {
            return Err(refused(parameter, "GPUs", "KIND_GPU"));
        }
        let model = &*config.name;
        match self.dtype {
            Some(Dtype::F16) if on_cpu => {
                Err(wrong(model, &config.parameters, "dtype", "'f32', 'bf16' or 'int8' for instances on the CPU"))
            }
            Some(Dtype::Int8) if on_gpus => {
                Err(wrong(model, &config.parameters, "dtype", "'f32', 'f16' or 'bf16' for instances on GPUs"))
            }
            _ => Ok(()),
        }
    }

    /// What numbers are rounded to before the processor multiplies them.
    pub(super) fn cpu_precision(&self) -> Precision {
        match self.dtype {
            Some(Dtype::Bf16) => Precision::Bf16,
            Some(Dtype::Int8) => Precision::Int8,
            // Half precision has been refused.
            Some(Dtype::F32 | Dtype::F16) | None => Precision::F32,
        }
    }

    /// What numbers are stored in on a GPU of this compute capability, ten times: what is written, else the half precision
    /// that the files are in, f16 where they are in none.
    pub(super) fn gpu_precision(&self, stored: Option<DataType>, capability: u32) -> cuda::Precision {
        match (self.dtype, stored) {
            (Some(Dtype::F32), _) => cuda::Precision::F32,
            (Some(Dtype::Bf16), _) => cuda::Precision::Bf16,
            (None, Some(DataType::BF16)) if capability >= BF16_CAPABILITY => cuda::Precision::Bf16,
            // Integers have been refused.
            (Some(Dtype::F16 | Dtype::Int8) | None, _) => cuda::Precision::F16,
        }
    }

    /// Threads of an execution on a device of so many slots.
    ///
    /// # Errors
    /// There are fewer slots than it is to use.
    pub(super) fn threads_of(self, model: &str, available: NonZeroUsize) -> Result<NonZeroUsize, LoadError> {
        match self.threads {
            None => Ok(available),
            Some(threads) if threads <= available => Ok(threads),
            Some(threads) => {
                Err(LoadError::Threads { model: model.to_owned(), threads: threads.get(), available: available.get() })
            }
        }
    }
}

/// The choice that a parameter names; `None` where it is not written.
fn choice<T: Copy>(
    model: &str,
    parameters: &BTreeMap<String, String>,
    parameter: &str,
    choices: &[(&str, T)],
    expected: &'static str,
) -> Result<Option<T>, LoadError> {
    let Some(written) = parameters.get(parameter) else {
        return Ok(None);
    };
    let chosen = choices.iter().find(|(name, _)| name == written).map(|(_, choice)| *choice);
    chosen.map(Some).ok_or_else(|| wrong(model, parameters, parameter, expected))
}

/// A count of at least 1; `None` where it is not written.
fn count(model: &str, parameters: &BTreeMap<String, String>, parameter: &str) -> Result<Option<NonZeroUsize>, LoadError> {
    let parsed = parameters.get(parameter).map(|text| text.trim().parse());
    parsed.transpose().map_err(|_| wrong(model, parameters, parameter, "an integer of at least 1"))
}

fn wrong(model: &str, parameters: &BTreeMap<String, String>, parameter: &str, expected: &'static str) -> LoadError {
    LoadError::Parameter {
        model: model.to_owned(),
        parameter: parameter.to_owned(),
        expected,
        got: parameters.get(parameter).cloned().unwrap_or_default(),
    }
}

fn refuse_unknown(config: &ModelConfig, kind: &'static str, own: &[&str]) -> Result<(), LoadError> {
    let known = [own, &SCHEDULER_PARAMETERS[..]].concat();
    match config.parameters.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(LoadError::UnknownParameter {
            model: config.name.to_string(),
            kind,
            parameter: unknown.clone(),
            known: known.join(", "),
        }),
    }
}
