//! `dynamic_batching` and the queue policies.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use proto::inference::{ModelDynamicBatching, ModelQueuePolicy, model_queue_policy};

use crate::error::ConfigProblem;
use crate::tensor::TensorSpec;

use super::batch_cost::BatchCost;
use super::instance_group::DeviceShare;
use super::model::BackendKind;

/// Parameters of a model's configuration that its scheduler or that of its device reads, whatever its backend.
pub const SCHEDULER_PARAMETERS: [&str; 7] = [
    "max_queue_size",
    BATCHER,
    super::batch_cost::MAX_BATCH_TOKENS,
    super::batch_cost::BATCH_COST,
    DeviceShare::PARAMETERS[0],
    DeviceShare::PARAMETERS[1],
    super::reuse::SINGLE_FLIGHT,
];

/// The parameter that chooses the policy of the dynamic batcher.
const BATCHER: &str = "batcher";

/// Entries that a queue holds where the configuration sets no limit: a bound against running out of
/// memory, far above what a healthy model has waiting.
pub(super) const DEFAULT_QUEUE_ENTRIES: usize = 4096;

/// Most priority levels; each is a queue of its own.
const MAX_PRIORITY_LEVELS: u64 = 1000;

/// What happens to a request whose time in the queue is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutAction {
    /// It is refused.
    Reject,
    /// It runs when no request in time is left at its level.
    Delay,
}

/// What the `timeout` of a request does to the time that it may wait in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestTimeout {
    /// It is believed, and can only shorten the wait.
    Honored,
    /// It counts where the policy has a timeout, and is shorter: Triton with `allow_timeout_override`.
    Shortens,
    /// It does nothing: Triton without `allow_timeout_override`.
    Ignored,
}

/// Limits of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePolicy {
    /// What happens at the deadline.
    pub action: TimeoutAction,
    /// Time in the queue where the request asks for none.
    pub default_timeout: Option<Duration>,
    /// What the request's own timeout does.
    pub request_timeout: RequestTimeout,
    /// Entries that the queue holds; one more is refused.
    pub max_entries: NonZeroUsize,
}

impl QueuePolicy {
    /// No timeout, and room for `max_entries`.
    pub fn bounded(max_entries: NonZeroUsize) -> Self {
        Self { action: TimeoutAction::Reject, default_timeout: None, request_timeout: RequestTimeout::Honored, max_entries }
    }

    /// How long a request may wait: the earlier of its own timeout and the policy's.
    ///
    /// Triton ignores a request's timeout unless the policy allows it and has a longer one of its own, and so does
    /// the batcher that is compatible with it. Elsewhere a client that says how long it waits is believed.
    pub fn timeout_for(&self, requested: Option<Duration>) -> Option<Duration> {
        match (self.request_timeout, requested, self.default_timeout) {
            (RequestTimeout::Ignored, _, default) | (_, None, default) => default,
            (RequestTimeout::Shortens, Some(_), None) => None,
            (RequestTimeout::Shortens, Some(Duration::ZERO), default) => default,
            (RequestTimeout::Honored, Some(requested), None) => Some(requested),
            (RequestTimeout::Honored | RequestTimeout::Shortens, Some(requested), Some(default)) => Some(requested.min(default)),
        }
    }

    fn parse(policy: Option<&ModelQueuePolicy>, default_entries: NonZeroUsize, batcher: BatcherKind) -> Self {
        let allowed = policy.is_some_and(|policy| policy.allow_timeout_override);
        let request_timeout = match (batcher, allowed) {
            (BatcherKind::Default, _) => RequestTimeout::Honored,
            (BatcherKind::Compat, true) => RequestTimeout::Shortens,
            (BatcherKind::Compat, false) => RequestTimeout::Ignored,
        };
        let Some(policy) = policy else {
            return Self { request_timeout, ..Self::bounded(default_entries) };
        };
        let max_entries = usize::try_from(policy.max_queue_size).unwrap_or(usize::MAX);
        Self {
            action: match policy.timeout_action() {
                model_queue_policy::TimeoutAction::Reject => TimeoutAction::Reject,
                model_queue_policy::TimeoutAction::Delay => TimeoutAction::Delay,
            },
            default_timeout: (policy.default_timeout_microseconds > 0)
                .then(|| Duration::from_micros(policy.default_timeout_microseconds)),
            request_timeout,
            max_entries: NonZeroUsize::new(max_entries).unwrap_or(default_entries),
        }
    }
}

/// Which policy forms batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatcherKind {
    /// Ours.
    #[default]
    Default,
    /// Triton's, batch by batch.
    Compat,
}

/// How long an idle instance waits for a batch to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowPolicy {
    /// As long as that gains more than it costs; the oldest request never waits longer than `cap` for others.
    Auto {
        /// `max_queue_delay_microseconds`, where it is set.
        cap: Option<Duration>,
    },
    /// Until the oldest request has waited this long.
    Fixed(Duration),
}

/// How the dynamic batcher forms batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicBatching {
    /// Which policy forms them.
    pub batcher: BatcherKind,
    /// Most rows of a batch.
    pub max_rows: NonZeroUsize,
    /// Most cost of a batch of more than one request, in the unit of [`DynamicBatching::cost`].
    pub max_cost: Option<NonZeroU64>,
    /// What a request costs.
    pub cost: BatchCost,
    /// Batch sizes that are worth stopping at, ascending.
    pub preferred_rows: Vec<usize>,
    /// How long an idle instance waits for more.
    pub window: WindowPolicy,
    /// Compat only: batches are formed ahead of idle instances, since nothing is configured that looks at requests
    /// while they wait.
    pub run_ahead: bool,
    /// Answers leave in the order of the requests.
    pub preserve_ordering: bool,
    /// Number of priority levels; level 1 is served first.
    pub priority_levels: NonZeroUsize,
    /// Level of a request that names none.
    pub default_priority: usize,
    /// One policy per level; the first is level 1.
    pub policies: Vec<QueuePolicy>,
}

/// What the message is parsed against.
pub(super) struct BatchingSpecs<'a> {
    pub(super) backend: BackendKind,
    /// Most rows of a batch.
    pub(super) max_rows: NonZeroUsize,
    pub(super) inputs: &'a [TensorSpec],
    pub(super) parameters: &'a BTreeMap<String, String>,
}

impl DynamicBatching {
    /// One level, no timeouts, no window: what `dynamic_batching { }` says, with room for `max_entries` requests and
    /// without waiting for others.
    pub fn plain(max_rows: NonZeroUsize, max_entries: NonZeroUsize) -> Self {
        Self {
            batcher: BatcherKind::Default,
            max_rows,
            max_cost: None,
            cost: BatchCost::Rows,
            preferred_rows: vec![max_rows.get()],
            window: WindowPolicy::Fixed(Duration::ZERO),
            run_ahead: true,
            preserve_ordering: false,
            priority_levels: NonZeroUsize::MIN,
            default_priority: 1,
            policies: vec![QueuePolicy::bounded(max_entries)],
        }
    }

    /// Parses the message.
    pub(super) fn parse(
        model: &str,
        written: &ModelDynamicBatching,
        specs: &BatchingSpecs<'_>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Self {
        let max_rows = specs.max_rows;
        let batcher = Self::parse_batcher(model, specs.parameters, problems);
        let (cost, max_cost) =
            BatchCost::parse(model, (specs.backend, batcher == BatcherKind::Default), specs.inputs, specs.parameters, problems);
        if let (BatcherKind::Compat, Some(max_cost)) = (batcher, max_cost) {
            problems.push(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: format!("parameters['{}']", super::batch_cost::MAX_BATCH_TOKENS),
                expected: "left out where parameters['batcher'] is 'compat', which limits rows only",
                got: max_cost.to_string(),
            });
        }
        let model_name = || model.to_owned();
        let mut preferred_rows = Vec::new();
        for size in &written.preferred_batch_size {
            match usize::try_from(*size) {
                Ok(rows) if rows > max_rows.get() => problems.push(ConfigProblem::PreferredTooLarge { model: model_name() }),
                Ok(rows) if rows > 0 => preferred_rows.push(rows),
                _ => problems.push(ConfigProblem::PreferredNotPositive { model: model_name() }),
            }
        }
        if preferred_rows.is_empty() {
            preferred_rows.push(max_rows.get());
        }
        preferred_rows.sort_unstable();
        preferred_rows.dedup();
        let levels = Self::parse_levels(model, written, problems);
        Self::check_actions(model, written, problems);
        let default_entries = default_queue_entries(Some(max_rows));
        let default_policy = QueuePolicy::parse(written.default_queue_policy.as_ref(), default_entries, batcher);
        let policies: Vec<QueuePolicy> = (1..=levels)
            .map(|level| match written.priority_queue_policy.get(&level) {
                Some(policy) => QueuePolicy::parse(Some(policy), default_entries, batcher),
                None => default_policy,
            })
            .collect();
        let delayed = policies.iter().any(|policy| policy.action == TimeoutAction::Delay && policy.default_timeout.is_some());
        if written.preserve_ordering && (written.priority_levels > 1 || delayed) {
            let with = if delayed { "timeout action DELAY" } else { "priority levels" };
            problems.push(ConfigProblem::PreserveOrdering { model: model_name(), with });
        }
        let delay = Duration::from_micros(written.max_queue_delay_microseconds);
        let default = written.default_queue_policy.unwrap_or_default();
        let looks_at_waiting =
            default.default_timeout_microseconds > 0 || default.allow_timeout_override || default.max_queue_size > 0;
        Self {
            batcher,
            max_rows,
            max_cost,
            cost,
            preferred_rows,
            window: match batcher {
                BatcherKind::Default => WindowPolicy::Auto { cap: (!delay.is_zero()).then_some(delay) },
                BatcherKind::Compat => WindowPolicy::Fixed(delay),
            },
            run_ahead: written.priority_levels == 0 && !looks_at_waiting,
            preserve_ordering: written.preserve_ordering,
            priority_levels: NonZeroUsize::new(policies.len()).unwrap_or(NonZeroUsize::MIN),
            default_priority: usize::try_from(written.default_priority_level.clamp(1, levels)).unwrap_or(1),
            policies,
        }
    }

    /// Numbers that are no timeout action; protobuf would read them as the first one.
    fn check_actions(model: &str, written: &ModelDynamicBatching, problems: &mut Vec<ConfigProblem>) {
        for policy in written.default_queue_policy.iter().chain(written.priority_queue_policy.values()) {
            if model_queue_policy::TimeoutAction::try_from(policy.timeout_action).is_err() {
                problems.push(ConfigProblem::OutOfRange {
                    model: model.to_owned(),
                    field: "dynamic_batching: timeout_action of a queue policy".to_owned(),
                    expected: "REJECT or DELAY",
                    got: policy.timeout_action.to_string(),
                });
            }
        }
    }

    fn parse_batcher(model: &str, parameters: &BTreeMap<String, String>, problems: &mut Vec<ConfigProblem>) -> BatcherKind {
        match parameters.get(BATCHER).map(String::as_str) {
            None | Some("default") => BatcherKind::Default,
            Some("compat") => BatcherKind::Compat,
            Some(other) => {
                problems.push(ConfigProblem::OutOfRange {
                    model: model.to_owned(),
                    field: format!("parameters['{BATCHER}']"),
                    expected: "'default' or 'compat'",
                    got: format!("'{other}'"),
                });
                BatcherKind::Default
            }
        }
    }

    fn parse_levels(model: &str, written: &ModelDynamicBatching, problems: &mut Vec<ConfigProblem>) -> u64 {
        let levels = written.priority_levels;
        if levels > MAX_PRIORITY_LEVELS {
            problems.push(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: "dynamic_batching.priority_levels".to_owned(),
                expected: "at most 1000",
                got: levels.to_string(),
            });
            return 1;
        }
        if levels > 0 && !(1..=levels).contains(&written.default_priority_level) {
            problems.push(ConfigProblem::DefaultPriority {
                model: model.to_owned(),
                levels,
                got: written.default_priority_level,
            });
        }
        for level in written.priority_queue_policy.keys() {
            if !(1..=levels).contains(level) {
                problems.push(ConfigProblem::PolicyLevel { model: model.to_owned(), levels, got: *level });
            }
        }
        levels.max(1)
    }

    /// Whether a batch may be made ready behind one that runs. With several priority levels, or requests that are set
    /// back at the end of their time, what is ready could be overtaken no more by whoever comes first by then.
    pub fn prepares_batches(&self) -> bool {
        let sets_back = self.policies.iter().any(|policy| policy.action == TimeoutAction::Delay);
        !self.preserve_ordering && self.priority_levels.get() == 1 && !sets_back
    }

    /// The level (1 the highest) of a request's priority: its own where that exists, else the default.
    pub fn level(&self, priority: u64) -> usize {
        match usize::try_from(priority) {
            Ok(level) if (1..=self.priority_levels.get()).contains(&level) => level,
            _ => self.default_priority,
        }
    }

    /// The message with defaults filled in.
    pub(super) fn to_wire(&self, written: &ModelDynamicBatching) -> ModelDynamicBatching {
        let preferred = self.preferred_rows.iter().map(|rows| i32::try_from(*rows).unwrap_or(i32::MAX)).collect();
        ModelDynamicBatching { preferred_batch_size: preferred, ..written.clone() }
    }
}

/// The default bound of a queue: room for 64 of the largest batches, and never less than a few thousand requests.
pub(super) fn default_queue_entries(max_rows: Option<NonZeroUsize>) -> NonZeroUsize {
    const BATCHES: usize = 64;
    let entries = max_rows.map_or(0, |rows| rows.get().saturating_mul(BATCHES)).max(DEFAULT_QUEUE_ENTRIES);
    NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN)
}
