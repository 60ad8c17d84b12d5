//! Encoders on a GPU: weights that all lanes share, and lanes, each an instance with two batches under way.

use std::num::NonZeroUsize;
use std::sync::Arc;

use models::cuda::{CudaExecutor, CudaModel, Gpu, Graphs, LaneOptions, Room, Ticket};
use models::{Batch, ModelCard, ModelError, Plan, Weights};

use crate::error::{ExecuteError, LoadError};

use super::super::super::device::SharedDevice;
use super::super::super::{Execution, ModelInstance, Pending, ServedVersion, run_through};
use super::super::halves::{Parts, run_in_halves};
use super::super::packing::{Given, Packed, Signature};
use super::super::parameters::EncoderParameters;
use super::super::placement::gpu_of;
use super::super::room::room;
use super::super::{failed, refused};
use super::card;

/// Batches that a lane has under way: one that computes, and one whose inputs are copied meanwhile.
const DEPTH: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// An encoder whose weights are on a GPU.
pub(in super::super) struct GpuEncoder {
    model: Arc<CudaModel>,
    options: LaneOptions,
    name: Arc<str>,
    device: Arc<str>,
}

/// A lane: a stream of the GPU with memory for its batches.
struct GpuLane {
    executor: CudaExecutor,
    signature: Signature,
    on: Place,
}

/// What errors name, and where they come from.
#[derive(Clone)]
struct Place {
    gpu: Arc<Gpu>,
    name: Arc<str>,
    device: Arc<str>,
}

/// A batch for which there was no memory, while its parts run.
struct Halves<'a> {
    lane: &'a mut GpuLane,
    execution: &'a mut Execution,
    given: &'a [Given],
}

/// A batch that the GPU computes.
struct Computing {
    ticket: Ticket,
    /// Without what it borrowed.
    batch: Batch<'static>,
    packed: Vec<Packed>,
    signature: Signature,
    on: Place,
}

impl GpuEncoder {
    /// Uploads the weights, once for all lanes on this GPU.
    ///
    /// # Errors
    /// The GPU cannot be used, or it has no room for the weights and the lanes.
    pub(in super::super) fn load(
        served: &ServedVersion,
        ordinal: u32,
        (card, weights, plan): (&ModelCard, &Weights, Plan),
        parameters: &EncoderParameters,
        overcommit: bool,
    ) -> Result<Self, LoadError> {
        let config = &served.config;
        let error = |error: ModelError| failed(&config.name, &error);
        let gpu = card::open(ordinal, overcommit).map_err(error)?;
        let capability = gpu.describe().map_err(error)?.capability;
        let precision = parameters.gpu_precision(card.dtype, capability);
        let Room { max_tokens, max_items } = room(config, plan.longest());
        let graphs = if parameters.graphs { Graphs::Auto } else { Graphs::Off };
        let options = LaneOptions { graphs, ..LaneOptions::new(max_tokens, max_items) };
        let owner = card::owner(&config.name, served.version);
        if !overcommit {
            // Before anything is uploaded: what does not fit is known from the plan.
            let lanes = config.instance_groups.iter().filter(|group| gpu_of(group) == Some(ordinal)).map(|group| group.count);
            let planner = models::cuda::Planner::new(&plan, weights, precision).map_err(error)?;
            let (room, free) = (Room { max_tokens, max_items }, gpu.free_bytes().map_err(error)?);
            planner.check(&config.name, room, options.workspace_bytes, lanes.sum(), free).map_err(error)?;
        }
        let model = CudaModel::load(&gpu, plan, weights, precision, &owner).map_err(error)?;
        let device = SharedDevice::cuda(ordinal).name;
        tracing::info!(
            model = %config.name,
            task = card.task.name(),
            device = %device,
            dtype = precision.name(),
            weights_bytes = model.planner().weights(),
            max_batch_tokens = max_tokens,
            "an encoder is loaded"
        );
        Ok(Self { model, options, name: Arc::clone(&config.name), device })
    }

    /// The number of its GPU.
    pub(in super::super) fn ordinal(&self) -> u32 {
        self.model.gpu().ordinal()
    }

    /// Batches that each of its lanes has under way.
    pub(in super::super) fn depth(&self) -> NonZeroUsize {
        DEPTH
    }

    /// A lane, on the thread that will use it.
    ///
    /// # Errors
    /// The GPU has no room for it.
    pub(in super::super) fn instantiate(&self, signature: &Signature) -> Result<Box<dyn ModelInstance>, LoadError> {
        let executor = CudaExecutor::new(Arc::clone(&self.model), self.options);
        let executor = executor.map_err(|error| failed(&self.name, &error))?;
        let (name, device) = (Arc::clone(&self.name), Arc::clone(&self.device));
        let on = Place { gpu: Arc::clone(self.model.gpu()), name, device };
        Ok(Box::new(GpuLane { executor, signature: signature.clone(), on }))
    }
}

impl ModelInstance for GpuLane {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        run_through(self, execution)
    }

    fn launch(&mut self, execution: &mut Execution) -> Result<Option<Box<dyn Pending>>, ExecuteError> {
        let given = self.signature.given(execution);
        let (batch, packed) = self.signature.pack_all(execution, &given);
        if packed.is_empty() {
            return Ok(None);
        }
        execution.mark_input_done();
        let tokens = batch.tokens();
        match self.executor.launch(&batch) {
            Ok(ticket) => {
                execution.report_padding(u64::try_from(tokens).unwrap_or(u64::MAX), 0);
                let (batch, signature, on) = (batch.without_images(), self.signature.clone(), self.on.clone());
                self.warn();
                Ok(Some(Box::new(Computing { ticket, batch, packed, signature, on })))
            }
            Err(error @ ModelError::OutOfMemory { .. }) => {
                let requests: Vec<usize> = packed.iter().map(Packed::request).collect();
                let mut halves = Halves { lane: self, execution, given: &given };
                run_in_halves(&mut halves, &requests, error).map(|()| None)
            }
            Err(error) => Err(self.on.failure(&error)),
        }
    }
}

impl GpuLane {
    /// Passes on what the lane has to say once.
    fn warn(&mut self) {
        if let Some(warning) = self.executor.take_warning() {
            tracing::warn!(device = %self.on.device, "{warning}");
        }
    }
}

impl Parts for Halves<'_> {
    type Short = ModelError;
    type Failure = ExecuteError;

    fn run(&mut self, requests: &[usize]) -> Result<Option<ModelError>, ExecuteError> {
        let Self { lane, execution, given } = self;
        let part: Vec<Given> = given.iter().filter(|given| requests.contains(&given.request())).cloned().collect();
        let (batch, packed) = lane.signature.pack_all(execution, &part);
        match lane.executor.launch(&batch).and_then(Ticket::wait) {
            Ok(outputs) => {
                execution.report_padding(u64::try_from(batch.tokens()).unwrap_or(u64::MAX), 0);
                lane.signature.answer(execution, &batch, &packed, outputs).map(|()| None)
            }
            Err(error @ ModelError::OutOfMemory { .. }) => Ok(Some(error)),
            Err(error) => Err(lane.on.failure(&error)),
        }
    }

    fn split(&mut self, requests: &[usize], short: &ModelError) {
        let Place { name, device, .. } = &self.lane.on;
        tracing::warn!(model = %name, device = %device, requests = requests.len(), error = %short, "a batch is cut in two");
        self.execution.report_split();
    }

    fn refuse(&mut self, request: usize, short: ModelError) {
        let message = format!("model '{}' has no memory for this request, not even alone: {short}", self.lane.on.name);
        self.execution.fail(request, ExecuteError::DeviceMemory { message });
    }
}

impl Pending for Computing {
    fn wait(self: Box<Self>, execution: &mut Execution) -> Result<(), ExecuteError> {
        let Self { ticket, batch, packed, signature, on } = *self;
        let outputs = ticket.wait().map_err(|error| on.failure(&error))?;
        execution.mark_infer_done();
        signature.answer(execution, &batch, &packed, outputs)
    }
}

impl Place {
    /// Why a batch came to nothing. A fault that left the device unusable is one for all that come after.
    fn failure(&self, error: &ModelError) -> ExecuteError {
        if let Some(cause) = self.gpu.is_poisoned() {
            let reason = card::lost_reason(&self.device, &cause);
            return ExecuteError::DeviceLost { model: self.name.to_string(), reason };
        }
        match error {
            ModelError::OutOfMemory { .. } => ExecuteError::DeviceMemory { message: error.to_string() },
            _ => refused(error),
        }
    }
}
