//! NVIDIA GPUs: what operations run on, and what they run with.
//!
//! Owns: opening a device and its kernels (`gpu`), memory on it (`memory`), streams and launches (`stream`), views of memory
//! that operations take (`view`), memory of other processes ([`ipc`]), and why any of it fails (`error`). May import: cudarc.
//! Must never import: operations, anything that knows models or requests.
//!
//! Each operation has its launch in `<operation>/cuda.rs`, which checks sizes and types, and its kernels in
//! `<operation>/<operation>.cu`. Nothing here is opened before a GPU is asked for: the driver and cuBLASLt are found at run
//! time, and a machine without them is told so.
//!
//! Memory of a device is not memory of this process: a [`View`] is a number that only kernels and copies give a meaning,
//! and a wrong one is an error of the device, not undefined behavior here. What the host reads and writes while the device
//! copies is pinned memory, and its owner sees to that.

mod error;
mod gpu;
pub mod ipc;
mod memory;
mod stream;
mod view;

pub use error::DeviceError;
pub use gpu::Gpu;
pub use memory::Buffer;
pub use stream::{Arg, Grid, Stream};
pub use view::{DeviceType, View};
