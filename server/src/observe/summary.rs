//! Quantiles over the last minute, for clients of Triton's summary families. Pure: time is an argument.
//!
//! Values fall into buckets whose width is at most a sixty-fourth of their lower end, so a quantile is off by no more
//! than 0.8 % of its value, and its rank is exact. The minute slides in steps of ten seconds.

use crate::clock::Timestamp;

/// How far back quantiles reach.
const SLOTS: usize = 6;

/// Nanoseconds of one step.
const SLOT_NANOS: u64 = 10_000_000_000;

/// Buckets per power of two, as a power of two.
const PRECISION: u32 = 6;

/// A stream of values: their number and sum since the beginning, and quantiles of the last minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    slots: [Slot; SLOTS],
    count: u64,
    sum: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slot {
    /// Which step since the origin of time it holds.
    step: u64,
    /// Counts by bucket, as far as there are any.
    counts: Vec<u32>,
}

impl Summary {
    /// Counts a value.
    pub fn record(&mut self, now: Timestamp, value: u64) {
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        let step = now.as_nanos() / SLOT_NANOS;
        let slot = &mut self.slots[usize::try_from(step % 6).unwrap_or(0)];
        if slot.step != step {
            slot.step = step;
            slot.counts.clear();
        }
        let bucket = bucket(value);
        if slot.counts.len() <= bucket {
            slot.counts.resize(bucket + 1, 0);
        }
        slot.counts[bucket] = slot.counts[bucket].saturating_add(1);
    }

    /// The values at these quantiles (each in 0 to 1, ascending) among those of the last minute; `None` without any.
    pub fn quantiles(&self, now: Timestamp, quantiles: &[f64]) -> Option<Vec<f64>> {
        let step = now.as_nanos() / SLOT_NANOS;
        let recent = self.slots.iter().filter(|slot| slot.step + 6 > step);
        let mut merged: Vec<u64> = Vec::new();
        for slot in recent {
            if merged.len() < slot.counts.len() {
                merged.resize(slot.counts.len(), 0);
            }
            merged.iter_mut().zip(&slot.counts).for_each(|(sum, count)| *sum += u64::from(*count));
        }
        let total: u64 = merged.iter().sum();
        (total > 0).then(|| quantiles.iter().map(|quantile| value_at(&merged, rank(*quantile, total))).collect())
    }

    /// Number of values since the beginning.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of all values since the beginning.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

/// The number, from 1, of the value at a quantile among `total` ordered ones.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn rank(quantile: f64, total: u64) -> u64 {
    ((quantile * total as f64).ceil() as u64).clamp(1, total)
}

fn value_at(counts: &[u64], rank: u64) -> f64 {
    let mut seen = 0;
    let found = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    middle(found.unwrap_or(0))
}

/// The bucket of a value: each power of two from 64 on is divided into 64 equal parts; below, each value has its own.
fn bucket(value: u64) -> usize {
    let exponent = u64::BITS - value.max(1).leading_zeros();
    let shift = exponent.saturating_sub(PRECISION + 1);
    let within = value >> shift;
    usize::try_from(u64::from(shift) * (1 << PRECISION) + within).unwrap_or(usize::MAX)
}

/// The middle of a bucket.
#[allow(clippy::cast_precision_loss)]
fn middle(bucket: usize) -> f64 {
    let shift = (bucket >> PRECISION).saturating_sub(1);
    let within = bucket - (shift << PRECISION);
    let width = (1u64 << shift.min(63)) as f64;
    let low = within as f64 * width;
    if shift == 0 { low } else { low + width / 2.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let mut summary = Summary::default();
        assert_eq!(summary.quantiles(at(0), &[0.5]), None);
        summary.record(at(5), 1000);
        assert!(summary.quantiles(at(59), &[0.5]).is_some());
        assert_eq!(summary.quantiles(at(65), &[0.5]), None);
        summary.record(at(66), 50);
        assert_eq!(summary.quantiles(at(66), &[0.0, 1.0]), Some(vec![50.0, 50.0]), "the slot was emptied");
        assert_eq!((summary.count(), summary.sum()), (2, 1050), "number and sum are of all time");
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_less_than_a_percent(mut values in prop::collection::vec(0u64..10_000_000, 1..300), quantile in 0.0f64..=1.0) {
            let mut summary = Summary::default();
            for (index, value) in values.iter().enumerate() {
                summary.record(at(u64::try_from(index).unwrap() % 50), *value);
            }
            values.sort_unstable();
            let total = u64::try_from(values.len()).unwrap();
            let exact = values[usize::try_from(rank(quantile, total)).unwrap() - 1];
            let got = summary.quantiles(at(50), &[quantile]).unwrap()[0];
            #[allow(clippy::cast_precision_loss)]
            let exact = exact as f64;
            prop_assert!((got - exact).abs() <= exact * 0.008 + 1e-9, "{got} for {exact}");
        }

        #[test]
        fn buckets_ascend_with_their_values(value in 0u64..u64::MAX) {
            prop_assert!(bucket(value) <= bucket(value + 1));
        }
    }
}
