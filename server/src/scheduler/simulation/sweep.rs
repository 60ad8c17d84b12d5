//! The self-tuned window against fixed ones: a sweep over arrival shapes, loads and cost curves.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::{DynamicBatching, WindowPolicy};

use super::device::CostCurve;
use super::report::{ModelReport, Outcome};
use super::traffic::{Arrivals, Traffic};
use super::{Scenario, SimulatedModel, SimulatedShare, run};

/// Largest batch of the models.
pub const MAX_ROWS: usize = 32;

/// Longest virtual time of a run, far more than the requests take.
const LONGEST: Duration = Duration::from_secs(100_000);

/// The fixed windows of a sweep, as shares of the fixed part of the execution time (of a request's where
/// there is none).
pub const WINDOWS: [f64; 14] = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2, 1.6, 2.0];

/// A curve of execution times, with jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: &'static str,
    /// The device.
    pub cost: CostCurve,
}

/// Curves from one on which batching is everything to one on which it is little.
pub const CURVES: [Curve; 4] =
    [curve("constant", 3000, 0), curve("steep start", 5000, 20), curve("mixed", 2000, 200), curve("per request", 200, 1000)];

const fn curve(name: &'static str, fixed_us: u64, per_row_us: u64) -> Curve {
    let cost = CostCurve::linear(Duration::from_micros(fixed_us), Duration::from_micros(per_row_us)).with_jitter(0.03);
    Curve { name, cost }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Independent requests, at a share of the capacity.
    Poisson(f64),
    /// Bursts much longer than an execution, at four times the mean rate; the mean is a share of the capacity.
    Bursty(f64),
    /// Bursts much shorter than an execution, of about 8 requests; the mean is a share of the capacity.
    Clumps(f64),
    /// Independent requests whose rate grows from nearly nothing to this share of the capacity.
    Ramp(f64),
    /// So many clients, each with one request at a time, that think for 20 to 120 us.
    Closed(usize),
    /// So many clients that think for up to the fixed part of the execution time.
    Pensive(usize),
    /// Two models on one device with independent requests, at a share of the capacity together.
    TwoPoisson(f64),
    /// Two models on one device with so many clients each.
    TwoClosed(usize),
    /// Two models on one device: so many clients of one, and independent requests of 0.3 of the capacity for the other.
    Mixed(usize),
}

/// One comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Who calls.
    pub shape: Shape,
    /// What executions take.
    pub curve: Curve,
    /// Requests of each model.
    pub requests: usize,
    /// What chance follows from.
    pub seed: u64,
}

/// How a window did: the smaller the time, the better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean latency, in microseconds. In a closed loop, this and the time that a client thinks follow from the
    /// throughput: the time that one request takes, times the number of clients.
    pub time_us: f64,
    /// Mean rows of an execution.
    pub rows: f64,
}

/// What a sweep shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sweep {
    /// Without a window.
    pub none: Score,
    /// The best of none and the fixed ones.
    pub best: Score,
    /// Which that is.
    pub best_window: Duration,
    /// The self-tuned one.
    pub tuned: Score,
}

impl Case {
    /// Runs without a window, with the fixed ones, and with the self-tuned one.
    pub fn sweep(&self, windows: &[f64]) -> Sweep {
        let none = self.measure(WindowPolicy::Fixed(Duration::ZERO));
        let mut sweep =
            Sweep { none, best: none, best_window: Duration::ZERO, tuned: self.measure(WindowPolicy::Auto { cap: None }) };
        for share in windows {
            let window = self.unit().mul_f64(*share);
            let score = self.measure(WindowPolicy::Fixed(window));
            if score.time_us < sweep.best.time_us {
                (sweep.best, sweep.best_window) = (score, window);
            }
        }
        sweep
    }

    /// Runs with one window.
    pub fn measure(&self, window: WindowPolicy) -> Score {
        let report = run(&self.scenario(window));
        assert_eq!(report.stuck, None, "{self:?} with {window:?}");
        // The first requests find a window that has seen nothing: it is what follows that is compared.
        let (mut latency, mut counted, mut span, mut rows, mut executions) = (0.0, 0, 0.0, 0, 0);
        for model in &report.models {
            let warm = model.requests.len() / 5;
            let answered = || model.requests.iter().skip(warm).filter(|request| request.outcome == Outcome::Answered);
            latency += answered().map(|request| micros(request.latency())).sum::<f64>();
            counted += answered().count();
            span += span_of(model, warm);
            rows += model.executions.iter().map(|execution| execution.rows).sum::<usize>();
            executions += model.executions.len();
        }
        let time_us = if self.shape.is_closed() { span } else { latency };
        Score { time_us: time_us / counted.max(1) as f64, rows: rows as f64 / executions.max(1) as f64 }
    }

    fn unit(&self) -> Duration {
        if self.curve.cost.fixed.is_zero() { self.curve.cost.per_row } else { self.curve.cost.fixed }
    }

    fn scenario(&self, window: WindowPolicy) -> Scenario {
        let capacity = self.curve.cost.capacity(1, MAX_ROWS, 1, 1);
        let few = Duration::from_micros(20)..=Duration::from_micros(120);
        let poisson = |load: f64| Arrivals::Poisson { per_second: load * capacity };
        let closed = |clients| Arrivals::Closed { clients, think: few.clone() };
        let unit = self.unit();
        let arrivals = match self.shape {
            Shape::Poisson(load) => vec![poisson(load)],
            Shape::Bursty(load) => {
                vec![Arrivals::Bursty { per_second: 4.0 * load * capacity, on: unit * 10, off: unit * 30 }]
            }
            Shape::Clumps(load) => {
                let (on, burst) = (Duration::from_micros(200), 8.0);
                let period = burst / (load * capacity);
                let off = Duration::try_from_secs_f64(period - on.as_secs_f64()).unwrap_or(on);
                vec![Arrivals::Bursty { per_second: burst / on.as_secs_f64(), on, off }]
            }
            Shape::Ramp(load) => {
                vec![Arrivals::Ramp { from_per_second: 0.02 * load * capacity, to_per_second: load * capacity }]
            }
            Shape::Closed(clients) => vec![closed(clients)],
            Shape::Pensive(clients) => vec![Arrivals::Closed { clients, think: Duration::ZERO..=unit }],
            Shape::TwoPoisson(load) => vec![poisson(load / 2.0), poisson(load / 2.0)],
            Shape::TwoClosed(clients) => vec![closed(clients), closed(clients)],
            Shape::Mixed(clients) => vec![closed(clients), poisson(0.3)],
        };
        let shared_slots = (arrivals.len() > 1).then_some(NonZeroUsize::MIN);
        let models = arrivals.into_iter().map(|arrivals| self.model(arrivals, window, capacity)).collect();
        Scenario { seed: self.seed, models, shared_slots }
    }

    fn model(&self, arrivals: Arrivals, window: WindowPolicy, capacity: f64) -> SimulatedModel {
        let duration = match arrivals {
            // Its mean rate is about half of the last one.
            Arrivals::Ramp { to_per_second, .. } => Duration::from_secs_f64(self.requests as f64 / (0.51 * to_per_second)),
            // Both models are called as long as one would need for the requests alone.
            Arrivals::Poisson { .. } | Arrivals::Closed { .. } if self.shape.is_two() => {
                Duration::from_secs_f64(self.requests as f64 / (0.3 * capacity))
            }
            _ => LONGEST,
        };
        let max_requests = if self.shape.is_two() { usize::MAX } else { self.requests };
        let max_rows = NonZeroUsize::new(MAX_ROWS).unwrap_or(NonZeroUsize::MIN);
        let max_entries = NonZeroUsize::new(1 << 20).unwrap_or(NonZeroUsize::MIN);
        SimulatedModel {
            policy: DynamicBatching { window, ..DynamicBatching::plain(max_rows, max_entries) },
            instances: 1,
            curve: self.curve.cost,
            traffic: Traffic::uniform(arrivals, max_requests, duration),
            share: SimulatedShare::default(),
        }
    }
}

impl Shape {
    fn is_closed(self) -> bool {
        matches!(self, Self::Closed(_) | Self::Pensive(_) | Self::TwoClosed(_))
    }

    fn is_two(self) -> bool {
        matches!(self, Self::TwoPoisson(_) | Self::TwoClosed(_) | Self::Mixed(_))
    }
}

impl Sweep {
    /// Time of the self-tuned window as a multiple of that of the best fixed one.
    pub fn against_best(&self) -> f64 {
        self.tuned.time_us / self.best.time_us
    }

    /// Time of the self-tuned window as a multiple of that without one.
    pub fn against_none(&self) -> f64 {
        self.tuned.time_us / self.none.time_us
    }
}

/// Time times clients from the end of one request to the end of the last.
fn span_of(model: &ModelReport, warm: usize) -> f64 {
    let ended = || model.requests.iter().skip(warm).map(|request| request.ended_at);
    let (first, last) = (ended().min().unwrap_or_default(), ended().max().unwrap_or_default());
    micros(last.since(first))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// All shapes of a full study.
pub fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for load in [0.1, 0.3, 0.6, 0.9] {
        shapes.extend([Shape::Poisson(load), Shape::Bursty(load), Shape::Clumps(load), Shape::TwoPoisson(load)]);
    }
    shapes.extend([Shape::Ramp(0.6), Shape::Ramp(0.95)]);
    for clients in [1, 2, 3, 4, 8, 16, 32, 48, 64] {
        shapes.extend([Shape::Closed(clients), Shape::Pensive(clients)]);
    }
    for clients in [1, 2, 4, 8, 16, 32] {
        shapes.extend([Shape::TwoClosed(clients), Shape::Mixed(clients)]);
    }
    shapes
}
