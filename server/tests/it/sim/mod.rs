//! Simulation: the real batcher among virtual clients and virtual instances, on a virtual clock.
//!
//! `SIM_SEED=7 cargo test -p server sim` replays one seed of [`safety`] and writes down all that happens.

mod fairness;
mod goodput;
mod recovery;
mod safety;
mod tampering;
mod window;
