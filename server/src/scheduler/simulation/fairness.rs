//! Models that share a device: what a flooded one does to the others.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{DynamicBatching, WindowPolicy};

use super::device::CostCurve;
use super::report::Summary;
use super::traffic::{Arrivals, Traffic};
use super::{Scenario, SimulatedModel, SimulatedShare, run};

/// Largest batch of a flooded model.
const MAX_ROWS: usize = 32;

/// What an execution of a flooded model costs: the largest batch takes 34 ms, always, so that what it does to others can
/// be compared with it.
pub const BULK: CostCurve = CostCurve::linear(Duration::from_millis(2), Duration::from_millis(1));

/// What an execution of a model with little to do costs.
pub const RARE: CostCurve = CostCurve::linear(Duration::from_millis(3), Duration::from_micros(500)).with_jitter(0.05);

/// One model's part of the device, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Portion {
    /// What it was promised.
    pub share: SimulatedShare,
    /// What it used of all device time.
    pub used: f64,
    /// The longest time from the end of one of its executions to the start of its next.
    pub longest_pause: Duration,
    /// What its clients saw.
    pub summary: Summary,
}

/// The largest execution of a flooded model where nothing disturbs it.
pub fn largest() -> Duration {
    BULK.expected(MAX_ROWS, MAX_ROWS as u64)
}

/// A model that has more to do than it can, in batches as large as it may: twice as many clients as a batch takes, who
/// do not think.
pub fn flooded(share: SimulatedShare, duration: Duration) -> SimulatedModel {
    let arrivals = Arrivals::Closed { clients: 2 * MAX_ROWS, think: Duration::ZERO..=Duration::ZERO };
    model(BULK, arrivals, share, duration)
}

/// A model with a request now and then.
pub fn rare(per_second: f64, share: SimulatedShare, duration: Duration) -> SimulatedModel {
    model(RARE, Arrivals::Poisson { per_second }, share, duration)
}

fn model(curve: CostCurve, arrivals: Arrivals, share: SimulatedShare, duration: Duration) -> SimulatedModel {
    let max_rows = NonZeroUsize::new(MAX_ROWS).unwrap_or(NonZeroUsize::MIN);
    let max_entries = NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN);
    let policy = DynamicBatching { window: WindowPolicy::Auto { cap: None }, ..DynamicBatching::plain(max_rows, max_entries) };
    SimulatedModel { policy, instances: 1, curve, traffic: Traffic::uniform(arrivals, usize::MAX, duration), share }
}

/// A share of this class and weight.
pub fn share(priority: u8, weight: u32) -> SimulatedShare {
    SimulatedShare { priority, weight: NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN) }
}

/// Runs models on one device with one slot.
pub fn measure(seed: u64, models: Vec<SimulatedModel>) -> Vec<Portion> {
    let shares: Vec<SimulatedShare> = models.iter().map(|model| model.share).collect();
    let ends = models.iter().map(|model| model.traffic.duration).min().unwrap_or_default();
    let report = run(&Scenario { seed, models, shared_slots: Some(NonZeroUsize::MIN) });
    // While all have something to do: at the end the last ones have the device to themselves.
    let end = Timestamp::default().plus(ends);
    let busy: Vec<f64> = report
        .models
        .iter()
        .map(|model| {
            let executions = model.executions.iter().filter(|execution| execution.ended_at <= end);
            executions.map(|execution| execution.ended_at.since(execution.started_at).as_secs_f64()).sum()
        })
        .collect();
    let all: f64 = busy.iter().sum();
    let portions = report.models.iter().zip(shares).zip(&busy);
    portions
        .map(|((model, share), busy)| Portion {
            share,
            used: busy / all.max(f64::MIN_POSITIVE),
            longest_pause: model
                .executions
                .windows(2)
                .map(|pair| pair[1].started_at.since(pair[0].ended_at))
                .max()
                .unwrap_or_default(),
            summary: model.summary(Timestamp::default()),
        })
        .collect()
}
