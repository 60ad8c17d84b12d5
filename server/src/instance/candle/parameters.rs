//! The parameters of a model on candle, parsed once.

use std::num::NonZeroUsize;

use models::Task;

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

/// What the parameters of an encoder say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EncoderParameters {
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
const OF_TOKENIZERS: [&str; 1] = [MODEL];

/// Which model is meant.
///
/// # Errors
/// It is none of those that there are.
pub(super) fn role(config: &ModelConfig) -> Result<Role, LoadError> {
    let roles = [("encoder", Role::Encoder), ("tokenizer", Role::Tokenizer)];
    choice(config, MODEL, &roles, "'encoder' or 'tokenizer'").map(|role| role.unwrap_or(Role::Encoder))
}

/// Checks that a tokenizer has only parameters that mean something to it.
///
/// # Errors
/// A parameter that it does not have.
pub(super) fn check_tokenizer(config: &ModelConfig) -> Result<(), LoadError> {
    refuse_unknown(config, "candle tokenizer", &OF_TOKENIZERS)
}

impl EncoderParameters {
    /// Parses the parameters of an encoder that does `task` by its files.
    ///
    /// # Errors
    /// A parameter that is unknown, malformed, or asks for what the model cannot do.
    pub(super) fn parse(config: &ModelConfig, task: Task) -> Result<Self, LoadError> {
        refuse_unknown(config, "candle encoder", &OF_ENCODERS)?;
        choice(config, "dtype", &[("f32", ())], "'f32'; weights of other types are read and computed with as f32")?;
        choice(config, "batch_layout", &[("padded", ())], "'padded'; batches of this build are padded to their longest row")?;
        if config.parameters.contains_key("tower") {
            return Err(wrong(config, "tower", "left out: the model has one tower, a text encoder"));
        }
        let (written, expected) = match task {
            Task::SentenceEmbedding => ("embedding", "'embedding', which is what the model's files make of it"),
            Task::SequenceClassification => ("classification", "'classification', which is what the model's files make of it"),
        };
        choice(config, "task", &[(written, ())], expected)?;
        let threads = match config.parameters.get(THREADS) {
            None => None,
            Some(text) => {
                let threads = text.trim().parse().map_err(|_| wrong(config, THREADS, "an integer of at least 1"))?;
                Some(threads)
            }
        };
        Ok(Self { threads })
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
    config: &ModelConfig,
    parameter: &str,
    choices: &[(&str, T)],
    expected: &'static str,
) -> Result<Option<T>, LoadError> {
    let Some(written) = config.parameters.get(parameter) else {
        return Ok(None);
    };
    let chosen = choices.iter().find(|(name, _)| name == written).map(|(_, choice)| *choice);
    chosen.map(Some).ok_or_else(|| wrong(config, parameter, expected))
}

fn wrong(config: &ModelConfig, parameter: &str, expected: &'static str) -> LoadError {
    LoadError::Parameter {
        model: config.name.to_string(),
        parameter: parameter.to_owned(),
        expected,
        got: config.parameters.get(parameter).cloned().unwrap_or_default(),
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
