//! Overload, in virtual time: the capacity goes into answers that somebody still waits for.

use std::time::Duration;

use server::config::BatcherKind;
use server::scheduler::simulation::goodput::{Case, Goodput, Shape};

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
