//! The self-tuned batching window against the best fixed one, in simulated time: a table for each arrival shape.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use server::scheduler::simulation::sweep::{CURVES, Case, Sweep, WINDOWS, shapes};

/// Compares the self-tuned window with no window and with the best of a sweep over fixed ones.
#[derive(Parser)]
struct Arguments {
    /// Everything that is left to chance follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests of each run.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Shows only cases whose curve or shape contains this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() {
    let Arguments { seed, requests, only } = Arguments::parse();
    let cases: Vec<Case> = CURVES
        .iter()
        .flat_map(|curve| shapes().into_iter().map(|shape| Case { shape, curve: *curve, requests, seed }))
        .filter(|case| format!("{} {:?}", case.curve.name, case.shape).contains(&only))
        .collect();
    let results = sweep_all(&cases);
    println!("times in us (closed loops: of one request at the throughput); rows of the mean batch in brackets");
    println!(
        "{:12} {:18} {:>17} {:>17} {:>9} {:>17} {:>8} {:>8}",
        "curve", "arrivals", "no window", "best fixed", "of", "self-tuned", "to best", "to none"
    );
    for (case, sweep) in cases.iter().zip(&results) {
        let score = |score: server::scheduler::simulation::sweep::Score| format!("{:.1} [{:.1}]", score.time_us, score.rows);
        println!(
            "{:12} {:18} {:>17} {:>17} {:>9} {:>17} {:>8.3} {:>8.3}",
            case.curve.name,
            format!("{:?}", case.shape),
            score(sweep.none),
            score(sweep.best),
            format!("{:.0} us", sweep.best_window.as_secs_f64() * 1e6),
            score(sweep.tuned),
            sweep.against_best(),
            sweep.against_none()
        );
    }
    let worst = |ratio: fn(&Sweep) -> f64| results.iter().map(ratio).fold(0.0, f64::max);
    println!(
        "{} cases: {} more than 5 % behind the best fixed window, {} more than 1 % behind none; at worst {:.3} and {:.3}",
        results.len(),
        results.iter().filter(|sweep| sweep.against_best() > 1.05).count(),
        results.iter().filter(|sweep| sweep.against_none() > 1.01).count(),
        worst(Sweep::against_best),
        worst(Sweep::against_none)
    );
}

/// Sweeps all cases, on all cores.
fn sweep_all(cases: &[Case]) -> Vec<Sweep> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; cases.len()]);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, case)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).map(|case| (index, case))
                } {
                    let sweep = case.sweep(&WINDOWS);
                    if let Ok(mut results) = results.lock() {
                        results[index] = Some(sweep);
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_default().into_iter().flatten().collect()
}
