//! Owns encoders on GPUs: which can be used, models on them, the lanes that run batches, and their examination. May import what `candle` may;
//! must never know the command line. Without the feature `cuda` there is none of it, and whoever asks is told so.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
mod doctor;
#[cfg(feature = "cuda")]
mod lane;

#[cfg(not(feature = "cuda"))]
pub(super) use absent::{GpuEncoder, count, probe, time_encoder};
#[cfg(not(feature = "cuda"))]
pub use absent::{examine_gpu, gpu_machine, gpu_memory, lost_gpus};
#[cfg(feature = "cuda")]
pub use card::{gpu_memory, lost_gpus};
#[cfg(feature = "cuda")]
pub use doctor::{examine_gpu, gpu_machine};
#[cfg(feature = "cuda")]
pub(super) use {
    card::{count, probe},
    doctor::time_encoder,
    lane::GpuEncoder,
};
