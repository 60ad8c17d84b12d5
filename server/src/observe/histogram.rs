//! Histograms: counts by fixed upper bounds. Pure.

use std::borrow::Cow;
use std::time::Duration;

/// Bounds of latencies in nanoseconds: from 10 µs, below which nothing on the way of a request lies that one would
/// look for, to 10 s.
pub const LATENCY_BOUNDS: &[u64] = &[
    10_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Bounds of rows per batch.
pub const ROW_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Bounds of cost per batch, in the unit of the model.
pub const COST_BOUNDS: &[u64] = &[1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144];

/// Bounds of the share of a batch that was padding, in thousandths.
pub const SHARE_BOUNDS: &[u64] = &[0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900];

/// Default bounds of the time to the first response in nanoseconds: those of Triton, in whose unit they are
/// 100, 500, 2000 and 5000 ms.
pub const FIRST_RESPONSE_BOUNDS: &[u64] = &[100_000_000, 500_000_000, 2_000_000_000, 5_000_000_000];

/// Counts of values by upper bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds: Cow<'static, [u64]>,
    /// One per bound and one for what lies above all of them.
    counts: Box<[u64]>,
    sum: u64,
}

impl Histogram {
    /// An empty histogram; the bounds ascend.
    pub fn new(bounds: impl Into<Cow<'static, [u64]>>) -> Self {
        let bounds = bounds.into();
        let counts = vec![0; bounds.len() + 1].into();
        Self { bounds, counts, sum: 0 }
    }

    /// Counts a value; a bound includes itself.
    pub fn record(&mut self, value: u64) {
        let position = self.bounds.partition_point(|bound| *bound < value);
        self.counts[position] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Counts a duration in nanoseconds.
    pub fn record_duration(&mut self, value: Duration) {
        self.record(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The bounds, and how many values lie within each; without those above all bounds.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0;
        self.bounds.iter().zip(&self.counts).map(move |(bound, count)| {
            total += count;
            (*bound, total)
        })
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_include_themselves_and_nothing_is_lost() {
        let mut histogram = Histogram::new(&[10, 20][..]);
        for value in [0, 10, 11, 20, 21, u64::MAX] {
            histogram.record(value);
        }
        assert_eq!(histogram.cumulative().collect::<Vec<_>>(), [(10, 2), (20, 4)]);
        assert_eq!((histogram.count(), histogram.sum()), (6, u64::MAX));
    }

    #[test]
    fn all_bounds_ascend() {
        for bounds in [LATENCY_BOUNDS, ROW_BOUNDS, COST_BOUNDS, SHARE_BOUNDS, FIRST_RESPONSE_BOUNDS] {
            assert!(bounds.is_sorted_by(|one, next| one < next), "{bounds:?}");
        }
    }
}
