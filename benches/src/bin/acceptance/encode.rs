//! Batches of an encoder in a closed loop on lanes of a GPU, with nothing around them.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use models::cuda::{CudaExecutor, CudaModel, Gpu, GpuOptions, Graphs, LaneOptions, Precision, Tuning};
use models::plan::batch::{Integers, Texts, TokenInput};
use models::plan::cuda::Ticket;
use models::{Batch, ModelCard, ModelError, Weights, encoder};
use serde_json::{Value, json};

/// Batches before the clock starts: products are tuned in the first, launches recorded in the second.
const WARM_BATCHES: usize = 4;
/// The fewest batches of a measurement.
const LEAST_BATCHES: usize = 3;
/// Times that a profile is taken; medians are told.
const PROFILES: usize = 5;

/// Flags of `encode`.
#[derive(Args)]
pub(crate) struct EncodeArgs {
    /// Directory of the encoder.
    #[arg(long)]
    model: PathBuf,
    /// GPU.
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// f32, f16 or bf16.
    #[arg(long, default_value = "f16", value_parser = precision)]
    precision: Precision,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// TOKENSxITEMS, then any of `lanes=2`, `flight=1` (of two), `graphs=off`, `tuning=first` and `profile`, with commas.
    #[arg(required = true)]
    cases: Vec<Case>,
}

fn precision(name: &str) -> Result<Precision, String> {
    let all = [Precision::F32, Precision::F16, Precision::Bf16];
    all.into_iter().find(|known| known.name() == name).ok_or_else(|| "expected f32, f16 or bf16".to_owned())
}

/// A measurement.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    tokens: usize,
    items: usize,
    lanes: usize,
    /// Batches in flight on each lane.
    flight: usize,
    graphs: Graphs,
    tuning: Tuning,
    profile: bool,
}

impl FromStr for Case {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let mut words = written.split(',');
        let size = words.next().and_then(|size| size.split_once('x'));
        let size = size.and_then(|(tokens, items)| Some((tokens.parse().ok()?, items.parse().ok()?)));
        let Some((tokens, items)) = size.filter(|(tokens, items)| *tokens > 0 && *items > 0) else {
            return Err(format!("'{written}': expected TOKENSxITEMS first, such as 128x64"));
        };
        let mut case = Case { tokens, items, lanes: 1, flight: 2, graphs: Graphs::Auto, tuning: Tuning::Timed, profile: false };
        for word in words {
            match word.split_once('=') {
                Some(("lanes", "2")) => case.lanes = 2,
                // More than two batches are never in flight on a lane.
                Some(("flight", "1")) => case.flight = 1,
                Some(("graphs", "off")) => case.graphs = Graphs::Off,
                Some(("tuning", "first")) => case.tuning = Tuning::First,
                None if word == "profile" => case.profile = true,
                _ => {
                    let expected = "lanes=2, flight=1, graphs=off, tuning=first or profile";
                    return Err(format!("'{written}': '{word}' is none of {expected}"));
                }
            }
        }
        Ok(case)
    }
}

/// Numbers that follow from a seed, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) as usize % limit).unwrap_or(0)
    }
}

/// Measures all cases.
pub(crate) fn run(arguments: &EncodeArgs) -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open(arguments.device, GpuOptions::default())?;
    let card = ModelCard::read(&arguments.model)?;
    let input = card.tokens().ok_or("the model takes no tokens")?.clone();
    let weights = Weights::open(&card.directory)?;
    let started = Instant::now();
    let plan = encoder::plan(&card, &weights)?;
    let model = CudaModel::load(&gpu, plan, &weights, arguments.precision, "measured")?;
    let loaded = json!({
        "load_ms": started.elapsed().as_secs_f64() * 1e3,
        "weight_bytes": model.planner().weights(),
    });
    println!("{loaded}");
    for case in &arguments.cases {
        let mut line = measure(&model, &input, case, Duration::try_from_secs_f64(arguments.seconds)?)?;
        line["precision"] = Value::from(arguments.precision.name());
        println!("{line}");
    }
    Ok(())
}

/// As many texts of as many random tokens as a case says.
fn batch(input: &TokenInput, case: &Case, seed: u64) -> Result<Batch<'static>, ModelError> {
    let mut random = Random(seed);
    let ids: Vec<u8> = (0..case.tokens * case.items).flat_map(|_| random.below(input.vocab_size).to_le_bytes()).collect();
    let texts = Texts { rows: case.items, width: case.tokens, ids: Integers::new(&ids), mask: None, types: None };
    let mut batch = Batch::new();
    batch.push_texts(input, &texts)?;
    Ok(batch)
}

/// What a lane did.
struct Done {
    batches: usize,
    first: Instant,
    last: Instant,
    graphs: usize,
    profile: Vec<(String, f32)>,
}

/// Runs a case on all of its lanes at once.
fn measure(model: &Arc<CudaModel>, input: &TokenInput, case: &Case, time: Duration) -> Result<Value, Box<dyn Error>> {
    let options = LaneOptions::new(case.tokens * case.items, case.items);
    let options = LaneOptions { graphs: case.graphs, tuning: case.tuning, ..options };
    let mut lanes = (0..case.lanes).map(|_| CudaExecutor::new(Arc::clone(model), options)).collect::<Result<Vec<_>, _>>()?;
    let bytes: usize = lanes.iter().map(|lane| lane.memory().device()).sum();
    let batches = (0..case.lanes as u64).map(|seed| batch(input, case, seed)).collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    for (lane, batch) in lanes.iter_mut().zip(&batches) {
        for _ in 0..WARM_BATCHES {
            lane.launch(batch)?.wait()?;
        }
    }
    let warm_ms = started.elapsed().as_secs_f64() * 1e3;
    let barrier = Barrier::new(case.lanes);
    let done: Vec<Result<Done, ModelError>> = thread::scope(|scope| {
        let running: Vec<_> = lanes
            .into_iter()
            .zip(&batches)
            .map(|(lane, batch)| scope.spawn(|| run_lane(lane, batch, case, time, &barrier)))
            .collect();
        running.into_iter().map(|lane| lane.join().expect("a lane does not panic")).collect()
    });
    let done = done.into_iter().collect::<Result<Vec<_>, _>>()?;
    let first = done.iter().map(|done| done.first).min().ok_or("no lane")?;
    let last = done.iter().map(|done| done.last).max().ok_or("no lane")?;
    let count: usize = done.iter().map(|done| done.batches).sum();
    let seconds = last.duration_since(first).as_secs_f64();
    Ok(json!({
        "tokens": case.tokens, "items": case.items, "lanes": case.lanes, "flight": case.flight,
        "graphs": case.graphs != Graphs::Off, "recorded": done.iter().map(|done| done.graphs).sum::<usize>(),
        "tuning": if case.tuning == Tuning::First { "first" } else { "timed" },
        "batches": count, "seconds": seconds, "warm_ms": warm_ms, "lane_bytes": bytes,
        "items_per_s": (count * case.items) as f64 / seconds,
        "batch_ms": seconds * 1e3 * case.lanes as f64 / count as f64,
        "profile": profile(&done[0].profile),
    }))
}

/// Keeps batches in flight on a lane for some time. As many are in flight when the clock starts as when it stops.
fn run_lane(
    mut lane: CudaExecutor,
    batch: &Batch<'_>,
    case: &Case,
    time: Duration,
    barrier: &Barrier,
) -> Result<Done, ModelError> {
    let mut flying: VecDeque<Ticket> = VecDeque::new();
    barrier.wait();
    for _ in 1..case.flight {
        flying.push_back(lane.launch(batch)?);
    }
    let first = Instant::now();
    let mut batches = 0;
    while batches < LEAST_BATCHES || first.elapsed() < time {
        flying.push_back(lane.launch(batch)?);
        if let Some(oldest) = flying.pop_front() {
            drop(oldest.wait()?);
            batches += 1;
        }
    }
    let last = Instant::now();
    flying.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?;
    let mut profile = Vec::new();
    if case.profile {
        let mut times: Vec<Vec<f32>> = Vec::new();
        for _ in 0..PROFILES {
            let (names, values): (Vec<_>, Vec<_>) = lane.profile(batch)?.into_iter().unzip();
            profile = names;
            times.push(values);
        }
        let median = |step: usize| {
            let mut values: Vec<f32> = times.iter().map(|times| times[step]).collect();
            values.sort_by(f32::total_cmp);
            values[PROFILES / 2]
        };
        let profile = profile.into_iter().enumerate().map(|(step, name)| (name, median(step))).collect();
        return Ok(Done { batches, first, last, graphs: lane.graphs(), profile });
    }
    Ok(Done { batches, first, last, graphs: lane.graphs(), profile: Vec::new() })
}

/// Milliseconds and number of the launches of a name, most first.
fn profile(steps: &[(String, f32)]) -> Value {
    let mut sums: HashMap<&str, (f64, usize)> = HashMap::new();
    for (name, time) in steps {
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + f64::from(*time), sum.1 + 1);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|(_, one), (_, other)| other.0.total_cmp(&one.0));
    sums.into_iter().map(|(name, (ms, count))| json!({ "name": name, "ms": ms, "launches": count })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_say_what_is_measured() {
        let case: Case = "128x64,lanes=2,flight=1,graphs=off,tuning=first,profile".parse().unwrap();
        let expected =
            Case { tokens: 128, items: 64, lanes: 2, flight: 1, graphs: Graphs::Off, tuning: Tuning::First, profile: true };
        assert_eq!(case, expected);
        for wrong in ["128", "0x1", "8x8,lanes=0", "8x8,flight=3", "8x8,graphs=on", "8x8,fast"] {
            assert!(wrong.parse::<Case>().unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
