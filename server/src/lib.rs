//! The Alcedo model server: a model repository served over the KServe v2 protocol.
//!
//! The path of a request, file by file:
//! ```text
//! bytes > grpc/decode > scheduler/validate > scheduler/queue > scheduler/batcher
//!       > instance/gather > instance/execute > instance/split > grpc/encode > bytes
//! ```

#![forbid(unsafe_code)]
// Tests of interleavings put other locks under the very files of the server.
#![cfg_attr(test, allow(clippy::duplicate_mod))]

pub mod batch;
pub mod clock;
pub mod error;
pub mod request;
pub mod tensor;
pub mod timeline;

pub(crate) mod sync;

pub mod config;
pub mod grpc;
pub mod http;
pub mod instance;
pub mod observe;
pub mod repository;
pub mod scheduler;
pub mod shared_memory;

pub mod classification;
pub mod cli;

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod request_tests;
