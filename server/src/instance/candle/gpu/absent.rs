//! What a build without CUDA says of GPUs.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use models::cuda::doctor::{DeviceFindings, Machine, PlanFinding, Speed};
use models::{ModelCard, Plan, Weights};

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::observe::metrics::MemorySeries;

use super::super::super::device::SharedDevice;
use super::super::super::{ModelInstance, ServedVersion};
use super::super::packing::Signature;
use super::super::parameters::EncoderParameters;

/// Why no GPU can be used.
const NOT_BUILT: &str = "this build has no CUDA support: build with scripts/build-cuda";

/// What a GPU is, as part of a sentence.
///
/// # Errors
/// Why it cannot be used: always, here.
pub(in super::super) fn probe(_ordinal: u32) -> Result<String, String> {
    Err(NOT_BUILT.to_owned())
}

/// How many GPUs there are.
///
/// # Errors
/// Why none can be used: always, here.
pub(in super::super) fn count() -> Result<u32, String> {
    Err(NOT_BUILT.to_owned())
}

/// An encoder on a GPU, of which there is none.
pub(in super::super) struct GpuEncoder(Infallible);

impl GpuEncoder {
    pub(in super::super) fn load(
        served: &ServedVersion,
        _ordinal: u32,
        _model: (&ModelCard, &Weights, Plan),
        _parameters: &EncoderParameters,
        _overcommit: bool,
    ) -> Result<Self, LoadError> {
        let model = served.config.name.to_string();
        Err(LoadError::Device { model, kind: "KIND_GPU", reason: NOT_BUILT.to_owned() })
    }

    pub(in super::super) fn ordinal(&self) -> u32 {
        match self.0 {}
    }

    pub(in super::super) fn depth(&self) -> NonZeroUsize {
        match self.0 {}
    }

    pub(in super::super) fn instantiate(&self, _signature: &Signature) -> Result<Box<dyn ModelInstance>, LoadError> {
        match self.0 {}
    }
}

/// The GPUs that a fault has left unusable: none, here.
pub fn lost_gpus() -> Vec<(SharedDevice, String)> {
    Vec::new()
}

/// What models take of the memory of GPUs: nothing, here.
pub fn gpu_memory() -> Vec<MemorySeries> {
    Vec::new()
}

/// What of GPUs this build can find out: nothing.
pub fn gpu_machine() -> Machine {
    let unknown = || NOT_BUILT.to_owned();
    Machine { driver: Err(unknown()), gpus: Err(unknown()), blas: Err(unknown()) }
}

/// Compares kernels with their specifications.
///
/// # Errors
/// Why no GPU can be used: always, here.
pub fn examine_gpu(_ordinal: u32, _quick: bool, _tell: &mut dyn FnMut(&str)) -> Result<DeviceFindings, String> {
    Err(NOT_BUILT.to_owned())
}

/// Times batches of a model.
///
/// # Errors
/// Why no GPU can be used: always, here.
pub(in super::super) fn time_encoder(
    config: &Arc<ModelConfig>,
    _directory: &Path,
    _ordinal: u32,
    _speed: &Speed,
    _quick: bool,
) -> Result<(&'static str, Vec<PlanFinding>), LoadError> {
    Err(LoadError::Device { model: config.name.to_string(), kind: "KIND_GPU", reason: NOT_BUILT.to_owned() })
}
