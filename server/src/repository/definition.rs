//! A model as its directory describes it: what was written or derived, checked, with versions and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use proto::inference::{self as wire, model_config::SchedulingChoice};
use tempfile::TempDir;

use crate::config::{BackendKind, InitialState, ModelConfig, Scheduling, auto_complete};
use crate::error::{ConfigProblem, LoadError};
use crate::instance::{Described, describe, is_hub_directory};
use crate::tensor::DataType;

use super::scan::{self, Fingerprint, Location, Reading};
use super::zero_config::{self, MODEL_PARAMETER, Part};

/// Backends that a model's name may end in, and that are then used where none is written.
const NAMED_BACKENDS: [&str; 2] = ["builtin", "candle"];

/// What a load was made from. Equal ones load the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The files on disk; those of an override do not change.
    pub(super) fingerprint: Fingerprint,
    /// The override, by its number.
    pub(super) overlay: Option<u64>,
}

/// A model that can be loaded.
pub(super) struct Definition {
    /// Its configuration.
    pub(super) config: Arc<ModelConfig>,
    /// Its directory.
    pub(super) directory: PathBuf,
    /// The versions that its policy chooses, with their directories.
    pub(super) versions: BTreeMap<u64, PathBuf>,
    /// What it was read from.
    pub(super) identity: Identity,
    /// Overriding files; the directory lives as long as they serve.
    pub(super) files: Option<Arc<TempDir>>,
    dependencies: BTreeSet<String>,
}

impl Definition {
    /// The composing models of an ensemble.
    pub(super) fn dependencies(&self) -> &BTreeSet<String> {
        &self.dependencies
    }
}

/// What a definition is read from.
pub(super) struct Source<'a> {
    /// Name of the model.
    pub(super) name: &'a str,
    /// Where its files are.
    pub(super) location: &'a Location,
    /// A configuration as JSON, in place of the written one.
    pub(super) config: Option<&'a str>,
    /// Recorded with the definition.
    pub(super) identity: Identity,
    /// Recorded with the definition.
    pub(super) files: Option<Arc<TempDir>>,
}

impl Source<'_> {
    /// Versions that the directory holds.
    fn versions(&self) -> BTreeMap<u64, PathBuf> {
        if self.location.is_hub {
            BTreeMap::from([(1, self.location.directory.clone())])
        } else {
            scan::versions(&self.location.directory)
        }
    }

    /// The name of the directory, which a part shares with the whole.
    fn base(&self) -> &str {
        self.location.part.base_of(self.name).filter(|_| self.location.part != Part::Whole).unwrap_or(self.name)
    }
}

impl Reading {
    /// Reads a model completely.
    ///
    /// # Errors
    /// What keeps it from being loaded, as far as that can be seen without opening its versions.
    pub(super) fn define(&self, source: Source<'_>) -> Result<Definition, LoadError> {
        let available = source.versions();
        let newest = available.values().next_back();
        let (mut written, mut described) = self.written(&source, newest)?;
        if self.auto_complete {
            fill_backend(&mut written, source.name, newest);
        }
        if self.auto_complete
            && described.is_none()
            && written.backend == "candle"
            && let Some(newest) = newest
        {
            described = describe(source.name, newest, &parameters_of(&written))?;
            complete(&mut written, described.as_ref());
        }
        let mut config = ModelConfig::parse(written, source.name)?;
        let versions = choose_versions(&config, available)?;
        read_labels(&mut config, &source.location.directory, described.as_ref())?;
        read_initial_states(&mut config, &source.location.directory)?;
        let dependencies = match &config.scheduling {
            Scheduling::Ensemble(graph) => graph.steps.iter().map(|step| step.model.to_string()).collect(),
            _ => BTreeSet::new(),
        };
        Ok(Definition {
            config: Arc::new(config),
            directory: source.location.directory.clone(),
            versions,
            identity: source.identity,
            files: source.files,
            dependencies,
        })
    }

    /// The composing models that a configuration names, without checking anything else of it.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub(super) fn composing_models(&self, source: &Source<'_>) -> Result<BTreeSet<String>, LoadError> {
        let is_zero_config = source.config.is_none() && self.config_file(&source.location.directory).is_none();
        if is_zero_config {
            let is_split = source.location.part == Part::Whole
                && self
                    .locate(&Part::Tokenizer.name(source.name))
                    .contains(&Location { part: Part::Tokenizer, ..source.location.clone() });
            let parts = [Part::Tokenizer, Part::Encoder].map(|part| part.name(source.name));
            return Ok(if is_split { parts.into() } else { BTreeSet::new() });
        }
        let (written, _) = self.written(source, None)?;
        Ok(match written.scheduling_choice {
            Some(SchedulingChoice::EnsembleScheduling(ensemble)) => {
                ensemble.step.into_iter().map(|step| step.model_name).collect()
            }
            _ => BTreeSet::new(),
        })
    }

    /// The configuration as written; where there is none, as the files describe the model.
    fn written(
        &self,
        source: &Source<'_>,
        newest: Option<&PathBuf>,
    ) -> Result<(wire::ModelConfig, Option<Described>), LoadError> {
        if let Some(json) = source.config {
            let written = proto::json::from_json(json).map_err(|error| syntax(error.to_string()))?;
            return Ok((written, None));
        }
        let directory = &source.location.directory;
        if let Some(path) = self.config_file(directory) {
            let shown = path.strip_prefix(directory).unwrap_or(&path).display().to_string();
            let contents = std::fs::read(&path).map_err(|error| LoadError::Io {
                model: source.name.to_owned(),
                path: shown.clone(),
                reason: error.to_string(),
            })?;
            let written = proto::pbtxt::parse_file(&contents, &format!("{}/{shown}", source.name))
                .map_err(|error| syntax(error.to_string()))?;
            return Ok((written, None));
        }
        if !self.auto_complete {
            return Err(LoadError::NoConfiguration {
                model: source.name.to_owned(),
                hint: "; auto-complete, which would derive it, is turned off",
            });
        }
        if let Some(newest) = newest.filter(|newest| is_hub_directory(newest))
            && let Some(described) = describe(source.name, newest, &BTreeMap::new())?
        {
            let written = zero_config::configuration(source.base(), source.location.part, &described);
            return Ok((written, Some(described)));
        }
        if suffix_backend(source.name).is_some() {
            return Ok((wire::ModelConfig::default(), None));
        }
        if is_hub_directory(&source.location.directory) {
            return Err(LoadError::NoConfiguration {
                model: source.name.to_owned(),
                hint: ", and its Hugging Face files are not in a version directory: move them into '1', or give \
                       --model-repository the path of the model's directory itself",
            });
        }
        Err(LoadError::NoConfiguration {
            model: source.name.to_owned(),
            hint: ", and its newest version directory is not a Hugging Face model (config.json and a .safetensors file)",
        })
    }
}

/// The parameters as text.
fn parameters_of(written: &wire::ModelConfig) -> BTreeMap<String, String> {
    written.parameters.iter().map(|(key, value)| (key.clone(), value.string_value.clone())).collect()
}

fn syntax(message: String) -> LoadError {
    LoadError::Config(ConfigProblem::Syntax { message }.into())
}

fn suffix_backend(name: &str) -> Option<&'static str> {
    let (_, suffix) = name.rsplit_once('.')?;
    NAMED_BACKENDS.into_iter().find(|backend| *backend == suffix)
}

/// Finds the backend where the configuration names none.
fn fill_backend(written: &mut wire::ModelConfig, name: &str, newest: Option<&PathBuf>) {
    if !written.backend.is_empty() || !written.platform.is_empty() {
        return;
    }
    if matches!(written.scheduling_choice, Some(SchedulingChoice::EnsembleScheduling(_))) {
        "ensemble".clone_into(&mut written.platform);
    } else if let Some(backend) = suffix_backend(name) {
        backend.clone_into(&mut written.backend);
    } else if newest.is_some_and(|newest| is_hub_directory(newest)) {
        "candle".clone_into(&mut written.backend);
    }
}

/// Fills in what a candle model's files say and its configuration does not.
fn complete(written: &mut wire::ModelConfig, described: Option<&Described>) {
    let Some(described) = described else {
        return;
    };
    let wants_tokenizer =
        written.parameters.get(MODEL_PARAMETER).is_some_and(|parameter| parameter.string_value == Part::Tokenizer.as_str());
    let auto = if wants_tokenizer { described.tokenizer.as_ref() } else { Some(&described.encoder) };
    if let Some(auto) = auto {
        auto_complete(written, auto);
    }
}

fn choose_versions(config: &ModelConfig, available: BTreeMap<u64, PathBuf>) -> Result<BTreeMap<u64, PathBuf>, LoadError> {
    let mut available = available;
    if available.is_empty() && config.backend == BackendKind::Ensemble {
        // An ensemble reads nothing from its version directory, so one that has none is still complete.
        tracing::info!(model = %config.name, "the ensemble has no version directory; it is served as version 1");
        available.insert(1, PathBuf::new());
    }
    let present: Vec<u64> = available.keys().copied().collect();
    let chosen = config.version_policy.choose(&present);
    if chosen.is_empty() {
        return Err(LoadError::NoVersions { model: config.name.to_string(), present });
    }
    available.retain(|version, _| chosen.contains(version));
    Ok(available)
}

/// Reads the label files; labels that the model's own files give stand in where there is none.
fn read_labels(config: &mut ModelConfig, directory: &Path, described: Option<&Described>) -> Result<(), LoadError> {
    for (output, file) in config.label_files.clone() {
        let failed = |reason: String| LoadError::Io { model: config.name.to_string(), path: file.clone(), reason };
        let is_below = Path::new(&file).components().all(|component| matches!(component, Component::Normal(_)));
        if !is_below {
            return Err(failed("a label file must lie in the model's directory".to_owned()));
        }
        let text = std::fs::read_to_string(directory.join(&file)).map_err(|error| failed(error.to_string()))?;
        let labels: Vec<String> = text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect();
        if let Some(output) = config.outputs.get_mut(output) {
            output.labels = Some(labels.into());
        }
    }
    if let Some(described) = described.filter(|described| !described.labels.is_empty()) {
        for output in config.outputs.iter_mut().filter(|output| &*output.name == "LOGITS" && output.labels.is_none()) {
            output.labels = Some(described.labels.clone().into());
        }
    }
    Ok(())
}

/// Reads the files that states begin with, and checks that they hold what the states are.
fn read_initial_states(config: &mut ModelConfig, directory: &Path) -> Result<(), LoadError> {
    let model = config.name.to_string();
    let batching = config.max_batch_rows.is_some();
    let Scheduling::Sequence(sequence) = &mut config.scheduling else {
        return Ok(());
    };
    for state in &mut sequence.states {
        let datatype = config.inputs.get(state.input).map_or(DataType::Bytes, |input| input.datatype);
        let mut path = "initial_state".to_owned();
        if let InitialState::File { name, contents } = &mut state.initial {
            path = format!("initial_state/{name}");
            let failed = |reason: String| LoadError::Io { model: model.clone(), path: path.clone(), reason };
            let is_below = Path::new(name).components().all(|component| matches!(component, Component::Normal(_)));
            if !is_below {
                return Err(failed("a file of an initial state must lie in the model's folder 'initial_state'".to_owned()));
            }
            *contents = std::fs::read(directory.join(&path)).map_err(|error| failed(error.to_string()))?.into();
        }
        if state.first(datatype, batching).is_none() {
            let reason = format!("expected the contents of one {datatype} tensor of shape {}", state.shape);
            return Err(LoadError::Io { model, path, reason });
        }
    }
    Ok(())
}

/// Reads a model directory, or a Hugging Face directory, without loading anything: the configuration that would
/// be served, or the three of a zero-config model (the ensemble first).
///
/// # Errors
/// What keeps the directory from being served.
pub fn read_directory(directory: &Path, config_name: Option<&str>, auto_complete: bool) -> Result<Vec<ModelConfig>, LoadError> {
    let name = scan::directory_name(directory).unwrap_or_default();
    let is_hub = is_hub_directory(directory);
    let root = if is_hub { directory.to_owned() } else { directory.join("..") };
    let reading = Reading { roots: vec![root], config_name: config_name.map(str::to_owned), auto_complete };
    if !directory.is_dir() {
        let reason = "it is not a directory".to_owned();
        return Err(LoadError::Io { model: name, path: directory.display().to_string(), reason });
    }
    let identity = Identity { fingerprint: Fingerprint::NONE, overlay: None };
    let read = |part: Part| {
        let name = part.name(&name);
        let location = Location { directory: directory.to_owned(), is_hub, part };
        let source = Source { name: &name, location: &location, config: None, identity, files: None };
        reading.define(source).map(|definition| ModelConfig::clone(&definition.config))
    };
    let whole = read(Part::Whole)?;
    let has_parts = whole.backend == BackendKind::Ensemble && reading.config_file(directory).is_none();
    let mut configs = vec![whole];
    if has_parts {
        configs.push(read(Part::Tokenizer)?);
        configs.push(read(Part::Encoder)?);
    }
    Ok(configs)
}

/// A model of a repository, as far as its directory tells.
#[derive(Clone, Debug)]
pub struct ReadModel {
    /// Its configuration.
    pub config: Arc<ModelConfig>,
    /// The versions that would be served, with their directories.
    pub versions: BTreeMap<u64, PathBuf>,
}

/// What every model of some repositories would be served with, by name; of those that cannot be read, why. Nothing is loaded.
pub fn read_repositories(roots: &[PathBuf]) -> BTreeMap<String, Result<ReadModel, String>> {
    let reading = Reading { roots: scan::distinct(roots), config_name: None, auto_complete: true };
    let catalog = reading.catalog();
    let identity = Identity { fingerprint: Fingerprint::NONE, overlay: None };
    let unreadable = catalog.unreadable.into_iter().map(|(root, reason)| (root, Err(reason)));
    let read = |(name, locations): (String, Vec<scan::Location>)| {
        let Some(location) = locations.first() else { return (name, Err("it is nowhere".to_owned())) };
        let source = Source { name: &name, location, config: None, identity, files: None };
        let defined = reading.define(source).map_err(|error| error.to_string());
        let read = defined.map(|defined| ReadModel { config: Arc::clone(&defined.config), versions: defined.versions.clone() });
        (name, read)
    };
    catalog.models.into_iter().map(read).chain(unreadable).collect()
}
