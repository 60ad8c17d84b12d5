//! More models than memory: 2,000 random steps on a small device, whose driver counts what the ledger says.

use std::sync::Arc;

use models::cuda::{CudaExecutor, CudaModel, Gpu, GpuOptions, Graphs, LaneOptions, Precision};
use models::plan::{Executor, Output};
use models::{Choice, ModelCard, ModelError, Weights, encoder};

use crate::device::{WORKSPACE_BYTES, alone, assert_clean, count, counters, gpu_with, options};
use crate::recorded::{Fixture, Item, batch, items};

/// Memory of the emulated device: a few of the models below fit at once, never all of them.
const MEMORY: &str = "8388608";
const STEPS: usize = 2000;
const DIRECTORIES: [&str; 4] = ["bert-reranker", "jina-bert-embedding", "xlm-roberta-embedding", "mpnet-labels"];
/// How many models there are to load, of each directory several.
const MODELS: usize = 12;

/// A model that is loaded.
struct Loaded {
    lane: CudaExecutor,
    model: Arc<CudaModel>,
}

struct Directory {
    fixture: Fixture,
    card: ModelCard,
    items: Vec<Item>,
    want: Vec<Output>,
}

impl Directory {
    fn read(name: &str) -> Directory {
        let fixture = Fixture::read(name);
        let card = ModelCard::read_as(&fixture.directory, Choice::default()).unwrap();
        let items: Vec<Item> = items(&fixture, &card.encoder.input).into_iter().take(2).collect();
        Directory { fixture, card, items, want: Vec::new() }
    }

    fn load(&self, gpu: &Arc<Gpu>, owner: &str) -> Result<Loaded, ModelError> {
        let weights = Weights::open(&self.fixture.directory)?;
        let plan = encoder::plan(&self.card, &weights)?;
        let model = CudaModel::load(gpu, plan, &weights, Precision::F16, owner)?;
        let lane = CudaExecutor::new(Arc::clone(&model), LaneOptions { workspace_bytes: 16384, ..options(96, 4, Graphs::Auto) })?;
        Ok(Loaded { lane, model })
    }

    fn run(&self, loaded: &mut Loaded) -> Result<Vec<Output>, ModelError> {
        loaded.lane.enqueue(&batch(&self.card.encoder.input, &self.items))
    }
}

/// A generator of numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }
}

/// The ledger must be what the driver counts, and what is loaded must be in it.
fn compare(gpu: &Gpu, base: u64, step: usize) {
    let Some(counters) = counters() else { return };
    assert_eq!(gpu.ledger_bytes() as u64, count(&counters, "/live_bytes") - base, "step {step}: the ledger and the driver");
}

fn steps(overcommit: bool) {
    let gpu = gpu_with(GpuOptions { overcommit });
    let base = counters().map_or(0, |counters| count(&counters, "/live_bytes"));
    let mut directories = DIRECTORIES.map(Directory::read);
    for directory in &mut directories {
        let mut loaded = directory.load(&gpu, "alone").unwrap();
        directory.want = directory.run(&mut loaded).unwrap();
        println!(
            "{}: weights {}, lane {}",
            directory.fixture.directory.display(),
            loaded.model.planner().weights(),
            loaded.lane.memory().device()
        );
    }
    let mut models: Vec<Option<Loaded>> = (0..MODELS).map(|_| None).collect();
    let mut numbers = Numbers(if overcommit { 7 } else { 3 });
    let (mut loads, mut refused, mut runs, mut unloads) = (0, 0, 0, 0);
    for step in 0..STEPS {
        let index = numbers.below(MODELS);
        let directory = &directories[index % directories.len()];
        match (&mut models[index], numbers.below(10)) {
            (None, _) => match directory.load(&gpu, &format!("model-{index}")) {
                Ok(loaded) => {
                    models[index] = Some(loaded);
                    loads += 1;
                }
                Err(ModelError::OutOfMemory { .. } | ModelError::TooLarge { .. }) => refused += 1,
                Err(error) => panic!("step {step}: {error}"),
            },
            (slot @ Some(_), 0) => {
                *slot = None;
                unloads += 1;
            }
            (Some(loaded), _) => {
                let got = directory.run(loaded).unwrap_or_else(|error| panic!("step {step}: a client is told: {error}"));
                assert_eq!(got, directory.want, "step {step}");
                runs += 1;
            }
        }
        compare(&gpu, base, step);
    }
    println!("overcommit {overcommit}: {loads} loads, {refused} refused, {runs} batches, {unloads} unloads; ledger as counted");
    let loaded: usize = models.iter().flatten().map(|loaded| loaded.model.planner().weights()).sum();
    let lanes: usize = models.iter().flatten().map(|loaded| loaded.lane.memory().device()).sum();
    assert!(lanes >= WORKSPACE_BYTES && loaded > 0);
    if overcommit {
        let resident = gpu.ledger_bytes() - lanes;
        assert!(resident <= loaded, "more weights than there are");
    } else {
        assert_eq!(gpu.ledger_bytes(), loaded + lanes);
    }
    drop(models);
    assert_eq!(gpu.ledger(), []);
    compare(&gpu, base, STEPS);
    assert!(loads > 20 && runs > 500 && unloads > 20, "too few of a kind");
    assert!(refused > 0 || counters().is_none(), "the device was never full");
}

#[test]
fn random_steps_without_overcommit() {
    let test = "residency::random_steps_without_overcommit";
    if alone(test, &[("ALCEDO_EMULATOR_MEMORY", MEMORY)]) {
        steps(false);
        assert_clean();
    }
}

#[test]
fn random_steps_with_overcommit() {
    let test = "residency::random_steps_with_overcommit";
    if alone(test, &[("ALCEDO_EMULATOR_MEMORY", MEMORY)]) {
        steps(true);
        assert_clean();
    }
}
