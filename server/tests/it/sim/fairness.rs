//! Models on one device, in virtual time: nobody's flood is another's outage.

use std::time::Duration;

use server::scheduler::simulation::fairness::{Portion, flooded, largest, measure, rare, share};

const LONG: Duration = Duration::from_secs(60);

fn p99_of_the_rare(rate: f64, with_flood: bool, weight: u32) -> Duration {
    let mut models = vec![rare(rate, share(2, weight), LONG)];
    if with_flood {
        models.push(flooded(share(2, 1), LONG));
    }
    let portions = measure(7, models);
    assert_eq!(portions[0].summary.good, portions[0].summary.requests, "every request of the rare model is answered");
    portions[0].summary.p99
}

#[test]
fn a_flood_delays_others_by_less_than_one_of_its_executions() {
    for rate in [2.0, 20.0, 50.0, 100.0] {
        let (alone, shared) = (p99_of_the_rare(rate, false, 1), p99_of_the_rare(rate, true, 1));
        let rise = shared.saturating_sub(alone);
        assert!(rise < largest(), "at {rate} requests in a second: p99 rises by {rise:?}, the largest takes {:?}", largest());
    }
}

#[test]
fn device_time_follows_the_weights() {
    let weights = [1, 1, 2, 4];
    let portions = measure(7, weights.iter().map(|weight| flooded(share(2, *weight), LONG)).collect());
    for (portion, weight) in portions.iter().zip(weights) {
        let fair = f64::from(weight) / 8.0;
        assert!((portion.used - fair).abs() < 0.02, "weight {weight} of 8: {portion:?}");
    }
}

#[test]
fn a_higher_class_goes_first_and_a_lower_one_does_not_starve() {
    let models = vec![flooded(share(1, 1), LONG), flooded(share(2, 1), LONG), rare(5.0, share(3, 1), LONG)];
    let portions: Vec<Portion> = measure(7, models);
    assert!(portions[0].used > 0.8, "the highest class has most of the device: {:?}", portions[0]);
    for portion in &portions[1..] {
        assert!(portion.summary.good > 0 && portion.summary.good == portion.summary.requests, "{portion:?}");
    }
    // Passed over by a bounded number of executions of the classes above.
    assert!(portions[1].longest_pause < largest() * 40, "{:?}", portions[1]);
}
