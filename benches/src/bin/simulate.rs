//! Simulations of scheduling, in virtual time: safety over seeds, goodput under overload, fairness on a shared
//! device, and how fast all that is.
//!
//! The figures follow from the seed alone, except for the speed.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use server::config::BatcherKind;
use server::scheduler::simulation::check::Checker;
use server::scheduler::simulation::fairness::{flooded, largest, measure, rare, share};
use server::scheduler::simulation::goodput::{Case, Shape};
use server::scheduler::simulation::observer::Log;
use server::scheduler::simulation::{run, run_observed, scenario};

/// Failing seeds that are shown.
const SHOWN: usize = 10;

/// Simulates the scheduler on a virtual clock.
#[derive(Parser)]
struct Arguments {
    /// Everything that is left to chance follows from it.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    study: Study,
}

#[derive(Subcommand)]
enum Study {
    /// Random scenarios, each watched by an independent checker, from `--seed` on.
    Safety {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        seeds: u64,
    },
    /// Everything that happens in the random scenario of `--seed`.
    Trace,
    /// Overload with clients that wait for 100 ms: what becomes of the device's capacity.
    Goodput {
        /// Virtual seconds of arrivals.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Models that share a device with a flooded one.
    Fairness {
        /// Virtual seconds.
        #[arg(long, default_value_t = 300)]
        seconds: u64,
    },
    /// Simulated requests per millisecond of processor time.
    Speed {
        /// Virtual seconds of arrivals.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let Arguments { seed, study } = Arguments::parse();
    match study {
        Study::Safety { seeds } => return safety(seed, seeds),
        Study::Trace => trace(seed),
        Study::Goodput { seconds } => goodput(seed, Duration::from_secs(seconds)),
        Study::Fairness { seconds } => shared_device(seed, Duration::from_secs(seconds)),
        Study::Speed { seconds } => speed(seed, Duration::from_secs(seconds)),
    }
    ExitCode::SUCCESS
}

fn safety(from: u64, seeds: u64) -> ExitCode {
    let (next, requests, failures) = (AtomicU64::new(from), AtomicU64::new(0), Mutex::new(Vec::new()));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(seeds) {
                        return;
                    }
                    let scenario = scenario::random(seed);
                    let mut checker = Checker::new(&scenario);
                    let report = run_observed(&scenario, &mut checker);
                    requests.fetch_add(report.models[0].requests.len() as u64, Ordering::Relaxed);
                    let found = checker.verdict(&report);
                    if !found.is_empty()
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push((seed, found));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_default();
    failures.sort_unstable();
    println!(
        "{seeds} seeds from {from}: {} requests in {:.1} s on {threads} threads, {} seeds break a rule",
        requests.into_inner(),
        started.elapsed().as_secs_f64(),
        failures.len(),
    );
    for (seed, found) in failures.iter().take(SHOWN) {
        println!("seed {seed}:\n  {}", found.join("\n  "));
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn trace(seed: u64) {
    let scenario = scenario::random(seed);
    let mut log = Log::default();
    run_observed(&scenario, &mut log);
    println!("{:#?}\n{}", scenario.models, log.0);
}

const SHAPES: [Shape; 2] = [Shape::Poisson, Shape::Bursty];
const LOADS: [f64; 4] = [0.8, 1.2, 2.0, 10.0];

fn goodput(seed: u64, duration: Duration) {
    println!("shares of the capacity, except for refused and expired: shares of the requests; times in ms");
    println!(
        "{:8} {:8} {:>6} {:>8} {:>10} {:>6} {:>8} {:>8} {:>5} {:>6} {:>6} {:>6} {:>11}",
        "arrivals",
        "batcher",
        "load",
        "in time",
        "attainable",
        "late",
        "refused",
        "expired",
        "dead",
        "rows",
        "p50",
        "p99",
        "refusal p50",
    );
    for shape in SHAPES {
        for load in LOADS {
            for batcher in [BatcherKind::Default, BatcherKind::Compat] {
                let shown = Case { batcher, shape, load, duration, seed }.measure();
                let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
                println!(
                    "{:8} {:8} {load:6.1} {:7.1}% {:9.1}% {:5.1}% {:7.1}% {:7.1}% {:5} {:6.1} {:6.1} {:6.1} {:11.1}",
                    format!("{shape:?}"),
                    format!("{batcher:?}"),
                    shown.in_time * 100.0,
                    shown.attainable * 100.0,
                    shown.late * 100.0,
                    shown.refused * 100.0,
                    shown.expired * 100.0,
                    shown.dead,
                    shown.batch_rows,
                    millis(shown.p50),
                    millis(shown.p99),
                    millis(shown.refusal_p50),
                );
            }
        }
    }
}

fn shared_device(seed: u64, duration: Duration) {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    println!("one device with one slot; the largest execution of a flooded model takes {:.1} ms", millis(largest()));
    println!("\na rare model beside a flooded one: latency in ms");
    println!("{:>9} {:>10} {:>10} {:>10} {:>10} {:>8}", "rate in 1/s", "p50 alone", "p50", "p99 alone", "p99", "rise");
    for rate in [1.0, 5.0, 20.0, 50.0, 100.0] {
        let alone = measure(seed, vec![rare(rate, share(2, 1), duration)]);
        let beside = measure(seed, vec![rare(rate, share(2, 1), duration), flooded(share(2, 1), duration)]);
        let (alone, beside) = (&alone[0].summary, &beside[0].summary);
        println!(
            "{rate:9.0} {:10.1} {:10.1} {:10.1} {:10.1} {:8.1}",
            millis(alone.p50),
            millis(beside.p50),
            millis(alone.p99),
            millis(beside.p99),
            millis(beside.p99) - millis(alone.p99),
        );
    }
    let several = vec![
        ("flooded, weight 1", flooded(share(2, 1), duration)),
        ("flooded, weight 2", flooded(share(2, 2), duration)),
        ("flooded, weight 4", flooded(share(2, 4), duration)),
        ("rare, 10 in a second", rare(10.0, share(2, 1), duration)),
        ("rare, higher class", rare(10.0, share(1, 1), duration)),
        ("flooded, lower class", flooded(share(3, 1), duration)),
    ];
    let (names, models): (Vec<_>, Vec<_>) = several.into_iter().unzip();
    println!("\nsix models");
    println!("{:22} {:>8} {:>10} {:>10} {:>14}", "model", "device", "p50 in ms", "p99 in ms", "longest pause");
    for (name, portion) in names.iter().zip(measure(seed, models)) {
        println!(
            "{name:22} {:7.1}% {:10.1} {:10.1} {:14.1}",
            portion.used * 100.0,
            millis(portion.summary.p50),
            millis(portion.summary.p99),
            millis(portion.longest_pause),
        );
    }
}

fn speed(seed: u64, duration: Duration) {
    for load in LOADS {
        let case = Case { batcher: BatcherKind::Default, shape: Shape::Poisson, load, duration, seed };
        let scenario = case.scenario();
        let started = Instant::now();
        let report = run(&scenario);
        let millis = started.elapsed().as_secs_f64() * 1e3;
        let requests = report.models[0].requests.len();
        println!("load {load:4.1}: {requests} requests in {millis:.0} ms, {:.0} per millisecond", requests as f64 / millis);
    }
}
