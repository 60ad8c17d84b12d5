//! Inference statistics of one model version, exact at the moment a client has its answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::batch::Trigger;
use crate::clock::{self, Timestamp};
use crate::error::InferError;
use crate::request::{ComputeTiming, Entry};

use super::busy::BusyClock;
use super::histogram::{FIRST_RESPONSE_BOUNDS, Histogram};
use super::options::MetricsOptions;
use super::saturation::{Load, Meter, Reading};
use super::summary::Summary;

pub use super::counts::{
    BatchTally, Cause, Counts, FailureReason, MAX_RESPONSE_INDEX, RequestTiming, ResponseOutcome, ResponseTally, Stage,
    StageCounts, Tally,
};
pub use super::distributions::{Distributions, ExecutedBatch, Formed};

/// What the statistics of a model version must have room for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Priority levels of its queue.
    pub levels: usize,
    /// Its instances.
    pub instances: usize,
    /// Most rows of its batches; `None` for a model that does not batch.
    pub max_rows: Option<usize>,
    /// Bounds of its histogram of first responses in nanoseconds, where the configuration gives some.
    pub first_response_bounds: Option<Arc<[u64]>>,
}

/// The quantiles of one model version, where they are wanted. All in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Summaries {
    pub request: Summary,
    pub queue: Summary,
    pub compute_input: Summary,
    pub compute_infer: Summary,
    pub compute_output: Summary,
    pub cache_hit: Summary,
    pub cache_miss: Summary,
}

/// All that one lock guards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// What ModelStatistics tells.
    pub counts: Counts,
    /// Our own distributions, where they are wanted.
    pub distributions: Option<Box<Distributions>>,
    /// Time to the first response in nanoseconds, where it is wanted.
    pub first_response: Option<Histogram>,
    /// Quantiles, where they are wanted.
    pub summaries: Option<Box<Summaries>>,
}

impl Recorded {
    fn add_batch(&mut self, batch: &ExecutedBatch) {
        self.counts.add_execution(clock::unix_millis(), batch.rows, batch.timing);
        let empty = u64::try_from(batch.formed.map_or(0, |formed| formed.empty_rows)).unwrap_or(u64::MAX);
        self.counts.inference_count = self.counts.inference_count.saturating_sub(empty);
        if batch.formed.is_some_and(|formed| formed.trigger == Trigger::Full) {
            self.counts.full_batches += 1;
        }
        if let Some(distributions) = &mut self.distributions {
            distributions.add_batch(batch);
        }
    }

    fn add_success(&mut self, request: RequestTiming, timing: ComputeTiming) {
        self.counts.add_success(request, timing);
        self.add_request(request);
        if let Some(summaries) = &mut self.summaries {
            let now = clock::now();
            summaries.compute_input.record(now, micros(timing.input));
            summaries.compute_infer.record(now, micros(timing.infer));
            summaries.compute_output.record(now, micros(timing.output));
        }
    }

    fn add_request(&mut self, request: RequestTiming) {
        if let Some(distributions) = &mut self.distributions {
            distributions.add_request(request);
        }
        if let Some(summaries) = &mut self.summaries {
            let now = clock::now();
            summaries.request.record(now, micros(request.total));
            summaries.queue.record(now, micros(request.queue));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Statistics of one model version. One short lock per batch keeps the counts consistent with each other.
#[derive(Debug)]
pub struct ModelStatistics {
    recorded: Mutex<Recorded>,
    /// Whether there is a histogram of first responses: asked before the lock is taken.
    counts_first_responses: bool,
    /// Requests between queue entry and execution, by priority level; the first is level 1.
    pending: Box<[AtomicU64]>,
    /// One per instance.
    busy: Box<[BusyClock]>,
    /// Batches that no scheduler formed, and so numbered.
    numbers: AtomicU64,
    meter: Mutex<Meter>,
}

impl Default for ModelStatistics {
    /// Statistics of a model without priority levels and instances.
    fn default() -> Self {
        Self::new(&Extent::default(), &MetricsOptions::default())
    }
}

impl ModelStatistics {
    /// Statistics of a model of this extent; nothing has happened yet.
    pub fn new(extent: &Extent, options: &MetricsOptions) -> Self {
        let bounds = || extent.first_response_bounds.as_deref().unwrap_or(FIRST_RESPONSE_BOUNDS).to_vec();
        let recorded = Recorded {
            counts: Counts::default(),
            distributions: options.detailed.then(Box::default),
            first_response: options.histogram_latencies.then(|| Histogram::new(bounds())),
            summaries: options.summary_latencies.then(Box::default),
        };
        Self {
            counts_first_responses: recorded.first_response.is_some(),
            recorded: Mutex::new(recorded),
            pending: (0..extent.levels.max(1)).map(|_| AtomicU64::new(0)).collect(),
            busy: (0..extent.instances).map(|_| BusyClock::default()).collect(),
            numbers: AtomicU64::new(0),
            meter: Mutex::new(Meter::new(extent.max_rows)),
        }
    }

    /// The clock of an instance, by its number within the model version.
    pub fn busy(&self, instance: usize) -> Option<&BusyClock> {
        self.busy.get(instance)
    }

    /// How long each instance has run batches, the one that runs included.
    pub fn busy_times(&self, now: Timestamp) -> Vec<Duration> {
        self.busy.iter().map(|clock| clock.total(now)).collect()
    }

    /// A number, from 1, for a batch that no scheduler has numbered.
    pub fn next_batch(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one executed batch together with those of its requests that were answered. The batch's
    /// whole time is charged to each of them. Call it before the answers are delivered.
    pub fn record_batch(&self, batch: &ExecutedBatch, answered: &[RequestTiming]) {
        let mut recorded = self.lock();
        recorded.add_batch(batch);
        for request in answered {
            recorded.add_success(*request, batch.timing);
        }
    }

    /// Counts a request that was answered later than its batch: the last response of a decoupled model.
    pub fn record_success(&self, request: RequestTiming, timing: ComputeTiming) {
        self.lock().add_success(request, timing);
    }

    /// Counts the first response to a request, so long after its receipt.
    pub fn record_first_response(&self, after: Duration) {
        if self.counts_first_responses
            && let Some(histogram) = &mut self.lock().first_response
        {
            histogram.record_duration(after);
        }
    }

    /// Counts a request that was answered from the response cache, which took `lookup`. Nothing was computed.
    pub fn record_cache_hit(&self, request: RequestTiming, lookup: Duration) {
        let mut recorded = self.lock();
        recorded.counts.success.add(request.total);
        recorded.counts.queue.add(request.queue);
        recorded.counts.cache_hit.add(lookup);
        recorded.add_request(request);
        if let Some(histogram) = &mut recorded.first_response {
            histogram.record_duration(request.total);
        }
        if let Some(summaries) = &mut recorded.summaries {
            summaries.cache_hit.record(clock::now(), micros(lookup));
        }
    }

    /// Counts the part that the response cache had in a request that was answered without it: looking there, and
    /// putting the answer there. The answer itself is counted by whoever made it.
    pub fn record_cache_miss(&self, spent: Duration) {
        let mut recorded = self.lock();
        recorded.counts.cache_miss.add(spent);
        if let Some(summaries) = &mut recorded.summaries {
            summaries.cache_miss.record(clock::now(), micros(spent));
        }
    }

    /// Counts a request that failed with this error at this stage.
    pub fn record_failure(&self, stage: Stage, error: &InferError, total: Duration) {
        self.lock().counts.add_failure(stage, error, total);
    }

    /// Counts a batch that was cut in two because the device was short of memory.
    pub fn record_split(&self) {
        self.lock().counts.splits += 1;
    }

    /// Counts one response of a decoupled model at its index (0 for the first of its request); those beyond
    /// [`MAX_RESPONSE_INDEX`] all count there.
    pub fn record_response(&self, index: u64, outcome: ResponseOutcome, infer: Duration, output: Duration) {
        self.lock().counts.add_response(index, outcome, infer, output);
    }

    /// A request of this priority level (from 1) entered the model's queue.
    pub fn enter_queue(&self, level: usize) {
        self.level(level).fetch_add(1, Ordering::Relaxed);
    }

    /// So many requests of this priority level left the queue, to run or to fail.
    pub fn leave_queue(&self, level: usize, requests: u64) {
        self.level(level).fetch_sub(requests, Ordering::Relaxed);
    }

    /// The counter of a level; levels that the model does not have count as the nearest one that it has, so that what
    /// enters and what leaves meet at the same counter.
    fn level(&self, level: usize) -> &AtomicU64 {
        &self.pending[level.clamp(1, self.pending.len()) - 1]
    }

    /// Counts a request that fails before it ran, and answers it.
    pub fn refuse(&self, mut entry: Entry, error: InferError, stage: Stage, now: Timestamp) {
        self.record_failure(stage, &error, now.since(entry.request.received_at));
        entry.responder.fail(error);
    }

    /// As [`ModelStatistics::refuse`], of a request that is counted as waiting.
    pub fn refuse_queued(&self, entry: Entry, error: InferError, stage: Stage, now: Timestamp) {
        self.leave_queue(entry.level, 1);
        self.refuse(entry, error, stage, now);
    }

    /// Requests that came to nothing at this stage for this cause.
    pub fn failed_at(&self, stage: Stage, cause: Cause) -> u64 {
        self.lock().counts.stages[stage as usize][cause as usize]
    }

    /// Requests between queue entry and execution.
    pub fn pending(&self) -> u64 {
        self.pending_by_level().sum()
    }

    /// Requests between queue entry and execution, by priority level; the first is level 1.
    pub fn pending_by_level(&self) -> impl Iterator<Item = u64> {
        self.pending.iter().map(|level| level.load(Ordering::Relaxed))
    }

    /// All counts at one moment.
    pub fn snapshot(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// All that was recorded, at one moment, but for the counts by response index.
    pub fn recorded(&self) -> Recorded {
        let mut recorded = self.lock();
        // There may be very many of them, and metrics show none.
        let responses = std::mem::take(&mut recorded.counts.responses);
        let copy = recorded.clone();
        recorded.counts.responses = responses;
        copy
    }

    /// Looks at how loaded the model is since the last look. Call it every few seconds.
    pub fn measure_load(&self, now: Timestamp) {
        if self.busy.is_empty() {
            return;
        }
        let reading = Reading {
            at: now,
            instances: self.busy.len(),
            busy: self.busy.iter().map(|clock| clock.total(now)).fold(Duration::ZERO, Duration::saturating_add),
            pending: self.pending(),
            ..Reading::of(&self.lock().counts)
        };
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).read(reading);
    }

    /// How loaded the model was when it was last looked at; `None` for one without instances.
    pub fn load(&self) -> Option<Load> {
        (!self.busy.is_empty()).then(|| self.meter.lock().unwrap_or_else(PoisonError::into_inner).load())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_levels(levels: usize) -> ModelStatistics {
        ModelStatistics::new(&Extent { levels, ..Extent::default() }, &MetricsOptions::default())
    }

    #[test]
    fn pending_requests_count_at_their_level() {
        let statistics = of_levels(3);
        for level in [1, 3, 3, 0, 9] {
            statistics.enter_queue(level);
        }
        assert_eq!((statistics.pending_by_level().collect::<Vec<_>>(), statistics.pending()), (vec![2, 0, 3], 5));
        statistics.leave_queue(3, 2);
        statistics.leave_queue(9, 1);
        assert_eq!((statistics.pending_by_level().collect::<Vec<_>>(), statistics.pending()), (vec![2, 0, 0], 2));
    }

    #[test]
    fn response_indices_are_bounded_and_no_response_is_lost() {
        let statistics = ModelStatistics::default();
        for index in [0, MAX_RESPONSE_INDEX, MAX_RESPONSE_INDEX + 1, u64::MAX] {
            statistics.record_response(index, ResponseOutcome::Success, Duration::ZERO, Duration::ZERO);
        }
        let counted: Vec<(u64, u64)> =
            statistics.snapshot().responses.iter().map(|(index, tally)| (*index, tally.success.count)).collect();
        assert_eq!(counted, [(0, 1), (MAX_RESPONSE_INDEX, 3)]);
    }

    #[test]
    fn stages_and_reasons_count_the_same_failures() {
        let statistics = ModelStatistics::default();
        statistics.record_failure(Stage::Queue, &InferError::Expired, Duration::ZERO);
        statistics.record_failure(Stage::Ready, &InferError::Cancelled, Duration::ZERO);
        statistics.record_failure(Stage::Execution, &InferError::Abandoned, Duration::ZERO);
        let counts = statistics.snapshot();
        assert_eq!((counts.fail.count, counts.failures), (3, [1, 1, 1, 0]));
        assert_eq!(counts.stages.iter().flatten().sum::<u64>(), 3);
        assert_eq!(statistics.failed_at(Stage::Queue, Cause::Expired), 1);
    }

    #[test]
    fn what_is_not_wanted_is_not_recorded() {
        let options = MetricsOptions { detailed: false, ..MetricsOptions::default() };
        let statistics = ModelStatistics::new(&Extent::default(), &options);
        let request = RequestTiming { total: Duration::from_millis(1), queue: Duration::ZERO };
        statistics.record_batch(&ExecutedBatch { rows: 1, ..ExecutedBatch::default() }, &[request]);
        statistics.record_first_response(Duration::from_millis(1));
        let recorded = statistics.recorded();
        assert_eq!((recorded.counts.success.count, recorded.distributions), (1, None));
        assert_eq!((recorded.first_response, recorded.summaries), (None, None));
        let all = MetricsOptions { histogram_latencies: true, summary_latencies: true, ..MetricsOptions::default() };
        let statistics = ModelStatistics::new(&Extent::default(), &all);
        statistics.record_batch(&ExecutedBatch { rows: 1, ..ExecutedBatch::default() }, &[request]);
        statistics.record_first_response(Duration::from_millis(200));
        statistics.record_cache_hit(request, Duration::from_micros(3));
        let recorded = statistics.recorded();
        assert_eq!(recorded.distributions.map(|all| (all.request.count(), all.rows.count())), Some((2, 1)));
        assert_eq!(recorded.first_response.map(|histogram| histogram.count()), Some(2));
        let counted = recorded.summaries.map(|all| [all.request.count(), all.compute_infer.count(), all.cache_hit.sum()]);
        assert_eq!(counted, Some([2, 1, 3]));
    }
}
