//! Overload, in virtual time: the capacity goes into answers that somebody still waits for.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use server::clock::Timestamp;
use server::config::BatcherKind;
use server::scheduler::simulation::goodput::{Case, Goodput, Shape};
use server::scheduler::simulation::run;

fn measure(batcher: BatcherKind, shape: Shape, load: f64) -> Goodput {
    Case { batcher, shape, load, duration: Duration::from_secs(5), seed: 1 }.measure()
}

#[test]
fn overload_costs_no_goodput() {
    for shape in [Shape::Poisson, Shape::Bursty] {
        for load in [2.0, 10.0] {
            let shown = measure(BatcherKind::Default, shape, load);
            assert!(shown.in_time >= 0.95, "{shape:?} at {load} capacities: {shown:?}");
            assert_eq!(shown.dead, 0, "{shape:?} at {load} capacities: {shown:?}");
        }
    }
}

#[test]
fn below_capacity_nearly_everybody_is_answered_in_time() {
    for shape in [Shape::Poisson, Shape::Bursty] {
        let shown = measure(BatcherKind::Default, shape, 0.8);
        assert!(shown.in_time >= 0.99 * shown.attainable && shown.dead == 0, "{shape:?}: {shown:?}");
    }
}

#[test]
fn the_default_policy_is_no_worse_than_the_compatible_one() {
    for shape in [Shape::Poisson, Shape::Bursty] {
        for load in [0.8, 1.2, 2.0] {
            let (ours, theirs) = (measure(BatcherKind::Default, shape, load), measure(BatcherKind::Compat, shape, load));
            assert!(ours.in_time >= theirs.in_time * 0.99, "{shape:?} at {load} capacities: {ours:?} against {theirs:?}");
        }
    }
}

/// Requests that cost 7 to 300 tokens, on the device of the other tests: a batch of 2448 tokens takes 10 ms. Returns the work
/// that is answered in time as a share of what the device could do, and how many members of executions were dead.
fn measure_tokens(shape: Shape, load: f64) -> (f64, usize) {
    const FULL: u64 = 2448;
    let case = Case { batcher: BatcherKind::Default, shape, load, duration: Duration::from_secs(5), seed: 1 };
    let mut scenario = case.scenario();
    let model = &mut scenario.models[0];
    model.curve.per_row = Duration::ZERO;
    model.curve.per_cost = Duration::from_millis(8) / u32::try_from(FULL).unwrap();
    model.policy.max_rows = NonZeroUsize::new(64).unwrap();
    model.policy.preferred_rows = vec![64];
    model.policy.max_cost = NonZeroU64::new(FULL);
    model.traffic.mix.cost_per_row = 7..=300;
    let report = run(&scenario);
    let end = Timestamp::default().plus(case.duration);
    let in_time = report.models[0].requests.iter().filter(|request| request.is_good() && request.ended_at <= end);
    let work: u64 = in_time.map(|request| request.cost).sum();
    let capacity = FULL as f64 * case.duration.as_secs_f64() / 0.01;
    (work as f64 / capacity, report.models[0].summary(Timestamp::default()).dead)
}

#[test]
fn batches_by_tokens_use_the_capacity_too() {
    for shape in [Shape::Poisson, Shape::Bursty] {
        for (load, least) in [(0.6, 0.55), (2.0, 0.9), (10.0, 0.9)] {
            let (work, dead) = measure_tokens(shape, load);
            assert!(work >= least && dead == 0, "{shape:?} at {load} capacities: {work} of the work in time, {dead} dead");
        }
    }
}
