//! The model card: everything that a Hugging Face model directory says about its model.
//!
//! Owns: [`ModelCard`] and how it is read (`sentence` for the sentence-transformers files). May import: this crate's
//! JSON reader and errors, the pooling modes of kernels. Must never import: weights, encoders, tokenizers.

mod sentence;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use kernels::pool::Pooling;
use serde_json::Value;

use crate::error::ModelError;
use crate::json::JsonFile;
use crate::signature::DataType;
use crate::weights::{INDEX_FILE, WEIGHTS_FILE};

/// The largest accepted size of any one dimension of a model: far above every published model, and small enough that
/// products of three of them cannot overflow 64 bits.
const MAX_DIMENSION: usize = 1 << 21;
/// The most layers accepted.
const MAX_LAYERS: usize = 4096;
/// The `eps` of layer normalization where the configuration has none (that of the reference implementation).
const DEFAULT_LAYER_NORM_EPS: f64 = 1e-12;

/// The `model_type`s that have an encoder here, as printed in errors.
const KNOWN_MODEL_TYPES: &str = "bert, roberta, xlm-roberta, camembert, distilbert";

/// What a model directory says about its model. Every field has been checked: sizes are in range, heads divide the
/// hidden size, `max_length` fits the positions.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCard {
    /// The directory that holds the weights, `config.json` and `tokenizer.json` (the directory read, or the folder of
    /// the Transformer module inside it).
    pub directory: PathBuf,
    /// The first entry of `architectures`, such as `BertModel`.
    pub architecture: String,
    /// `model_type`, such as `bert`.
    pub model_type: String,
    /// Which naming and position scheme the encoder follows.
    pub family: Family,
    /// What the model computes from a text.
    pub task: Task,
    /// Components of a token vector.
    pub hidden_size: usize,
    /// Components of the feed-forward layer.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Rows of the position table.
    pub position_rows: usize,
    /// The largest number of tokens that the position table has room for.
    pub positions: usize,
    /// Rows of the token type table; 0 if the model has none.
    pub token_types: usize,
    /// `pad_token_id`.
    pub pad_token_id: Option<usize>,
    /// The `eps` of layer normalization.
    pub layer_norm_eps: f64,
    /// The length in tokens, special tokens included, that texts are truncated to.
    pub max_length: usize,
    /// How token vectors become a sentence vector. Never empty.
    pub pooling: Vec<Pooling>,
    /// Whether sentence vectors are scaled to unit length.
    pub normalize: bool,
    /// The element type that the configuration gives for the stored weights, if it gives one.
    pub dtype: Option<DataType>,
    /// The names of the classes in order of their index; empty unless the task is classification.
    pub labels: Vec<String>,
}

/// What a model computes from a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// One vector per text.
    SentenceEmbedding,
    /// One logit per label and text.
    SequenceClassification,
}

/// Encoders that share their layers and differ in tensor names, positions and heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// BERT: positions from 0, token types, a pooler.
    Bert,
    /// RoBERTa, XLM-RoBERTa, CamemBERT: positions from the padding index + 1.
    Roberta,
    /// DistilBERT: other names, no token types.
    DistilBert,
}

impl ModelCard {
    /// Reads the card of the model directory `dir`.
    ///
    /// # Errors
    /// [`ModelError::FileMissing`] without `config.json`; [`ModelError::UnsupportedArchitecture`] for a model or module
    /// that there is no code for; [`ModelError::BadJson`], [`ModelError::FieldMissing`] and [`ModelError::FieldInvalid`]
    /// name file and place. A field that would change the answer and is not supported is an error.
    pub fn read(dir: &Path) -> Result<ModelCard, ModelError> {
        let modules = sentence::Modules::read(dir)?;
        let directory = modules.as_ref().map_or_else(|| dir.to_path_buf(), |modules| modules.transformer.clone());
        let config_path = directory.join("config.json");
        let Some(config) = JsonFile::read(&config_path)? else {
            return Err(ModelError::FileMissing { path: config_path, hint: "a model directory must have a config.json" });
        };
        let (model_type, family) = family(&config)?;
        let architecture = architecture(&config)?;
        let task = task(&config, &architecture, modules.is_some())?;
        refuse_unsupported(&config, family)?;

        let size = 1..=MAX_DIMENSION;
        let hidden_size = config.required_integer(&["hidden_size", "dim"], size.clone())?;
        let intermediate_size = config.required_integer(&["intermediate_size", "hidden_dim"], size.clone())?;
        let heads = config.required_integer(&["num_attention_heads", "n_heads"], 1..=hidden_size)?;
        if hidden_size % heads != 0 {
            let expected = format!("a divisor of hidden_size {hidden_size}");
            return Err(config.invalid("num_attention_heads", &Value::from(heads), &expected));
        }
        let position_rows = config.required_integer(&["max_position_embeddings"], size.clone())?;
        let pad_token_id = config.integer(&["pad_token_id"], 0..=MAX_DIMENSION)?;
        let positions = positions(&config, family, position_rows, pad_token_id)?;
        let token_types = match family {
            Family::DistilBert => 0,
            Family::Bert | Family::Roberta => config.integer(&["type_vocab_size"], 1..=MAX_DIMENSION)?.unwrap_or(2),
        };
        let sentence = sentence::Settings::read(dir, &directory, modules.as_ref(), hidden_size)?;
        Ok(ModelCard {
            architecture,
            model_type,
            family,
            task,
            hidden_size,
            intermediate_size,
            layers: config.required_integer(&["num_hidden_layers", "n_layers"], 1..=MAX_LAYERS)?,
            heads,
            vocab_size: config.required_integer(&["vocab_size"], size)?,
            position_rows,
            positions,
            token_types,
            pad_token_id,
            layer_norm_eps: layer_norm_eps(&config)?,
            max_length: max_length(&directory, sentence.max_length, positions)?,
            pooling: sentence.pooling,
            normalize: sentence.normalize,
            dtype: dtype(&config)?,
            labels: if task == Task::SequenceClassification { labels(&config)? } else { Vec::new() },
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

    /// Components of a sentence vector.
    pub fn embedding_size(&self) -> usize {
        self.hidden_size * self.pooling.len()
    }
}

fn family(config: &JsonFile) -> Result<(String, Family), ModelError> {
    let Some(model_type) = config.string(&["model_type"])? else {
        return Err(config.missing("model_type", &format!("one of {KNOWN_MODEL_TYPES}")));
    };
    let family = match model_type {
        "bert" => Family::Bert,
        "roberta" | "xlm-roberta" | "camembert" => Family::Roberta,
        "distilbert" => Family::DistilBert,
        other => return Err(unsupported(config, "model_type", other, KNOWN_MODEL_TYPES)),
    };
    Ok((model_type.to_owned(), family))
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
    const KNOWN: &str = "...Model, ...ForMaskedLM, ...ForPreTraining, ...ForSequenceClassification";
    // The files of sentence-transformers say what a directory is for, whatever head its base model was saved with.
    let bare = ["Model", "ForMaskedLM", "ForPreTraining"].iter().any(|end| architecture.ends_with(end));
    if sentence_transformer || bare || architecture.is_empty() {
        Ok(Task::SentenceEmbedding)
    } else if architecture.ends_with("ForSequenceClassification") {
        Ok(Task::SequenceClassification)
    } else {
        Err(unsupported(config, "architecture", architecture, KNOWN))
    }
}

/// Fields that would change the answer and for which there is no code.
fn refuse_unsupported(config: &JsonFile, family: Family) -> Result<(), ModelError> {
    config.refuse_true("is_decoder")?;
    config.refuse_true("add_cross_attention")?;
    let activation = config.string(&["hidden_act", "activation"])?;
    if let Some(other) = activation.filter(|name| *name != "gelu") {
        return Err(config.invalid("hidden_act", &Value::from(other), "\"gelu\" (others are not supported)"));
    }
    let positions = config.string(&["position_embedding_type"])?;
    if let Some(other) = positions.filter(|name| *name != "absolute") {
        let expected = "\"absolute\" (others are not supported)";
        return Err(config.invalid("position_embedding_type", &Value::from(other), expected));
    }
    match family {
        // The table is stored either way, so sinusoidal positions need no code of their own.
        Family::DistilBert => config.boolean(&["sinusoidal_pos_embds"]).map(|_| ()),
        Family::Bert | Family::Roberta => Ok(()),
    }
}

/// How many tokens the position table has room for. RoBERTa's positions begin after the padding index.
fn positions(config: &JsonFile, family: Family, position_rows: usize, pad_token_id: Option<usize>) -> Result<usize, ModelError> {
    if family != Family::Roberta {
        return Ok(position_rows);
    }
    let Some(padding) = pad_token_id else {
        return Err(config.missing("pad_token_id", "the id that positions are counted from"));
    };
    let room = position_rows.checked_sub(padding + 1).filter(|room| *room > 0);
    room.ok_or_else(|| {
        let expected = format!("less than max_position_embeddings {position_rows} - 1");
        config.invalid("pad_token_id", &Value::from(padding), &expected)
    })
}

fn layer_norm_eps(config: &JsonFile) -> Result<f64, ModelError> {
    let Some(eps) = config.number(&["layer_norm_eps"])? else { return Ok(DEFAULT_LAYER_NORM_EPS) };
    if eps > 0.0 && eps < 1.0 {
        return Ok(eps);
    }
    Err(config.invalid("layer_norm_eps", &Value::from(eps), "a number between 0 and 1"))
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
