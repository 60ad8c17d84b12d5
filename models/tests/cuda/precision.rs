//! Models with the sizes of published ones: what tensor cores compute against the processor in f32.

use std::num::NonZeroUsize;
use std::sync::Arc;

use models::cuda::{Graphs, Precision};
use models::plan::{Executor, Output};
use models::{Choice, CpuExecutor, CpuModel, ModelCard, Task, Weights, encoder};

use crate::device::{assert_clean, gpu, lane, load};
use crate::recorded::{Fixture, batch, difference, items};
use crate::widened::{Sizes, widened};

/// How far results may be from those in f32, relative to the size of the values where that is above 1.
const TOLERANCES: [(Precision, f32); 3] = [(Precision::F32, 5e-6), (Precision::F16, 5e-3), (Precision::Bf16, 4e-2)];

/// Heads of 32 numbers, which have kernels for tensor cores.
const TENSOR: Sizes = Sizes { hidden: (40, 64), inner: (57, 128), heads: (5, 2) };
/// Heads of 16, which have not.
const GENERAL: Sizes = Sizes { hidden: (40, 80), inner: (57, 96), heads: (5, 5) };

const DIRECTORIES: [(&str, Sizes); 13] = [
    ("bert-reranker", TENSOR),
    ("clip-text", TENSOR),
    ("clip-vision", TENSOR),
    ("deberta-v2-labels", GENERAL),
    ("distilbert-tokens", TENSOR),
    ("jina-bert-embedding", TENSOR),
    ("jina-v3-embedding", Sizes { hidden: (30, 64), inner: (41, 128), heads: (5, 2) }),
    ("modernbert-embedding", TENSOR),
    ("mpnet-embedding", TENSOR),
    ("nomic-bert-embedding", GENERAL),
    ("roberta-labels", GENERAL),
    ("siglip-vision", Sizes { hidden: (35, 64), inner: (47, 128), heads: (5, 2) }),
    ("vit-hidden", TENSOR),
];

/// One of the directories with its sizes changed; to be loaded while it is there.
pub(crate) fn directory(name: &str) -> tempfile::TempDir {
    let (_, sizes) = DIRECTORIES.iter().find(|(known, _)| *known == name).unwrap();
    widened(&Fixture::read(name).directory, *sizes)
}

fn on_processor(card: &ModelCard, batch: &models::Batch<'_>) -> Vec<Output> {
    let weights = Weights::open(&card.directory).unwrap();
    let plan = encoder::plan(card, &weights).unwrap();
    let model = CpuModel::load(plan, &weights, models::Precision::F32).unwrap();
    CpuExecutor::new(Arc::new(model), "twin", NonZeroUsize::MIN).unwrap().enqueue(batch).unwrap()
}

fn check_all(precision: Precision) {
    let tolerance = TOLERANCES.iter().find(|(known, _)| *known == precision).unwrap().1;
    let gpu = gpu();
    let mut worst = (0f32, "");
    for (name, sizes) in DIRECTORIES {
        let fixture = Fixture::read(name);
        let dir = widened(&fixture.directory, sizes);
        let own = if name.ends_with("hidden") { Some(Task::HiddenStates) } else { None };
        for task in [own, Some(Task::HiddenStates)] {
            let choice = Choice { task, tower: None };
            let (card, model) = load(&gpu, dir.path(), choice, precision, name);
            let items = items(&fixture, &card.encoder.input);
            let batch = batch(&card.encoder.input, items.iter().take(4));
            let want = on_processor(&card, &batch);
            let got = lane(&model, batch.tokens(), 4, Graphs::Off).enqueue(&batch).unwrap();
            let largest = difference(&got[0].values, &want[0].values);
            assert!(largest <= tolerance, "{name}, {task:?}, {precision:?}: {largest:e}");
            println!("{name} {task:?} {}: {largest:.1e}", precision.name());
            if largest > worst.0 {
                worst = (largest, name);
            }
        }
    }
    println!("{}: at most {:.1e} ({}), allowed {tolerance:.0e}", precision.name(), worst.0, worst.1);
    assert_clean();
}

#[test]
fn f32_is_that_of_the_processor() {
    check_all(Precision::F32);
}

#[test]
fn f16_is_near_that_of_the_processor() {
    check_all(Precision::F16);
}

#[test]
fn bf16_is_near_that_of_the_processor() {
    check_all(Precision::Bf16);
}
