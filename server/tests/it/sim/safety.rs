//! Thousands of random scenarios, each watched by an independent checker.

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use server::scheduler::simulation::check::Checker;
use server::scheduler::simulation::observer::Log;
use server::scheduler::simulation::report::Outcome;
use server::scheduler::simulation::{run, run_observed, scenario};

/// Seeds of every run of the tests.
const SEEDS: u64 = 10_000;

/// Seeds whose findings are shown in full.
const SHOWN: usize = 3;

/// The rules that a seed breaks. A panic within the batcher is one more.
fn findings(seed: u64) -> Vec<String> {
    let found = catch_unwind(AssertUnwindSafe(|| {
        let scenario = scenario::random(seed);
        let mut checker = Checker::new(&scenario);
        let report = run_observed(&scenario, &mut checker);
        checker.verdict(&report)
    }));
    found.unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        vec![format!("panicked: {}", text.unwrap_or_default())]
    })
}

/// What happened in the run of a seed, line by line, up to where it panicked if it did.
fn trace(seed: u64) -> String {
    let scenario = scenario::random(seed);
    let mut log = Log::default();
    // A panic is among the findings; here it only ends the trace.
    let _ = catch_unwind(AssertUnwindSafe(|| run_observed(&scenario, &mut log)));
    format!("seed {seed}: {:#?}\n{}", scenario.models, log.0)
}

#[test]
fn no_seed_breaks_a_rule() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let seed = seed.parse().unwrap_or_else(|_| panic!("SIM_SEED must be a number, got '{seed}'"));
        // Past the capture of the test's output: to see the trace is why one replays.
        std::io::stderr().write_all(trace(seed).as_bytes()).unwrap();
        let found = findings(seed);
        assert!(found.is_empty(), "seed {seed}:\n{}", found.join("\n"));
        return;
    }
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let found = findings(seed);
                    if !found.is_empty() {
                        failures.lock().unwrap().push((seed, found));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort_unstable();
    let mut text = String::new();
    for (seed, found) in failures.iter().take(SHOWN) {
        writeln!(text, "SIM_SEED={seed} cargo test -p server sim    replays this:\n  {}", found.join("\n  ")).unwrap();
    }
    let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).take(50).collect();
    assert!(failures.is_empty(), "{} of {SEEDS} seeds break a rule: {seeds:?}\n{text}", failures.len());
}

#[test]
fn a_seed_is_a_whole_run() {
    for seed in 0..50 {
        assert_eq!(run(&scenario::random(seed)), run(&scenario::random(seed)), "seed {seed} ran in two ways");
    }
}

#[test]
fn the_scenarios_reach_every_end() {
    // A generator that never fills a queue or never lets anything expire would prove little.
    let all = [
        Outcome::Answered,
        Outcome::Failed,
        Outcome::Full,
        Outcome::Unreachable,
        Outcome::Expired,
        Outcome::Lapsed,
        Outcome::Left,
    ];
    let mut counts = [0usize; 7];
    for seed in 0..500 {
        for request in run(&scenario::random(seed)).models.iter().flat_map(|model| &model.requests) {
            if let Some(index) = all.iter().position(|outcome| *outcome == request.outcome) {
                counts[index] += 1;
            }
        }
    }
    let rare: Vec<_> = all.iter().zip(counts).filter(|(_, count)| *count < 20).collect();
    assert!(rare.is_empty(), "too few ends of these kinds to prove anything: {rare:?}");
}
