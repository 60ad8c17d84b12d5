//! More models than memory: 2,000 random steps on a small device, whose driver counts what the ledger says.

use std::sync::Arc;

use models::cuda::{CudaExecutor, CudaModel, Gpu, GpuOptions, Graphs, LaneOptions, Precision};
use models::plan::{Executor, Output};
use models::{Choice, ModelCard, ModelError, Weights, encoder};

use crate::device::{alone, assert_clean, count, counters, gpu_with, options};
use crate::recorded::{Fixture, Item, batch, items};

/// Memory of the emulated device: a few of the models below fit at once, never all of them.
const MEMORY: &str = "2097152";
const STEPS: usize = 2000;
const DIRECTORIES: [&str; 4] = ["bert-reranker", "jina-bert-embedding", "xlm-roberta-embedding", "mpnet-labels"];
/// How many models there are to load, of each directory several.
const MODELS: usize = 12;

/// A model that is loaded.
struct Loaded {
    lane: CudaExecutor,
    model: Arc<CudaModel>,
}

impl Loaded {
    /// Memory of the device that it takes with its weights there.
    fn bytes(&self) -> usize {
        self.model.planner().weights() + self.lane.memory().device()
    }
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
        // The shortest: this is about memory, and the emulated device is slow.
        let all = items(&fixture, &card.encoder.input).into_iter();
        let shortest = all.min_by_key(|item| batch(&card.encoder.input, [item]).tokens());
        let items: Vec<Item> = shortest.into_iter().collect();
        Directory { fixture, card, items, want: Vec::new() }
    }

    fn load(&self, gpu: &Arc<Gpu>, owner: &str) -> Result<Loaded, ModelError> {
        let weights = Weights::open(&self.fixture.directory)?;
        let plan = encoder::plan(&self.card, &weights)?;
        let model = CudaModel::load(gpu, plan, &weights, Precision::F16, owner)?;
        let lane = CudaExecutor::new(Arc::clone(&model), LaneOptions { workspace_bytes: 16384, ..options(64, 4, Graphs::Auto) })?;
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
        let outputs = directory.run(&mut loaded).unwrap().into_iter();
        // Copies, as results keep the pinned memory that they lie in.
        let owned = |output: Output| Output { values: output.values.to_vec().into(), ..output };
        directory.want = outputs.map(owned).collect();
    }
    let mut models: Vec<Option<Loaded>> = (0..MODELS).map(|_| None).collect();
    let mut numbers = Numbers(if overcommit { 7 } else { 3 });
    let (mut loads, mut refused, mut runs, mut unloads, mut away) = (0, 0, 0, 0, 0);
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
        if gpu.ledger_bytes() < models.iter().flatten().map(Loaded::bytes).sum() {
            away += 1;
        }
        if step % 500 == 499 {
            println!("{} steps: {} bytes in the ledger", step + 1, gpu.ledger_bytes());
        }
    }
    println!(
        "overcommit {overcommit}: {loads} loads, {refused} refused, {runs} batches, {unloads} unloads, weights away in {away} steps"
    );
    drop(models);
    assert_eq!(gpu.ledger(), []);
    compare(&gpu, base, STEPS);
    assert!(loads > 20 && runs > 500 && unloads > 20, "too few of a kind");
    if counters().is_some() {
        // Only the emulated device is as small as this wants it.
        assert_eq!((refused > 0, away > 0), (!overcommit, overcommit), "the device was never full");
    }
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
