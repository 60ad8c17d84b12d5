//! A model as its directory describes it: configuration, versions and files.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::ModelConfig;
use crate::error::LoadError;

/// Def.
pub(super) struct Definition {
    dependencies: BTreeSet<String>,
}
impl Definition {
    pub(super) fn dependencies(&self) -> &BTreeSet<String> {
        &self.dependencies
    }
}

/// Reads a model directory, or a Hugging Face directory, without loading anything: the configuration that would
/// be served, or the three of a zero-config model.
///
/// # Errors
/// What keeps the directory from being served.
pub fn read_directory(directory: &Path, config_name: Option<&str>, auto_complete: bool) -> Result<Vec<ModelConfig>, LoadError> {
    let _ = (directory, config_name, auto_complete);
    Ok(Vec::new())
}
