//! Placeholder
use crate::config::ModelConfig;
use crate::error::InferError;
use crate::request::{InferRequest, ValidRequest};
/// v
pub fn validate(_request: InferRequest, _config: &ModelConfig) -> Result<ValidRequest, InferError> {
    Err(InferError::Abandoned)
}
