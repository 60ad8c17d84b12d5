//! What a batcher has learned wrongly must not shut its model.

use std::time::Duration;

use server::clock::Timestamp;
use server::config::BatcherKind;
use server::scheduler::simulation::goodput::{Case, Shape};
use server::scheduler::simulation::run;

/// The share of the later requests that are answered in time, after a first execution that took `cold_start` longer.
fn answered_after(cold_start: Duration, load: f64) -> f64 {
    let case = Case { batcher: BatcherKind::Default, shape: Shape::Poisson, load, duration: Duration::from_secs(8), seed: 3 };
    let mut scenario = case.scenario();
    scenario.models[0].curve.cold_start = cold_start;
    let report = run(&scenario);
    let late = report.models[0].summary(Timestamp::default().plus(Duration::from_secs(4)));
    late.good as f64 / late.requests.max(1) as f64
}

#[test]
fn a_slow_first_execution_is_forgotten() {
    // Ten times as long as the clients wait: by that alone, nobody would ever be in time again.
    for load in [0.02, 0.5] {
        let (warm, cold) = (answered_after(Duration::ZERO, load), answered_after(Duration::from_secs(1), load));
        assert!(cold >= warm * 0.99, "at {load} capacities {cold} are answered in time, {warm} without a cold start");
    }
}
