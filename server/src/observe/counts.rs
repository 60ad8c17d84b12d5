//! What is counted: tallies, reasons, and all counts of a model version at one moment. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{InferError, SequenceFault};
use crate::request::ComputeTiming;

/// How often something happened and how long it took in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Occurrences.
    pub count: u64,
    /// Their durations in sum.
    pub nanos: u64,
}

impl Tally {
    pub(super) fn add(&mut self, duration: Duration) {
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

/// What became of a request that came to nothing: finer than the reasons that Triton has, as the label `cause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// There was no room for it.
    QueueFull,
    /// It could not have been answered in time.
    Unreachable,
    /// Its time was over.
    Expired,
    /// Its client left.
    Canceled,
    /// The model failed.
    Backend,
    /// Anything else.
    Other,
}

impl Cause {
    /// Every cause, in the order of their declaration.
    pub const ALL: [Cause; 6] = [Self::QueueFull, Self::Unreachable, Self::Expired, Self::Canceled, Self::Backend, Self::Other];

    /// The cause behind an error, that of an ensemble's step included.
    pub fn of(error: &InferError) -> Self {
        match error.root() {
            InferError::QueueFull { .. } => Self::QueueFull,
            InferError::Unreachable { .. } => Self::Unreachable,
            InferError::Expired => Self::Expired,
            InferError::Cancelled => Self::Canceled,
            InferError::Execute(_) | InferError::Abandoned => Self::Backend,
            _ => Self::Other,
        }
    }

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::Expired => "expired",
            Self::Canceled => "canceled",
            Self::Backend => "backend",
            Self::Other => "other",
        }
    }
}

/// Failed requests by stage and cause, in the orders of [`Stage::ALL`] and [`Cause::ALL`].
pub type StageCounts = [[u64; Cause::ALL.len()]; Stage::ALL.len()];

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
    /// Failures by where and why.
    pub stages: StageCounts,
    /// Executions of batches to which nothing could have been added.
    pub full_batches: u64,
    /// Batches, and parts of batches, that were cut in two because the device was short of memory.
    pub splits: u64,
    /// By rows of the executed batch.
    pub batches: BTreeMap<usize, BatchTally>,
    /// By response index; decoupled models only.
    pub responses: BTreeMap<u64, ResponseTally>,
}

impl Counts {
    /// Counts an execution at this wall time, in milliseconds since the epoch.
    pub(super) fn add_execution(&mut self, unix_millis: u64, rows: usize, timing: ComputeTiming) {
        self.last_inference_ms = unix_millis;
        self.execution_count += 1;
        self.inference_count += u64::try_from(rows.max(1)).unwrap_or(u64::MAX);
        let batch = self.batches.entry(rows.max(1)).or_default();
        batch.compute_input.add(timing.input);
        batch.compute_infer.add(timing.infer);
        batch.compute_output.add(timing.output);
    }

    /// Counts an answered request.
    pub(super) fn add_success(&mut self, request: RequestTiming, timing: ComputeTiming) {
        self.success.add(request.total);
        self.queue.add(request.queue);
        self.compute_input.add(timing.input);
        self.compute_infer.add(timing.infer);
        self.compute_output.add(timing.output);
    }
}

impl Counts {
    /// Counts a failed request.
    pub(super) fn add_failure(&mut self, stage: Stage, error: &InferError, total: Duration) {
        self.fail.add(total);
        self.failures[FailureReason::of(error) as usize] += 1;
        self.stages[stage as usize][Cause::of(error) as usize] += 1;
    }

    /// Counts one response of a decoupled model at its index; those beyond [`MAX_RESPONSE_INDEX`] all count there.
    pub(super) fn add_response(&mut self, index: u64, outcome: ResponseOutcome, infer: Duration, output: Duration) {
        let tally = self.responses.entry(index.min(MAX_RESPONSE_INDEX)).or_default();
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
    }
}
