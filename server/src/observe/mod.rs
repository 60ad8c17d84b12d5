//! Owns what the server counts. May import the words only; must never import the layers above.

pub mod busy;
mod counts;
mod distributions;
pub mod histogram;
pub mod host;
pub mod metrics;
pub mod monitor;
pub mod options;
pub mod saturation;
pub mod statistics;
pub mod summary;
pub mod trace;
