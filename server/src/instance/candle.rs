//! Models on candle: the only user of the crate `models`.

use std::path::Path;
use std::sync::Arc;

use crate::config::AutoModel;
use crate::error::LoadError;

use super::{Backend, ServedVersion};

/// What a Hugging Face directory turns out to be.
#[derive(Clone, Debug)]
pub struct Described {
    /// What its tokenizer model takes and gives; `None` where there is no tokenizer.
    pub tokenizer: Option<AutoModel>,
    /// What its encoder model takes and gives.
    pub encoder: AutoModel,
    /// Labels of its outputs, empty where it has none.
    pub labels: Vec<String>,
}

/// Reads what a Hugging Face directory says of itself; `None` where it is not one.
///
/// # Errors
/// It is one, but its files are broken or its architecture is not known.
pub fn describe(_directory: &Path) -> Result<Option<Described>, LoadError> {
    Ok(None)
}

/// Opens the model in the version's directory.
pub(super) fn open(served: &ServedVersion) -> Result<Arc<dyn Backend>, LoadError> {
    Err(LoadError::NoDirectory { model: served.config.name.to_string(), version: served.version })
}
