//! What a run shows: the fate of every request, every execution, and the figures over them.

use std::ops::Range;
use std::time::Duration;

use crate::batch::Trigger;
use crate::clock::Timestamp;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Not at all.
    Open,
    /// With an answer.
    Answered,
    /// With the error of its execution.
    Failed,
    /// Refused at once: its queue is full.
    Full,
    /// Refused at once: it could not be answered in time.
    Unreachable,
    /// Its time in the queue was over.
    Expired,
    /// In the queue it became clear that it could not be answered in time.
    Lapsed,
    /// Its client had left.
    Left,
}

/// One request of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it arrived.
    pub arrived_at: Timestamp,
    /// Rows.
    pub rows: usize,
    /// Cost.
    pub cost: u64,
    /// Which shape.
    pub shape: usize,
    /// Its priority parameter.
    pub priority: u64,
    /// When it must have been started.
    pub start_by: Option<Timestamp>,
    /// When its client wants the answer.
    pub finish_by: Option<Timestamp>,
    /// From when on it counts as delayed (action DELAY).
    pub delayed_from: Option<Timestamp>,
    /// When its client leaves; no later than `finish_by`.
    pub leaves_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Outcome,
    /// When its execution started, for one that ran.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
}

impl Request {
    /// Whether its client has left at this time.
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.leaves_at.is_some_and(|leaves| now >= leaves)
    }

    /// Whether nobody would get anything from running it now: its client has left or its time is over.
    pub fn is_dead(&self, now: Timestamp) -> bool {
        self.is_gone(now) || self.start_by.is_some_and(|start_by| now >= start_by)
    }

    /// Whether its answer found its client.
    pub fn is_good(&self) -> bool {
        self.outcome == Outcome::Answered && self.leaves_at.is_none_or(|leaves| self.ended_at <= leaves)
    }

    /// From its arrival to its end.
    pub fn latency(&self) -> Duration {
        self.ended_at.since(self.arrived_at)
    }
}

/// One execution of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Number of its batch within its model.
    pub batch: u64,
    /// When its batch was formed.
    pub formed_at: Timestamp,
    /// Why then.
    pub trigger: Trigger,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Its rows.
    pub rows: usize,
    /// Its cost.
    pub cost: u64,
    /// Its members, a range of [`ModelReport::members`].
    pub members: Range<usize>,
    /// Members who were dead when it started.
    pub dead: usize,
    /// Whether it failed.
    pub failed: bool,
}

/// One model's part of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelReport {
    /// All requests, in order of arrival.
    pub requests: Vec<Request>,
    /// All executions, in order of their starts.
    pub executions: Vec<Execution>,
    /// Members of all executions: the request and its rows.
    pub members: Vec<(u32, Range<usize>)>,
    /// Most requests that waited at once.
    pub deepest: usize,
}

/// What a run shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By model, in the order of the scenario.
    pub models: Vec<ModelReport>,
    /// When the last thing happened.
    pub ended_at: Timestamp,
    /// Why the run was given up before everything had ended, where it was.
    pub stuck: Option<String>,
}

/// How many requests ended how, and how long those that were answered took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Requests.
    pub requests: usize,
    /// Answered while their clients waited.
    pub good: usize,
    /// Answered too late for their clients.
    pub late: usize,
    /// Answered with the error of an execution.
    pub failed: usize,
    /// Refused at once, queue full.
    pub full: usize,
    /// Refused at once, not to be answered in time.
    pub unreachable: usize,
    /// Refused after waiting: time over, or no longer to be answered in time.
    pub expired: usize,
    /// Clients that left while their requests waited.
    pub left: usize,
    /// Executions.
    pub executions: usize,
    /// Members of executions that were dead when these started.
    pub dead: usize,
    /// Mean rows of an execution.
    pub batch_rows: f64,
    /// Mean latency of the good ones.
    pub mean: Duration,
    /// Median latency of the good ones.
    pub p50: Duration,
    /// 99th percentile of the latency of the good ones.
    pub p99: Duration,
    /// Good answers per second, over the span of the arrivals.
    pub goodput: f64,
    /// Share of the instances' time that was spent on executions, over the whole run.
    pub busy: Duration,
}

impl ModelReport {
    /// The figures over the requests that arrived at `from` or later (to leave out a run's beginning).
    pub fn summary(&self, from: Timestamp) -> Summary {
        let mut summary = Summary::default();
        let mut latencies = Vec::new();
        let mut span = (Timestamp::from_nanos(u64::MAX), Timestamp::default());
        for request in self.requests.iter().filter(|request| request.arrived_at >= from) {
            summary.requests += 1;
            span = (span.0.min(request.arrived_at), span.1.max(request.arrived_at));
            match request.outcome {
                Outcome::Answered if request.is_good() => latencies.push(request.latency()),
                Outcome::Answered => summary.late += 1,
                Outcome::Failed => summary.failed += 1,
                Outcome::Full => summary.full += 1,
                Outcome::Unreachable => summary.unreachable += 1,
                Outcome::Expired | Outcome::Lapsed => summary.expired += 1,
                Outcome::Left => summary.left += 1,
                Outcome::Open => {}
            }
        }
        latencies.sort_unstable();
        summary.good = latencies.len();
        summary.mean = mean(&latencies);
        summary.p50 = percentile(&latencies, 0.50);
        summary.p99 = percentile(&latencies, 0.99);
        let seconds = span.1.since(span.0).as_secs_f64();
        summary.goodput = if seconds > 0.0 { summary.good as f64 / seconds } else { 0.0 };
        let executions = self.executions.iter().filter(|execution| execution.started_at >= from);
        let mut rows = 0;
        for execution in executions {
            summary.executions += 1;
            summary.dead += execution.dead;
            summary.busy += execution.ended_at.since(execution.started_at);
            rows += execution.rows;
        }
        summary.batch_rows = rows as f64 / summary.executions.max(1) as f64;
        summary
    }
}

/// The mean of some durations; zero for none.
pub fn mean(durations: &[Duration]) -> Duration {
    let total: Duration = durations.iter().sum();
    total / u32::try_from(durations.len()).unwrap_or(u32::MAX).max(1)
}

/// The smallest of `sorted` that is not below the share `rank` of them; zero for none.
pub fn percentile(sorted: &[Duration], rank: f64) -> Duration {
    let index = (sorted.len() as f64 * rank).ceil() as usize;
    sorted.get(index.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
