//! The self-tuned window on five arrival shapes, in virtual time: as good as the best fixed window, and never worse
//! than none. `cargo run --release -p benches --bin window_sweep` shows the whole study.

use std::sync::atomic::{AtomicUsize, Ordering};

use server::scheduler::simulation::sweep::{CURVES, Case, Shape};

/// Fixed windows of the sweep, as shares of the fixed part of the execution time.
const WINDOWS: [f64; 6] = [0.03, 0.1, 0.2, 0.5, 1.0, 2.0];

/// How far behind the best fixed window the self-tuned one may be.
const NEAR: f64 = 1.05;

/// How far behind no window it may be: what chance does in runs of this length.
const NOISE: f64 = 1.02;

const REQUESTS: usize = 2_000;

/// Sweeps every shape on every curve.
fn check(shapes: &[Shape]) {
    // Without the constant one, which differs little from the next.
    let cases: Vec<Case> = CURVES[1..]
        .iter()
        .flat_map(|curve| shapes.iter().map(|shape| Case { shape: *shape, curve: *curve, requests: REQUESTS, seed: 1 }))
        .collect();
    let next = AtomicUsize::new(0);
    let findings = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| findings(&cases, &next))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<String>>()
    });
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn findings(cases: &[Case], next: &AtomicUsize) -> Vec<String> {
    let mut findings = Vec::new();
    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
        let sweep = case.sweep(&WINDOWS);
        if sweep.against_best() > NEAR || sweep.against_none() > NOISE {
            let (best, none) = (sweep.against_best(), sweep.against_none());
            findings.push(format!("{} {:?}: {best:.3} to the best, {none:.3} to none: {sweep:.1?}", case.curve.name, case.shape));
        }
    }
    findings
}

#[test]
fn independent_requests() {
    check(&[Shape::Poisson(0.3), Shape::Poisson(0.6), Shape::Poisson(0.9)]);
}

#[test]
fn bursts() {
    check(&[Shape::Bursty(0.3), Shape::Bursty(0.6), Shape::Clumps(0.1), Shape::Clumps(0.5)]);
}

#[test]
fn a_ramp() {
    check(&[Shape::Ramp(0.95)]);
}

#[test]
fn two_models_on_a_device() {
    check(&[Shape::TwoPoisson(0.3), Shape::TwoPoisson(0.6), Shape::TwoClosed(8), Shape::Mixed(8)]);
}

#[test]
fn closed_loops() {
    check(&[1, 2, 4, 16, 64].map(Shape::Closed));
    check(&[2, 8].map(Shape::Pensive));
}
