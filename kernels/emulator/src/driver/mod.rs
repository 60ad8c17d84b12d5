//! The driver: what `libcuda.so.1` exports, over streams that run on a thread of their own.
//!
//! Owns: contexts, streams, events, graphs, memory, modules, the checks of order, and the functions of the C interface (`api`).
//! May import: `ptx`, `execute`, `blas`. Must never import: anything of the workspace.
//!
//! **Invariant:** whether two accesses are ordered follows from vector clocks made when calls are enqueued, never from when
//! they happen to run. The exception is what the host knows: it learns at each wait, on behalf of all its threads.

mod abi;
mod api;
mod capture;
mod clock;
mod counters;
mod event;
mod executor;
mod fault;
mod image;
mod ledger;
mod mapping;
mod module;
mod names;
mod operation;
mod pinned;
mod settings;
mod shadow;
mod state;
mod status;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod world;

pub(crate) use abi::{HostBytes, Out};
pub(crate) use operation::Action;
pub(crate) use state::Call;
pub(crate) use status::Status;
