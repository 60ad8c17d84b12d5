//! A CUDA device that runs on the processor, for tests: NVIDIA's driver and cuBLASLt in one shared library.
//!
//! Owns: the parser of PTX (`ptx`), the interpreter that runs kernels a warp at a time (`execute`), the driver's interface
//! over streams, events, graphs and memory (`driver`), and matrix products (`blas`). May import: nothing of the workspace.
//! Must never be part of a release.
//!
//! What nvcc compiles and cudarc launches runs here unchanged, slowly, and watched: accesses outside allocations, races on
//! shared memory, barriers that not all threads reach, and operations on streams that nothing orders are errors that name
//! both sides. Timing, occupancy and the hardware's memory model are not emulated.

mod blas;
mod driver;
pub mod execute;
pub mod ptx;
