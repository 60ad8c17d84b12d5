//! The device that these tests run on.

use std::env;
use std::process::Command;
use std::sync::Arc;

use kernels::cuda::{Gpu, Stream};

/// Set in a process that runs one test alone.
const ALONE: &str = "ALCEDO_TEST_ALONE";

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

/// Whether the device is the emulated one.
pub(crate) fn is_emulated() -> bool {
    stream().gpu().describe().unwrap().name.to_lowercase().contains("emulat")
}

/// For tests that count what the whole device does: whether this process runs the test alone. If not, another process does,
/// and must succeed.
pub(crate) fn alone(test: &str) -> bool {
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test} alone:\n{said}");
    false
}
