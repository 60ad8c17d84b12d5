//! Inference statistics of one model version, exact at the moment a client has its answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::clock::Timestamp;
use crate::error::{InferError, SequenceFault};
use crate::request::{ComputeTiming, Entry};

use super::busy::BusyClock;

/// How often something happened and how long it took in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Occurrences.
    pub count: u64,
    /// Their durations in sum.
    pub nanos: u64,
}

impl Tally {
    fn add(&mut self, duration: Duration) {
        self.count += 1;
        self.nanos = self.nanos.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Highest response index that is counted on its own. Requests decide how many responses they get, and the counts
/// of all indices stay in memory and travel in one message, which clients take up to 4 MiB by default.
pub const MAX_RESPONSE_INDEX: u64 = 65_535;

/// Why a request failed, as the failure counter's label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureReason {
    /// Queue full, or the time in the queue was over.
    Rejected,
    /// The client left.
    Canceled,
    /// The model failed.
    Backend,
    /// Anything else, such as a step of an ensemble.
    Other,
}

impl FailureReason {
    /// Every reason, in the order in which series are printed.
    pub const ALL: [FailureReason; 4] = [Self::Rejected, Self::Canceled, Self::Backend, Self::Other];

    /// The reason behind an error.
    pub const fn of(error: &InferError) -> Self {
        match error {
            InferError::QueueFull { .. }
            | InferError::Expired
            | InferError::Unreachable { .. }
            | InferError::Sequence(SequenceFault::Expired)
            | InferError::SchedulerStopped => Self::Rejected,
            InferError::Cancelled => Self::Canceled,
            InferError::Execute(_) | InferError::Abandoned => Self::Backend,
            _ => Self::Other,
        }
    }

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Canceled => "CANCELED",
            Self::Backend => "BACKEND",
            Self::Other => "OTHER",
        }
    }
}

/// Where a request was when it came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// On arrival: there was no room, or no time.
    Admission,
    /// In its model's queue.
    Queue,
    /// In a batch that was formed and waited for an instance.
    Ready,
    /// Between the steps of an ensemble.
    Ensemble,
    /// While it ran.
    Execution,
}

impl Stage {
    /// Every stage, in the order of a request's way.
    pub const ALL: [Stage; 5] = [Self::Admission, Self::Queue, Self::Ready, Self::Ensemble, Self::Execution];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Queue => "queue",
            Self::Ready => "ready",
            Self::Ensemble => "ensemble",
            Self::Execution => "execution",
        }
    }
}

/// Failed requests by stage and reason.
#[derive(Debug, Default)]
struct StageCounts([[AtomicU64; FailureReason::ALL.len()]; Stage::ALL.len()]);

impl StageCounts {
    fn add(&self, stage: Stage, reason: FailureReason) {
        self.0[stage as usize][reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Times of one request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTiming {
    /// From the receipt of the request to its answer.
    pub total: Duration,
    /// From its entry into the queue to the start of its execution.
    pub queue: Duration,
}

/// What became of one response of a decoupled model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseOutcome {
    /// It carried outputs.
    Success,
    /// It carried an error.
    Fail,
    /// It carried nothing (the final flag included).
    Empty,
    /// It was not made because the client had left.
    Cancel,
}

/// Counts of one batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BatchTally {
    pub compute_input: Tally,
    pub compute_infer: Tally,
    pub compute_output: Tally,
}

/// Counts of one response index of a decoupled model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ResponseTally {
    pub compute_infer: Tally,
    pub compute_output: Tally,
    pub success: Tally,
    pub fail: Tally,
    pub empty_response: Tally,
    pub cancel: Tally,
}

/// All counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Milliseconds since the epoch of the last request that reached compute; 0 for none.
    pub last_inference_ms: u64,
    /// Rows computed.
    pub inference_count: u64,
    /// Batches executed.
    pub execution_count: u64,
    /// Requests answered.
    pub success: Tally,
    /// Requests failed.
    pub fail: Tally,
    /// Failures by reason, in the order of [`FailureReason::ALL`].
    pub failures: [u64; 4],
    /// Waiting in queues, per answered request.
    pub queue: Tally,
    /// Input gathering, per answered request.
    pub compute_input: Tally,
    /// Model execution, per answered request.
    pub compute_infer: Tally,
    /// Output splitting, per answered request.
    pub compute_output: Tally,
    /// Requests answered from the response cache, and how long looking there took.
    pub cache_hit: Tally,
    /// Requests answered whose answer was not in the response cache, and how long looking there and putting it there
    /// took.
    pub cache_miss: Tally,
    /// By rows of the executed batch.
    pub batches: BTreeMap<usize, BatchTally>,
    /// By response index; decoupled models only.
    pub responses: BTreeMap<u64, ResponseTally>,
}

impl Counts {
    fn add_execution(&mut self, rows: usize, padding: usize, timing: ComputeTiming) {
        self.last_inference_ms = clock::unix_millis();
        self.execution_count += 1;
        self.inference_count += u64::try_from(rows.saturating_sub(padding).max(1)).unwrap_or(u64::MAX);
        let batch = self.batches.entry(rows.max(1)).or_default();
        batch.compute_input.add(timing.input);
        batch.compute_infer.add(timing.infer);
        batch.compute_output.add(timing.output);
    }

    fn add_success(&mut self, request: RequestTiming, timing: ComputeTiming) {
        self.success.add(request.total);
        self.queue.add(request.queue);
        self.compute_input.add(timing.input);
        self.compute_infer.add(timing.infer);
        self.compute_output.add(timing.output);
    }
}

/// Statistics of one model version. One short lock per batch keeps the counts consistent with each other.
#[derive(Debug)]
pub struct ModelStatistics {
    counts: Mutex<Counts>,
    /// Requests between queue entry and execution, by priority level; the first is level 1.
    pending: Box<[AtomicU64]>,
    stages: StageCounts,
    /// One per instance.
    busy: Box<[BusyClock]>,
    /// Batches that no scheduler formed, and so numbered.
    numbers: AtomicU64,
}

/// What the statistics of a model version must have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Priority levels of its queue; at least 1.
    pub levels: usize,
    /// Its instances.
    pub instances: usize,
}

impl Default for ModelStatistics {
    /// Statistics of a model without priority levels and instances.
    fn default() -> Self {
        Self::new(Extent { levels: 1, instances: 0 })
    }
}

impl ModelStatistics {
    /// Statistics of a model of this extent; nothing has happened yet.
    pub fn new(extent: Extent) -> Self {
        Self {
            counts: Mutex::default(),
            pending: (0..extent.levels.max(1)).map(|_| AtomicU64::new(0)).collect(),
            stages: StageCounts::default(),
            busy: (0..extent.instances).map(|_| BusyClock::default()).collect(),
            numbers: AtomicU64::new(0),
        }
    }

    /// The clock of an instance, by its number within the model version.
    pub fn busy(&self, instance: usize) -> Option<&BusyClock> {
        self.busy.get(instance)
    }

    /// A number, from 1, for a batch that no scheduler has numbered.
    pub fn next_batch(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    fn with<R>(&self, change: impl FnOnce(&mut Counts) -> R) -> R {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts one executed batch together with those of its requests that were answered. The batch's
    /// whole time is charged to each of them. Call it before the answers are delivered.
    pub fn record_batch(&self, rows: usize, timing: ComputeTiming, answered: &[RequestTiming]) {
        self.record_padded_batch(rows, 0, timing, answered);
    }

    /// As [`ModelStatistics::record_batch`], for a batch of which `padding` rows belong to no request: they are rows of
    /// the executed batch, and no inferences.
    pub fn record_padded_batch(&self, rows: usize, padding: usize, timing: ComputeTiming, answered: &[RequestTiming]) {
        self.with(|counts| {
            counts.add_execution(rows, padding, timing);
            for request in answered {
                counts.add_success(*request, timing);
            }
        });
    }

    /// Counts a request that was answered later than its batch: the last response of a decoupled model.
    pub fn record_success(&self, request: RequestTiming, timing: ComputeTiming) {
        self.with(|counts| counts.add_success(request, timing));
    }

    /// Counts a request that was answered from the response cache, which took `lookup`. Nothing was computed.
    pub fn record_cache_hit(&self, request: RequestTiming, lookup: Duration) {
        self.with(|counts| {
            counts.success.add(request.total);
            counts.queue.add(request.queue);
            counts.cache_hit.add(lookup);
        });
    }

    /// Counts the part that the response cache had in a request that was answered without it: looking there, and
    /// putting the answer there. The answer itself is counted by whoever made it.
    pub fn record_cache_miss(&self, spent: Duration) {
        self.with(|counts| counts.cache_miss.add(spent));
    }

    /// Counts a request that failed.
    pub fn record_failure(&self, reason: FailureReason, total: Duration) {
        self.with(|counts| {
            counts.fail.add(total);
            if let Some(position) = FailureReason::ALL.iter().position(|known| *known == reason) {
                counts.failures[position] += 1;
            }
        });
    }

    /// Counts one response of a decoupled model at its index (0 for the first of its request); those beyond
    /// [`MAX_RESPONSE_INDEX`] all count there.
    pub fn record_response(&self, index: u64, outcome: ResponseOutcome, infer: Duration, output: Duration) {
        self.with(|counts| {
            let tally = counts.responses.entry(index.min(MAX_RESPONSE_INDEX)).or_default();
            let total = infer.saturating_add(output);
            match outcome {
                ResponseOutcome::Success => {
                    tally.compute_infer.add(infer);
                    tally.compute_output.add(output);
                    tally.success.add(total);
                }
                ResponseOutcome::Fail => {
                    tally.compute_infer.add(infer);
                    tally.compute_output.add(output);
                    tally.fail.add(total);
                }
                ResponseOutcome::Empty => {
                    tally.compute_infer.add(infer);
                    tally.empty_response.add(total);
                }
                ResponseOutcome::Cancel => tally.cancel.add(total),
            }
        });
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
        self.stages.add(stage, FailureReason::of(&error));
        self.record_failure(FailureReason::of(&error), now.since(entry.request.received_at));
        entry.responder.fail(error);
    }

    /// Requests that came to nothing at this stage for this reason.
    pub fn failed_at(&self, stage: Stage, reason: FailureReason) -> u64 {
        self.stages.0[stage as usize][reason as usize].load(Ordering::Relaxed)
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
        self.with(|counts| counts.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_requests_count_at_their_level() {
        let statistics = ModelStatistics::new(Extent { levels: 3, instances: 0 });
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
}
