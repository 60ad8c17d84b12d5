//! What the repositories hold and in which state it is.

use std::collections::BTreeMap;

use crate::error::ControlError;

use super::Repository;
use super::records::VersionState;
use super::scan::Catalog;

/// One line of the index. A model that was never loaded has only its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Model.
    pub name: String,
    /// Version, where one is known.
    pub version: Option<u64>,
    /// State, where it was ever loaded or cannot be.
    pub state: Option<VersionState>,
    /// Why it is in this state; may be empty.
    pub reason: String,
}

/// Why a model is in the index as not available although nobody tried to load it.
pub(super) const TWO_REPOSITORIES: &str = "model appears in two or more repositories";

impl Repository {
    /// Every model of the repositories, and every version that was ever loaded, by name and version.
    /// With `ready_only`, just the versions that are ready.
    ///
    /// # Errors
    /// [`ControlError::ServerExiting`] where the runtime is ending.
    pub async fn index(&self, ready_only: bool) -> Result<Vec<IndexEntry>, ControlError> {
        let catalog = if ready_only {
            Catalog::default()
        } else {
            let reading = self.reading.clone();
            let scanned = tokio::task::spawn_blocking(move || reading.catalog()).await;
            scanned.map_err(|_| ControlError::ServerExiting)?
        };
        Ok(self.index_over(&catalog, ready_only))
    }

    fn index_over(&self, catalog: &Catalog, ready_only: bool) -> Vec<IndexEntry> {
        let mut lines: BTreeMap<String, Vec<IndexEntry>> = BTreeMap::new();
        for (name, record) in self.lock().iter() {
            let versions = record.versions.iter().map(|(version, known)| IndexEntry {
                name: name.clone(),
                version: Some(*version),
                state: Some(known.state),
                reason: known.reason.clone(),
            });
            let mut entries: Vec<IndexEntry> = versions.collect();
            if let (true, Some(reason)) = (entries.is_empty(), &record.failure) {
                entries.push(unavailable(name, reason.clone()));
            }
            lines.insert(name.clone(), entries);
        }
        for (name, places) in &catalog.models {
            let entries = lines.entry(name.clone()).or_default();
            if places.len() > 1 {
                // The versions that were loaded before the second one appeared keep serving and stay listed.
                entries.retain(|entry| entry.state == Some(VersionState::Ready));
                entries.push(unavailable(name, TWO_REPOSITORIES.to_owned()));
            } else if entries.is_empty() {
                entries.push(IndexEntry { name: name.clone(), version: None, state: None, reason: String::new() });
            }
        }
        let all = lines.into_values().flatten();
        all.filter(|entry| !ready_only || entry.state == Some(VersionState::Ready)).collect()
    }
}

fn unavailable(name: &str, reason: String) -> IndexEntry {
    IndexEntry { name: name.to_owned(), version: None, state: Some(VersionState::Unavailable), reason }
}
