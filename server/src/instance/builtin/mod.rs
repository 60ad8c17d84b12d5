//! Owns the builtin models. May import what `instance` may; must never be needed by another backend.

use std::sync::Arc;

use crate::error::LoadError;

use super::{Backend, ServedVersion};

/// Opens the builtin model that the parameters name.
pub(super) fn open(served: &ServedVersion) -> Result<Arc<dyn Backend>, LoadError> {
    Err(LoadError::UnknownBuiltin { model: served.config.name.to_string(), kind: String::new(), known: "" })
}
