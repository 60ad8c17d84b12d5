//! Owns encoders on GPUs: which can be used, models on them, and the lanes that run batches. May import what `candle` may;
//! must never know the command line. Without the feature `cuda` there is none of it, and whoever asks is told so.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
mod lane;

#[cfg(not(feature = "cuda"))]
pub(super) use absent::{GpuEncoder, count, probe};
#[cfg(not(feature = "cuda"))]
pub use absent::{gpu_memory, lost_gpus};
#[cfg(feature = "cuda")]
pub use card::{gpu_memory, lost_gpus};
#[cfg(feature = "cuda")]
pub(super) use {
    card::{count, probe},
    lane::GpuEncoder,
};
