//! The self-tuned batching window: whether an idle instance should wait for more requests. Pure.
//!
//! # The rule
//! Let an execution of `n` requests take `t(n) = a + b n` ([`ExecutionFit`]), let `n` wait at an idle instance,
//! let `m` more come within `x` and `r` more behind those, but while the batch would run. If the batch
//! starts now, the `n` finish after `t(n)` and the `m + r` after `t(n) + t(m + r)`; if it waits, the `n + m`
//! finish after `x + t(n + m)` and the `r` after another `t(r)`. Summed over all, waiting is better if
//!
//! ```text
//! m (a + b r - b n)  >  (n + m + r) x
//! ```
//!
//! Besides, the device is free earlier by `a - x` if nobody comes behind the `m`, or later by `x`. That is felt by `K`
//! requests: those that come during an execution, times the share of time the device is busy, and
//! through their longer execution those behind them: `K = rho lambda t / (1 - lambda b)`. In a closed loop
//! this makes the rule "wait if all are back within `a`", which is what maximizes its throughput. Where
//! batches reach their limit, room that is filled is an execution spared in parts. The window waits for the `x`
//! that maximizes
//!
//! ```text
//! m (a + b r - b n) + K (s a - x) - (n + m + r) x,    s = max(p exp(-r), m / limit)
//! ```
//!
//! where `p` is the probability that somebody comes within `x`, if that is more than nothing. It never waits
//! longer than `a` in all: two executions would have been over sooner. The decision is taken anew at each arrival and
//! at its end, when the silence itself has told something. What is expected, `m(x)`, is learned in
//! [`super::arrivals`]; the `r` are those expected until `t(n)`.
//!
//! With `k` instances the `m` wait for the next of them only, `t(n) / k`, and the device's time is a `k`th of all;
//! while two are idle nothing is gained by waiting, since who comes can start at once.
//!
//! # Its limits
//! The rule knows the mean of what is expected, not its shape; it sees one model, so a neighbor that saturates the
//! device is felt only through its own requests; and it says when a batch starts, not how large it is: where `a` is
//! nothing, smaller batches would have lower mean latency, and a fixed window that happens to split a burst in
//! halves is better.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::WindowPolicy;

use super::arrivals::{Arrivals, BUCKETS, Expected, bucket_of, edge};
use super::fit::ExecutionFit;

/// Weight of a batch's share in the rates after one more.
const RATE_MEMORY: f64 = 0.95;

/// A fixed part below this share of the execution is within what the fit can tell: there is nothing to save.
const MIN_FIXED: f64 = 0.01;

/// The shortest wait that is tried is this part of the longest.
const SHORTEST: f64 = 256.0;

/// Below this part of the longest, waits that are tried are so many buckets apart; above, one.
const LONG: f64 = 8.0;
const STEP: usize = 2;

/// A delay is taken to reach at most so many executions further on.
const MAX_REACH: f64 = 20.0;

/// Whether the batch that could be formed starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It starts now.
    Go,
    /// It waits until then, if nobody comes earlier.
    Until(Timestamp),
}

/// The batch that could be formed now, and what else is under way.
#[derive(Clone, Copy, Debug)]
pub struct Forming {
    /// Requests that would be in it.
    pub entries: usize,
    /// Their rows.
    pub rows: usize,
    /// Their cost, in the unit of the fit.
    pub cost: u64,
    /// Rows that would still fit.
    pub rows_left: usize,
    /// When the oldest of them was queued.
    pub oldest: Timestamp,
    /// Requests of the model that wait or run, these included.
    pub in_system: usize,
    /// Batches that run.
    pub in_flight: usize,
    /// Batches that can run at once.
    pub instances: usize,
    /// Since when an instance is idle and somebody waits for it: the later of both.
    pub idle_since: Timestamp,
}

/// The window of one model: learns from arrivals and ends of batches when waiting pays.
#[derive(Clone, Debug)]
pub struct Window {
    policy: WindowPolicy,
    arrivals: Arrivals,
    rates: Rates,
    last: Duration,
}

impl Window {
    /// A window that has seen nothing yet.
    pub fn new(policy: WindowPolicy) -> Self {
        Self { policy, arrivals: Arrivals::default(), rates: Rates::default(), last: Duration::ZERO }
    }

    /// A request has been queued. `in_system` requests wait or run now, it included.
    pub fn arrived(&mut self, now: Timestamp, in_system: usize) {
        self.arrivals.arrived(now, in_system);
        self.rates.arrivals += 1.0;
    }

    /// A batch of so many requests has ended that ran for `took`.
    pub fn finished(&mut self, now: Timestamp, entries: usize, took: Duration) {
        self.arrivals.finished(now, entries);
        self.rates.finished(now, took);
    }

    /// Whether the batch that could be formed now should start, on an idle instance.
    pub fn decide(&mut self, now: Timestamp, forming: &Forming, fit: &ExecutionFit) -> Decision {
        let waited = now.since(forming.oldest);
        let left = match self.policy {
            WindowPolicy::Fixed(delay) => delay.saturating_sub(waited),
            WindowPolicy::Auto { cap } => {
                let left = cap.map_or(Duration::MAX, |cap| cap.saturating_sub(waited));
                self.worth(now, forming, fit, left)
            }
        };
        if left.is_zero() {
            self.last = now.since(forming.idle_since);
            return Decision::Go;
        }
        Decision::Until(now.plus(left))
    }

    /// How long the last batch that was decided on had waited for others although an instance was idle.
    pub fn last(&self) -> Duration {
        self.last
    }

    /// How long to wait from now, at most `limit`: zero where waiting does not pay.
    fn worth(&self, now: Timestamp, forming: &Forming, fit: &ExecutionFit, limit: Duration) -> Duration {
        let several_idle = forming.in_flight + 1 < forming.instances;
        if several_idle || forming.entries == 0 || limit.is_zero() {
            return Duration::ZERO;
        }
        let Some(expected) = self.arrivals.expected(now, forming.in_system) else {
            return Duration::ZERO;
        };
        let trade = Trade::new(forming, fit, &self.rates, &expected);
        let waited = now.since(forming.idle_since).as_nanos() as f64;
        let limit = (trade.fixed - waited).min(limit.as_nanos() as f64);
        // Rounded up, so that a wait that pays is never one of nothing.
        Duration::from_nanos(trade.best(&expected, limit).ceil() as u64)
    }
}

/// What waiting costs and saves, in nanoseconds of latency summed over requests.
struct Trade {
    entries: f64,
    instances: f64,
    /// Requests for which there is room in the batch.
    room: f64,
    /// Execution time: its fixed part, that of one more request, that of the batch as it is.
    fixed: f64,
    per_entry: f64,
    took: f64,
    /// Requests that come while the batch runs, if it starts now.
    all: f64,
    /// Requests behind those, which feel when the device is free.
    behind: f64,
}

impl Trade {
    fn new(forming: &Forming, fit: &ExecutionFit, rates: &Rates, expected: &Expected<'_>) -> Self {
        let entries = forming.entries as f64;
        let mean_rows = forming.rows as f64 / entries;
        let fixed = fit.fixed().as_nanos() as f64;
        let per_entry = fit.per_cost_ns() * forming.cost as f64 / entries;
        let took = fixed + per_entry * entries;
        Self {
            entries,
            instances: forming.instances.max(1) as f64,
            room: if mean_rows > 0.0 { forming.rows_left as f64 / mean_rows } else { f64::MAX },
            fixed,
            per_entry,
            took,
            all: expected.within(took).1,
            behind: rates.behind(took, per_entry),
        }
    }

    /// What waiting so many nanoseconds gains.
    fn gain(&self, expected: &Expected<'_>, wait: f64) -> f64 {
        let (comes, more) = expected.within(wait);
        let more = more.min(self.room);
        let rest = (self.all - more).max(0.0);
        // For one instance this is the `a + b r - b n` of the rule.
        let joined = self.took / self.instances - self.per_entry * (2.0 * self.entries - rest);
        let spared = (comes * (-rest).exp()).max(more / (self.entries + self.room)) * self.fixed;
        more * joined + self.behind * (spared - wait) / self.instances - (self.entries + more + rest) * wait
    }

    /// The wait of the largest gain, at most `limit`; zero if none gains.
    fn best(&self, expected: &Expected<'_>, limit: f64) -> f64 {
        let mut best = (0.0, 0.0);
        if expected.missing() < 0.5 || self.room < 0.5 || limit <= 0.0 || self.fixed < MIN_FIXED * self.took {
            return 0.0;
        }
        // Each wait that is tried takes time, and among the short ones a difference matters less.
        let (first, long) = (bucket_of(limit / SHORTEST), bucket_of(limit / LONG));
        for bucket in (first..long).step_by(STEP).chain(long..BUCKETS) {
            let wait = edge(bucket).min(limit);
            let gain = self.gain(expected, wait);
            if gain > best.0 {
                best = (gain, wait);
            }
            if wait >= limit {
                break;
            }
        }
        best.1
    }
}

/// How busy the model is.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    arrivals: f64,
    busy: f64,
    span: f64,
    last_finish: Option<Timestamp>,
}

impl Rates {
    fn finished(&mut self, now: Timestamp, took: Duration) {
        let span = self.last_finish.map_or(took, |last| now.since(last));
        self.last_finish = Some(now);
        self.busy += took.as_nanos() as f64;
        self.span += span.as_nanos() as f64;
        self.arrivals *= RATE_MEMORY;
        self.busy *= RATE_MEMORY;
        self.span *= RATE_MEMORY;
    }

    /// Requests that feel when an execution of so many nanoseconds is over: those that come meanwhile if the
    /// device is busy, and through their longer execution those behind them.
    fn behind(&self, took: f64, per_entry: f64) -> f64 {
        if self.span <= 0.0 {
            return 0.0;
        }
        let rate = self.arrivals / self.span;
        (self.busy / self.span).min(1.0) * rate * took / (1.0 - rate * per_entry).max(1.0 / MAX_REACH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(micros * 1000)
    }

    /// Executions that take 1 ms and 10 us per request.
    fn fit() -> ExecutionFit {
        let mut fit = ExecutionFit::default();
        for cost in [1, 4, 2, 8].into_iter().cycle().take(16) {
            fit.observe(cost, Duration::from_micros(1000 + 10 * cost));
        }
        fit
    }

    fn forming(entries: usize, in_system: usize, since: u64) -> Forming {
        Forming {
            entries,
            rows: entries,
            cost: entries as u64,
            rows_left: 64 - entries,
            oldest: at(since),
            in_system,
            in_flight: 0,
            instances: 1,
            idle_since: at(since),
        }
    }

    #[test]
    fn a_window_that_has_seen_nothing_does_not_wait() {
        let mut window = Window::new(WindowPolicy::Auto { cap: None });
        window.arrived(at(5), 1);
        assert_eq!(window.decide(at(5), &forming(1, 1, 5), &ExecutionFit::default()), Decision::Go);
    }

    #[test]
    fn a_lone_client_never_waits() {
        let (mut window, fit) = (Window::new(WindowPolicy::Auto { cap: None }), fit());
        for turn in 0..200 {
            let now = turn * 1500;
            window.arrived(at(now), 1);
            assert_eq!(window.decide(at(now), &forming(1, 1, now), &fit), Decision::Go, "turn {turn}");
            window.finished(at(now + 1010), 1, Duration::from_micros(1010));
        }
    }

    #[test]
    fn a_fixed_window_holds_the_oldest() {
        let mut window = Window::new(WindowPolicy::Fixed(Duration::from_micros(300)));
        window.arrived(at(0), 1);
        assert_eq!(window.decide(at(100), &forming(1, 1, 0), &fit()), Decision::Until(at(300)));
        assert_eq!(window.decide(at(300), &forming(1, 1, 0), &fit()), Decision::Go);
        assert_eq!(window.last(), Duration::from_micros(300));
    }

    /// Plays `turns` turns of a closed loop: a batch of all ends, and the clients come back one every `gap` us.
    /// Returns what is decided at the first arrival of another turn, and when all are back.
    fn closed_loop(clients: usize, gap: u64, fit: &ExecutionFit) -> (Decision, Decision) {
        let mut window = Window::new(WindowPolicy::Auto { cap: None });
        let took = 1000 + 10 * clients as u64;
        let mut now = 0;
        let mut first = Decision::Go;
        let mut last = Decision::Go;
        for _ in 0..50 {
            let since = now + gap;
            for back in 1..=clients {
                now += gap;
                window.arrived(at(now), back);
                last = window.decide(at(now), &forming(back, back, since), fit);
                first = if back == 1 { last } else { first };
            }
            now += took;
            window.finished(at(now), clients, Duration::from_micros(took));
        }
        (first, last)
    }

    #[test]
    fn the_clients_of_a_closed_loop_are_waited_for_until_all_are_back() {
        let (first, last) = closed_loop(8, 20, &fit());
        assert!(matches!(first, Decision::Until(_)), "{first:?}");
        assert_eq!(last, Decision::Go);
    }

    #[test]
    fn nobody_is_waited_for_longer_than_an_execution_would_be_saved() {
        // Eight clients that take 4 ms to come back, when an execution of its own takes 1 ms.
        let (first, last) = closed_loop(8, 500, &fit());
        assert_eq!((first, last), (Decision::Go, Decision::Go));
    }

    #[test]
    fn nobody_is_waited_for_where_executions_cost_nothing_in_themselves() {
        let mut proportional = ExecutionFit::default();
        for cost in [1, 4, 2, 8].into_iter().cycle().take(16) {
            proportional.observe(cost, Duration::from_micros(500 * cost));
        }
        let (first, last) = closed_loop(8, 20, &proportional);
        assert_eq!((first, last), (Decision::Go, Decision::Go));
    }

    #[test]
    fn the_cap_bounds_the_wait_of_the_oldest() {
        let mut window = Window::new(WindowPolicy::Auto { cap: Some(Duration::from_micros(30)) });
        let mut now = 0;
        for _ in 0..50 {
            let since = now + 20;
            for back in 1..=8 {
                now += 20;
                window.arrived(at(now), back);
                let decision = window.decide(at(now), &forming(back, back, since), &fit());
                let is_over = now - since >= 30;
                assert!(!is_over || decision == Decision::Go, "{decision:?} after {} us", now - since);
                if let Decision::Until(until) = decision {
                    assert!(until <= at(since + 30), "{until:?}");
                }
            }
            now += 1080;
            window.finished(at(now), 8, Duration::from_micros(1080));
        }
    }

    #[test]
    fn a_wait_ends_when_nobody_comes() {
        let (mut window, fit) = (Window::new(WindowPolicy::Auto { cap: None }), fit());
        let mut now = 0;
        for _ in 0..50 {
            for back in 1..=8 {
                now += 20;
                window.arrived(at(now), back);
            }
            now += 1080;
            window.finished(at(now), 8, Duration::from_micros(1080));
        }
        // Three come back, and no more.
        let since = now + 20;
        for back in 1..=3 {
            now += 20;
            window.arrived(at(now), back);
        }
        let mut waits = 0;
        while let Decision::Until(until) = window.decide(at(now), &forming(3, 3, since), &fit) {
            assert!(until > at(now), "a wait of nothing at {now}");
            now = until.as_nanos().div_ceil(1000);
            waits += 1;
            assert!(waits < 50, "still waiting at {now}");
        }
        assert!(now - since <= 1000, "waited for {} us", now - since);
    }

    #[test]
    fn while_two_instances_are_idle_nobody_waits() {
        let (mut window, fit) = (Window::new(WindowPolicy::Auto { cap: None }), fit());
        for turn in 0..400 {
            window.arrived(at(turn * 50), 1 + turn as usize % 8);
            if turn % 8 == 7 {
                window.finished(at(turn * 50), 8, Duration::from_micros(300));
            }
            let forming = Forming { instances: 2, ..forming(1, 1, turn * 50) };
            assert_eq!(window.decide(at(turn * 50), &forming, &fit), Decision::Go);
        }
    }
}
