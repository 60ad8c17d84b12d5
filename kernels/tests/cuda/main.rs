//! Kernels on a device: a GPU, or the emulated one.

mod device;
mod operations;
