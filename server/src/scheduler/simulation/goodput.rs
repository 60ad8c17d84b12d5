//! Goodput under overload: how much of a device's capacity ends up in answers that their clients still wait for.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{BatcherKind, DynamicBatching, WindowPolicy};

use super::device::CostCurve;
use super::report::{Outcome, percentile};
use super::traffic::{Arrivals, Mix, Traffic};
use super::{Scenario, SimulatedModel, SimulatedShare, run};

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Independent of each other.
    Poisson,
    /// In bursts at twice the rate, with pauses as long as the bursts: 20 ms each in the mean. The pauses are shorter
    /// than the clients' patience: a device that has nothing to do for want of requests would say nothing about the
    /// scheduler.
    Bursty,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Which policy forms the batches.
    pub batcher: BatcherKind,
    /// How requests arrive.
    pub shape: Shape,
    /// Requests that arrive, in capacities of the device.
    pub load: f64,
    /// How long they arrive.
    pub duration: Duration,
    /// What chance follows from.
    pub seed: u64,
}

/// What a measurement shows. Shares are shares of the capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goodput {
    /// Requests that arrived.
    pub offered: f64,
    /// Answered in time, while requests arrived.
    pub in_time: f64,
    /// What no scheduler could exceed: the work that is at hand, if each request takes its part of a full batch and is
    /// at hand for as long as its client waits.
    pub attainable: f64,
    /// Answered too late.
    pub late: f64,
    /// Refused at once, of all requests.
    pub refused: f64,
    /// Given up after waiting, of all requests.
    pub expired: f64,
    /// Members of executions that were dead when these started.
    pub dead: usize,
    /// Rows of the mean execution.
    pub batch_rows: f64,
    /// Median latency of the answers in time.
    pub p50: Duration,
    /// 99th percentile of the latency of the answers in time.
    pub p99: Duration,
    /// Median time until a request was refused or given up.
    pub refusal_p50: Duration,
}

/// How long clients wait.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Largest batch of the model.
const MAX_ROWS: usize = 16;

/// The device: a full batch takes 10 ms, so that 1600 requests in a second are its capacity.
pub const CURVE: CostCurve = CostCurve::linear(Duration::from_millis(2), Duration::from_micros(500)).with_jitter(0.1);

impl Case {
    /// What is simulated: one model with one instance.
    pub fn scenario(&self) -> Scenario {
        let per_second = CURVE.capacity(1, MAX_ROWS, 1, 1) * self.load;
        let pause = Duration::from_millis(20);
        let arrivals = match self.shape {
            Shape::Poisson => Arrivals::Poisson { per_second },
            Shape::Bursty => Arrivals::Bursty { per_second: 2.0 * per_second, on: pause, off: pause },
        };
        let max_rows = NonZeroUsize::new(MAX_ROWS).unwrap_or(NonZeroUsize::MIN);
        let max_entries = NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN);
        let window = match self.batcher {
            BatcherKind::Default => WindowPolicy::Auto { cap: None },
            BatcherKind::Compat => WindowPolicy::Fixed(Duration::ZERO),
        };
        let policy = DynamicBatching { batcher: self.batcher, window, ..DynamicBatching::plain(max_rows, max_entries) };
        let mix = Mix { deadline: Some((1.0, PATIENCE..=PATIENCE)), ..Mix::default() };
        let traffic = Traffic::uniform(arrivals, usize::MAX, self.duration).of(mix);
        let model = SimulatedModel { policy, instances: 1, curve: CURVE, traffic, share: SimulatedShare::default() };
        Scenario { seed: self.seed, models: vec![model], shared_slots: None }
    }

    /// Runs it.
    pub fn measure(&self) -> Goodput {
        let report = run(&self.scenario());
        let model = &report.models[0];
        let capacity = CURVE.capacity(1, MAX_ROWS, 1, 1) * self.duration.as_secs_f64();
        let all = model.requests.len().max(1) as f64;
        let end = Timestamp::default().plus(self.duration);
        let in_time = model.requests.iter().filter(|request| request.is_good() && request.ended_at <= end).count();
        let mut given_up: Vec<Duration> = model
            .requests
            .iter()
            .filter(|request| !matches!(request.outcome, Outcome::Answered | Outcome::Failed))
            .map(super::report::Request::latency)
            .collect();
        given_up.sort_unstable();
        let summary = model.summary(Timestamp::default());
        Goodput {
            offered: model.requests.len() as f64 / capacity,
            in_time: in_time as f64 / capacity,
            attainable: attainable(model.requests.iter().map(|request| request.arrived_at), self.duration),
            late: summary.late as f64 / capacity,
            refused: (summary.full + summary.unreachable) as f64 / all,
            expired: (summary.expired + summary.left) as f64 / all,
            dead: summary.dead,
            batch_rows: summary.batch_rows,
            p50: summary.p50,
            p99: summary.p99,
            refusal_p50: percentile(&given_up, 0.5),
        }
    }
}

/// The share of the time in which a device that takes requests one by one, each its part of a full batch, has one
/// that is at hand.
fn attainable(arrivals: impl Iterator<Item = Timestamp>, duration: Duration) -> f64 {
    let part = CURVE.expected(MAX_ROWS, 1).as_nanos() as f64 / MAX_ROWS as f64;
    let (patience, end) = (PATIENCE.as_nanos() as f64, duration.as_nanos() as f64);
    let (mut free_at, mut busy) = (0.0f64, 0.0);
    for arrived_at in arrivals {
        let arrived_at = arrived_at.as_nanos() as f64;
        let start = free_at.max(arrived_at);
        if start + part <= (arrived_at + patience).min(end) {
            free_at = start + part;
            busy += part;
        }
    }
    busy / end
}
