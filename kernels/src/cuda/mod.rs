//! NVIDIA GPUs: what operations run on, and what they run with.
//!
//! Owns: whether there is a device that serves and why not (`driver`, `blas`), opening it with its kernels (`gpu`, `images`),
//! memory on it (`memory`) and the account of that (`ledger`), memory of the host that it copies from and to (`pinned`), streams
//! and launches (`stream`) and what those of operations have in common (`launch`), moments to wait for (`event`), recorded
//! launches (`graph`), views of memory that operations take (`view`), memory of other processes ([`ipc`]), why any of it fails
//! (`error`), the comparison of all kernels with their specifications ([`check`]), and what the emulated device tells tests
//! ([`emulated`]). May import: cudarc, libloading; `check` alone: operations. Must never import: anything that knows models or
//! requests.
//!
//! Each operation has its launch in `<operation>/cuda.rs`, which checks sizes and types, and its kernels in
//! `<operation>/<operation>.cu`. Nothing here is opened before a GPU is asked for: the driver and cuBLASLt are found at run
//! time, and a machine without them is told so.
//!
//! Memory of a device is not memory of this process: a [`View`] is a number that only kernels and copies give a meaning,
//! and a wrong one is an error of the device, not undefined behavior here. What the host reads and writes while the device
//! copies is pinned memory, and its owner sees to that.
//!
//! **Order.** Nothing is ordered but work on one stream. cudarc's own tracking is not used; who hands memory from one stream to
//! another records an [`Event`] and lets the other stream wait. Freed memory is free after what its own stream has been given.
//!
//! **Faults.** A fault of a kernel leaves the context of the whole process unusable: [`Gpu::poisoned`] tells the first cause, and
//! every later call fails with it. Too little memory is no such fault.

mod blas;
pub mod check;
mod driver;
pub mod emulated;
mod error;
mod event;
mod gpu;
mod graph;
mod images;
pub mod ipc;
pub(crate) mod launch;
mod ledger;
mod memory;
mod pinned;
mod stream;
mod view;

pub use blas::load as find_blas;
pub use driver::{Card, Description, capability_text, cards, count, library, probe, version, version_text};
pub use error::DeviceError;
pub use event::Event;
pub(crate) use gpu::Handle;
pub use gpu::{DeviceMemory, Gpu};
pub use graph::Graph;
pub use ledger::{Charge, Ledger, LedgerLine, MemoryKind, Tag};
pub use memory::Buffer;
pub use pinned::{Download, DownloadRing, DownloadSlot, Downloaded, UploadRing, UploadSlot};
pub use stream::{Arg, Grid, Priority, Stream};
pub use view::{DeviceType, View};
