//! Kernels on a device: a GPU, or the emulated one.

mod alone;
mod device;
mod operations;
