//! Owns the HTTP front end: probes and metadata for people and orchestrators, and the metrics page. May import
//! the words, `repository` and what `grpc` shares (the front end, its phases, metadata); must never import
//! `instance`, `scheduler`, candle or `models`, nor know a gRPC code.

mod metrics;
mod routes;
mod server;

pub use server::{serve, serve_metrics};
