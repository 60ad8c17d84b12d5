//! Plans on NVIDIA GPUs.
//!
//! Owns: which launches a plan becomes (`lower`, `program`), where values and weights lie (`place`, `shelf`), what a batch is
//! filled up to (`bucket`) how that lies in memory (`layout`) and is written (`pack`), how much memory all of it takes ([`memory`]); and with the feature
//! `cuda` the weights on a device ([`CudaModel`]), the lanes that run batches ([`CudaExecutor`]) who is moved out of
//! memory when it is short (`residency`), and what `alcedo doctor` asks of a device ([`doctor`]). May import: kernels, this crate's plans, weights and errors. Must never import:
//! cards, architectures, tokenizers.
//!
//! Everything up to memory is arithmetic and needs no GPU and no feature, so that memory can be planned anywhere, and what is
//! planned is what is allocated.

mod bucket;
#[cfg(feature = "cuda")]
mod device;
pub mod doctor;
#[cfg(feature = "cuda")]
mod issue;
#[cfg(feature = "cuda")]
mod lane;
mod layout;
mod lower;
pub mod memory;
#[cfg(feature = "cuda")]
mod model;
#[cfg(any(test, feature = "cuda"))]
mod pack;
mod place;
mod program;
#[cfg(feature = "cuda")]
mod residency;
mod shelf;
#[cfg(test)]
mod tests;
#[cfg(feature = "cuda")]
mod ticket;

#[cfg(feature = "cuda")]
pub use device::{Gpu, GpuOptions, probe};
#[cfg(feature = "cuda")]
pub use kernels::cuda::{Description as GpuDescription, LedgerLine, MemoryKind, Tag};
#[cfg(feature = "cuda")]
pub use kernels::matmul::cuda::Tuning;
#[cfg(feature = "cuda")]
pub use lane::{CudaExecutor, Graphs, LaneOptions};
pub use memory::{LaneMemory, Planner, Room};
#[cfg(feature = "cuda")]
pub use model::CudaModel;
#[cfg(feature = "cuda")]
pub use ticket::Ticket;

/// What weights and activations are stored in; sums are always f32, and so are outputs, rows per item and what heads are
/// multiplied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32 bits, multiplied as such.
    F32,
    /// IEEE half precision; numbers beyond 65504 cannot be stored.
    F16,
    /// The upper half of an f32. Needs compute capability 8.0.
    Bf16,
}

impl Precision {
    /// As configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }
}
