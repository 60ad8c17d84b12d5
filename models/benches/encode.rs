//! How fast a model encodes packed texts of mixed lengths on one core, and where the time goes.
//!
//! `cargo bench -p models --bench encode -- DIRECTORY [f32|bf16] [threads]`: texts of random tokens, log-uniform 5 to 200 of
//! them; medians of 5 rounds. Pin it (`taskset -c 1`) on a machine that does other things.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use models::plan::batch::{Integers, Texts};
use models::{Batch, CpuExecutor, CpuModel, Executor, ModelCard, Precision, Weights, encoder};

const TEXTS: usize = 64;
const ROUNDS: usize = 5;

/// A generator of numbers that is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(directory) = arguments.first() else {
        println!("encode: give a model directory, such as examples/repository/minilm; nothing was measured");
        return;
    };
    let precision = if arguments.iter().any(|argument| argument == "bf16") { Precision::Bf16 } else { Precision::F32 };
    let threads = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(NonZeroUsize::MIN);
    let card = ModelCard::read(Path::new(directory)).expect("a model directory");
    let weights = Weights::open(&card.directory).expect("its weights");
    let started = Instant::now();
    let model = CpuModel::load(encoder::plan(&card, &weights).expect("a plan"), &weights, precision).expect("weights");
    println!("{precision:?}, {threads} threads, loaded in {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    let mut executor = CpuExecutor::new(Arc::new(model), "bench", threads).expect("threads");
    let input = card.tokens().expect("a model of texts");

    let mut random = Random(7);
    let texts: Vec<Vec<u8>> = (0..TEXTS)
        .map(|_| {
            let length = (5.0 * 40f64.powf(random.next())).round() as usize;
            (0..length.min(input.positions))
                .flat_map(|_| ((random.next() * input.vocab_size as f64) as i64).to_le_bytes())
                .collect()
        })
        .collect();
    let tokens: usize = texts.iter().map(|text| text.len() / 8).sum();
    let spec = &card.encoder;
    let per_token = 2 * spec.layers * (4 * spec.hidden_size * spec.hidden_size + 2 * spec.hidden_size * spec.intermediate_size);
    println!("{TEXTS} texts, {tokens} tokens, {:.1} MFLOP per token in plain layers", per_token as f64 / 1e6);
    for at_once in [1, 4, 16, 64] {
        let mut seconds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                for texts in texts.chunks(at_once) {
                    executor.enqueue(&pack(input, texts)).expect("a result");
                }
                started.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds[ROUNDS / 2];
        let rate = tokens as f64 * per_token as f64 / median / 1e9;
        println!(
            "{at_once:3} at once: {:7.1} texts/s, {rate:6.1} GFLOP/s of plain layers, {:.1} us per token",
            TEXTS as f64 / median,
            median * 1e6 / tokens as f64
        );
    }
    let mut steps: BTreeMap<&str, Duration> = BTreeMap::new();
    executor.timed(&pack(input, &texts), &mut |name, time| *steps.entry(name).or_default() += time);
    let all: Duration = steps.values().sum();
    for (name, time) in steps {
        println!("  {name:10} {:5.1} %", 100.0 * time.as_secs_f64() / all.as_secs_f64());
    }
}

fn pack<'t>(input: &models::plan::batch::TokenInput, texts: &'t [Vec<u8>]) -> Batch<'t> {
    let mut batch = Batch::new();
    for text in texts {
        let texts = Texts { rows: 1, width: text.len() / 8, ids: Integers::new(text), mask: None, types: None };
        batch.push_texts(input, &texts).expect("valid texts");
    }
    batch
}
