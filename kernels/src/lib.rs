//! Numeric operations on CPUs and GPUs, each with a plain specification and a fast version, and safe memory maps.
//!
//! Owns: one folder per operation (`mod.rs` the contract, `twin.rs` the specification, `cpu.rs` the fast version, `cuda.rs` and
//! a `.cu` the one on a GPU), the threads that share an operation ([`team`]), vector instructions ([`isa`], `simd`), GPUs
//! (`cuda`, with the feature of that name), [`aligned`] memory and [`mapped`] files. May import: rayon, half, bytemuck, memmap2,
//! cudarc. Must never import: anything that knows requests, models or tokio.
//!
//! Operations work on plain slices that their caller owns, usually parts of an arena; none allocates more than the few words
//! with which threads are told to begin. Sizes are checked with assertions: a caller fixes them when it makes its plan, so a
//! mismatch is a mistake in a program and never comes from input.
//!
//! This is the only crate of the workspace in which `unsafe` may appear.

pub mod activation;
pub mod aligned;
pub mod attention;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod embed;
pub mod gate;
pub mod isa;
pub mod mapped;
pub mod matmul;
pub mod norm;
#[cfg(feature = "cuda")]
pub mod patches;
pub mod pool;
pub mod rotary;
#[cfg(feature = "cuda")]
pub mod rows;
pub mod team;

mod simd;
