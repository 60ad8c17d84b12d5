//! The self-tuned batching window: whether an idle instance should wait for more requests. Pure.
//!
//! # The rule
//! Let an execution of cost `c` take `t(c) = a + b c` ([`ExecutionFit`]), let `n` requests of cost `c` wait
//! at an idle instance, and let `m` more be expected within `x`. If the batch starts now, the `n` finish
//! after `t(c)` and the `m` after a second execution; if it waits, all finish after `x` and one execution
//! of all. The sum of latencies is smaller with waiting if
//!
//! ```text
//! m (a - b c)  >  (n + m) x
//! ```
//!
//! and the device is free earlier by `a - x` if anyone comes at all, which those gain who queue behind:
//! `K`, the arrivals during one execution times the share of time the device is busy. So the window waits
//! for the `x` that maximizes
//!
//! ```text
//! m(x) (a - b c) + K (p(x) a - x) - (n + m(x)) x
//! ```
//!
//! where `p(x)` is the probability that somebody comes, if that is more than nothing. Waiting longer than
//! `a` never pays: two executions would have been over sooner. The decision is taken anew at each arrival
//! and at its end, when the silence itself has told something.
//!
//! # What is expected
//! Arrivals come close behind events: behind an arrival (bursts), and behind the end of a batch, whose
//! clients send their next requests (closed loops). So two distributions of the time from an event to the
//! next arrival are kept, one for each kind of event, in buckets of half an octave with exponential
//! forgetting; times that end otherwise (a batch ended first) count as survived up to there. `p(x)` is the
//! conditional probability of an arrival given the silence since the last event, and `m(x)` that of the
//! first arrival and of a renewal process of further ones,
//! `M(y) ~ y F(y) / integral of (1 - F) from 0 to y`: exact for a Poisson process, and for bursts that end
//! with probability `1 - F` after each request.
//!
//! There is one more bound: clients that wait for answers cannot send. The number of requests in the system
//! has a recent maximum, and as many as are missing from it may still come; when all clients of a closed
//! loop are back, nothing is waited for.

use std::time::Duration;

use crate::clock::Timestamp;

use super::fit::ExecutionFit;

/// The first bucket ends at this power of two of nanoseconds.
const FIRST_OCTAVE: u32 = 9;

/// Buckets of half an octave: the last but one ends at 2^33 ns, about 9 s.
const BUCKETS: usize = 48;

/// Weight of an observed gap after one more of its kind: about the last 100 count.
const GAP_MEMORY: f64 = 0.99;

/// Weight of a batch's share in the rates after one more.
const RATE_MEMORY: f64 = 0.95;

/// How fast the recent maximum of requests in the system comes down to what is seen now, by batch.
const PEAK_RATE: f64 = 0.05;

/// Fewer gaps than this say nothing.
const MIN_GAPS: f64 = 4.0;

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
    /// Instances of the model.
    pub instances: usize,
    /// Since when an instance is idle and somebody waits for it: the later of both.
    pub idle_since: Timestamp,
}

/// The window of one model: learns from arrivals and ends of batches when waiting pays.
#[derive(Clone, Debug)]
pub struct Window {
    rule: Rule,
    after_arrival: Gaps,
    after_finish: Gaps,
    last_event: Option<(Event, Timestamp)>,
    rates: Rates,
    peak: Peak,
    last: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Tuned, but the oldest waits no longer than this.
    Tuned(Option<Duration>),
    /// The oldest waits this long, whatever is expected.
    Fixed(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Arrival,
    Finish,
}

impl Window {
    /// A window that tunes itself; the oldest request never waits longer than `cap` for others.
    pub fn new(cap: Option<Duration>) -> Self {
        Self::with_rule(Rule::Tuned(cap))
    }

    /// A window of constant length: the oldest request waits this long.
    pub fn fixed(delay: Duration) -> Self {
        Self::with_rule(Rule::Fixed(delay))
    }

    fn with_rule(rule: Rule) -> Self {
        Self {
            rule,
            after_arrival: Gaps::default(),
            after_finish: Gaps::default(),
            last_event: None,
            rates: Rates::default(),
            peak: Peak::default(),
            last: Duration::ZERO,
        }
    }

    /// A request has been queued. `in_system` requests wait or run now, it included.
    pub fn arrived(&mut self, now: Timestamp, in_system: usize) {
        if let Some((event, at)) = self.last_event {
            self.gaps(event).ended(now.since(at));
        }
        self.last_event = Some((Event::Arrival, now));
        self.rates.arrivals += 1.0;
        self.peak.seen(in_system);
    }

    /// A batch has ended that ran for `took`.
    pub fn finished(&mut self, now: Timestamp, took: Duration) {
        if let Some((event, at)) = self.last_event {
            self.gaps(event).cut(now.since(at));
        }
        self.last_event = Some((Event::Finish, now));
        self.rates.finished(now, took);
        self.peak.relax();
    }

    /// Whether the batch that could be formed now should start, on an idle instance.
    pub fn decide(&mut self, now: Timestamp, forming: &Forming, fit: &ExecutionFit) -> Decision {
        let waited = now.since(forming.oldest);
        let left = match self.rule {
            Rule::Fixed(delay) => delay.saturating_sub(waited),
            Rule::Tuned(cap) => {
                let left = cap.map_or(Duration::MAX, |cap| cap.saturating_sub(waited));
                let most = fit.fixed().saturating_sub(now.since(forming.idle_since));
                self.worth(now, forming, fit, left.min(most))
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

    fn gaps(&mut self, event: Event) -> &mut Gaps {
        match event {
            Event::Arrival => &mut self.after_arrival,
            Event::Finish => &mut self.after_finish,
        }
    }

    /// How long to wait from now, at most `limit`: zero where waiting does not pay.
    fn worth(&self, now: Timestamp, forming: &Forming, fit: &ExecutionFit, limit: Duration) -> Duration {
        let Some((event, at)) = self.last_event else {
            return Duration::ZERO;
        };
        let entries = forming.entries as f64;
        let mean_rows = forming.rows as f64 / entries.max(1.0);
        let room = if mean_rows > 0.0 { forming.rows_left as f64 / mean_rows } else { f64::MAX };
        let missing = self.peak.missing(forming.in_system).min(room);
        let fixed = fit.fixed().as_nanos() as f64;
        let saved = fixed - fit.per_cost_ns() * forming.cost as f64;
        let took = fixed + fit.per_cost_ns() * forming.cost as f64;
        let behind = self.rates.behind(took);
        if missing < 0.5 || limit.is_zero() || missing * saved + behind * fixed <= 0.0 {
            return Duration::ZERO;
        }
        let gaps = match event {
            Event::Arrival => &self.after_arrival,
            Event::Finish => &self.after_finish,
        };
        let limit = limit.as_nanos() as f64;
        let further = Curve::of(&self.after_arrival);
        let first = Curve::of(gaps).given_silence(now.since(at).as_nanos() as f64);
        let mut best = (0.0, 0.0);
        for bucket in 0..BUCKETS {
            let wait = edge(bucket).min(limit);
            let (comes, after) = first.within(wait);
            let more = (comes * (1.0 + further.renewals(wait - after))).min(missing);
            let gain = more * saved + behind * (comes * fixed - wait) - (entries + more) * wait;
            if gain > best.0 {
                best = (gain, wait);
            }
            if wait >= limit {
                break;
            }
        }
        // Rounded up, so that a wait that pays is never one of nothing.
        Duration::from_nanos(best.1.ceil() as u64)
    }
}

/// The distribution of the time from an event to the next arrival.
#[derive(Clone, Debug)]
struct Gaps {
    /// Weight of those that ended in a bucket with an arrival, and of those cut short there.
    ended: [f64; BUCKETS],
    cut: [f64; BUCKETS],
    /// What the next observation weighs: it grows, which is the same as all others shrinking.
    weight: f64,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { ended: [0.0; BUCKETS], cut: [0.0; BUCKETS], weight: 1.0 }
    }
}

impl Gaps {
    fn ended(&mut self, gap: Duration) {
        self.ended[bucket_of(gap)] += self.weight;
        self.grow();
    }

    fn cut(&mut self, gap: Duration) {
        self.cut[bucket_of(gap)] += self.weight;
        self.grow();
    }

    fn grow(&mut self) {
        const LARGE: f64 = 1e100;
        self.weight /= GAP_MEMORY;
        if self.weight > LARGE {
            for value in self.ended.iter_mut().chain(&mut self.cut) {
                *value /= self.weight;
            }
            self.weight = 1.0;
        }
    }
}

/// A distribution of gaps, summed up at the buckets' ends.
struct Curve {
    /// Probability that no arrival has come by the end of the bucket.
    silent: [f64; BUCKETS],
    /// Where it begins: the silence so far.
    start: f64,
}

impl Curve {
    /// The product-limit estimate: in each bucket, the share of those that reached it which ended there.
    fn of(gaps: &Gaps) -> Self {
        let mut reached: f64 = gaps.ended.iter().chain(&gaps.cut).sum();
        let mut silent = [1.0; BUCKETS];
        let mut probability = 1.0;
        let min = MIN_GAPS * gaps.weight;
        for ((silent, ended), cut) in silent.iter_mut().zip(&gaps.ended).zip(&gaps.cut) {
            // Those that were cut within the bucket were at risk for half of it.
            let at_risk = reached - 0.5 * cut;
            if at_risk > 0.0 && reached >= min {
                probability *= 1.0 - (ended / at_risk).min(1.0);
            }
            reached -= ended + cut;
            *silent = probability;
        }
        Self { silent, start: 0.0 }
    }

    fn given_silence(self, silence: f64) -> Self {
        Self { start: silence, ..self }
    }

    /// Probability of silence until `time` after the event.
    fn silent_until(&self, time: f64) -> f64 {
        let bucket = bucket_at(time);
        let (low, from) = if bucket == 0 { (0.0, 1.0) } else { (edge(bucket - 1), self.silent[bucket - 1]) };
        let share = ((time - low) / (edge(bucket) - low)).clamp(0.0, 1.0);
        from + (self.silent[bucket] - from) * share
    }

    /// Probability that an arrival comes within `wait` from the start, and when it then comes, on average.
    fn within(&self, wait: f64) -> (f64, f64) {
        let from = self.silent_until(self.start);
        if from <= 0.0 {
            return (0.0, wait);
        }
        let until = self.silent_until(self.start + wait) / from;
        let comes = 1.0 - until;
        if comes <= 0.0 {
            return (0.0, wait);
        }
        let silent = self.silence(self.start, self.start + wait) / from;
        (comes, ((silent - wait * until) / comes).clamp(0.0, wait))
    }

    /// The integral of the probability of silence between two times.
    fn silence(&self, from: f64, to: f64) -> f64 {
        let mut sum = 0.0;
        let mut time = from;
        for bucket in bucket_at(from)..BUCKETS {
            let end = edge(bucket).min(to);
            sum += 0.5 * (self.silent_until(time) + self.silent_until(end)) * (end - time).max(0.0);
            time = end;
            if end >= to {
                break;
            }
        }
        sum + (to - time).max(0.0) * self.silent[BUCKETS - 1]
    }

    /// Expected arrivals within `time` behind an arrival.
    fn renewals(&self, time: f64) -> f64 {
        let silent = self.silence(0.0, time);
        if silent > 0.0 { time * (1.0 - self.silent_until(time)) / silent } else { 0.0 }
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

    /// Requests that queue behind an execution of so many nanoseconds and gain if the device is free earlier.
    fn behind(&self, took: f64) -> f64 {
        if self.span <= 0.0 {
            return 0.0;
        }
        (self.busy / self.span).min(1.0) * self.arrivals / self.span * took
    }
}

/// The recent maximum of requests in the system.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    level: f64,
    since_finish: f64,
}

impl Peak {
    fn seen(&mut self, in_system: usize) {
        self.since_finish = self.since_finish.max(in_system as f64);
        self.level = self.level.max(self.since_finish);
    }

    fn relax(&mut self) {
        self.level -= PEAK_RATE * (self.level - self.since_finish).max(0.0);
        self.since_finish = 0.0;
    }

    /// How many more may come.
    fn missing(&self, in_system: usize) -> f64 {
        (self.level - in_system as f64).max(0.0)
    }
}

/// Where a bucket ends, in nanoseconds.
fn edge(bucket: usize) -> f64 {
    let octave = FIRST_OCTAVE + bucket as u32 / 2;
    let base = (1u64 << octave) as f64;
    if bucket.is_multiple_of(2) { base } else { base * std::f64::consts::SQRT_2 }
}

fn bucket_of(gap: Duration) -> usize {
    bucket_at(gap.as_nanos() as f64)
}

/// The bucket that a time falls into; the last one takes all that is longer.
fn bucket_at(nanos: f64) -> usize {
    let whole = nanos as u64;
    if whole < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = whole.ilog2();
    let half = usize::from(nanos >= (1u64 << octave) as f64 * std::f64::consts::SQRT_2);
    (2 * (octave - FIRST_OCTAVE) as usize + 1 + half).min(BUCKETS - 1)
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
        let mut window = Window::new(None);
        window.arrived(at(5), 1);
        assert_eq!(window.decide(at(5), &forming(1, 1, 5), &ExecutionFit::default()), Decision::Go);
    }

    #[test]
    fn a_lone_client_never_waits() {
        let (mut window, fit) = (Window::new(None), fit());
        for turn in 0..200 {
            let now = turn * 1500;
            window.arrived(at(now), 1);
            assert_eq!(window.decide(at(now), &forming(1, 1, now), &fit), Decision::Go, "turn {turn}");
            window.finished(at(now + 1010), Duration::from_micros(1010));
        }
    }

    #[test]
    fn a_fixed_window_holds_the_oldest() {
        let mut window = Window::fixed(Duration::from_micros(300));
        window.arrived(at(0), 1);
        assert_eq!(window.decide(at(100), &forming(1, 1, 0), &fit()), Decision::Until(at(300)));
        assert_eq!(window.decide(at(300), &forming(1, 1, 0), &fit()), Decision::Go);
        assert_eq!(window.last(), Duration::from_micros(300));
    }
}
