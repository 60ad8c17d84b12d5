//! What `alcedo doctor` asks of GPUs.

use std::path::Path;
use std::sync::Arc;

use models::cuda::doctor::{self, DeviceFindings, Machine, PlanFinding, Speed};
use models::cuda::{CudaModel, LaneOptions, Planner, Room};
use models::{ModelCard, ModelError, Weights};

use crate::config::ModelConfig;
use crate::error::LoadError;

use super::super::failed;
use super::super::parameters::EncoderParameters;
use super::super::room::room;
use super::card;

/// What of GPUs there is on this machine.
pub fn gpu_machine() -> Machine {
    doctor::machine()
}

/// Compares kernels with their specifications on a GPU, and measures it.
///
/// # Errors
/// Why it cannot be used.
pub fn examine_gpu(ordinal: u32, quick: bool, tell: &mut dyn FnMut(&str)) -> Result<DeviceFindings, String> {
    let examined = card::open(ordinal, false).and_then(|gpu| doctor::examine(&gpu, quick, tell));
    examined.map_err(|error| error.to_string())
}

/// Times batches of a model, with what its numbers are stored in.
///
/// # Errors
/// Its files are wrong, or it does not fit on the GPU, or that fails.
pub(in super::super) fn time_encoder(
    config: &Arc<ModelConfig>,
    directory: &Path,
    ordinal: u32,
    speed: &Speed,
    quick: bool,
) -> Result<(&'static str, Vec<PlanFinding>), LoadError> {
    let error = |error: ModelError| failed(&config.name, &error);
    let parameters = EncoderParameters::parse(config)?;
    let card = ModelCard::read_as(directory, parameters.choice).map_err(error)?;
    let weights = Weights::open(&card.directory).map_err(error)?;
    let plan = models::encoder::plan(&card, &weights).map_err(error)?;
    let gpu = card::open(ordinal, false).map_err(error)?;
    let precision = parameters.gpu_precision(card.dtype, gpu.describe().map_err(error)?.capability);
    let Room { max_tokens, max_items } = room(config, plan.longest());
    let options = LaneOptions::new(max_tokens, max_items);
    let planner = Planner::new(&plan, &weights, precision).map_err(error)?;
    let (room, free) = (Room { max_tokens, max_items }, gpu.free_bytes().map_err(error)?);
    planner.check(&config.name, room, options.workspace_bytes, 1, free).map_err(error)?;
    let model = CudaModel::load(&gpu, plan, &weights, precision, &config.name).map_err(error)?;
    let findings = doctor::time_model(&model, options, &speed.rates(), quick).map_err(error)?;
    Ok((precision.name(), findings))
}
