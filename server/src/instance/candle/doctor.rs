//! What `alcedo doctor` asks of this backend: the device, and models on it.

use std::path::Path;
use std::sync::Arc;

use models::cuda::doctor::{PlanFinding, Speed};

use crate::config::{BackendKind, ModelConfig};
use crate::error::LoadError;

use super::forecast::{ForecastOptions, on_a_gpu};
use super::gpu;
use super::parameters::{self, Role};
use super::placement::gpu_of;

/// How long batches of a model take on a GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelTimes {
    /// What its numbers are stored in.
    pub dtype: &'static str,
    /// Batch by batch.
    pub batches: Vec<PlanFinding>,
}

/// Times batches of a version of a model on a GPU, against the least that what was measured there allows; `None` for a model
/// that runs on no GPU.
///
/// # Errors
/// Its files or parameters are wrong, it does not fit on the GPU, or that fails.
pub fn time_model(
    config: &Arc<ModelConfig>,
    directory: &Path,
    ordinal: u32,
    speed: &Speed,
    quick: bool,
) -> Result<Option<ModelTimes>, LoadError> {
    if config.backend != BackendKind::Candle || parameters::role(config)? == Role::Tokenizer {
        return Ok(None);
    }
    let config = Arc::new(on_a_gpu(config, &ForecastOptions::default()));
    if !config.instance_groups.iter().any(|group| gpu_of(group).is_some()) {
        return Ok(None);
    }
    let (dtype, batches) = gpu::time_encoder(&config, directory, ordinal, speed, quick)?;
    Ok(Some(ModelTimes { dtype, batches }))
}
