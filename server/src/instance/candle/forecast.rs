//! How much memory of a GPU a model would take, known without one.

use std::path::Path;
use std::sync::Arc;

use models::cuda::{LaneMemory, Planner, Room, memory::WORKSPACE_BYTES};
use models::{ModelCard, Weights};

use crate::config::{BackendKind, InstanceGroup, InstanceKind, ModelConfig};
use crate::error::LoadError;

use super::failed;
use super::parameters::{self, EncoderParameters, Role};
use super::placement::gpu_of;
use super::room::room;

/// The compute capability, ten times, of the GPU that is planned for: one that has every datatype.
const CAPABILITY: u32 = 80;

/// Sizes of batches, in tokens, that are told of beside the largest.
const TOKENS: [usize; 4] = [512, 2048, 8192, 32_768];

/// What a model takes of a GPU's memory, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryForecast {
    /// What its numbers are stored in.
    pub dtype: &'static str,
    /// Its instances on the GPU.
    pub lanes: usize,
    /// Its weights, once for all lanes.
    pub weights: usize,
    /// All lanes together by the size of their largest batch, ascending; the last is the one that the configuration asks for.
    pub batches: Vec<BatchForecast>,
    /// The most tokens of a batch for which there is room; `None` if there is not even room for the longest item.
    pub largest_tokens: Option<usize>,
}

/// What the lanes of a model take with batches of up to so many tokens, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchForecast {
    /// Tokens.
    pub tokens: usize,
    /// Texts or images.
    pub items: usize,
    /// Inputs, outputs and the most that intermediate values take at any time.
    pub activations: usize,
    /// What products are computed with.
    pub workspace: usize,
    /// Recorded launches: an estimate, in memory that the driver takes by itself.
    pub graphs: usize,
    /// Pinned memory of the host.
    pub pinned: usize,
    /// On the device: weights, activations, workspace and graphs.
    pub total: usize,
    /// Whether the model alone fits.
    pub fits: bool,
}

/// What the user asks beside the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForecastOptions<'a> {
    /// What numbers are stored in, in place of what the configuration says.
    pub dtype: Option<&'a str>,
    /// Tokens of the largest batch, in place of what the configuration says.
    pub max_tokens: Option<usize>,
    /// Memory that models may take.
    pub gpu_bytes: usize,
}

/// What a version of a model would take; `None` for a model that runs on no GPU.
///
/// # Errors
/// Its files or parameters are wrong, as they would be on a GPU.
pub fn forecast_memory(
    config: &Arc<ModelConfig>,
    directory: &Path,
    options: &ForecastOptions<'_>,
) -> Result<Option<MemoryForecast>, LoadError> {
    if config.backend != BackendKind::Candle || parameters::role(config)? == Role::Tokenizer {
        return Ok(None);
    }
    let config = on_a_gpu(config, options);
    let lanes: usize = config.instance_groups.iter().filter(|group| gpu_of(group).is_some()).map(|group| group.count).sum();
    if lanes == 0 {
        return Ok(None);
    }
    let error = |error: models::ModelError| failed(&config.name, &error);
    let parameters = EncoderParameters::parse(&config)?;
    let card = ModelCard::read_as(directory, parameters.choice).map_err(error)?;
    let weights = Weights::open(&card.directory).map_err(error)?;
    let plan = models::encoder::plan(&card, &weights).map_err(error)?;
    let precision = parameters.gpu_precision(card.dtype, CAPABILITY);
    let planner = Planner::new(&plan, &weights, precision).map_err(error)?;
    let configured = room(&config, plan.longest());
    let room = Room { max_tokens: options.max_tokens.unwrap_or(configured.max_tokens).max(plan.longest()), ..configured };
    let batch = |tokens: usize| {
        let room = Room { max_tokens: tokens, ..room };
        let lane = planner.lane(room, WORKSPACE_BYTES);
        told(room, &lane, lanes, planner.weights(), options.gpu_bytes)
    };
    let smaller = TOKENS.iter().copied().filter(|tokens| *tokens >= plan.longest() && *tokens < room.max_tokens);
    let left = options.gpu_bytes.saturating_sub(planner.weights()) / lanes;
    Ok(Some(MemoryForecast {
        dtype: precision.name(),
        lanes,
        weights: planner.weights(),
        batches: smaller.chain([room.max_tokens]).map(batch).collect(),
        largest_tokens: planner.largest_tokens(room, WORKSPACE_BYTES, left),
    }))
}

fn told(room: Room, lane: &LaneMemory, lanes: usize, weights: usize, gpu_bytes: usize) -> BatchForecast {
    let (activations, workspace, graphs) = (lanes * lane.arena(), lanes * lane.workspace, lanes * lane.graphs);
    let allocated = weights + activations + workspace;
    BatchForecast {
        tokens: room.max_tokens,
        items: room.max_items.min(room.max_tokens),
        activations,
        workspace,
        graphs,
        pinned: lanes * lane.pinned,
        total: allocated + graphs,
        fits: allocated + graphs <= gpu_bytes,
    }
}

/// The configuration as it would be on a machine with a GPU, with what the user asks for in its parameters.
pub(super) fn on_a_gpu(config: &ModelConfig, options: &ForecastOptions<'_>) -> ModelConfig {
    let place = |group: &InstanceGroup| match group.kind {
        InstanceKind::Auto | InstanceKind::Gpu(_) => InstanceGroup { kind: InstanceKind::Gpu(vec![0]), ..group.clone() },
        InstanceKind::Cpu | InstanceKind::Model => group.clone(),
    };
    let mut config = ModelConfig { instance_groups: config.instance_groups.iter().map(place).collect(), ..config.clone() };
    if let Some(dtype) = options.dtype {
        config.parameters.insert("dtype".to_owned(), dtype.to_owned());
    }
    config
}
