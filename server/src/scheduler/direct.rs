//! Requests that run on their own: straight into the bounded queue before the instances.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::batch::{Batch, Origin, Trigger};
use crate::clock::{self, Timestamp};
use crate::error::{InferError, RequestTag};
use crate::instance::{InstancePool, Placement};
use crate::observe::statistics::{ModelStatistics, Stage};
use crate::request::Entry;

use super::Scheduler;
use super::batcher::fit::ExecutionFit;
use super::watch::Watch;

/// Most requests ahead of one that are counted to find out whether it can be done in time. Where more would have to be
/// counted, it is let in; should its time run out, it is refused then.
const MOST_COUNTED: usize = 1024;

/// Shortest time after which a client is told to try again.
const SHORTEST_RETRY: Duration = Duration::from_millis(1);

/// Each request is a batch of its own; earlier deadlines go first. There is no task in between, so an idle instance
/// starts at once; a watch refuses those whose time runs out while all are busy.
pub struct DirectScheduler {
    instances: InstancePool,
    statistics: Arc<ModelStatistics>,
    fit: Arc<Mutex<ExecutionFit>>,
    watch: Watch,
    batches: AtomicU64,
}

impl DirectScheduler {
    /// A scheduler over running instances, whose queue bounds the model's. It starts a task on the current tokio
    /// runtime, which ends with it.
    pub fn start(instances: InstancePool, statistics: Arc<ModelStatistics>) -> Self {
        let fit: Arc<Mutex<ExecutionFit>> = Arc::default();
        let learning = Arc::clone(&fit);
        instances.on_done(move |done| {
            if done.rows > 0 {
                let took = done.ended_at.since(done.started_at);
                learning.lock().unwrap_or_else(PoisonError::into_inner).observe(done.origin.cost, took);
            }
        });
        let watch = Watch::start(instances.waiting_batches());
        Self { instances, statistics, fit, watch, batches: AtomicU64::new(0) }
    }

    fn admit(&self, mut entry: Entry, now: Timestamp) {
        if let Some(finish_by) = entry.request.deadline {
            let fit = *self.fit.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(late) = self.lateness(&fit, &entry, finish_by, now) {
                let is_possible = least(&fit, entry.request.cost) < finish_by.since(now);
                let retry_after = is_possible.then(|| late.max(SHORTEST_RETRY));
                return self.refuse(entry, InferError::Unreachable { retry_after }, now);
            }
            // Started later than this, it would be late for certain.
            let latest = finish_by.minus(least(&fit, entry.request.cost));
            entry.deadline = Some(entry.deadline.map_or(latest, |deadline| deadline.min(latest)));
        }
        let (rows, cost, deadline) = (entry.request.rows, entry.request.cost, entry.deadline);
        let mut batch = Batch::single(entry, rows);
        let id = self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        batch.origin = Origin { id, formed_at: now, trigger: Trigger::Alone, cost };
        match self.instances.try_place(batch) {
            Ok(Placement::Taken) => {}
            Ok(Placement::Waits) => self.watch.look_after(deadline, now),
            Err(batch) => {
                for member in batch {
                    let retry_after = self.until_room();
                    let tag = RequestTag(member.item.request.id.clone());
                    self.refuse(member.item, InferError::QueueFull { tag, retry_after }, now);
                }
            }
        }
    }

    fn refuse(&self, entry: Entry, error: InferError, now: Timestamp) {
        self.statistics.refuse_queued(entry, error, Stage::Admission, now);
    }

    /// By how much a request will be late at least, if it is certain to be.
    fn lateness(&self, fit: &ExecutionFit, entry: &Entry, finish_by: Timestamp, now: Timestamp) -> Option<Duration> {
        let own = least(fit, entry.request.cost);
        let one = least(fit, 1);
        if own.is_zero() || one.is_zero() {
            return None;
        }
        let left = finish_by.since(now);
        let slack = left.saturating_sub(own);
        let instances = u32::try_from(self.instances.places()).unwrap_or(u32::MAX);
        // When it starts, all instances but its own may still be at one of those ahead of it.
        let in_time = slack.as_nanos() / one.as_nanos().max(1) * u128::from(instances) + u128::from(instances);
        let most = usize::try_from(in_time).ok().filter(|most| *most <= MOST_COUNTED)?;
        let ahead = u32::try_from(self.instances.count_ahead(entry, most + 1)).unwrap_or(u32::MAX);
        let start = one.saturating_mul(ahead.saturating_sub(instances - 1)) / instances;
        start.saturating_add(own).checked_sub(left).filter(|late| !late.is_zero())
    }

    /// How long until there will be room: until an instance is done.
    fn until_room(&self) -> Option<Duration> {
        let fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        let one = fit.predict(1)?;
        Some((one / u32::try_from(self.instances.places()).unwrap_or(u32::MAX)).max(SHORTEST_RETRY))
    }
}

/// What a request of this cost takes at least, short of luck; zero where nothing is known.
fn least(fit: &ExecutionFit, cost: u64) -> Duration {
    fit.at_least(cost).unwrap_or(Duration::ZERO)
}

impl Scheduler for DirectScheduler {
    fn enqueue(&self, group: Vec<Entry>) {
        let now = clock::now();
        for entry in group {
            self.statistics.enter_queue(entry.level);
            self.admit(entry, now);
        }
    }
}
