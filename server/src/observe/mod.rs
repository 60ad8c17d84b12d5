//! Owns what the server counts. May import the words only; must never import the layers above.

pub mod busy;
pub mod metrics;
pub mod statistics;
