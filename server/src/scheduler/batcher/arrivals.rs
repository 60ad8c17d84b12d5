//! What arrivals are expected, learned from those that came behind earlier events. Pure.
//!
//! Arrivals come close behind events: behind an arrival (bursts), and behind the end of a batch, whose
//! clients send their next requests (closed loops). So the times from each kind of event to the next arrival
//! are kept, in buckets of a quarter octave with exponential forgetting; one that another event cuts short
//! counts as survived up to there. Behind the end of a batch all arrivals until the next end are counted,
//! each by the requests of that batch: the returns of a batch of many are many.
//!
//! - Behind an arrival, the first further one comes by the distribution of gaps, given the silence so far, and
//!   the rest by a renewal process with `M(y) ~ y F(y) / integral of (1 - F) from 0 to y`: exact for a Poisson
//!   process, and for bursts that end with probability `1 - F` after each request.
//! - Behind the end of a batch of `k`, `k` times the returns by then, given the silence so far.
//!
//! Clients that wait for answers cannot send. The number of requests in the system has a recent maximum, and
//! no more than are missing from it are expected; when all clients of a closed loop are back, nobody is.

use std::time::Duration;

use crate::clock::Timestamp;

/// The first bucket ends at this power of two of nanoseconds.
const FIRST_OCTAVE: u32 = 9;

/// Buckets of a quarter of an octave.
const PER_OCTAVE: usize = 4;

/// The last bucket but one ends at 2^33 ns, about 9 s.
pub(super) const BUCKETS: usize = 1 + PER_OCTAVE * 24;

/// Where the buckets of an octave end, as multiples of its start.
const QUARTERS: [f64; PER_OCTAVE] = [1.0, 1.189_207_115_002_721, std::f64::consts::SQRT_2, 1.681_792_830_507_429];

/// Weight of an observation after one more of its kind: about the last 200 gaps and 50 batches count.
const GAP_MEMORY: f64 = 0.995;
const BATCH_MEMORY: f64 = 0.98;

/// Fewer observations than this that lasted as long say nothing.
const MIN_SEEN: f64 = 2.0;

/// How fast the recent maximum of requests in the system comes down to what is seen now, by batch.
const PEAK_RATE: f64 = 0.05;

/// Learns when requests arrive.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    after_arrival: Gaps,
    after_finish: Gaps,
    /// Arrivals by the time since a batch ended, not only the first.
    returns: Gaps,
    last: Option<Last>,
    finish: Option<Finish>,
    peak: Peak,
    curves: Curves,
}

/// The last event.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Timestamp,
    is_finish: bool,
}

/// The last end of a batch.
#[derive(Clone, Copy, Debug)]
struct Finish {
    at: Timestamp,
    entries: f64,
}

/// What the gaps say, summed up at the end of each batch.
#[derive(Clone, Debug, Default)]
struct Curves {
    after_arrival: Silence,
    after_finish: Silence,
    returns: Returns,
}

/// What is expected from a moment on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    curves: &'a Curves,
    last: Last,
    /// Time since the last event, in nanoseconds.
    silence: f64,
    /// Requests of the batch that ended last.
    finished: f64,
    missing: f64,
}

impl Arrivals {
    /// A request has come; with it, so many wait or run.
    pub(super) fn arrived(&mut self, now: Timestamp, in_system: usize) {
        if let Some(last) = self.last {
            self.gaps(last).ended(now.since(last.at), 1.0);
        }
        if let Some(finish) = self.finish {
            self.returns.count(now.since(finish.at), 1.0);
        }
        self.last = Some(Last { at: now, is_finish: false });
        self.peak.seen(in_system);
    }

    /// A batch of so many requests has ended.
    pub(super) fn finished(&mut self, now: Timestamp, entries: usize) {
        if let Some(last) = self.last {
            self.gaps(last).cut(now.since(last.at), 1.0);
        }
        if let Some(finish) = self.finish {
            self.returns.cut(now.since(finish.at), finish.entries);
            self.returns.age(BATCH_MEMORY);
        }
        self.last = Some(Last { at: now, is_finish: true });
        self.finish = Some(Finish { at: now, entries: entries as f64 });
        self.peak.relax();
        self.curves.after_arrival.sum(&self.after_arrival);
        self.curves.after_finish.sum(&self.after_finish);
        self.curves.returns.sum(&self.returns);
    }

    /// What is expected from now on while so many requests wait or run; nothing is known before the first event.
    pub(super) fn expected(&self, now: Timestamp, in_system: usize) -> Option<Expected<'_>> {
        let last = self.last?;
        Some(Expected {
            curves: &self.curves,
            last,
            silence: nanos(now.since(last.at)),
            finished: self.finish.map_or(0.0, |finish| finish.entries),
            missing: self.peak.missing(in_system),
        })
    }

    fn gaps(&mut self, last: Last) -> &mut Gaps {
        let gaps = if last.is_finish { &mut self.after_finish } else { &mut self.after_arrival };
        gaps.age(GAP_MEMORY);
        gaps
    }
}

impl Expected<'_> {
    /// How many more may come at all.
    pub(super) fn missing(&self) -> f64 {
        self.missing
    }

    /// The probability that somebody comes within so many nanoseconds, and how many come on average.
    pub(super) fn within(&self, wait: f64) -> (f64, f64) {
        let first = if self.last.is_finish { &self.curves.after_finish } else { &self.curves.after_arrival };
        let (comes, after) = first.within(self.silence, wait);
        let count = if self.last.is_finish {
            let still = first.silent_until(self.silence);
            let returns = &self.curves.returns;
            let share = returns.until(self.silence + wait) - returns.until(self.silence);
            if still > 0.0 { (self.finished * share / still).max(comes) } else { 0.0 }
        } else {
            comes * (1.0 + self.curves.after_arrival.renewals(wait - after))
        };
        (comes, count.min(self.missing))
    }
}

/// Times from an event to the next arrival.
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
    fn ended(&mut self, gap: Duration, times: f64) {
        self.ended[bucket_of(nanos(gap))] += self.weight * times;
    }

    fn count(&mut self, gap: Duration, times: f64) {
        self.ended(gap, times);
    }

    fn cut(&mut self, gap: Duration, times: f64) {
        self.cut[bucket_of(nanos(gap))] += self.weight * times;
    }

    fn age(&mut self, memory: f64) {
        const LARGE: f64 = 1e100;
        self.weight /= memory;
        if self.weight > LARGE {
            for value in self.ended.iter_mut().chain(&mut self.cut) {
                *value /= self.weight;
            }
            self.weight = 1.0;
        }
    }
}

/// The distribution of the time to the next arrival: the product-limit estimate.
#[derive(Clone, Debug)]
struct Silence {
    /// Probability that nobody has come by the end of a bucket.
    silent: [f64; BUCKETS],
    /// Its integral from 0 to there.
    area: [f64; BUCKETS],
}

impl Default for Silence {
    fn default() -> Self {
        let mut silence = Self { silent: [1.0; BUCKETS], area: [0.0; BUCKETS] };
        silence.integrate();
        silence
    }
}

impl Silence {
    fn sum(&mut self, gaps: &Gaps) {
        let mut reached: f64 = gaps.ended.iter().chain(&gaps.cut).sum();
        let mut probability = 1.0;
        for ((silent, ended), cut) in self.silent.iter_mut().zip(&gaps.ended).zip(&gaps.cut) {
            // Those that were cut within the bucket were at risk for half of it.
            let at_risk = reached - 0.5 * cut;
            if at_risk > 0.0 && reached >= MIN_SEEN * gaps.weight {
                probability *= 1.0 - (ended / at_risk).min(1.0);
            }
            reached -= ended + cut;
            *silent = probability;
        }
        self.integrate();
    }

    fn integrate(&mut self) {
        let (mut area, mut from, mut low) = (0.0, 1.0, 0.0);
        for (bucket, (silent, sum)) in self.silent.iter().zip(&mut self.area).enumerate() {
            let end = edge(bucket);
            area += 0.5 * (from + silent) * (end - low);
            *sum = area;
            (from, low) = (*silent, end);
        }
    }

    /// Probability that nobody comes until `time` after the event.
    fn silent_until(&self, time: f64) -> f64 {
        let (bucket, low, share) = place(time);
        let from = if bucket == 0 { 1.0 } else { self.silent[bucket - 1] };
        debug_assert!(low <= time);
        from + (self.silent[bucket] - from) * share
    }

    fn area_until(&self, time: f64) -> f64 {
        let (bucket, low, _) = place(time);
        let (area, from) = if bucket == 0 { (0.0, 1.0) } else { (self.area[bucket - 1], self.silent[bucket - 1]) };
        area + 0.5 * (from + self.silent_until(time)) * (time - low)
    }

    /// Probability that an arrival comes within `wait` after a silence, and how long after on average.
    fn within(&self, silence: f64, wait: f64) -> (f64, f64) {
        let from = self.silent_until(silence);
        if from <= 0.0 {
            return (0.0, wait);
        }
        let until = self.silent_until(silence + wait) / from;
        let comes = 1.0 - until;
        if comes <= 0.0 {
            return (0.0, wait);
        }
        let silent = (self.area_until(silence + wait) - self.area_until(silence)) / from;
        (comes, ((silent - wait * until) / comes).clamp(0.0, wait))
    }

    /// Expected arrivals within `time` behind an arrival.
    fn renewals(&self, time: f64) -> f64 {
        let area = self.area_until(time);
        if area > 0.0 { time * (1.0 - self.silent_until(time)) / area } else { 0.0 }
    }
}

/// How many requests come behind the end of a batch, for each request of it.
#[derive(Clone, Debug)]
struct Returns {
    until: [f64; BUCKETS],
}

impl Default for Returns {
    fn default() -> Self {
        Self { until: [0.0; BUCKETS] }
    }
}

impl Returns {
    fn sum(&mut self, returns: &Gaps) {
        let mut reached: f64 = returns.cut.iter().sum();
        let mut share = 0.0;
        for ((until, ended), cut) in self.until.iter_mut().zip(&returns.ended).zip(&returns.cut) {
            let exposed = reached - 0.5 * cut;
            if exposed > 0.0 && reached >= MIN_SEEN * returns.weight {
                share += ended / exposed;
            }
            reached -= cut;
            *until = share;
        }
    }

    fn until(&self, time: f64) -> f64 {
        let (bucket, _, share) = place(time);
        let from = if bucket == 0 { 0.0 } else { self.until[bucket - 1] };
        from + (self.until[bucket] - from) * share
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
pub(super) fn edge(bucket: usize) -> f64 {
    let base = (1u64 << (FIRST_OCTAVE as usize + bucket / PER_OCTAVE)) as f64;
    base * QUARTERS[bucket % PER_OCTAVE]
}

/// The bucket of a time, where the bucket begins, and which share of it lies before the time.
fn place(time: f64) -> (usize, f64, f64) {
    let bucket = bucket_of(time);
    let low = if bucket == 0 { 0.0 } else { edge(bucket - 1) };
    (bucket, low, ((time - low) / (edge(bucket) - low)).clamp(0.0, 1.0))
}

/// The bucket that a time falls into; the last one takes all that is longer.
pub(super) fn bucket_of(nanos: f64) -> usize {
    let whole = nanos as u64;
    if whole < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = whole.ilog2();
    let ratio = nanos / (1u64 << octave) as f64;
    let quarter = QUARTERS.iter().filter(|start| ratio >= **start).count();
    (PER_OCTAVE * (octave - FIRST_OCTAVE) as usize + quarter).min(BUCKETS - 1)
}

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}
