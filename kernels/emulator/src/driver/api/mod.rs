//! The C interface of the driver, one file for each chapter of its reference.
//!
//! Owns: exported functions, which check arguments and call the driver. May import: the driver's files. Must never import: the
//! executor, or hold state of its own.
//!
//! Handles are numbers, looked up in tables: a wrong one is an error, never a wild pointer. What CUDA has and this library does
//! not export fails by name when it is loaded.

pub(crate) mod absent;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod graph;
pub(crate) mod memory;
pub(crate) mod module;
pub(crate) mod pool;
pub(crate) mod share;
pub(crate) mod stream;
