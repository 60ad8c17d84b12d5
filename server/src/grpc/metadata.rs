//! Metadata of the server and of models, and the configurations that models are served with.

use std::borrow::Cow;

use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::{ModelConfigResponse, ModelMetadataResponse, ServerMetadataResponse};

use crate::config::ModelConfig;
use crate::error::InferError;
use crate::tensor::TensorSpec;

use super::decode;
use super::front_end::FrontEnd;

/// Metadata of the server.
pub(super) fn server(front_end: &FrontEnd) -> ServerMetadataResponse {
    let description = front_end.describe();
    ServerMetadataResponse {
        name: description.name,
        version: description.version.to_owned(),
        extensions: description.extensions.into_iter().map(Cow::into_owned).collect(),
    }
}

/// Metadata of a model: its tensors as clients see them, with the batch dimension of a batching model first.
///
/// # Errors
/// The lookup errors.
pub(crate) fn model(front_end: &FrontEnd, name: &str, version: &str) -> Result<ModelMetadataResponse, InferError> {
    let version = decode::parse_version(version)?;
    let handle = front_end.resolve(name, version)?;
    let config = &handle.config;
    Ok(ModelMetadataResponse {
        name: config.name.to_string(),
        versions: front_end.versions(name, version)?.iter().map(u64::to_string).collect(),
        platform: platform(config),
        inputs: config.client_inputs().map(|spec| tensor(config, spec)).collect(),
        outputs: config.client_outputs().map(|spec| tensor(config, spec)).collect(),
    })
}

/// The configuration of a model with every default filled in.
///
/// # Errors
/// The lookup errors.
pub(super) fn config(front_end: &FrontEnd, name: &str, version: &str) -> Result<ModelConfigResponse, InferError> {
    let handle = front_end.resolve(name, decode::parse_version(version)?)?;
    Ok(ModelConfigResponse { config: Some(handle.config.wire.clone()) })
}

fn platform(config: &ModelConfig) -> String {
    let written = &config.wire;
    if written.platform.is_empty() { written.backend.clone() } else { written.platform.clone() }
}

fn tensor(config: &ModelConfig, spec: &TensorSpec) -> TensorMetadata {
    let shape = if config.max_batch_rows.is_some() { spec.dims.with_batch().to_wire() } else { spec.dims.to_wire() };
    TensorMetadata { name: spec.name.to_string(), datatype: spec.datatype.as_str().to_owned(), shape }
}
