//! The device that these tests run on.

use std::sync::Arc;

use kernels::cuda::{Gpu, Stream};

/// A stream of device 0.
///
/// # Panics
/// If there is no device: these tests are asked for by name, and a pass without one would say nothing.
pub(crate) fn stream() -> Stream {
    let gpu: Arc<Gpu> = Gpu::open(0).unwrap_or_else(|error| {
        panic!(
            "{error}\nWithout a GPU these tests run on the emulated device: scripts/build-emulator, then \
             LD_LIBRARY_PATH=target/emulator ALCEDO_CUDA_TARGETS=compute_75,compute_80 cargo test -p kernels --features cuda"
        )
    });
    Stream::new(&gpu).unwrap_or_else(|error| panic!("{error}"))
}
