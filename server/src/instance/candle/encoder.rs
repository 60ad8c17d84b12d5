//! Encoder models: tokens or images to vectors and logits, in packed batches, on the processor or on GPUs.

use std::num::NonZeroUsize;
use std::sync::Arc;

use models::plan::Input;
use models::plan::cpu::Memory;
use models::{CpuExecutor, CpuModel, Executor, ModelCard, Weights};

use crate::error::{ExecuteError, LoadError};

use super::super::device::SharedDevice;
use super::super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion};
use super::gpu::GpuEncoder;
use super::packing::Signature;
use super::parameters::{BatchLayout, EncoderParameters};
use super::placement::{device_of, gpu_of};
use super::{check, describe_encoder, failed, refused};

/// A loaded encoder: what its instances share.
pub(super) struct EncoderModel {
    /// For the instances on the processor, where there are some.
    cpu: Option<Arc<CpuModel>>,
    /// For those on each GPU.
    gpus: Vec<GpuEncoder>,
    signature: Signature,
    parameters: EncoderParameters,
    name: Arc<str>,
}

/// An encoder on the processor, with threads and buffers of its own.
struct EncoderInstance {
    executor: CpuExecutor,
    signature: Signature,
    layout: BatchLayout,
}

/// Reads the weights, once for all instances of a device.
pub(super) fn open(served: &ServedVersion, overcommit: bool) -> Result<Arc<dyn Backend>, LoadError> {
    let config = &served.config;
    let parameters = EncoderParameters::parse(config)?;
    let error = |error: models::ModelError| failed(&config.name, &error);
    let card = ModelCard::read_as(&served.version_directory, parameters.choice).map_err(error)?;
    check(config, "candle encoder", &describe_encoder(&card))?;
    let weights = Weights::open(&card.directory).map_err(error)?;
    let plan = || models::encoder::plan(&card, &weights);
    let signature = Signature::of(config, &card, plan().map_err(error)?.input());
    let groups = &config.instance_groups;
    let mut cpu = None;
    if groups.iter().any(|group| gpu_of(group).is_none()) {
        let precision = parameters.cpu_precision();
        let model = plan().and_then(|plan| CpuModel::load(plan, &weights, precision)).map_err(error)?;
        let memory = Memory::of(&model, 1);
        tracing::info!(
            model = %config.name,
            task = card.task.name(),
            weights_bytes = memory.weights,
            mapped_bytes = memory.mapped,
            instance_bytes = memory.arena.saturating_add(memory.scratch),
            "an encoder is loaded"
        );
        cpu = Some(Arc::new(model));
    }
    let mut ordinals: Vec<u32> = groups.iter().filter_map(gpu_of).collect();
    ordinals.sort_unstable();
    ordinals.dedup();
    let mut gpus = Vec::with_capacity(ordinals.len());
    for ordinal in ordinals {
        let model = (&card, &weights, plan().map_err(error)?);
        gpus.push(GpuEncoder::load(served, ordinal, model, &parameters, overcommit)?);
    }
    Ok(Arc::new(EncoderModel { cpu, gpus, signature, parameters, name: Arc::clone(&config.name) }))
}

impl EncoderModel {
    fn gpu(&self, slot: &InstanceSlot) -> Option<&GpuEncoder> {
        let ordinal = gpu_of(&slot.group)?;
        self.gpus.iter().find(|gpu| gpu.ordinal() == ordinal)
    }
}

impl Backend for EncoderModel {
    fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        if let Some(gpu) = self.gpu(slot) {
            return gpu.instantiate(&self.signature);
        }
        let Some(model) = &self.cpu else {
            let reason = format!("its instance {} has no device", slot.ordinal);
            return Err(LoadError::Backend { model: self.name.to_string(), reason });
        };
        let name = format!("{}#{}", self.name, slot.ordinal);
        let executor = CpuExecutor::new(Arc::clone(model), &name, slot.threads);
        Ok(Box::new(EncoderInstance {
            executor: executor.map_err(|error| failed(&self.name, &error))?,
            signature: self.signature.clone(),
            layout: self.parameters.layout,
        }))
    }

    fn device(&self, slot: &InstanceSlot) -> Option<SharedDevice> {
        Some(device_of(&slot.group))
    }

    fn turn_slots(&self, slot: &InstanceSlot, available: NonZeroUsize) -> Result<NonZeroUsize, LoadError> {
        match gpu_of(&slot.group) {
            Some(_) => Ok(NonZeroUsize::MIN),
            None => self.parameters.threads_of(&self.name, available),
        }
    }

    fn depth(&self, slot: &InstanceSlot) -> NonZeroUsize {
        self.gpu(slot).map_or(NonZeroUsize::MIN, GpuEncoder::depth)
    }
}

impl ModelInstance for EncoderInstance {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        let given = self.signature.given(execution);
        let (mut batch, packed) = self.signature.pack_all(execution, &given);
        if packed.is_empty() {
            return Ok(());
        }
        let real = batch.tokens();
        if let (BatchLayout::Padded, Input::Tokens(input)) = (self.layout, self.signature.input()) {
            batch.pad(input);
        }
        execution.mark_input_done();
        let outputs = self.executor.enqueue(&batch).map_err(|error| refused(&error))?;
        execution.mark_infer_done();
        let count = |tokens: usize| u64::try_from(tokens).unwrap_or(u64::MAX);
        execution.report_padding(count(real), count(batch.tokens().saturating_sub(real)));
        self.signature.answer(execution, &batch, &packed, outputs)
    }
}
