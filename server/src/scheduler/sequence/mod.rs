//! Owns sequence batching: requests of one sequence run one after another on one instance, together with those of
//! other sequences. [`sequences`], [`rows`] and `tensors` are pure; the task is in `driver`. May import what
//! `scheduler` may; must never be imported by another scheduler.
//!
//! A sequence begins with a request that says START and ends with one that says END, or when it has been idle for too
//! long. It has a place on one instance (with the direct strategy, a row of its batches), or waits in the backlog
//! for one. **Invariant:** at most one request of a sequence runs at a time, so its answers leave in order, and its
//! state is that of the request before. A sequence of which a request could not run has a gap: it ends there.

mod driver;
mod places;
pub mod rows;
pub mod sequences;
mod sink;
mod tensors;

#[cfg(test)]
mod tests;

pub use driver::SequenceScheduler;
pub use places::Place;
