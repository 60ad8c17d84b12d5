//! The files of sentence-transformers: modules, pooling, dense layers, normalization, maximum length.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::activation::Activation;
use kernels::pool::{PoolSpec, Pooling};
use serde_json::Value;

use super::MAX_DIMENSION;
use crate::encoder::{Head, HeadLayer, Pick};
use crate::error::ModelError;
use crate::json::{CONFIG_LIMIT_BYTES, JsonFile, describe, parse, read_file};
use crate::weights::{WEIGHTS_FILE, Weights, is_plain_name};

/// The flags of a pooling configuration, in the order in which sentence-transformers joins the results.
const POOLING_FLAGS: [(&str, Pooling); 6] = [
    ("pooling_mode_cls_token", Pooling::Cls),
    ("pooling_mode_max_tokens", Pooling::Max),
    ("pooling_mode_mean_tokens", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", Pooling::Last),
];

/// The modules that there is code for, as printed in errors.
const KNOWN_MODULES: &str = "Transformer, then Pooling, then any number of Dense, then optionally Normalize";
/// The most modules accepted: far more than any published model has.
const MAX_MODULES: usize = 16;

/// `modules.json`: the folders of the modules that make up a sentence model.
pub(super) struct Modules {
    /// The folder of the Transformer module.
    pub(super) transformer: PathBuf,
    pooling: PathBuf,
    dense: Vec<PathBuf>,
    normalize: Option<PathBuf>,
}

impl Modules {
    /// Reads `modules.json`; `None` if the directory has none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, ModelError> {
        let path = dir.join("modules.json");
        let Some(bytes) = read_file(&path, CONFIG_LIMIT_BYTES)? else { return Ok(None) };
        let root = parse(&path, &bytes)?;
        let Some(entries) = root.as_array() else {
            return Err(invalid(&path, "(the whole file)", &root, "a list of modules"));
        };
        if entries.len() > MAX_MODULES {
            return Err(invalid(&path, "(the whole file)", &root, &format!("at most {MAX_MODULES} modules")));
        }
        let mut kinds: Vec<(&str, PathBuf)> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let field = |name: &str| format!("[{index}].{name}");
            let text = |name: &str| match entry.get(name) {
                Some(Value::String(text)) => Ok(text.as_str()),
                Some(other) => Err(invalid(&path, &field(name), other, "a string")),
                None => Err(ModelError::FieldMissing { path: path.clone(), field: field(name), expected: "a string".to_owned() }),
            };
            let (full_name, folder) = (text("type")?, text("path")?);
            // The library has moved its modules between packages over time; the last part of the name has stayed.
            let kind = full_name.rsplit('.').next().unwrap_or(full_name);
            let known = ["Transformer", "Pooling", "Dense", "Normalize"].contains(&kind);
            if !full_name.starts_with("sentence_transformers.") || !known {
                return Err(unsupported(&path, full_name.to_owned()));
            }
            if !folder.is_empty() && !is_plain_name(folder) {
                let expected = "\"\" or the plain name of a folder beside modules.json";
                return Err(invalid(&path, &field("path"), &Value::from(folder), expected));
            }
            let folder = if folder.is_empty() { dir.to_path_buf() } else { dir.join(folder) };
            kinds.push((kind, folder));
        }
        Self::ordered(&path, kinds)
    }

    /// The modules by their place.
    fn ordered(path: &Path, kinds: Vec<(&str, PathBuf)>) -> Result<Option<Self>, ModelError> {
        let names: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
        let dense = names.iter().skip(2).take_while(|kind| **kind == "Dense").count();
        let mut folders = kinds.into_iter().map(|(_, folder)| folder);
        match (&names[..], folders.next(), folders.next()) {
            (["Transformer", "Pooling", rest @ ..], Some(transformer), Some(pooling))
                if matches!(&rest[dense..], [] | ["Normalize"]) =>
            {
                let dense = folders.by_ref().take(dense).collect();
                Ok(Some(Modules { transformer, pooling, dense, normalize: folders.next() }))
            }
            _ => Err(unsupported(path, format!("sequence {}", names.join(", ")))),
        }
    }
}

/// What the files of sentence-transformers add to `config.json`.
pub(super) struct Settings {
    pooling: Vec<Pooling>,
    dense: Vec<HeadLayer>,
    normalize: bool,
    pub(super) max_length: Option<usize>,
    /// Whether the directory has the files of sentence-transformers.
    pub(super) from_modules: bool,
}

impl Settings {
    /// Pooling and what follows it.
    pub(super) fn head(self) -> Head {
        let mut layers = self.dense;
        // Directly behind the pooling, it is part of the same pass.
        let at_once = self.normalize && layers.is_empty();
        if self.normalize && !at_once {
            layers.push(HeadLayer::Normalize);
        }
        Head { pick: Pick::Pool(PoolSpec { modes: self.pooling, normalize: at_once }), layers }
    }

    /// Reads the settings of the model in `dir` whose Transformer module is in `transformer`. Without `modules.json` the
    /// embedding is the plain mean, as sentence-transformers itself does for a bare encoder.
    pub(super) fn read(
        dir: &Path,
        transformer: &Path,
        modules: Option<&Modules>,
        hidden_size: usize,
    ) -> Result<Self, ModelError> {
        let mut settings = Settings {
            pooling: vec![Pooling::Mean],
            dense: Vec::new(),
            normalize: false,
            max_length: None,
            from_modules: modules.is_some(),
        };
        if let Some(config) = JsonFile::read(&transformer.join("sentence_bert_config.json"))? {
            settings.max_length = config.integer(&["max_seq_length"], 1..=MAX_DIMENSION)?;
        }
        let Some(modules) = modules else { return Ok(settings) };
        refuse_default_prompt(dir)?;
        settings.pooling = pooling(&modules.pooling.join("config.json"), hidden_size)?;
        let mut size = hidden_size * settings.pooling.len();
        for folder in &modules.dense {
            let layer = dense(folder, size)?;
            if let HeadLayer::Dense { size: outputs, .. } = &layer {
                size = *outputs;
            }
            settings.dense.push(layer);
        }
        if let Some(folder) = &modules.normalize {
            settings.normalize = true;
            if let Some(config) = JsonFile::read(&folder.join("config.json"))? {
                refuse_other_vectors(&config)?;
            }
        }
        Ok(settings)
    }
}

/// A default prompt is put before every text by sentence-transformers and so changes every embedding.
fn refuse_default_prompt(dir: &Path) -> Result<(), ModelError> {
    let Some(config) = JsonFile::read(&dir.join("config_sentence_transformers.json"))? else { return Ok(()) };
    match config.value(&["default_prompt_name"]) {
        Some((field, name)) => Err(config.invalid(field, name, "null: a default prompt is not supported")),
        None => Ok(()),
    }
}

/// A module behind the pooling must work on the sentence vector.
fn refuse_other_vectors(config: &JsonFile) -> Result<(), ModelError> {
    for field in ["module_input_name", "module_output_name"] {
        if let Some(other) = config.string(&[field])?.filter(|name| *name != "sentence_embedding") {
            return Err(config.invalid(field, &Value::from(other), "\"sentence_embedding\""));
        }
    }
    Ok(())
}

/// The Dense module in `folder`, behind `inputs` numbers per vector.
fn dense(folder: &Path, inputs: usize) -> Result<HeadLayer, ModelError> {
    let path = folder.join("config.json");
    let Some(config) = JsonFile::read(&path)? else {
        let hint = "modules.json names a Dense module whose config.json must be in its folder";
        return Err(ModelError::FileMissing { path, hint });
    };
    refuse_other_vectors(&config)?;
    config.refuse_true("use_residual")?;
    let given = config.required_integer(&["in_features"], 1..=MAX_DIMENSION)?;
    if given != inputs {
        let expected = format!("{inputs}, as many numbers as the module before gives");
        return Err(config.invalid("in_features", &Value::from(given), &expected));
    }
    Ok(HeadLayer::Dense {
        size: config.required_integer(&["out_features"], 1..=MAX_DIMENSION)?,
        bias: config.boolean(&["bias"])?.unwrap_or(true),
        activation: dense_activation(&config)?,
        weights: Arc::new(Weights::open_file(&folder.join(WEIGHTS_FILE))?),
    })
}

/// The function behind a Dense module, by the name of torch's class; the hyperbolic tangent if there is no name.
fn dense_activation(config: &JsonFile) -> Result<Activation, ModelError> {
    let field = "activation_function";
    let Some(name) = config.string(&[field])? else { return Ok(Activation::Tanh) };
    let class = name.strip_prefix("torch.nn.modules.").and_then(|name| name.rsplit('.').next());
    match class {
        Some("Identity") => Ok(Activation::Identity),
        Some("Tanh") => Ok(Activation::Tanh),
        Some("ReLU") => Ok(Activation::Relu),
        Some("GELU") => Ok(Activation::Gelu),
        Some("SiLU") => Ok(Activation::Silu),
        Some("Sigmoid") => Ok(Activation::Sigmoid),
        _ => {
            let expected = "one of torch.nn.modules.linear.Identity, torch.nn.modules.activation.Tanh, ReLU, GELU, SiLU, Sigmoid";
            Err(config.invalid(field, &Value::from(name), expected))
        }
    }
}

/// The pooling modes of a pooling configuration, in the older form (one flag per mode) or the newer (`pooling_mode`).
fn pooling(path: &Path, hidden_size: usize) -> Result<Vec<Pooling>, ModelError> {
    let Some(config) = JsonFile::read(path)? else {
        let hint = "modules.json names a Pooling module whose config.json must be in its folder";
        return Err(ModelError::FileMissing { path: path.to_path_buf(), hint });
    };
    let sizes = ["word_embedding_dimension", "embedding_dimension"];
    if let Some(size) = config.integer(&sizes, 1..=MAX_DIMENSION)?.filter(|size| *size != hidden_size) {
        let field = config.value(&sizes).map_or(sizes[0], |(field, _)| field);
        return Err(config.invalid(field, &Value::from(size), &format!("hidden_size {hidden_size} of the model")));
    }
    if let Some((field, value)) = config.value(&["pooling_mode"]) {
        return named_modes(&config, field, value);
    }
    let mut modes = Vec::new();
    for (flag, mode) in POOLING_FLAGS {
        if config.boolean(&[flag])?.unwrap_or(false) {
            modes.push(mode);
        }
    }
    if modes.is_empty() {
        return Err(config.missing("pooling_mode_...", "at least one of the pooling flags set to true"));
    }
    Ok(modes)
}

fn named_modes(config: &JsonFile, field: &str, value: &Value) -> Result<Vec<Pooling>, ModelError> {
    let named = |value: &Value| match value.as_str()? {
        "cls" => Some(Pooling::Cls),
        "max" => Some(Pooling::Max),
        "mean" => Some(Pooling::Mean),
        "mean_sqrt_len_tokens" => Some(Pooling::MeanSqrtLen),
        "weightedmean" => Some(Pooling::WeightedMean),
        "lasttoken" => Some(Pooling::Last),
        _ => None,
    };
    let modes: Option<Vec<Pooling>> = match value {
        Value::Array(values) => values.iter().map(named).collect(),
        one => named(one).map(|mode| vec![mode]),
    };
    modes.filter(|modes| (1..=POOLING_FLAGS.len()).contains(&modes.len())).ok_or_else(|| {
        let expected = "one or a list of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken";
        config.invalid(field, value, expected)
    })
}

fn unsupported(path: &Path, got: String) -> ModelError {
    ModelError::UnsupportedArchitecture {
        path: path.to_path_buf(),
        what: "sentence-transformers module",
        got,
        known: KNOWN_MODULES.to_owned(),
    }
}

fn invalid(path: &Path, field: &str, got: &Value, expected: &str) -> ModelError {
    ModelError::FieldInvalid {
        path: path.to_path_buf(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        got: describe(got),
    }
}
