//! The device that these tests run on, and models on it.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kernels::cuda::emulated;
use models::cuda::{CudaExecutor, CudaModel, Gpu, GpuOptions, Graphs, LaneOptions, Precision, Tuning};
use models::{Choice, ModelCard, Weights, encoder};
use serde_json::Value;

/// Set in a process that runs one test alone.
const ALONE: &str = "ALCEDO_TEST_ALONE";
/// Small, as many lanes are made.
pub(crate) const WORKSPACE_BYTES: usize = 1 << 20;

/// Device 0.
///
/// # Panics
/// If there is no device: these tests are asked for by name, and a pass without one would say nothing.
pub(crate) fn gpu() -> Arc<Gpu> {
    gpu_with(GpuOptions::default())
}

/// Device 0 with options, if nobody has it open.
pub(crate) fn gpu_with(options: GpuOptions) -> Arc<Gpu> {
    Gpu::open(0, options).unwrap_or_else(|error| {
        panic!(
            "{error}\nWithout a GPU these tests run on the emulated device: scripts/build-emulator, then \
             LD_LIBRARY_PATH=target/emulator ALCEDO_CUDA_TARGETS=compute_75,compute_80 cargo test -p models --features cuda"
        )
    })
}

/// What the emulated device counts; `None` on a real one.
pub(crate) fn counters() -> Option<Value> {
    emulated::counters().map(|text| serde_json::from_str(&text).unwrap())
}

/// A number of the counters, by its path; 0 where nothing was counted.
pub(crate) fn count(counters: &Value, path: &str) -> u64 {
    counters.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// Wrong uses of streams and memory fail the test that comes upon them.
#[track_caller]
pub(crate) fn assert_clean() {
    let findings = emulated::findings().unwrap_or_default();
    assert!(findings.is_empty(), "{findings}");
}

/// For tests that count what the whole device does, or change it: whether this process runs the test alone. If not, another
/// process does, with these variables, and must succeed.
pub(crate) fn alone(test: &str, variables: &[(&str, &str)]) -> bool {
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test} alone:\n{said}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    false
}

/// A directory on the device.
pub(crate) fn load(gpu: &Arc<Gpu>, dir: &Path, choice: Choice, precision: Precision, owner: &str) -> (ModelCard, Arc<CudaModel>) {
    let card = ModelCard::read_as(dir, choice).unwrap();
    let weights = Weights::open(&card.directory).unwrap();
    let plan = encoder::plan(&card, &weights).unwrap();
    let model = CudaModel::load(gpu, plan, &weights, precision, owner).unwrap_or_else(|error| panic!("{owner}: {error}"));
    (card, model)
}

/// What lanes of tests have room for: products are not timed, so that every run takes the same.
pub(crate) fn options(max_tokens: usize, max_items: usize, graphs: Graphs) -> LaneOptions {
    let usual = LaneOptions::new(max_tokens, max_items);
    LaneOptions { graphs, workspace_bytes: WORKSPACE_BYTES, tuning: Tuning::First, ..usual }
}

pub(crate) fn lane(model: &Arc<CudaModel>, max_tokens: usize, max_items: usize, graphs: Graphs) -> CudaExecutor {
    CudaExecutor::new(Arc::clone(model), options(max_tokens, max_items, graphs)).unwrap_or_else(|error| panic!("{error}"))
}
