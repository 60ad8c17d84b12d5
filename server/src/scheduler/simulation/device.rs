//! The virtual device: how long an execution takes, and whether it fails.

use std::time::Duration;

use super::random::Random;

/// The cost curve of a virtual device: an execution takes `fixed + per_row * rows + per_cost * cost`, more or
/// less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostCurve {
    /// What every execution takes, however small.
    pub fixed: Duration,
    /// What each row adds.
    pub per_row: Duration,
    /// What each unit of cost adds.
    pub per_cost: Duration,
    /// Half width of the uniform factor around 1 by which executions differ (0.0 to 1.0).
    pub jitter: f64,
    /// Share of the executions that fail; a failed one takes as long as another.
    pub fail_rate: f64,
    /// Share of the executions that are slow.
    pub slow_rate: f64,
    /// How many times longer a slow one takes.
    pub slow_factor: f64,
    /// What the very first execution takes besides.
    pub cold_start: Duration,
}

/// One execution on the virtual device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How long it takes.
    pub took: Duration,
    /// Whether it ends in an error.
    pub failed: bool,
}

impl CostCurve {
    /// A device without chance: `fixed + per_row * rows`.
    pub const fn linear(fixed: Duration, per_row: Duration) -> Self {
        Self {
            fixed,
            per_row,
            per_cost: Duration::ZERO,
            jitter: 0.0,
            fail_rate: 0.0,
            slow_rate: 0.0,
            slow_factor: 1.0,
            cold_start: Duration::ZERO,
        }
    }

    /// The same device with executions that differ by up to `jitter` of their time.
    pub const fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// How long an execution takes where nothing disturbs it.
    pub fn expected(&self, rows: usize, cost: u64) -> Duration {
        Duration::from_nanos(self.nanos(rows, cost) as u64)
    }

    /// Requests of `rows` rows and `cost` cost each that `instances` can do in a second in batches of `batch`.
    pub fn capacity(&self, instances: usize, batch: usize, rows: usize, cost: u64) -> f64 {
        let took = self.nanos(batch * rows, batch as u64 * cost) / 1e9;
        (instances * batch) as f64 / took.max(f64::MIN_POSITIVE)
    }

    /// Draws one execution.
    pub fn draw(&self, random: &mut Random, rows: usize, cost: u64) -> Run {
        let mut nanos = self.nanos(rows, cost);
        if self.jitter > 0.0 {
            nanos *= 1.0 + self.jitter * random.unit().mul_add(2.0, -1.0);
        }
        if random.chance(self.slow_rate) {
            nanos *= self.slow_factor;
        }
        // Time passes with every execution: without that a fault could repeat for ever in one instant.
        Run { took: Duration::from_nanos((nanos as u64).max(1)), failed: random.chance(self.fail_rate) }
    }

    fn nanos(&self, rows: usize, cost: u64) -> f64 {
        let (per_row, per_cost) = (self.per_row.as_nanos() as f64, self.per_cost.as_nanos() as f64);
        per_row.mul_add(rows as f64, per_cost.mul_add(cost as f64, self.fixed.as_nanos() as f64))
    }
}
