//! The model repository over the wire: index, load, unload.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::inference::model_repository_parameter::ParameterChoice;
use proto::inference::repository_index_response::ModelIndex;
use proto::inference::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
};

use crate::error::ControlError;
use crate::repository::{LoadParameters, Repository, VersionState};

/// Prefix of the load parameters that carry files.
const FILE_PREFIX: &str = "file:";

/// Lists the models of all repositories.
pub(super) async fn index(
    repository: &Repository,
    request: RepositoryIndexRequest,
) -> Result<RepositoryIndexResponse, ControlError> {
    refuse_repository_name(&request.repository_name)?;
    let entries = repository.index(request.ready).await?;
    let models = entries.into_iter().map(|entry| ModelIndex {
        name: entry.name,
        version: entry.version.map(|version| version.to_string()).unwrap_or_default(),
        state: entry.state.map(VersionState::as_str).unwrap_or_default().to_owned(),
        reason: entry.reason,
    });
    Ok(RepositoryIndexResponse { models: models.collect() })
}

/// Loads or reloads a model; returns when it is ready or has failed.
pub(super) async fn load(repository: &Arc<Repository>, request: RepositoryModelLoadRequest) -> Result<(), ControlError> {
    refuse_repository_name(&request.repository_name)?;
    let parameters = load_parameters(request.parameters)?;
    let repository = Arc::clone(repository);
    // A load that was begun is finished even if its client leaves.
    let load = tokio::spawn(async move { repository.load(&request.model_name, parameters).await });
    load.await.map_err(|_| ControlError::ServerExiting)?
}

/// Unloads a model; returns when it takes no more requests.
pub(super) async fn unload(repository: &Arc<Repository>, request: RepositoryModelUnloadRequest) -> Result<(), ControlError> {
    refuse_repository_name(&request.repository_name)?;
    let dependents = unload_dependents(request.parameters)?;
    let repository = Arc::clone(repository);
    let unload = tokio::spawn(async move { repository.unload(&request.model_name, dependents).await });
    unload.await.map_err(|_| ControlError::ServerExiting)?
}

fn refuse_repository_name(name: &str) -> Result<(), ControlError> {
    if name.is_empty() { Ok(()) } else { Err(ControlError::RepositoryName) }
}

fn load_parameters(parameters: BTreeMap<String, ModelRepositoryParameter>) -> Result<LoadParameters, ControlError> {
    let mut load = LoadParameters::default();
    for (name, value) in parameters {
        let wrong_type = |parameter, expected| Err(ControlError::ParameterType { call: "load", parameter, expected });
        if name == "config" {
            match value.parameter_choice {
                Some(ParameterChoice::StringParam(config)) => load.config = Some(config),
                _ => return wrong_type(name, "string_param"),
            }
        } else if let Some(path) = name.strip_prefix(FILE_PREFIX) {
            match value.parameter_choice {
                Some(ParameterChoice::BytesParam(contents)) => {
                    load.files.insert(path.to_owned(), contents);
                }
                _ => return wrong_type(name, "bytes_param"),
            }
        } else {
            return Err(ControlError::UnknownParameter { call: "load", parameter: name });
        }
    }
    Ok(load)
}

fn unload_dependents(parameters: BTreeMap<String, ModelRepositoryParameter>) -> Result<bool, ControlError> {
    let mut dependents = false;
    for (name, value) in parameters {
        if name != "unload_dependents" {
            return Err(ControlError::UnknownParameter { call: "unload", parameter: name });
        }
        let Some(ParameterChoice::BoolParam(flag)) = value.parameter_choice else {
            return Err(ControlError::ParameterType { call: "unload", parameter: name, expected: "bool_param" });
        };
        dependents = flag;
    }
    Ok(dependents)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn parameters(entries: &[(&str, ParameterChoice)]) -> BTreeMap<String, ModelRepositoryParameter> {
        let entries = entries
            .iter()
            .map(|(name, choice)| ((*name).to_owned(), ModelRepositoryParameter { parameter_choice: Some(choice.clone()) }));
        entries.collect()
    }

    #[test]
    fn overrides_are_read() {
        let contents = Bytes::from_static(b"bytes");
        let load = load_parameters(parameters(&[
            ("config", ParameterChoice::StringParam("{}".to_owned())),
            ("file:1/model.safetensors", ParameterChoice::BytesParam(contents.clone())),
        ]));
        let load = load.expect("both parameters are known");
        assert_eq!(load.config.as_deref(), Some("{}"));
        assert_eq!(load.files, BTreeMap::from([("1/model.safetensors".to_owned(), contents)]));
    }

    #[test]
    fn other_parameters_are_refused() {
        let text = |entries: &[(&str, ParameterChoice)]| load_parameters(parameters(entries)).unwrap_err().to_string();
        assert_eq!(text(&[("speed", ParameterChoice::BoolParam(true))]), "unrecognized load parameter 'speed'.");
        assert_eq!(
            text(&[("config", ParameterChoice::BoolParam(true))]),
            "invalid value type for load parameter 'config', expected string_param."
        );
        assert_eq!(
            text(&[("file:1/x", ParameterChoice::StringParam(String::new()))]),
            "invalid value type for load parameter 'file:1/x', expected bytes_param."
        );
        let text = |entries: &[(&str, ParameterChoice)]| unload_dependents(parameters(entries)).unwrap_err().to_string();
        assert_eq!(text(&[("all", ParameterChoice::BoolParam(true))]), "unrecognized unload parameter 'all'.");
        assert_eq!(
            text(&[("unload_dependents", ParameterChoice::Int64Param(1))]),
            "invalid value type for unload parameter 'unload_dependents', expected bool_param."
        );
        assert_eq!(unload_dependents(parameters(&[("unload_dependents", ParameterChoice::BoolParam(true))])), Ok(true));
        assert_eq!(unload_dependents(BTreeMap::new()), Ok(false));
    }
}
