//! How loaded a model is, as one number to scale by. Pure: time is an argument.
//!
//! ```text
//! saturation = busy x fill x demand, from 0 to 10
//!   busy   = time in which instances ran batches / time they had
//!   fill   = time per row in full batches / time per row now, 1 for a model that does not batch
//!   demand = (answered + refused + growth of the queue) / answered
//! ```
//! A batcher that never waits keeps its instance busy under any load, with small batches; `fill` takes that out: it is
//! the share of the instance's time that the same rows would take in full batches, by a line through the times of the
//! batches of the last seconds. Above capacity `busy` and `fill` stay at 1, and `demand` says by how much. So 1 means
//! "just enough", and the number of replicas that holds it at 0.8 is `replicas x saturation / 0.8`.
//!
//! All sums fade with [`MEMORY`], so that a moment makes no replica and an old hour hides none.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;

use super::counts::{BatchTally, Counts, FailureReason};

/// The time in which a sum fades to a third.
pub const MEMORY: Duration = Duration::from_secs(5);

/// The most that is shown: far above what anyone scales by in one step.
pub const MAX_SATURATION: f64 = 10.0;

/// What a model did up to a moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The moment.
    pub at: Timestamp,
    /// Its instances.
    pub instances: usize,
    /// Time in which they ran batches, added up.
    pub busy: Duration,
    /// Requests that wait.
    pub pending: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests that there was no room or no time for.
    pub refused: u64,
    /// Executions of batches to which nothing could have been added.
    pub full_batches: u64,
    /// By rows: executions, and their nanoseconds.
    pub batches: BTreeMap<usize, (u64, u64)>,
}

impl Reading {
    /// A reading of these counts; the caller adds the rest.
    pub fn of(counts: &Counts) -> Self {
        let nanos = |tally: &BatchTally| {
            let parts = [tally.compute_input, tally.compute_infer, tally.compute_output];
            parts.iter().map(|part| part.nanos).fold(0, u64::saturating_add)
        };
        Self {
            answered: counts.success.count,
            refused: counts.failures[FailureReason::Rejected as usize],
            full_batches: counts.full_batches,
            batches: counts.batches.iter().map(|(rows, tally)| (*rows, (tally.compute_infer.count, nanos(tally)))).collect(),
            ..Self::default()
        }
    }
}

/// How loaded a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Share of the instances' time in which they ran batches, since the reading before the last.
    pub busy: f64,
    /// See the head of this file.
    pub saturation: f64,
}

/// Turns readings into a load.
#[derive(Debug)]
pub struct Meter {
    max_rows: Option<usize>,
    last: Option<Reading>,
    sums: Sums,
    load: Load,
}

/// Fading sums.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Seconds that the instances had, and in which they ran.
    capacity: f64,
    busy: f64,
    /// Requests.
    answered: f64,
    refused: f64,
    growth: f64,
    /// Executions, those of full batches, and for the line through their times: rows, seconds, products.
    executions: f64,
    full: f64,
    rows: f64,
    seconds: f64,
    rows_squared: f64,
    rows_seconds: f64,
}

impl Sums {
    fn fade(&mut self, keep: f64) {
        for sum in [
            &mut self.capacity,
            &mut self.busy,
            &mut self.answered,
            &mut self.refused,
            &mut self.growth,
            &mut self.executions,
            &mut self.full,
            &mut self.rows,
            &mut self.seconds,
            &mut self.rows_squared,
            &mut self.rows_seconds,
        ] {
            *sum *= keep;
        }
    }

    fn add(&mut self, last: &Reading, next: &Reading, capacity: f64) {
        self.capacity += capacity;
        self.busy += next.busy.saturating_sub(last.busy).as_secs_f64();
        self.answered += difference(last.answered, next.answered);
        self.refused += difference(last.refused, next.refused);
        self.growth += difference(last.pending, next.pending);
        self.full += difference(last.full_batches, next.full_batches);
        for (size, (count, nanos)) in &next.batches {
            let (count_before, nanos_before) = last.batches.get(size).copied().unwrap_or_default();
            let executions = difference(count_before, *count);
            let (rows, seconds) = (number(*size), difference(nanos_before, *nanos) / 1e9);
            self.executions += executions;
            self.rows += executions * rows;
            self.seconds += seconds;
            self.rows_squared += executions * rows * rows;
            self.rows_seconds += rows * seconds;
        }
    }

    /// Time per row in batches of `max_rows`, over that of the batches that there were; at most 1.
    fn fill(&self, max_rows: usize) -> f64 {
        if self.rows <= 0.0 || self.seconds <= 0.0 {
            return 1.0;
        }
        let per_row = self.seconds / self.rows;
        // Least squares of seconds = fixed + slope x rows. Batches of one size only give no line: then nothing says that
        // larger ones would be cheaper.
        let spread = self.executions * self.rows_squared - self.rows * self.rows;
        if spread <= self.rows * self.rows * 1e-6 {
            return 1.0;
        }
        let slope = (self.executions * self.rows_seconds - self.rows * self.seconds) / spread;
        let fixed = (self.seconds - slope * self.rows) / self.executions;
        let in_full = match (fixed > 0.0, slope > 0.0) {
            (true, true) => fixed / number(max_rows) + slope,
            (true, false) => self.seconds / self.executions / number(max_rows),
            (false, _) => per_row,
        };
        // What is left out of full batches cannot join them: their limit may be another than rows.
        let full_share = (self.full / self.executions).clamp(0.0, 1.0);
        let fill = (in_full / per_row).min(1.0);
        full_share + (1.0 - full_share) * fill
    }
}

impl Meter {
    /// A meter for a model whose batches have at most `max_rows` rows (`None`: it does not batch).
    pub fn new(max_rows: Option<usize>) -> Self {
        Self { max_rows, last: None, sums: Sums::default(), load: Load::default() }
    }

    /// Takes a reading.
    pub fn read(&mut self, reading: Reading) {
        if let Some(last) = &self.last {
            let passed = reading.at.since(last.at);
            if passed.is_zero() {
                return;
            }
            let capacity = passed.as_secs_f64() * number(reading.instances);
            self.sums.fade((-passed.as_secs_f64() / MEMORY.as_secs_f64()).exp());
            self.sums.add(last, &reading, capacity);
            let busy = reading.busy.saturating_sub(last.busy).as_secs_f64();
            self.load = Load { busy: (busy / capacity).clamp(0.0, 1.0), saturation: self.saturation() };
        }
        self.last = Some(reading);
    }

    /// The load at the last reading.
    pub fn load(&self) -> Load {
        self.load
    }

    fn saturation(&self) -> f64 {
        let sums = &self.sums;
        let busy = (sums.busy / sums.capacity).clamp(0.0, 1.0);
        let fill = self.max_rows.map_or(1.0, |max_rows| sums.fill(max_rows));
        let demand = (sums.answered + sums.refused + sums.growth) / sums.answered.max(1.0);
        (busy * fill * demand.max(1.0)).min(MAX_SATURATION)
    }
}

/// How much a counter, or a gauge, went up.
fn difference(before: u64, after: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let difference = after.saturating_sub(before) as f64;
    difference
}

#[allow(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ComputeTiming;

    /// A model that is read every second. A batch of n rows takes 10 ms and 1 ms per row.
    struct Model {
        meter: Meter,
        counts: Counts,
        reading: Reading,
    }

    impl Model {
        fn new(max_rows: Option<usize>) -> Self {
            let reading = Reading { instances: 1, ..Reading::default() };
            let mut meter = Meter::new(max_rows);
            meter.read(reading.clone());
            Self { meter, counts: Counts::default(), reading }
        }

        /// A second with these batches, so many refusals and then so many waiting.
        fn second(&mut self, batches: &[(usize, u64)], refused: u64, pending: u64) {
            let counts = &mut self.counts;
            for (rows, executions) in batches {
                let infer = Duration::from_millis(10 + u64::try_from(*rows).unwrap());
                for _ in 0..*executions {
                    counts.add_execution(1, *rows, ComputeTiming { infer, ..ComputeTiming::default() });
                    counts.success.count += u64::try_from(*rows).unwrap();
                    self.reading.busy += infer;
                }
            }
            counts.failures[FailureReason::Rejected as usize] += refused;
            let (at, busy) = (self.reading.at.plus(Duration::from_secs(1)), self.reading.busy);
            self.reading = Reading { at, instances: 1, busy, pending, ..Reading::of(&self.counts) };
            self.meter.read(self.reading.clone());
        }

        fn saturation(&mut self, batches: &[(usize, u64)], refused: u64) -> f64 {
            (0..20).for_each(|_| self.second(batches, refused, 0));
            self.meter.load().saturation
        }
    }

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 0.02, "{got}, expected {expected}");
    }

    #[test]
    fn a_model_that_does_not_batch_is_as_loaded_as_it_is_busy() {
        close(Model::new(None).saturation(&[], 0), 0.0);
        // Fifty requests of 11 ms.
        close(Model::new(None).saturation(&[(1, 50)], 0), 0.55);
        close(Model::new(None).saturation(&[(1, 90)], 0), 0.99);
    }

    #[test]
    fn small_batches_on_a_busy_instance_are_no_load() {
        // 83 batches of one or two rows keep it busy; in batches of 40, which take 50 ms, the 125 rows would need 156 ms.
        close(Model::new(Some(40)).saturation(&[(1, 43), (2, 41)], 0), 0.156);
        // Full batches: 20 of 40 rows.
        close(Model::new(Some(40)).saturation(&[(39, 10), (40, 10)], 0), 1.0);
        // One size alone says nothing of others.
        close(Model::new(Some(40)).saturation(&[(1, 45)], 0), 0.495);
    }

    #[test]
    fn beyond_capacity_the_refused_say_how_far() {
        close(Model::new(None).saturation(&[(1, 90)], 90), 1.98);
        close(Model::new(None).saturation(&[(1, 90)], 9000), MAX_SATURATION);
    }

    #[test]
    fn a_queue_that_grows_is_demand_and_a_moment_passes() {
        let mut model = Model::new(None);
        for second in 1..=20 {
            model.second(&[(1, 90)], 0, second * 45);
        }
        close(model.meter.load().saturation, 1.485);
        (0..40).for_each(|_| model.second(&[], 0, 0));
        close(model.meter.load().saturation, 0.0);
        close(model.meter.load().busy, 0.0);
    }
}
