//! The task that drives a model's dynamic batcher.

use std::sync::Arc;

use crate::batch::Batch;
use crate::clock::{self, Timestamp};
use crate::config::DynamicBatching;
use crate::error::{InferError, RequestTag};
use crate::instance::{BatchDone, InstancePool};
use crate::observe::statistics::{ModelStatistics, Stage};
use crate::request::Entry;

use super::Scheduler;
use super::batcher::{DynamicBatcher, Ran};
use super::driver::{Action, Driver, Reason};
use super::mailbox::{Mailbox, Post, Unposted};
use super::queue::{Lapse, Refusal, Waiting};
use super::timer::{Alarm, Bell as _, Timer};

/// Entries given to the batcher at a time, so that a flood of arrivals does not keep batches from starting.
const ARRIVALS_PER_TURN: usize = 256;

/// Most entries on their way to the task, whatever the levels allow.
const MAX_TRANSIT: usize = 1 << 20;

/// Variable of the environment that holds every dynamic batcher until so many requests wait: Triton's, for
/// tests of clients and schedulers.
const DELAY_SCHEDULER: &str = "TRITONSERVER_DELAY_SCHEDULER";

fn held_entries() -> usize {
    let Ok(text) = std::env::var(DELAY_SCHEDULER) else {
        return 0;
    };
    text.parse().unwrap_or_else(|_| {
        tracing::warn!("{DELAY_SCHEDULER} must be a number of requests, got '{text}'; no batch is held back");
        0
    })
}

/// What the task is told besides requests.
type Note = BatchDone;

/// Handle on the task: it passes entries on.
pub struct DynamicScheduler {
    mailbox: Arc<Mailbox<Entry, Note>>,
    statistics: Arc<ModelStatistics>,
}

/// The task: the only owner of the batcher, so there is no lock.
struct Task {
    driver: Driver<Entry>,
    instances: InstancePool,
    statistics: Arc<ModelStatistics>,
    mailbox: Arc<Mailbox<Entry, Note>>,
    post: Post<Entry, Note>,
    alarm: Alarm,
    actions: Vec<Action<Entry>>,
}

impl DynamicScheduler {
    /// Starts the task on the current tokio runtime. It ends when the handle is dropped and all that
    /// waited has run.
    pub fn start(policy: DynamicBatching, instances: InstancePool, statistics: Arc<ModelStatistics>) -> Self {
        // The mailbox only passes entries on; the bounds that clients meet are those of the levels.
        let capacity = policy.policies.iter().map(|level| level.max_entries.get()).fold(0, usize::saturating_add);
        // As many batches are in flight at once as run and wait behind the running ones.
        let mailbox = Mailbox::new(capacity.clamp(1, MAX_TRANSIT), 2 * instances.instances());
        let notes = Arc::clone(&mailbox);
        instances.on_done(move |done| {
            if notes.note(*done).is_err() {
                tracing::error!(batch = done.origin.id, "a model's scheduler was told of more batches than it started");
            }
        });
        let order = policy.preserve_ordering;
        let batcher = DynamicBatcher::new(policy, instances.instances()).held_until(held_entries());
        let task = Task {
            driver: Driver::new(batcher, instances.instances(), order, false),
            instances,
            statistics: Arc::clone(&statistics),
            alarm: Timer::shared().alarm(Arc::clone(&mailbox) as _),
            mailbox: Arc::clone(&mailbox),
            post: Post::default(),
            actions: Vec::new(),
        };
        tokio::spawn(task.run());
        Self { mailbox, statistics }
    }
}

impl Scheduler for DynamicScheduler {
    fn enqueue(&self, group: Vec<Entry>) {
        for entry in group {
            self.statistics.enter_queue(entry.level);
            if let Err(unposted) = self.mailbox.post(entry) {
                let (entry, error) = match unposted {
                    Unposted::Full(entry) => {
                        let error = entry.queue_full();
                        (entry, error)
                    }
                    Unposted::Closed(entry) => (entry, InferError::SchedulerStopped),
                };
                refuse(&self.statistics, entry, error, Stage::Admission, clock::now());
            }
        }
    }

    fn release(&self) {
        self.mailbox.release();
    }
}

impl Drop for DynamicScheduler {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl Task {
    async fn run(mut self) {
        loop {
            self.mailbox.take(&mut self.post);
            let now = self.turn();
            if !self.post.arrivals.is_empty() {
                // More came than one turn takes. Others on this thread go first.
                tokio::task::yield_now().await;
                continue;
            }
            if self.driver.is_finished() {
                return;
            }
            let wakeup = self.driver.next_wakeup(now).into_iter().chain(self.instances.next_lapse()).min();
            if let Some(wakeup) = wakeup {
                self.alarm.ring_by(wakeup, now);
            }
            self.mailbox.wait().await;
        }
    }

    /// Works off what has come, or as much of it as one turn takes, and does what can be done. Returns the time that
    /// it went by.
    fn turn(&mut self) -> Timestamp {
        let now = clock::now();
        for done in self.post.notes.drain(..) {
            let took = done.ended_at.since(done.started_at);
            let ran = (done.rows > 0).then_some(Ran { rows: done.rows, cost: done.origin.cost, took });
            self.driver.on_done(now, done.origin.id, ran);
        }
        let arrivals = self.post.arrivals.len().min(ARRIVALS_PER_TURN);
        for entry in self.post.arrivals.drain(..arrivals) {
            let priority = entry.request.options.priority;
            self.driver.on_arrival(now, priority, waiting(entry), is_gone, &mut self.actions);
        }
        if self.post.released {
            self.driver.on_release();
        }
        if self.post.closed && self.post.arrivals.is_empty() {
            self.driver.on_close();
        }
        self.instances.expire(now);
        self.driver.step(now, is_gone, &mut self.actions);
        self.act(now);
        now
    }

    fn act(&mut self, now: Timestamp) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Submit(batch) => {
                    if let Err(batch) = self.instances.try_submit(batch) {
                        // The driver submits no more than the queue before the instances holds.
                        self.driver.on_done(now, batch.origin.id, None);
                        self.refuse_batch(batch, now);
                        self.mailbox.ring();
                    }
                }
                Action::Refuse(entry, reason) => {
                    let (error, stage) = error_for(&entry, reason);
                    refuse(&self.statistics, entry, error, stage, now);
                }
                Action::Ask | Action::Leave => {}
            }
        }
    }

    fn refuse_batch(&self, batch: Batch<Entry>, now: Timestamp) {
        for member in batch {
            refuse(&self.statistics, member.item, InferError::SchedulerStopped, Stage::Queue, now);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // A task that panicked leaves a model behind that must not take requests: nobody would answer them.
        if std::thread::panicking() {
            self.instances.fail("its scheduler panicked");
        }
        self.mailbox.close();
        let now = clock::now();
        for _ in 0..2 {
            // What it had taken, and what still lies there.
            for entry in std::mem::take(&mut self.post.arrivals) {
                refuse(&self.statistics, entry, InferError::SchedulerStopped, Stage::Queue, now);
            }
            self.mailbox.take(&mut self.post);
        }
    }
}

fn refuse(statistics: &ModelStatistics, entry: Entry, error: InferError, stage: Stage, now: Timestamp) {
    statistics.leave_queue(entry.level, 1);
    statistics.refuse(entry, error, stage, now);
}

/// What its client is told, and where the request was.
fn error_for(entry: &Entry, reason: Reason) -> (InferError, Stage) {
    match reason {
        Reason::Refused(Refusal::Full { retry_after }) => {
            (InferError::QueueFull { tag: RequestTag(entry.request.id.clone()), retry_after }, Stage::Admission)
        }
        Reason::Refused(Refusal::Unreachable { retry_after }) => (InferError::Unreachable { retry_after }, Stage::Admission),
        Reason::Lapsed(Lapse::Expired) => (InferError::Expired, Stage::Queue),
        Reason::Lapsed(Lapse::Unreachable) => (InferError::Unreachable { retry_after: None }, Stage::Queue),
        Reason::Gone => (InferError::Cancelled, Stage::Queue),
    }
}

fn waiting(entry: Entry) -> Waiting<Entry> {
    Waiting {
        rows: entry.request.rows,
        cost: entry.request.cost,
        key: entry.request.batch_key.clone(),
        queued_at: entry.queued_at,
        start_by: entry.deadline,
        finish_by: entry.request.deadline,
        delayed_from: entry.delayed_from,
        item: entry,
    }
}

fn is_gone(entry: &Entry) -> bool {
    entry.responder.cancellation().is_cancelled()
}
