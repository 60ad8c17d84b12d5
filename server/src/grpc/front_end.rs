//! What every front end stands on: the repository, the phase of the server, and its name.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::InferError;
use crate::observe::host::Host;
use crate::repository::Repository;
use crate::request::VersionChoice;
use crate::scheduler::ModelHandle;
use crate::shared_memory::{Allowed, Regions};

use super::decode;
use super::forward::HeaderForwarding;
use super::lifecycle::{Lifecycle, Phase};

/// Protocol extensions that are always served, by the names under which clients look for them.
const EXTENSIONS: [&str; 8] = [
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "parameters",
    "statistics",
];

/// Name under which the server presents itself unless it was given another: client tools look for it.
pub const DEFAULT_SERVER_NAME: &str = "triton";

/// Shared by the gRPC and the HTTP front end; clones share the state.
#[derive(Clone)]
pub struct FrontEnd {
    /// The models.
    pub repository: Arc<Repository>,
    /// The phase of the server.
    pub lifecycle: Lifecycle,
    /// The server's name in its metadata.
    pub server_name: Arc<str>,
    /// Which headers reach the models.
    pub forwarding: HeaderForwarding,
    /// The machine, where something looks at it.
    pub host: Host,
    /// Shared memory of clients.
    pub regions: Regions,
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerDescription {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: &'static str,
    /// The protocol extensions that it serves.
    pub extensions: Vec<Cow<'static, str>>,
}

impl FrontEnd {
    /// A front end over this repository.
    pub fn new(repository: Arc<Repository>, lifecycle: Lifecycle, server_name: impl Into<Arc<str>>) -> Self {
        Self {
            repository,
            lifecycle,
            server_name: server_name.into(),
            forwarding: HeaderForwarding::default(),
            host: Host::default(),
            regions: Regions::default(),
        }
    }

    /// The metrics page.
    pub fn render_metrics(&self) -> String {
        let in_flight = u64::try_from(self.lifecycle.under_way()).unwrap_or(u64::MAX);
        self.repository.render_metrics(&self.host.reading(), in_flight)
    }

    /// Whether the server is ready: its start-up set is loaded, and it is not on its way out.
    pub fn is_ready(&self) -> bool {
        self.lifecycle.phase() == Phase::Serving && self.repository.is_ready()
    }

    /// Whether a model is ready. One that is not known is not; on its way out, the server has no ready model,
    /// because orchestrators probe models where a pod holds one.
    ///
    /// # Errors
    /// The version is no positive integer.
    pub fn is_model_ready(&self, model: &str, version: &str) -> Result<bool, InferError> {
        let version = decode::parse_version(version)?;
        Ok(self.lifecycle.phase() == Phase::Serving && self.repository.model_ready(model, version))
    }

    /// Finds the model version that serves now.
    ///
    /// # Errors
    /// The lookup errors; [`InferError::ServerNotReady`] while the start-up set is still loading and the model
    /// may be part of it.
    pub fn resolve(&self, model: &str, version: VersionChoice) -> Result<Arc<ModelHandle>, InferError> {
        self.repository.resolve(model, version).map_err(|error| self.unless_starting(error))
    }

    /// The ready versions of a model, or the one that is asked for.
    ///
    /// # Errors
    /// As for [`FrontEnd::resolve`].
    pub fn versions(&self, model: &str, version: VersionChoice) -> Result<Vec<u64>, InferError> {
        match version {
            VersionChoice::Exact(version) => Ok(vec![version]),
            VersionChoice::Latest => self.repository.versions(model).map_err(|error| self.unless_starting(error)),
        }
    }

    fn unless_starting(&self, error: InferError) -> InferError {
        if self.repository.is_startup_done() { error } else { InferError::ServerNotReady }
    }

    /// What the server says about itself. Shared memory is an extension where it is on, and this build has it. The last
    /// extension is no protocol: it tells the device of models whose configuration leaves it open.
    pub fn describe(&self) -> ServerDescription {
        let Allowed { system, cuda } = self.regions.allowed();
        let mut extensions: Vec<Cow<'static, str>> = EXTENSIONS.map(Cow::Borrowed).to_vec();
        extensions.extend(system.then_some("system_shared_memory".into()));
        extensions.extend((cuda && cfg!(feature = "cuda")).then_some("cuda_shared_memory".into()));
        extensions.push(format!("device({})", self.repository.chosen_device()).into());
        ServerDescription { name: self.server_name.to_string(), version: env!("CARGO_PKG_VERSION"), extensions }
    }
}
