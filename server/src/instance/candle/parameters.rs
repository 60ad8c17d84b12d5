//! The parameters of a model on candle, parsed once.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use models::{Choice, Precision, Task, Tower};

use crate::config::{ModelConfig, SCHEDULER_PARAMETERS};
use crate::error::LoadError;

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
    /// To what numbers are rounded before they are multiplied.
    pub(super) precision: Precision,
    /// How batches are laid out.
    pub(super) layout: BatchLayout,
    /// Threads that an execution keeps busy; `None` means all that the device has.
    pub(super) threads: Option<NonZeroUsize>,
}

/// The parameter that says which model of a directory is meant.
const MODEL: &str = "model";

/// The parameter that says on how many threads an execution of an encoder runs.
pub(super) const THREADS: &str = "threads";

/// Parameters of an encoder, beside those of every model.
const OF_ENCODERS: [&str; 6] = [MODEL, "dtype", THREADS, "task", "tower", "batch_layout"];

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
        let precisions = [("f32", Precision::F32), ("bf16", Precision::Bf16), ("int8", Precision::Int8)];
        let layouts = [("packed", BatchLayout::Packed), ("padded", BatchLayout::Padded)];
        let precision = choice(model, parameters, "dtype", &precisions, "'f32', 'bf16' or 'int8'")?;
        let layout = choice(model, parameters, "batch_layout", &layouts, "'packed' or 'padded'")?;
        let threads = match config.parameters.get(THREADS) {
            None => None,
            Some(text) => {
                let expected = "an integer of at least 1";
                Some(text.trim().parse().map_err(|_| wrong(model, parameters, THREADS, expected))?)
            }
        };
        Ok(Self {
            choice: asked(model, parameters)?,
            precision: precision.unwrap_or(Precision::F32),
            layout: layout.unwrap_or(BatchLayout::Packed),
            threads,
        })
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
