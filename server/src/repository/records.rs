//! What is known of every model: its versions and their states, overrides, and why it is here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::ModelConfig;
use crate::observe::metrics::Series;
use crate::observe::statistics::ModelStatistics;

use super::definition::Definition;
use super::overrides::Overlay;
use super::table::{Live, Requirement, Table, TableModel};

/// The reason of a version that was unloaded and is gone.
pub(super) const UNLOADED: &str = "unloaded";

/// State of a model version, as the index shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// It is being loaded for the first time.
    Loading,
    /// It takes requests.
    Ready,
    /// It takes no more requests and finishes those it has.
    Unloading,
    /// It is not there.
    Unavailable,
}

impl VersionState {
    /// The protocol's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready => "READY",
            Self::Unloading => "UNLOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

impl fmt::Display for VersionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A version that was loaded, or that a load tried.
pub(super) struct VersionRecord {
    /// Which of all loads made it; the farewell of an earlier one changes nothing.
    pub(super) generation: u64,
    pub(super) state: VersionState,
    pub(super) reason: String,
    pub(super) live: Option<Live>,
    pub(super) statistics: Arc<ModelStatistics>,
    pub(super) config: Arc<ModelConfig>,
    pub(super) load_seconds: f64,
}

fn lost(model: &str) -> String {
    format!("{UNLOADED}, because its composing model '{model}' is not loaded")
}

/// Whether a model serves, and whether it comes back by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Not loaded, or unloaded by request.
    Absent,
    /// Loaded.
    Serving,
    /// An ensemble that was loaded and lost a composing model.
    Suspended,
}

/// One model.
pub(super) struct ModelRecord {
    pub(super) versions: BTreeMap<u64, VersionRecord>,
    /// Why the last load failed, if it did.
    pub(super) failure: Option<String>,
    /// What serves, as it was read.
    pub(super) definition: Option<Arc<Definition>>,
    /// What a client put in place of the files on disk.
    pub(super) overlay: Option<Overlay>,
    pub(super) presence: Presence,
    /// Loaded by its own name, not only along with an ensemble.
    pub(super) by_name: bool,
    pub(super) required: Requirement,
}

impl Default for ModelRecord {
    fn default() -> Self {
        Self {
            versions: BTreeMap::new(),
            failure: None,
            definition: None,
            overlay: None,
            presence: Presence::Absent,
            by_name: false,
            required: Requirement::None,
        }
    }
}

impl ModelRecord {
    /// Whether the model serves and every version has an instance that works.
    pub(super) fn is_sound(&self) -> bool {
        self.presence == Presence::Serving
            && self.versions.values().filter_map(|version| version.live.as_ref()).all(|live| live.failure().is_none())
    }

    /// Whether its graph uses this model.
    pub(super) fn depends_on(&self, model: &str) -> bool {
        self.definition.as_ref().is_some_and(|definition| definition.dependencies().contains(model))
    }
}

/// All models, by name.
#[derive(Default)]
pub(super) struct Records {
    models: BTreeMap<String, ModelRecord>,
    /// What stopped serving and is dropped as soon as the lock is free.
    retired: Vec<Live>,
}

impl Records {
    pub(super) fn get(&self, model: &str) -> Option<&ModelRecord> {
        self.models.get(model)
    }

    pub(super) fn get_mut(&mut self, model: &str) -> Option<&mut ModelRecord> {
        self.models.get_mut(model)
    }

    pub(super) fn entry(&mut self, model: &str) -> &mut ModelRecord {
        self.models.entry(model.to_owned()).or_default()
    }

    /// Forgets a model of which there is nothing to know.
    pub(super) fn forget_empty(&mut self, model: &str) {
        let is_empty =
            |record: &ModelRecord| record.versions.is_empty() && record.failure.is_none() && record.required == Requirement::None;
        if self.models.get(model).is_some_and(is_empty) {
            self.models.remove(model);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &ModelRecord)> {
        self.models.iter()
    }

    pub(super) fn take_retired(&mut self) -> Vec<Live> {
        std::mem::take(&mut self.retired)
    }

    /// Makes the versions of a model that serve stop doing so, except some: they are out of the table with the
    /// next store, and not there once their last request is answered.
    pub(super) fn retire(&mut self, model: &str, keep: impl Fn(u64) -> bool, reason: &str) {
        let Some(record) = self.models.get_mut(model) else {
            return;
        };
        for (_, version) in record.versions.iter_mut().filter(|(version, _)| !keep(**version)) {
            if let Some(live) = version.live.take() {
                version.state = VersionState::Unloading;
                reason.clone_into(&mut version.reason);
                self.retired.push(live);
            }
        }
    }

    /// Takes every version of every model out of service.
    pub(super) fn retire_all(&mut self) {
        let names: Vec<String> = self.models.keys().cloned().collect();
        for name in names {
            self.retire(&name, |_| false, UNLOADED);
        }
    }

    /// Takes an ensemble out of service until its composing models serve again, and with it those built on it.
    pub(super) fn suspend(&mut self, model: &str, reason: &str) {
        let mut pending = vec![(model.to_owned(), reason.to_owned())];
        while let Some((name, reason)) = pending.pop() {
            let Some(record) = self.models.get_mut(&name).filter(|record| record.presence == Presence::Serving) else {
                continue;
            };
            record.presence = Presence::Suspended;
            record.failure = Some(reason.clone());
            self.retire(&name, |_| false, &reason);
            tracing::info!(model = %name, %reason, "the ensemble is unavailable");
            pending.extend(self.dependents(&name).into_iter().map(|ensemble| (ensemble, lost(&name))));
        }
    }

    /// Takes the ensembles out of service that use a model which no longer serves.
    pub(super) fn suspend_dependents(&mut self, model: &str) {
        for ensemble in self.dependents(model) {
            self.suspend(&ensemble, &lost(model));
        }
    }

    /// Ensembles whose graph uses a model, loaded or not.
    pub(super) fn dependents(&self, model: &str) -> Vec<String> {
        self.models.iter().filter(|(_, record)| record.depends_on(model)).map(|(name, _)| name.clone()).collect()
    }

    /// Keeps what a newer load has replaced until the lock is free.
    pub(super) fn replace(&mut self, model: &str, version: u64, record: VersionRecord) {
        if let Some(live) = self.entry(model).versions.insert(version, record).and_then(|old| old.live) {
            self.retired.push(live);
        }
    }

    /// The last instance of a version has ended.
    pub(super) fn gone(&mut self, model: &str, version: u64, generation: u64) {
        let record = self.models.get_mut(model).and_then(|record| record.versions.get_mut(&version));
        if let Some(record) = record.filter(|record| record.generation == generation && record.state == VersionState::Unloading) {
            record.state = VersionState::Unavailable;
            tracing::info!(model, version, "unloaded");
        }
    }

    /// The table that requests see from now on.
    pub(super) fn table(&self) -> Table {
        let models = self.models.iter().map(|(name, record)| {
            let versions = record.versions.iter().map(|(version, known)| (*version, known.live.clone())).collect();
            (name.clone(), TableModel { versions, required: record.required })
        });
        Table { models: models.collect() }
    }

    /// The statistics of every version that serves.
    pub(super) fn serving(&self) -> Vec<Arc<ModelStatistics>> {
        let versions = self.models.values().flat_map(|record| record.versions.values());
        versions.filter(|known| known.live.is_some()).map(|known| Arc::clone(&known.statistics)).collect()
    }

    /// Every version, for the metrics page.
    pub(super) fn series(&self, now: Timestamp) -> Vec<Series> {
        let versions = self
            .models
            .iter()
            .flat_map(|(name, record)| record.versions.iter().map(move |(version, known)| (name, version, known)));
        versions
            .map(|(name, version, known)| Series {
                model: name.clone(),
                version: *version,
                tags: known.config.metric_tags.clone(),
                recorded: known.statistics.recorded(),
                pending: known.statistics.pending_by_level().collect(),
                busy: known.statistics.busy_times(now),
                load: known.statistics.load(),
                load_seconds: known.load_seconds,
                is_loaded: known.live.is_some(),
                is_cached: known.live.as_ref().is_some_and(|live| live.handle.is_cached()),
            })
            .collect()
    }
}
