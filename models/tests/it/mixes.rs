//! The bits of a text's result do not depend on its batch: mates, their number and lengths, padding, threads.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use models::plan::Executor;
use models::plan::batch::{Integers, Texts};
use models::{Batch, Choice, CpuExecutor, ModelCard, Precision};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::fixture::{Loaded, bytes, directory, family, load_as};

/// Random batches in all.
const MIXES: u32 = 1000;
/// Texts of each model that batches are drawn from.
const TEXTS: usize = 24;
/// Models: absolute positions, windows and angles, a table of distances, vectors of distances.
const FAMILIES: [&str; 11] = [
    "deberta-v2-hidden",
    "deberta-v2-labels",
    "deberta-v2-masked-lm",
    "modernbert-embedding",
    "modernbert-labels-cls",
    "modernbert-labels-mean",
    "modernbert-masked-lm",
    "modernbert-tokens",
    "mpnet-embedding",
    "mpnet-labels",
    "mpnet-masked-lm",
];

/// One model in one precision, and what its texts give alone.
struct Subject {
    name: String,
    card: ModelCard,
    /// Of one thread and of three.
    executors: [CpuExecutor; 2],
    texts: Vec<Vec<i64>>,
    alone: Vec<Vec<u32>>,
}

/// Texts of random tokens, of lengths from 1 to as many as the model takes.
fn texts(card: &ModelCard) -> Vec<Vec<i64>> {
    let input = card.tokens().unwrap();
    let mut state = 1u64;
    let mut token = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i64 % input.vocab_size as i64
    };
    let length = |text: usize| 1 + text * (input.positions - 1) / (TEXTS - 1);
    (0..TEXTS).map(|text| (0..length(text)).map(|_| token()).collect()).collect()
}

/// One request per text, or all in one with a mask.
fn batch(card: &ModelCard, texts: &[&[i64]], one_request: bool) -> Batch<'static> {
    let input = card.tokens().unwrap();
    let mut batch = Batch::new();
    for group in texts.chunks(if one_request { texts.len() } else { 1 }) {
        let width = group.iter().map(|text| text.len()).max().unwrap();
        let fill = |text: &&[i64], value: fn(i64) -> i64, rest: i64| -> Vec<i64> {
            text.iter().map(|id| value(*id)).chain(std::iter::repeat_n(rest, width - text.len())).collect()
        };
        let padding = i64::from(input.padding_id);
        let ids = bytes(&group.iter().flat_map(|text| fill(text, |id| id, padding)).collect::<Vec<_>>());
        let mask = bytes(&group.iter().flat_map(|text| fill(text, |_| 1, 0)).collect::<Vec<_>>());
        let (ids, mask) = (Integers::new(&ids), Some(Integers::new(&mask)));
        batch.push_texts(input, &Texts { rows: group.len(), width, ids, mask, types: None }).unwrap();
    }
    batch
}

/// The bits of the result of every text of a batch.
fn results(card: &ModelCard, executor: &mut CpuExecutor, batch: &Batch<'_>) -> Vec<Vec<u32>> {
    let output = executor.enqueue(batch).unwrap().remove(0);
    let rows = |(item, sequence): (usize, &models::plan::Sequence)| {
        let first = sequence.tokens.start;
        let rows = if card.task.is_per_token() { first..first + sequence.real } else { item..item + 1 };
        output.values[rows.start * output.columns..rows.end * output.columns].iter().map(|value| value.to_bits()).collect()
    };
    batch.sequences().iter().enumerate().map(rows).collect()
}

impl Subject {
    fn load(name: &str, precision: Precision) -> Subject {
        let path = if name == "bert" { directory(name) } else { family(name) };
        let Loaded { card, mut executor } = load_as(&path, Choice::default(), precision, NonZeroUsize::MIN).unwrap();
        let texts = texts(&card);
        let alone = texts.iter().map(|text| results(&card, &mut executor, &batch(&card, &[text], false)).remove(0)).collect();
        let three = CpuExecutor::new(executor.model().clone(), "test", NonZeroUsize::new(3).unwrap()).unwrap();
        Subject { name: format!("{name} {precision:?}"), card, executors: [executor, three], texts, alone }
    }
}

#[test]
fn results_have_the_same_bits_in_any_batch() {
    let names = FAMILIES.iter().chain(&["bert"]);
    let precisions = [Precision::F32, Precision::Bf16, Precision::Int8];
    let subjects = names.flat_map(|name| precisions.map(|precision| Subject::load(name, precision)));
    let subjects: RefCell<Vec<Subject>> = RefCell::new(subjects.collect());
    let count = subjects.borrow().len();
    let config = ProptestConfig { cases: MIXES, failure_persistence: None, ..ProptestConfig::default() };
    // Mostly small batches, and some of many chunks.
    let mates = |most: usize| prop::collection::vec(0..TEXTS, 1..=most);
    let mix = (0..count, prop_oneof![4 => mates(8), 1 => mates(40)], any::<bool>(), any::<bool>());
    let result = TestRunner::new(config).run(&mix, |(subject, mates, one_request, padded)| {
        let mut subjects = subjects.borrow_mut();
        let Subject { name, card, executors, texts, alone } = &mut subjects[subject];
        let chosen: Vec<&[i64]> = mates.iter().map(|text| &texts[*text][..]).collect();
        let mut batch = batch(card, &chosen, one_request);
        if padded {
            batch.pad(card.tokens().unwrap());
        }
        for executor in executors {
            for (result, text) in results(card, executor, &batch).iter().zip(&mates) {
                prop_assert!(*result == alone[*text], "{name}: text {text} of {} tokens", texts[*text].len());
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn integers_keep_the_direction_of_embeddings() {
    for name in ["bert", "modernbert-embedding", "mpnet-embedding", "xlm-roberta-embedding"] {
        let [exact, rounded] = [Precision::F32, Precision::Int8].map(|precision| Subject::load(name, precision).alone);
        for (exact, rounded) in exact.iter().zip(&rounded) {
            let values = |bits: &[u32]| bits.iter().map(|bits| f64::from(f32::from_bits(*bits))).collect::<Vec<f64>>();
            let (a, b) = (values(exact), values(rounded));
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!(cosine >= 0.98, "{name}: {cosine}");
            assert!(exact != rounded, "{name}: integers changed nothing");
        }
    }
}
