//! What `alcedo doctor` asks of GPUs and of models on them.
//!
//! Owns: the findings ([`Machine`], [`DeviceFindings`], [`PlanFinding`]), which exist with and without the feature `cuda`; the
//! least time that a batch can take ([`Rates::limit`] over `cost`); and with the feature what is looked up and measured on the
//! spot (`examine`, `timing`). May import: what `cuda` may. Must never import: what `cuda` must not.

pub(crate) mod cost;
#[cfg(feature = "cuda")]
mod examine;
mod findings;
#[cfg(feature = "cuda")]
mod timing;

pub use cost::Rates;
#[cfg(feature = "cuda")]
pub use examine::{examine, machine};
pub use findings::{Blas, DeviceFindings, Driver, Machine, OperationFinding, PlanFinding, ProductFinding, Speed, SystemGpu};
#[cfg(feature = "cuda")]
pub use timing::time_model;

/// The vector instructions that computations on the processor use here.
pub fn processor_instructions() -> &'static str {
    use kernels::isa::Isa;
    match Isa::detect() {
        Isa::Portable => "no vector instructions beyond those of every processor of its kind",
        Isa::Avx2 => "AVX2",
        Isa::Avx512 => "AVX-512",
        Isa::Avx512Bf16 => "AVX-512 with BF16 and VNNI",
    }
}
