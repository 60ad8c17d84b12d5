//! The driver: what `libcuda.so.1` exports, over streams that run on a thread of their own.
//!
//! Owns: contexts, streams, events, graphs, memory, modules, the checks of order, and the functions of the C interface (`api`).
//! May import: `ptx`, `execute`, `blas`. Must never import: anything of the workspace.
//!
//! What the machine is comes from the environment: `ALCEDO_EMULATOR_CAPABILITY` (8.0), `ALCEDO_EMULATOR_DRIVER` (13000),
//! `ALCEDO_EMULATOR_DEVICES` (1), `ALCEDO_EMULATOR_MEMORY` (bytes of each device, 8 GiB), `ALCEDO_EMULATOR_SEED` (the order in
//! which streams advance), `ALCEDO_EMULATOR_FAIL` (failures, as `emulator_fail` takes them), `ALCEDO_EMULATOR_PROTECT=0` (leaves
//! pinned memory in flight to the host), `ALCEDO_EMULATOR_STRICT=0` (errors of order are told, and do not fail the device) and
//! `ALCEDO_EMULATOR_KERNELS` (a folder of PTX, run in place of modules for the same target with the same kernels).
//!
//! Memory: every allocation has addresses of its own for ever, ends at a gap, and starts as NaN. Allocations take multiples of
//! 512 bytes, pools multiples of 2 MiB from the device, kept or given back by their thresholds.
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
pub(crate) use state::{Call, Driver};
pub(crate) use status::Status;
