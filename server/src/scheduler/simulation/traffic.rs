//! Virtual clients: when requests arrive, and what they are like.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::Timestamp;

use super::random::Random;

/// When requests arrive.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Independent of each other.
    Poisson {
        /// Mean rate.
        per_second: f64,
    },
    /// Poisson arrivals in some periods and none in others; the lengths of both are exponential.
    Bursty {
        /// Mean rate within a burst.
        per_second: f64,
        /// Mean length of a burst.
        on: Duration,
        /// Mean length of a pause.
        off: Duration,
    },
    /// Poisson arrivals whose rate grows (or falls) evenly over the run.
    Ramp {
        /// Rate at the start.
        from_per_second: f64,
        /// Rate at the end.
        to_per_second: f64,
    },
    /// Clients that send a request, wait for its answer, think and send the next.
    Closed {
        /// Number of clients.
        clients: usize,
        /// Time from an answer to the next request, drawn evenly from this range.
        think: RangeInclusive<Duration>,
    },
    /// Exactly these times since the start, ascending.
    Trace(Vec<Duration>),
}

/// What requests are like; each property is drawn on its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// Rows.
    pub rows: RangeInclusive<usize>,
    /// Cost of each row; a request without rows costs 1.
    pub cost_per_row: RangeInclusive<u64>,
    /// Number of shapes that cannot share a batch, at least 1.
    pub shapes: usize,
    /// Priorities.
    pub priorities: RangeInclusive<u64>,
    /// Share of the requests that carry a queue timeout, and its range.
    pub timeout: Option<(f64, RangeInclusive<Duration>)>,
    /// Share of the requests whose client waits for a limited time, and its range.
    pub deadline: Option<(f64, RangeInclusive<Duration>)>,
    /// Share of the requests whose client leaves at a random moment of this range.
    pub leave: Option<(f64, RangeInclusive<Duration>)>,
}

impl Default for Mix {
    /// One row of cost 1 and of one shape, no deadlines, patient clients.
    fn default() -> Self {
        Self { rows: 1..=1, cost_per_row: 1..=1, shapes: 1, priorities: 0..=0, timeout: None, deadline: None, leave: None }
    }
}

/// The clients of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// When they send.
    pub arrivals: Arrivals,
    /// What they send.
    pub mix: Mix,
    /// No more than this many requests.
    pub max_requests: usize,
    /// No request later than this.
    pub duration: Duration,
    /// All times of arrival are multiples of this, so that some fall together; 1 ns for no such thing.
    pub tick: Duration,
}

impl Traffic {
    /// Uniform requests that arrive like this for `duration`, at most `max_requests` of them.
    pub fn uniform(arrivals: Arrivals, max_requests: usize, duration: Duration) -> Self {
        Self { arrivals, mix: Mix::default(), max_requests, duration, tick: Duration::from_nanos(1) }
    }

    /// The same arrivals of other requests.
    pub fn of(self, mix: Mix) -> Self {
        Self { mix, ..self }
    }
}

/// A request as its client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Rows.
    pub rows: usize,
    /// Cost, at least 1.
    pub cost: u64,
    /// Which shape, of `0..shapes`.
    pub shape: usize,
    /// Its priority parameter.
    pub priority: u64,
    /// Its timeout parameter.
    pub timeout: Option<Duration>,
    /// How long its client waits for the answer.
    pub deadline: Option<Duration>,
    /// When its client leaves, answered or not.
    pub leave: Option<Duration>,
}

impl Mix {
    fn draw(&self, random: &mut Random) -> Draft {
        let rows = random.size(*self.rows.start(), *self.rows.end());
        let cost = match (self.cost_per_row.start(), self.cost_per_row.end()) {
            (1, 1) => rows as u64,
            (from, to) => random.between(*from, *to).saturating_mul(rows as u64),
        };
        let shape = if self.shapes > 1 { random.size(0, self.shapes - 1) } else { 0 };
        let priority = match (self.priorities.start(), self.priorities.end()) {
            (from, to) if from == to => *from,
            (from, to) => random.between(*from, *to),
        };
        let mut within = |limit: &Option<(f64, RangeInclusive<Duration>)>| match limit {
            Some((share, range)) if random.chance(*share) => Some(random.duration(*range.start(), *range.end())),
            _ => None,
        };
        let (timeout, deadline, leave) = (within(&self.timeout), within(&self.deadline), within(&self.leave));
        Draft { rows, cost: cost.max(1), shape, priority, timeout, deadline, leave }
    }
}

/// Draws the requests of one model, one after the other.
#[derive(Debug)]
pub(super) struct Source {
    traffic: Traffic,
    random: Random,
    /// When the next one arrives.
    next: Option<Timestamp>,
    sent: usize,
    /// End of the burst that runs.
    burst_ends: Timestamp,
    /// When clients of a closed loop send next.
    thinking: BinaryHeap<Reverse<Timestamp>>,
}

impl Source {
    pub(super) fn new(traffic: &Traffic, mut random: Random) -> Self {
        let mut source = Self {
            traffic: traffic.clone(),
            random: random.fork(),
            next: None,
            sent: 0,
            burst_ends: Timestamp::default(),
            thinking: BinaryHeap::new(),
        };
        if let Arrivals::Closed { clients, think } = &traffic.arrivals {
            for _ in 0..*clients {
                let first = Timestamp::default().plus(random.duration(Duration::ZERO, *think.end()));
                source.thinking.push(Reverse(source.on_tick(first)));
            }
        }
        source.next = source.after(Timestamp::default());
        source
    }

    /// When the next request arrives.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.next
    }

    /// The request that arrives now.
    pub(super) fn take(&mut self, now: Timestamp) -> Draft {
        self.sent += 1;
        if matches!(self.traffic.arrivals, Arrivals::Closed { .. }) {
            self.thinking.pop();
        }
        self.next = self.after(now);
        self.traffic.mix.draw(&mut self.random)
    }

    /// A client has had its answer (or left) at `since`, no later than now: one of a closed loop thinks and
    /// comes again.
    pub(super) fn answered(&mut self, since: Timestamp, now: Timestamp) {
        if let Arrivals::Closed { think, .. } = &self.traffic.arrivals {
            let back = since.plus(self.random.duration(*think.start(), *think.end()));
            self.thinking.push(Reverse(self.on_tick(back).max(now)));
            self.next = self.after(now);
        }
    }

    fn after(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.sent >= self.traffic.max_requests {
            return None;
        }
        let next = match self.traffic.arrivals {
            Arrivals::Poisson { per_second } => now.plus(self.random.exponential(gap(per_second))),
            Arrivals::Bursty { per_second, on, off } => self.in_burst(now, per_second, on, off),
            Arrivals::Ramp { from_per_second, to_per_second } => {
                let done = now.as_nanos() as f64 / self.traffic.duration.as_nanos().max(1) as f64;
                let rate = (to_per_second - from_per_second).mul_add(done.min(1.0), from_per_second);
                now.plus(self.random.exponential(gap(rate)))
            }
            Arrivals::Closed { .. } => self.thinking.peek()?.0,
            Arrivals::Trace(ref times) => Timestamp::default().plus(*times.get(self.sent)?),
        };
        let next = self.on_tick(next).max(now);
        (next.since(Timestamp::default()) <= self.traffic.duration).then_some(next)
    }

    fn in_burst(&mut self, now: Timestamp, per_second: f64, on: Duration, off: Duration) -> Timestamp {
        let next = now.plus(self.random.exponential(gap(per_second)));
        if next <= self.burst_ends {
            return next;
        }
        // The burst ended before: the next one opens with a request.
        let start = self.burst_ends.max(now).plus(self.random.exponential(off));
        self.burst_ends = start.plus(self.random.exponential(on));
        start
    }

    fn on_tick(&self, time: Timestamp) -> Timestamp {
        let tick = (self.traffic.tick.as_nanos() as u64).max(1);
        Timestamp::from_nanos(time.as_nanos() / tick * tick)
    }
}

/// The mean gap of a rate; without arrivals, longer than any run.
fn gap(per_second: f64) -> Duration {
    Duration::try_from_secs_f64(1.0 / per_second.max(1e-9)).unwrap_or(Duration::MAX)
}
