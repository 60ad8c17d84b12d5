//! Owns the gRPC front end: messages to requests, answers to messages, errors to codes, and the server's phases,
//! which the HTTP front end shares. May import the words, `config`, `classification`, `scheduler`, `repository`,
//! `shared_memory`, `observe` and `proto`; must never import `instance`, candle or `models`.
//!
//! **Invariant:** only [`status`] knows gRPC codes, and only it logs why a request failed.
//! **Invariant:** a request whose client has left is cancelled: its token is cancelled by dropping the call.

mod answer;
mod control;
mod deadline;
mod decode;
mod details;
mod encode;
mod forward;
mod front_end;
mod health;
mod lifecycle;
mod metadata;
mod outbox;
mod server;
mod service;
mod shared;
mod shared_memory;
mod statistics;
mod status;
mod stream;
mod timeline;
mod unary;

#[cfg(test)]
mod tests;

pub use forward::HeaderForwarding;
pub use front_end::{DEFAULT_SERVER_NAME, FrontEnd, ServerDescription};
pub use lifecycle::{Lifecycle, Phase, UnderWay};
pub use server::{GrpcError, GrpcOptions, serve};

pub(crate) use metadata::model as model_metadata;
pub(crate) use status::http_code;
