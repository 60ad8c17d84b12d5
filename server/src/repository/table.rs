//! What requests see: an immutable table of the versions that serve.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{ControlError, InferError};
use crate::instance::InstancePool;
use crate::request::VersionChoice;
use crate::scheduler::ModelHandle;

use super::VersionStatistics;

/// A version that takes requests.
#[derive(Clone)]
pub(super) struct Live {
    /// Where requests go.
    pub(super) handle: Arc<ModelHandle>,
    /// Its instances; an ensemble has none.
    pub(super) instances: Option<InstancePool>,
}

impl Live {
    /// Why no instance works any more, if so.
    pub(super) fn failure(&self) -> Option<String> {
        self.instances.as_ref().and_then(InstancePool::failure)
    }
}

/// One model of the table.
#[derive(Clone, Default)]
pub(super) struct TableModel {
    /// Versions that are known; those without a [`Live`] are not ready.
    pub(super) versions: BTreeMap<u64, Option<Live>>,
    /// Whether the server is ready only while this model works, or was unloaded on purpose.
    pub(super) required: Requirement,
}

/// What a model means for the readiness of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Requirement {
    /// Nothing.
    #[default]
    None,
    /// Its ready versions must have a working instance.
    Working,
    /// It failed at start-up and has not been loaded since, which strict readiness does not forgive.
    Failed,
}

/// All models that were ever loaded, by name.
#[derive(Default)]
pub(super) struct Table {
    pub(super) models: HashMap<String, TableModel>,
}

impl Table {
    pub(super) fn resolve(&self, model: &str, version: VersionChoice) -> Result<Arc<ModelHandle>, InferError> {
        self.live(model, version).map(|live| Arc::clone(&live.handle))
    }

    /// The handles of all versions that take requests.
    pub(super) fn handles(&self) -> impl Iterator<Item = &ModelHandle> {
        self.models.values().flat_map(|model| model.versions.values()).flatten().map(|live| live.handle.as_ref())
    }

    fn live(&self, model: &str, version: VersionChoice) -> Result<&Live, InferError> {
        let name = || model.to_owned();
        let known = self.known(model)?;
        match version {
            VersionChoice::Exact(version) => match known.versions.get(&version) {
                None => Err(InferError::UnknownVersion { model: name(), version }),
                Some(None) => Err(InferError::VersionNotReady { model: name(), version }),
                Some(Some(live)) => Ok(live),
            },
            VersionChoice::Latest => known
                .versions
                .values()
                .rev()
                .find_map(Option::as_ref)
                .ok_or_else(|| InferError::NoAvailableVersions { model: name() }),
        }
    }

    /// A model of which a load was begun. One that could never even be read has no versions and is not known.
    fn known(&self, model: &str) -> Result<&TableModel, InferError> {
        self.models
            .get(model)
            .filter(|known| !known.versions.is_empty())
            .ok_or_else(|| InferError::UnknownModel { model: model.to_owned() })
    }

    pub(super) fn versions(&self, model: &str) -> Result<Vec<u64>, InferError> {
        let ready: Vec<u64> =
            self.known(model)?.versions.iter().filter_map(|(version, live)| live.as_ref().map(|_| *version)).collect();
        if ready.is_empty() { Err(InferError::NoAvailableVersions { model: model.to_owned() }) } else { Ok(ready) }
    }

    pub(super) fn is_working(&self, model: &str, version: VersionChoice) -> bool {
        self.live(model, version).is_ok_and(|live| live.failure().is_none())
    }

    /// Whether nothing that the server's readiness depends on has failed.
    pub(super) fn required_work(&self) -> bool {
        self.models.values().all(|model| match model.required {
            Requirement::None => true,
            Requirement::Failed => false,
            Requirement::Working => model.versions.values().flatten().all(|live| live.failure().is_none()),
        })
    }

    pub(super) fn statistics(&self, model: &str, version: VersionChoice) -> Result<Vec<VersionStatistics>, ControlError> {
        let mut found: Vec<VersionStatistics> = self
            .models
            .iter()
            .filter(|(name, _)| model.is_empty() || *name == model)
            .flat_map(|(name, known)| known.versions.iter().map(move |(version, live)| (name, version, live)))
            .filter_map(|(name, version, live)| {
                let statistics = Arc::clone(&live.as_ref()?.handle.statistics);
                Some(VersionStatistics { model: name.clone(), version: *version, statistics })
            })
            .collect();
        found.sort_by(|left, right| (&left.model, left.version).cmp(&(&right.model, right.version)));
        if model.is_empty() {
            return Ok(found);
        }
        if found.is_empty() {
            return Err(ControlError::StatisticsModel { model: model.to_owned() });
        }
        if let VersionChoice::Exact(wanted) = version {
            found.retain(|statistics| statistics.version == wanted);
            if found.is_empty() {
                return Err(ControlError::StatisticsVersion { model: model.to_owned() });
            }
        }
        Ok(found)
    }
}
