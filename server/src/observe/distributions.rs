//! How the requests and batches of a model version are distributed: what the `alcedo_` families show. Pure.

use std::time::Duration;

use crate::batch::Trigger;
use crate::request::ComputeTiming;

use super::counts::RequestTiming;
use super::histogram::{COST_BOUNDS, Histogram, LATENCY_BOUNDS, ROW_BOUNDS, SHARE_BOUNDS};

/// One executed batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecutedBatch {
    /// Rows that were computed.
    pub rows: usize,
    /// Times of its parts.
    pub timing: ComputeTiming,
    /// How it came about; `None` for a request of an ensemble, which counts as an execution but is no batch.
    pub formed: Option<Formed>,
}

/// How an executed batch came about, and what was in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formed {
    /// Why it was formed when it was.
    pub trigger: Trigger,
    /// Its work, in the model's unit.
    pub cost: u64,
    /// From its formation to the start of its execution.
    pub assembly: Duration,
    /// Rows that belong to no request: they are rows of the execution, and no inferences.
    pub empty_rows: usize,
    /// Elements that the model computed without need, to make rows equally long; 0 for a model that does not pad.
    pub padding: u64,
    /// Elements that were asked for, in the same unit; 0 where the model does not say.
    pub real: u64,
}

/// The distributions of one model version. Latencies are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distributions {
    /// From receipt to answer, per answered request.
    pub request: Histogram,
    /// From queue entry to the start of the execution, per answered request.
    pub queue: Histogram,
    /// From formation to the start of the execution, per batch.
    pub assembly: Histogram,
    /// Input gathering, per batch.
    pub compute_input: Histogram,
    /// Model execution, per batch.
    pub compute_infer: Histogram,
    /// Output splitting, per batch.
    pub compute_output: Histogram,
    /// Rows, per batch.
    pub rows: Histogram,
    /// Cost, per batch.
    pub cost: Histogram,
    /// Share of padding in thousandths, per batch.
    pub padding_share: Histogram,
    /// Padding of all batches.
    pub padding: u64,
    /// Elements of all batches that were no padding.
    pub real: u64,
    /// Batches by trigger, in the order of [`Trigger::ALL`].
    pub triggers: [u64; Trigger::ALL.len()],
}

impl Default for Distributions {
    fn default() -> Self {
        let latency = || Histogram::new(LATENCY_BOUNDS);
        Self {
            request: latency(),
            queue: latency(),
            assembly: latency(),
            compute_input: latency(),
            compute_infer: latency(),
            compute_output: latency(),
            rows: Histogram::new(ROW_BOUNDS),
            cost: Histogram::new(COST_BOUNDS),
            padding_share: Histogram::new(SHARE_BOUNDS),
            padding: 0,
            real: 0,
            triggers: [0; Trigger::ALL.len()],
        }
    }
}

impl Distributions {
    /// Counts a batch.
    pub fn add_batch(&mut self, batch: &ExecutedBatch) {
        self.compute_input.record_duration(batch.timing.input);
        self.compute_infer.record_duration(batch.timing.infer);
        self.compute_output.record_duration(batch.timing.output);
        self.rows.record(u64::try_from(batch.rows.max(1)).unwrap_or(u64::MAX));
        let Some(formed) = &batch.formed else { return };
        self.assembly.record_duration(formed.assembly);
        self.cost.record(formed.cost);
        self.padding = self.padding.saturating_add(formed.padding);
        self.real = self.real.saturating_add(formed.real);
        let all = formed.padding.saturating_add(formed.real);
        self.padding_share.record(formed.padding.saturating_mul(1000).checked_div(all).unwrap_or(0));
        self.triggers[formed.trigger as usize] += 1;
    }

    /// Counts an answered request.
    pub fn add_request(&mut self, request: RequestTiming) {
        self.request.record_duration(request.total);
        self.queue.record_duration(request.queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_in_all_its_distributions() {
        let mut all = Distributions::default();
        let millis = Duration::from_millis;
        let timing = ComputeTiming { input: millis(1), infer: millis(2), output: millis(3) };
        let formed = Formed { trigger: Trigger::Full, cost: 70, assembly: millis(4), empty_rows: 0, padding: 30, real: 70 };
        all.add_batch(&ExecutedBatch { rows: 5, timing, formed: Some(formed) });
        all.add_batch(&ExecutedBatch { rows: 0, timing, formed: None });
        all.add_request(RequestTiming { total: millis(9), queue: millis(8) });
        let of = |histogram: &Histogram| (histogram.count(), histogram.sum());
        assert_eq!((of(&all.compute_input), of(&all.compute_infer)), ((2, 2_000_000), (2, 4_000_000)));
        assert_eq!((of(&all.compute_output), of(&all.assembly)), ((2, 6_000_000), (1, 4_000_000)));
        assert_eq!((of(&all.rows), of(&all.cost), of(&all.padding_share)), ((2, 6), (1, 70), (1, 300)));
        assert_eq!((of(&all.request), of(&all.queue)), ((1, 9_000_000), (1, 8_000_000)));
        assert_eq!((all.padding, all.real, all.triggers[Trigger::Full as usize]), (30, 70, 1));
    }

    #[test]
    fn a_model_that_does_not_pad_has_no_padding() {
        let mut all = Distributions::default();
        all.add_batch(&ExecutedBatch { rows: 1, formed: Some(Formed::default()), ..ExecutedBatch::default() });
        assert_eq!((all.padding_share.count(), all.padding_share.sum()), (1, 0));
    }
}
