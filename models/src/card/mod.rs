//! The model card: everything that a Hugging Face model directory says about its model.
//!
//! Owns: [`ModelCard`] and how it is read (`sentence` for the sentence-transformers files). May import: this crate's
//! JSON reader and errors, the description of encoders, the weight files of dense modules, the enums of kernels. Must
//! never import: plans beyond their inputs, tokenizers.

mod sentence;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::encoder::{EncoderSpec, Head, Pick, families};
use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::Input;
use crate::plan::batch::{ImageInput, TokenInput};
use crate::weights::{DataType, INDEX_FILE, WEIGHTS_FILE};

/// The largest accepted size of any one dimension of a model: far above every published model, and small enough that
/// products of three of them cannot overflow 64 bits.
pub(crate) const MAX_DIMENSION: usize = 1 << 21;
/// The most layers accepted.
pub(crate) const MAX_LAYERS: usize = 4096;
/// What a model directory says about its model. Every field has been checked: sizes are in range, heads divide the
/// hidden size, `max_length` fits the positions.
#[derive(Debug, Clone)]
pub struct ModelCard {
    /// The directory that holds the weights, `config.json` and `tokenizer.json` (the directory read, or the folder of
    /// the Transformer module inside it).
    pub directory: PathBuf,
    /// The first entry of `architectures`, such as `BertModel`.
    pub architecture: String,
    /// `model_type`, such as `bert`.
    pub model_type: String,
    /// What the model computes.
    pub task: Task,
    /// The encoder.
    pub encoder: EncoderSpec,
    /// What follows it.
    pub head: Head,
    /// Numbers per row of the output.
    pub output_size: usize,
    /// The length in tokens, special tokens included, that texts are truncated to; 0 for images.
    pub max_length: usize,
    /// The length in tokens that every text is filled up to, where padding is part of what the model was trained on and is not
    /// masked; tokenizers must be told ([`Tokenizer::padded_to`](crate::Tokenizer::padded_to)).
    pub pads_to: Option<usize>,
    /// The element type that the configuration gives for the stored weights, if it gives one.
    pub dtype: Option<DataType>,
    /// The names of the classes in order of their index; empty unless the task is a classification.
    pub labels: Vec<String>,
}

/// What a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// One vector per item.
    Embedding,
    /// One logit per label and item.
    Classification,
    /// One logit per label and token.
    TokenClassification,
    /// One logit per entry of the vocabulary and token.
    FillMask,
    /// The last hidden state, one vector per token.
    HiddenStates,
}

impl Task {
    /// All tasks.
    pub const ALL: [Task; 5] =
        [Task::Embedding, Task::Classification, Task::TokenClassification, Task::FillMask, Task::HiddenStates];

    /// The name of the one output.
    pub fn output(self) -> &'static str {
        match self {
            Task::Embedding => "EMBEDDING",
            Task::Classification | Task::TokenClassification | Task::FillMask => "LOGITS",
            Task::HiddenStates => "LAST_HIDDEN_STATE",
        }
    }

    /// Whether there is a row of output per token.
    pub fn is_per_token(self) -> bool {
        matches!(self, Task::TokenClassification | Task::FillMask | Task::HiddenStates)
    }

    /// The task's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Task::Embedding => "embedding",
            Task::Classification => "classification",
            Task::TokenClassification => "token_classification",
            Task::FillMask => "fill_mask",
            Task::HiddenStates => "hidden_states",
        }
    }
}

/// Which encoder of a directory that holds two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tower {
    /// That of texts.
    Text,
    /// That of images.
    Vision,
}

impl Tower {
    /// The tower's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Tower::Text => "text",
            Tower::Vision => "vision",
        }
    }
}

/// What a user asks for where a directory leaves a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice {
    /// What to compute; by default what the directory's architecture says.
    pub task: Option<Task>,
    /// Which encoder of a directory with two (CLIP, SigLIP); by default that of texts if there is a tokenizer, else that of
    /// images. Of other directories only the one that they hold can be asked for.
    pub tower: Option<Tower>,
}

impl ModelCard {
    /// Reads the card of the model directory `dir`.
    ///
    /// # Errors
    /// Those of [`ModelCard::read_as`].
    pub fn read(dir: &Path) -> Result<ModelCard, ModelError> {
        Self::read_as(dir, Choice::default())
    }

    /// As [`ModelCard::read`], for a task or an encoder that the user chose.
    ///
    /// # Errors
    /// [`ModelError::FileMissing`] without `config.json`; [`ModelError::UnsupportedArchitecture`] for a model, module or
    /// task that there is no code for; [`ModelError::BadJson`], [`ModelError::FieldMissing`] and
    /// [`ModelError::FieldInvalid`] name file and place. A field that would change the answer and is not supported is an
    /// error.
    pub fn read_as(dir: &Path, choice: Choice) -> Result<ModelCard, ModelError> {
        let modules = sentence::Modules::read(dir)?;
        let directory = modules.as_ref().map_or_else(|| dir.to_path_buf(), |modules| modules.transformer.clone());
        let config_path = directory.join("config.json");
        let Some(config) = JsonFile::read(&config_path)? else {
            return Err(ModelError::FileMissing { path: config_path, hint: "a model directory must have a config.json" });
        };
        let architecture = architecture(&config)?;
        let task = match choice.task {
            Some(task) => task,
            None => task(&config, &architecture, modules.is_some())?,
        };
        let classes = matches!(task, Task::Classification | Task::TokenClassification);
        let labels = if classes { labels(&config)? } else { Vec::new() };
        let family = families::read(&config, labels.len(), choice.tower)?;
        check_tower(&config, choice.tower, &family.encoder.input)?;
        let hidden_size = family.encoder.hidden_size;
        let sentence = sentence::Settings::read(dir, &directory, modules.as_ref(), hidden_size)?;
        let (max_length, vocab_size) = match &family.encoder.input {
            Input::Tokens(tokens) => (max_length(&directory, sentence.max_length, tokens.positions)?, tokens.vocab_size),
            Input::Images(_) => (0, 0),
        };
        let encoder = family.encoder.clone();
        let head = head(&config, task, family, sentence)?;
        let model_type = config.string(&["model_type"])?.unwrap_or_default().to_owned();
        Ok(ModelCard {
            architecture,
            pads_to: (max_length > 0 && families::pads(&model_type)).then_some(max_length),
            model_type,
            task,
            output_size: head.size(hidden_size, vocab_size),
            head,
            encoder,
            max_length,
            dtype: dtype(&config)?,
            labels,
            directory,
        })
    }

    /// Whether `dir` looks like a model directory: a `config.json` that names a model type or an architecture, and
    /// weights, directly or in the folder of its Transformer module. Never fails; whether the model is supported and
    /// its files are sound is for [`ModelCard::read`] to say.
    pub fn is_model_directory(dir: &Path) -> bool {
        let directory = match sentence::Modules::read(dir) {
            Ok(Some(modules)) => modules.transformer,
            Ok(None) | Err(_) => dir.to_path_buf(),
        };
        let Ok(Some(config)) = JsonFile::read(&directory.join("config.json")) else { return false };
        let described = config.value(&["model_type", "architectures"]).is_some();
        described && [WEIGHTS_FILE, INDEX_FILE].iter().any(|name| directory.join(name).is_file())
    }

    /// What texts are checked against; `None` for a model of images.
    pub fn tokens(&self) -> Option<&TokenInput> {
        match &self.encoder.input {
            Input::Tokens(tokens) => Some(tokens),
            Input::Images(_) => None,
        }
    }

    /// What images are checked against; `None` for a model of texts.
    pub fn images(&self) -> Option<&ImageInput> {
        match &self.encoder.input {
            Input::Images(images) => Some(images),
            Input::Tokens(_) => None,
        }
    }

    /// Tokens of a text at which attention costs as much as everything else, so that a text of `n` tokens costs about
    /// `n + n^2 / quadratic_tokens`.
    pub fn quadratic_tokens(&self) -> usize {
        let gated = !matches!(self.encoder.layer.up, crate::encoder::Up::Plain(_));
        let inner = self.encoder.intermediate_size * if gated { 3 } else { 2 };
        // Per token and layer, in products: projections 4 h^2 and the feed-forward layer; attention 2 n h.
        let hidden = self.encoder.hidden_size.max(1);
        (2 * hidden + inner / 2).max(1)
    }
}

/// Refuses a tower that the directory does not have.
fn check_tower(config: &JsonFile, asked: Option<Tower>, input: &Input) -> Result<(), ModelError> {
    let there = match input {
        Input::Tokens(_) => Tower::Text,
        Input::Images(_) => Tower::Vision,
    };
    match asked {
        Some(asked) if asked != there => Err(unsupported(config, "tower", asked.name(), there.name())),
        _ => Ok(()),
    }
}

/// The head for a task.
fn head(config: &JsonFile, task: Task, family: families::Family, sentence: sentence::Settings) -> Result<Head, ModelError> {
    let of_family = match task {
        Task::HiddenStates => return Ok(Head { pick: Pick::Tokens, layers: Vec::new() }),
        Task::Embedding => match family.embedding.filter(|_| !sentence.from_modules) {
            Some(head) => return Ok(head),
            None => return Ok(sentence.head()),
        },
        Task::Classification => family.classification,
        Task::TokenClassification => family.token_classification,
        Task::FillMask => family.masked_lm,
    };
    of_family.ok_or_else(|| {
        unsupported(config, "task", task.name(), "embedding, hidden_states and what the model's family has a head for")
    })
}

fn unsupported(config: &JsonFile, what: &'static str, got: &str, known: &str) -> ModelError {
    ModelError::UnsupportedArchitecture { path: config.path().to_path_buf(), what, got: got.to_owned(), known: known.to_owned() }
}

/// The first entry of `architectures`. A file without the field holds the bare encoder.
fn architecture(config: &JsonFile) -> Result<String, ModelError> {
    let Some((field, value)) = config.value(&["architectures"]) else { return Ok(String::new()) };
    let first = value.as_array().and_then(|names| names.first()).and_then(Value::as_str);
    first.map(str::to_owned).ok_or_else(|| config.invalid(field, value, "a list of names"))
}

fn task(config: &JsonFile, architecture: &str, sentence_transformer: bool) -> Result<Task, ModelError> {
    const KNOWN: &str = "...Model, ...ForMaskedLM, ...ForPreTraining, ...ForSequenceClassification, \
                         ...ForTokenClassification, ...ForImageClassification, ...WithProjection";
    // The files of sentence-transformers say what a directory is for, whatever head its base model was saved with.
    let bare = ["Model", "ForMaskedLM", "ForPreTraining", "WithProjection"].iter().any(|end| architecture.ends_with(end));
    if sentence_transformer || bare || architecture.is_empty() {
        Ok(Task::Embedding)
    } else if architecture.ends_with("ForSequenceClassification") || architecture.ends_with("ForImageClassification") {
        Ok(Task::Classification)
    } else if architecture.ends_with("ForTokenClassification") {
        Ok(Task::TokenClassification)
    } else {
        Err(unsupported(config, "architecture", architecture, KNOWN))
    }
}

/// The length that texts are truncated to: what sentence-transformers was told, else what the tokenizer was told, else
/// the room of the position table; never more than that room.
fn max_length(directory: &Path, sentence: Option<usize>, positions: usize) -> Result<usize, ModelError> {
    if let Some(length) = sentence {
        return Ok(length.min(positions));
    }
    let Some(tokenizer) = JsonFile::read(&directory.join("tokenizer_config.json"))? else { return Ok(positions) };
    // Tokenizers that know no limit store a number like 1e30, as an integer or a float: that means "no limit".
    let length = tokenizer.number(&["model_max_length"])?.filter(|length| *length <= positions as f64);
    match length {
        Some(length) if length >= 1.0 => Ok(length as usize),
        Some(length) => Err(tokenizer.invalid("model_max_length", &Value::from(length), "at least 1")),
        None => Ok(positions),
    }
}

fn dtype(config: &JsonFile) -> Result<Option<DataType>, ModelError> {
    let names = ["torch_dtype", "dtype"];
    let Some(name) = config.string(&names)? else { return Ok(None) };
    match name.trim_start_matches("torch.") {
        "float32" => Ok(Some(DataType::F32)),
        "float16" => Ok(Some(DataType::F16)),
        "bfloat16" => Ok(Some(DataType::BF16)),
        "float64" => Ok(Some(DataType::F64)),
        _ => {
            let field = config.value(&names).map_or("dtype", |(field, _)| field);
            let expected = "one of float32, float16, bfloat16, float64";
            Err(config.invalid(field, &Value::from(name), expected))
        }
    }
}

/// The labels in order of their index. `id2label` maps "0", "1", ... to names; without it the names are `LABEL_0`, ...,
/// two of them unless `num_labels` says otherwise, as in the reference implementation.
fn labels(config: &JsonFile) -> Result<Vec<String>, ModelError> {
    let Some((field, value)) = config.value(&["id2label"]) else {
        let count = config.integer(&["num_labels"], 1..=MAX_DIMENSION)?.unwrap_or(2);
        return Ok((0..count).map(|index| format!("LABEL_{index}")).collect());
    };
    let expected = "an object from \"0\", \"1\", ... without gaps to names";
    let Some(map) = value.as_object().filter(|map| !map.is_empty()) else {
        return Err(config.invalid(field, value, expected));
    };
    let mut labels: Vec<Option<String>> = vec![None; map.len()];
    for (key, name) in map {
        let slot = key.parse::<usize>().ok().and_then(|index| labels.get_mut(index));
        match (slot, name.as_str()) {
            (Some(slot @ None), Some(name)) => *slot = Some(name.to_owned()),
            _ => return Err(config.invalid(&format!("id2label.{key}"), name, expected)),
        }
    }
    let labels: Option<Vec<String>> = labels.into_iter().collect();
    labels.ok_or_else(|| config.invalid(field, value, expected))
}
