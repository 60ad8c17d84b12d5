//! Numeric operations, each with a plain specification and a fast version, and safe memory maps.
//!
//! Owns: one folder per operation (`mod.rs` the contract, `twin.rs` the specification, `cpu.rs` the fast version)
//! and [`mapped`]. May import: candle-core. Must never import: anything that knows requests, models or tokio.
//!
//! This is the only crate of the workspace in which `unsafe` may appear.

pub mod error;
pub mod gelu;
pub mod mapped;
pub mod norm;
pub mod pool;

mod arguments;

pub use error::KernelError;
