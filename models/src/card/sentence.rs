//! The files of sentence-transformers: modules, pooling, normalization, maximum length.

use std::path::{Path, PathBuf};

use kernels::pool::{PoolSpec, Pooling};
use serde_json::Value;

use super::MAX_DIMENSION;
use crate::encoder::{Head, HeadLayer, Pick};
use crate::error::ModelError;
use crate::json::{CONFIG_LIMIT_BYTES, JsonFile, describe, parse, read_file};
use crate::weights::is_plain_name;

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
const KNOWN_MODULES: &str = "Transformer, then Pooling, then optionally Normalize";

/// `modules.json`: the folders of the modules that make up a sentence model.
pub(super) struct Modules {
    /// The folder of the Transformer module.
    pub(super) transformer: PathBuf,
    pooling: PathBuf,
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
            if !full_name.starts_with("sentence_transformers.") || !["Transformer", "Pooling", "Normalize"].contains(&kind) {
                return Err(unsupported(&path, full_name.to_owned()));
            }
            if !folder.is_empty() && !is_plain_name(folder) {
                let expected = "\"\" or the plain name of a folder beside modules.json";
                return Err(invalid(&path, &field("path"), &Value::from(folder), expected));
            }
            let folder = if folder.is_empty() { dir.to_path_buf() } else { dir.join(folder) };
            kinds.push((kind, folder));
        }
        let mut kinds = kinds.into_iter();
        match (kinds.next(), kinds.next(), kinds.next(), kinds.next()) {
            (Some(("Transformer", transformer)), Some(("Pooling", pooling)), None, None) => {
                Ok(Some(Modules { transformer, pooling, normalize: None }))
            }
            (Some(("Transformer", transformer)), Some(("Pooling", pooling)), Some(("Normalize", normalize)), None) => {
                Ok(Some(Modules { transformer, pooling, normalize: Some(normalize) }))
            }
            (first, second, third, _) => {
                let found: Vec<&str> = [first, second, third].into_iter().flatten().map(|(kind, _)| kind).collect();
                Err(unsupported(&path, format!("sequence {}", found.join(", "))))
            }
        }
    }
}

/// What the files of sentence-transformers add to `config.json`.
pub(super) struct Settings {
    pub(super) pooling: Vec<Pooling>,
    pub(super) normalize: bool,
    pub(super) max_length: Option<usize>,
    /// Whether the directory has the files of sentence-transformers.
    pub(super) from_modules: bool,
}

impl Settings {
    /// Pooling and what follows it.
    pub(super) fn head(self, _hidden_size: usize) -> Head {
        let spec = PoolSpec { modes: self.pooling, normalize: self.normalize };
        Head { pick: Pick::Pool(spec), layers: Vec::<HeadLayer>::new() }
    }

    /// Reads the settings of the model in `dir` whose Transformer module is in `transformer`. Without `modules.json` the
    /// embedding is the plain mean, as sentence-transformers itself does for a bare encoder.
    pub(super) fn read(
        dir: &Path,
        transformer: &Path,
        modules: Option<&Modules>,
        hidden_size: usize,
    ) -> Result<Self, ModelError> {
        let mut settings =
            Settings { pooling: vec![Pooling::Mean], normalize: false, max_length: None, from_modules: modules.is_some() };
        if let Some(config) = JsonFile::read(&transformer.join("sentence_bert_config.json"))? {
            settings.max_length = config.integer(&["max_seq_length"], 1..=MAX_DIMENSION)?;
        }
        let Some(modules) = modules else { return Ok(settings) };
        refuse_default_prompt(dir)?;
        settings.pooling = pooling(&modules.pooling.join("config.json"), hidden_size)?;
        if let Some(folder) = &modules.normalize {
            settings.normalize = true;
            refuse_other_normalize(&folder.join("config.json"))?;
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

/// The Normalize module must work on the sentence vector.
fn refuse_other_normalize(path: &Path) -> Result<(), ModelError> {
    let Some(config) = JsonFile::read(path)? else { return Ok(()) };
    for field in ["module_input_name", "module_output_name"] {
        if let Some(other) = config.string(&[field])?.filter(|name| *name != "sentence_embedding") {
            return Err(config.invalid(field, &Value::from(other), "\"sentence_embedding\""));
        }
    }
    Ok(())
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
