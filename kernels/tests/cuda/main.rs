//! Kernels on a device: a GPU, or the emulated one.

mod attention;
mod device;
mod operations;
