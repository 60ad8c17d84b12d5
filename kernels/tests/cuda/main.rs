//! Kernels on a device: a GPU, or the emulated one.

mod alone;
mod attention;
mod device;
mod emulated;
mod ipc;
mod matmul;
mod operations;
mod runtime;
