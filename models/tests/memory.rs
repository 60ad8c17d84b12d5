//! The memory that a plan predicts is what is allocated, and batches allocate nothing but their answers.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use models::plan::Executor;
use models::plan::batch::{Integers, Texts};
use models::plan::cpu::Memory;
use models::{Batch, Choice, CpuExecutor, CpuModel, ModelCard, Output, Precision, Task, Weights, encoder};
use safetensors::{Dtype, View};
use serde_json::json;

/// Sizes of the model, in the proportions of published ones.
const HIDDEN: usize = 192;
const HEADS: usize = 3;
const INNER: usize = 4 * HIDDEN;
const VOCABULARY: usize = 2000;
const POSITIONS: usize = 512;

/// The largest batch of the promise: so many texts of so many tokens.
const TEXTS: usize = 32;
const TOKENS: usize = 512;

/// How far the prediction may be off.
const TOLERANCE: f64 = 0.05;

/// A tensor of small random numbers.
struct Random(Vec<usize>);

impl View for Random {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let mut state = self.data_len() as u64;
        let number = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1
        };
        (0..self.data_len() / 4).map(number).flat_map(f32::to_le_bytes).collect()
    }

    fn data_len(&self) -> usize {
        self.0.iter().product::<usize>() * 4
    }
}

/// Writes a BERT of so many layers.
fn write(dir: &Path, layers: usize) {
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": HIDDEN, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "intermediate_size": INNER, "max_position_embeddings": POSITIONS,
        "vocab_size": VOCABULARY,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
    for (name, rows) in [("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)] {
        tensors.push((format!("embeddings.{name}_embeddings.weight"), vec![rows, HIDDEN]));
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in (0..layers).map(|layer| format!("encoder.layer.{layer}")) {
        let linear = [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ];
        for (name, outputs, inputs) in linear {
            tensors.push((format!("{layer}.{name}.weight"), vec![outputs, inputs]));
            tensors.push((format!("{layer}.{name}.bias"), vec![outputs]));
        }
        norms.extend(["attention.output", "output"].map(|part| format!("{layer}.{part}.LayerNorm")));
    }
    for norm in norms {
        tensors.extend(["weight", "bias"].map(|kind| (format!("{norm}.{kind}"), vec![HIDDEN])));
    }
    let tensors = tensors.into_iter().map(|(name, shape)| (name, Random(shape)));
    safetensors::serialize_to_file(tensors, None, &dir.join("model.safetensors")).unwrap();
}

/// A model with one instance, and what each of them allocated and kept.
struct Measured {
    card: ModelCard,
    executor: CpuExecutor,
    load: AllocationInfo,
    instance: AllocationInfo,
}

fn measured(dir: &Path, task: Task, precision: Precision, threads: usize) -> Measured {
    let card = ModelCard::read_as(dir, Choice { task: Some(task), tower: None }).unwrap();
    let weights = Weights::open(dir).unwrap();
    let plan = encoder::plan(&card, &weights).unwrap();
    let mut model = None;
    let load = measure(|| model = Some(Arc::new(CpuModel::load(plan, &weights, precision).unwrap())));
    let (model, mut executor) = (model.unwrap(), None);
    let threads = NonZeroUsize::new(threads).unwrap();
    let instance = measure(|| executor = Some(CpuExecutor::new(model, "test", threads).unwrap()));
    Measured { card, executor: executor.unwrap(), load, instance }
}

/// The largest batch.
fn batch(card: &ModelCard) -> Batch<'static> {
    let ids: Vec<u8> = (0..TEXTS * TOKENS).flat_map(|token| ((token * 7 % VOCABULARY) as i64).to_le_bytes()).collect();
    let mut batch = Batch::new();
    let texts = Texts { rows: TEXTS, width: TOKENS, ids: Integers::new(&ids), mask: None, types: None };
    batch.push_texts(card.tokens().unwrap(), &texts).unwrap();
    batch
}

/// Runs a batch: its outputs and what this thread allocated for them.
fn run(executor: &mut CpuExecutor, batch: &Batch<'_>) -> (Vec<Output>, AllocationInfo) {
    let mut outputs = Vec::new();
    let info = measure(|| outputs = executor.enqueue(batch).unwrap());
    (outputs, info)
}

fn assert_close(what: &str, predicted: usize, measured: u64) {
    let off = measured as f64 / predicted as f64 - 1.0;
    println!("{what}: {predicted} bytes predicted, {measured} measured, {:+.2} %", off * 100.0);
    assert!(off.abs() <= TOLERANCE, "{what}: {predicted} bytes predicted, {measured} measured");
}

#[test]
fn predicted_memory_is_what_the_largest_batch_needs() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 3);
    for (task, precision) in [(Task::Embedding, Precision::F32), (Task::HiddenStates, Precision::Bf16)] {
        let Measured { card, mut executor, load, instance } = measured(dir.path(), task, precision, 1);
        let predicted = Memory::of(executor.model(), 1);
        assert_close("weights", predicted.weights, load.bytes_current as u64);
        assert_close("instance", predicted.arena + predicted.scratch, instance.bytes_current as u64);
        let (outputs, batch) = run(&mut executor, &batch(&card));
        let answer = outputs.iter().map(|output| output.values.len() * size_of::<f32>()).sum::<usize>();
        assert!(answer > 0 && outputs[0].values.iter().all(|value| value.is_finite()));
        let measured = load.bytes_current as u64 + instance.bytes_current as u64 + batch.bytes_max - answer as u64;
        assert_close("all but the answer", predicted.weights + predicted.arena + predicted.scratch, measured);
        // Tables stay in the file.
        assert_eq!(predicted.mapped, (VOCABULARY + POSITIONS + 2) * HIDDEN * size_of::<f32>());
    }
}

#[test]
fn predicted_memory_counts_every_thread() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 1);
    let Measured { executor, instance, .. } = measured(dir.path(), Task::Embedding, Precision::F32, 3);
    let predicted = Memory::of(executor.model(), 3);
    assert_close("instance of 3 threads", predicted.arena + predicted.scratch, instance.bytes_current as u64);
}

#[test]
fn loading_needs_little_more_than_it_keeps() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 6);
    let Measured { load, .. } = measured(dir.path(), Task::Embedding, Precision::F32, 1);
    // The largest matrix, once as it is stored and once more while it is packed.
    let most = load.bytes_current as u64 + 2 * (INNER * HIDDEN * size_of::<f32>()) as u64;
    assert!(load.bytes_max <= most, "{load:?}");
}

#[test]
fn operations_allocate_nothing() {
    let allocations = |layers: usize| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), layers);
        let Measured { card, mut executor, .. } = measured(dir.path(), Task::Embedding, Precision::F32, 1);
        let mut batch = Batch::new();
        let ids: Vec<u8> = [1i64, 2, 3].iter().flat_map(|id| id.to_le_bytes()).collect();
        let texts = Texts { rows: 1, width: 3, ids: Integers::new(&ids), mask: None, types: None };
        batch.push_texts(card.tokens().unwrap(), &texts).unwrap();
        // The first batch may fill what later ones use again.
        run(&mut executor, &batch);
        let (_, info) = run(&mut executor, &batch);
        (info.count_total, info.bytes_total)
    };
    let (few, many) = (allocations(1), allocations(5));
    // The list of a batch's buffers has an entry per buffer, and layers share theirs.
    assert_eq!(few, many, "layers allocate");
    assert!(few.0 <= 16, "{few:?}");
}
