//! One load of one model: read it, open its versions beside those that serve, and swap them in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::RateLimiter;
use crate::error::{ConfigProblem, ControlError, EnsembleProblem, LoadError};

use super::Repository;
use super::definition::{Definition, Identity, Source};
use super::index::TWO_REPOSITORIES;
use super::lifecycle::{Cause, Outcome, Wish, version_failure};
use super::loading::{Opened, device};
use super::overrides::Overlay;
use super::records::{Presence, Records, VersionRecord, VersionState};
use super::scan::{Fingerprint, Location};
use super::table::Requirement;
use super::zero_config::Part;

/// What reading a model came to.
enum Read {
    /// It serves already, as it is on disk.
    Unchanged,
    /// It is to be loaded, with the override that is then in force.
    Changed(Arc<Definition>, Option<Overlay>),
}

/// Where a model is to be read from.
struct Chosen {
    location: Location,
    overlay: Option<Overlay>,
    identity: Identity,
}

impl Repository {
    /// Loads one model. `failures` says why composing models are not there.
    pub(super) async fn load_one(
        self: &Arc<Self>,
        wish: Wish,
        failures: &BTreeMap<String, String>,
    ) -> Result<Outcome, ControlError> {
        let _gate = self.gates.enter(&wish.name).await;
        let name = wish.name.clone();
        if self.exiting.load(Ordering::Acquire) {
            return Err(ControlError::ServerExiting);
        }
        let (this, cause) = (Arc::clone(self), wish.cause);
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| ControlError::ServerExiting)?;
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            this.read(&wish)
        });
        let read = read.await.unwrap_or_else(|_| Err(ControlError::NotFound { model: name.clone(), reason: None }));
        let (definition, overlay) = match read {
            Ok(Read::Unchanged) => {
                if cause == Cause::Named {
                    self.change(|records| records.entry(&name).by_name = true);
                }
                return Ok(Outcome::Unchanged);
            }
            Ok(Read::Changed(definition, overlay)) => (definition, overlay),
            Err(error) => return Err(self.note_unreadable(&name, error)),
        };
        let ticket = self.begin(&definition);
        let result = match self.open(&definition, failures).await {
            Ok(opened) => self.swap(&definition, overlay, cause, opened),
            Err(failed) => Err(failed.into_iter().map(|(version, error)| (version, error.to_string())).collect()),
        };
        result.map_err(|failed| self.note_failed(&definition, ticket, &failed))
    }

    /// The composing models of a model, as a load of it would find them; none where it cannot be read, which
    /// the load itself then says.
    pub(super) fn composing_models(&self, name: &str, overlay: Option<&Overlay>) -> BTreeSet<String> {
        let wish = Wish { name: name.to_owned(), cause: Cause::Named, overlay: overlay.cloned(), force: false };
        let Ok(chosen) = self.choose(&wish) else {
            return BTreeSet::new();
        };
        self.reading.composing_models(&chosen.source(name)).unwrap_or_default()
    }

    /// Decides between the files on disk and an override.
    fn choose(&self, wish: &Wish) -> Result<Chosen, ControlError> {
        let stored = self.lock().get(&wish.name).and_then(|record| record.overlay.clone());
        let is_new = wish.overlay.is_some();
        // A plain load by name undoes overriding files; loads that happen along the way do not.
        let overlay =
            wish.overlay.clone().or_else(|| stored.filter(|stored| stored.files.is_none() || wish.cause != Cause::Named));
        if let Some(overlay) = overlay.as_ref().filter(|overlay| overlay.files.is_some())
            && let Some(files) = &overlay.files
        {
            let location = Location { directory: files.path().to_owned(), is_hub: false, part: Part::Whole };
            let identity = Identity { fingerprint: Fingerprint::NONE, overlay: Some(overlay.number) };
            return Ok(Chosen { location, overlay: Some(overlay.clone()), identity });
        }
        let not_found = |reason: Option<String>| ControlError::NotFound { model: wish.name.clone(), reason };
        let mut places = self.reading.locate(&wish.name);
        let location = places.pop().ok_or_else(|| not_found(None))?;
        if !places.is_empty() {
            return Err(not_found(Some(TWO_REPOSITORIES.to_owned())));
        }
        let fingerprint = Fingerprint::of(&wish.name, &location.directory).map_err(|error| not_found(Some(error.to_string())))?;
        let overlay = if is_new {
            overlay.map(|overlay| Overlay { disk: fingerprint, ..overlay })
        } else {
            // An override of the configuration ends when the files that it was made for have changed.
            overlay.filter(|overlay| overlay.disk == fingerprint)
        };
        let identity = Identity { fingerprint, overlay: overlay.as_ref().map(|overlay| overlay.number) };
        Ok(Chosen { location, overlay, identity })
    }

    fn read(&self, wish: &Wish) -> Result<Read, ControlError> {
        let chosen = self.choose(wish)?;
        let serving = {
            let records = self.lock();
            let sound = records.get(&wish.name).filter(|record| record.is_sound());
            sound.and_then(|record| record.definition.as_ref()).map(|definition| definition.identity)
        };
        if serving == Some(chosen.identity) && !wish.force {
            return Ok(Read::Unchanged);
        }
        let definition = self.reading.define(chosen.source(&wish.name)).map_err(|error| refusal(&wish.name, error))?;
        Ok(Read::Changed(Arc::new(definition), chosen.overlay))
    }

    /// A load that ended before its versions were known.
    fn note_unreadable(&self, name: &str, error: ControlError) -> ControlError {
        let reason = match &error {
            ControlError::NotFound { reason: Some(reason), .. } => reason.clone(),
            other => other.to_string(),
        };
        tracing::error!(model = name, %reason, "the model failed to load");
        // Of a name that is nowhere there is nothing to remember.
        let is_somewhere = !matches!(error, ControlError::NotFound { reason: None, .. });
        self.change(|records| {
            if is_somewhere {
                records.entry(name).failure = Some(reason.trim_end().to_owned());
            }
        });
        error
    }

    /// Shows the versions that do not serve yet as loading. Returns the number by which this load is known.
    fn begin(&self, definition: &Definition) -> u64 {
        let ticket = self.next_number();
        self.change(|records| {
            for version in definition.versions.keys() {
                let serves = |records: &Records| {
                    let record = records.get(&definition.config.name)?.versions.get(version)?;
                    record.live.as_ref().map(drop)
                };
                if serves(records).is_none() {
                    records.replace(&definition.config.name, *version, VersionRecord::without_life(definition, ticket));
                }
            }
        });
        ticket
    }

    fn log_loaded(&self, model: &str, version: u64, opened: &Opened) {
        for field in &opened.config.warnings {
            tracing::warn!(model, version, field, "the configuration sets a field that has no effect here");
        }
        if !self.devices.limits_rates() {
            for (index, group) in opened.config.instance_groups.iter().enumerate() {
                if group.rate_limiter != RateLimiter::default() {
                    let field = format!("instance_group[{index}].rate_limiter");
                    tracing::warn!(
                        model,
                        version,
                        field,
                        "the configuration sets a field that only counts with --rate-limit execution_count"
                    );
                }
            }
        }
        let seconds = (opened.load_seconds * 1000.0).round() / 1000.0;
        tracing::info!(model, version, seconds, device = device(&opened.config), "loaded");
    }

    /// Makes the new versions serve in place of the old ones, in one store.
    fn swap(
        &self,
        definition: &Arc<Definition>,
        overlay: Option<Overlay>,
        cause: Cause,
        opened: Vec<(u64, Opened)>,
    ) -> Result<Outcome, Vec<(u64, String)>> {
        let name = Arc::clone(&definition.config.name);
        for (version, opened) in &opened {
            self.log_loaded(&name, *version, opened);
        }
        // What is refused leaves the closure and is dropped where the lock is free.
        let refused = self.change(|records| {
            let reason = if self.exiting.load(Ordering::Acquire) {
                Some(ControlError::ServerExiting.to_string())
            } else {
                lost_dependency(records, definition)
            };
            if let Some(reason) = reason {
                return Some((opened, reason));
            }
            let serving: BTreeSet<u64> = opened.iter().map(|(version, _)| *version).collect();
            for (version, opened) in opened {
                records.replace(&name, version, VersionRecord::ready(opened));
            }
            records.retire(&name, |version| serving.contains(&version), super::records::UNLOADED);
            let record = records.entry(&name);
            record.failure = None;
            record.definition = Some(Arc::clone(definition));
            record.overlay = overlay;
            record.presence = Presence::Serving;
            record.by_name |= cause == Cause::Named;
            if record.required == Requirement::Failed {
                record.required = Requirement::Working;
            }
            None
        });
        match refused {
            None => Ok(Outcome::Swapped),
            Some((opened, reason)) => Err(opened.iter().map(|(version, _)| (*version, reason.clone())).collect()),
        }
    }

    /// A load whose versions could not be opened. What served still does.
    fn note_failed(&self, definition: &Definition, ticket: u64, failed: &[(u64, String)]) -> ControlError {
        let name = &definition.config.name;
        for (version, reason) in failed {
            tracing::error!(model = %name, version, %reason, "the model failed to load");
        }
        let reasons: BTreeMap<u64, &String> = failed.iter().map(|(version, reason)| (*version, reason)).collect();
        self.change(|records| {
            let record = records.entry(name);
            record.failure = failed.first().map(|(_, reason)| reason.clone());
            for (version, record) in record.versions.iter_mut().filter(|(_, record)| record.generation == ticket) {
                record.state = VersionState::Unavailable;
                record.reason = match reasons.get(version) {
                    Some(reason) => (*reason).clone(),
                    None => "not loaded, because another version of the model failed to load".to_owned(),
                };
            }
        });
        version_failure(name, failed)
    }
}

impl Chosen {
    fn source<'a>(&'a self, name: &'a str) -> Source<'a> {
        Source {
            name,
            location: &self.location,
            config: self.overlay.as_ref().map(|overlay| &*overlay.config),
            identity: self.identity,
            files: self.overlay.as_ref().and_then(|overlay| overlay.files.clone()),
        }
    }
}

impl VersionRecord {
    /// A version that is being loaded.
    fn without_life(definition: &Definition, ticket: u64) -> Self {
        Self {
            generation: ticket,
            state: VersionState::Loading,
            reason: String::new(),
            live: None,
            statistics: Arc::default(),
            config: Arc::clone(&definition.config),
            load_seconds: 0.0,
        }
    }

    /// A version that serves from now on.
    fn ready(opened: Opened) -> Self {
        Self {
            generation: opened.generation,
            state: VersionState::Ready,
            reason: String::new(),
            live: Some(opened.live),
            statistics: opened.statistics,
            config: opened.config,
            load_seconds: opened.load_seconds,
        }
    }
}

/// The composing model that was unloaded while its ensemble was being loaded.
fn lost_dependency(records: &Records, definition: &Definition) -> Option<String> {
    let serves = |model: &String| records.get(model).is_some_and(|record| record.presence == Presence::Serving);
    let model = definition.dependencies().iter().find(|model| !serves(model))?.clone();
    let ensemble = definition.config.name.to_string();
    Some(EnsembleProblem::DependencyFailed { ensemble, model, reason: "it was unloaded meanwhile".to_owned() }.to_string())
}

/// The control error of a model that cannot be read. What is wrong with a graph, or with the model's own files,
/// is a failed load; what is wrong with the configuration keeps the model from being found at all.
fn refusal(name: &str, error: LoadError) -> ControlError {
    let is_graph = |problem: &ConfigProblem| matches!(problem, ConfigProblem::Ensemble(_));
    match &error {
        LoadError::NoVersions { .. } => ControlError::LoadFailed { model: name.to_owned(), clauses: error.to_string() },
        LoadError::Config(config) if config.problems.iter().all(is_graph) => version_failure(name, &[(1, error.to_string())]),
        LoadError::Config(_) | LoadError::Io { .. } | LoadError::NoConfiguration { .. } => {
            ControlError::NotFound { model: name.to_owned(), reason: Some(error.to_string()) }
        }
        _ => version_failure(name, &[(1, error.to_string())]),
    }
}
