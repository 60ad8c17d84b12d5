//! The task that drives a model's dynamic batcher.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::batch::Batch;
use crate::clock::{self, Timestamp};
use crate::config::DynamicBatching;
use crate::error::{InferError, RequestTag};
use crate::instance::{BatchDone, InstancePool};
use crate::observe::statistics::{ModelStatistics, Stage};
use crate::request::Entry;

use super::Scheduler;
use super::batcher::{DynamicBatcher, Ran, Room};
use super::queue::{Lapse, Refusal, Waiting};

/// Entries taken from the channel at a time, so that a flood of arrivals does not keep batches from starting.
const ARRIVALS_PER_TURN: usize = 256;

/// Most entries on their way to the task, whatever the levels allow: a limit of the channel itself.
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

/// Handle on the task: it passes entries on.
pub struct DynamicScheduler {
    sender: mpsc::Sender<Entry>,
    statistics: Arc<ModelStatistics>,
}

/// The task: the only owner of the batcher, so there is no lock.
struct Task {
    batcher: DynamicBatcher<Entry>,
    instances: InstancePool,
    statistics: Arc<ModelStatistics>,
    receiver: mpsc::Receiver<Entry>,
    idle: Arc<Notify>,
    done: crossbeam_channel::Receiver<BatchDone>,
    preserve_ordering: bool,
}

impl DynamicScheduler {
    /// Starts the task on the current tokio runtime. It ends when the handle is dropped and all that
    /// waited has run.
    pub fn start(policy: DynamicBatching, instances: InstancePool, statistics: Arc<ModelStatistics>) -> Self {
        // The channel only passes entries on; the bounds that clients meet are those of the levels.
        let capacity = policy.policies.iter().map(|level| level.max_entries.get()).fold(0, usize::saturating_add);
        let (sender, receiver) = mpsc::channel(capacity.clamp(1, MAX_TRANSIT));
        let idle = Arc::new(Notify::new());
        let notify = Arc::clone(&idle);
        // As many batches are in flight at once as run and wait behind the running ones.
        let (done_sender, done) = crossbeam_channel::bounded(2 * instances.instances());
        instances.on_done(move |done| {
            // A place is free: each batch in flight fills at most one.
            let _ = done_sender.try_send(*done);
            notify.notify_one();
        });
        let task = Task {
            preserve_ordering: policy.preserve_ordering,
            batcher: DynamicBatcher::new(policy, instances.instances()).held_until(held_entries()),
            instances,
            done,
            statistics: Arc::clone(&statistics),
            receiver,
            idle,
        };
        tokio::spawn(task.run());
        Self { sender, statistics }
    }
}

impl Scheduler for DynamicScheduler {
    fn enqueue(&self, group: Vec<Entry>) {
        for entry in group {
            self.statistics.enter_queue(entry.level);
            if let Err(error) = self.sender.try_send(entry) {
                let (entry, stopped) = match error {
                    mpsc::error::TrySendError::Full(entry) => (entry, false),
                    mpsc::error::TrySendError::Closed(entry) => (entry, true),
                };
                self.statistics.leave_queue(entry.level, 1);
                let error = if stopped { InferError::SchedulerStopped } else { entry.queue_full() };
                self.statistics.refuse(entry, error, Stage::Admission, clock::now());
            }
        }
    }
}

impl Task {
    async fn run(mut self) {
        let mut arrivals = Vec::with_capacity(ARRIVALS_PER_TURN);
        let mut open = true;
        while open || !self.batcher.is_empty() {
            let room = self.room();
            let wakeup = self.batcher.next_wakeup(clock::now(), room);
            tokio::select! {
                received = self.receiver.recv_many(&mut arrivals, ARRIVALS_PER_TURN), if open => open = received > 0,
                () = self.idle.notified() => {}
                () = sleep_until(wakeup), if wakeup.is_some() => {}
            }
            self.accept(&mut arrivals);
            if !open {
                // Nobody comes any more: what is held back would wait for ever.
                self.batcher.release();
            }
            self.dispatch();
        }
    }

    fn accept(&mut self, arrivals: &mut Vec<Entry>) {
        let now = clock::now();
        let mut gone = Vec::new();
        for entry in arrivals.drain(..) {
            let priority = entry.request.options.priority;
            let waiting = Waiting {
                rows: entry.request.rows,
                cost: entry.request.cost,
                key: entry.request.batch_key.clone(),
                queued_at: entry.queued_at,
                start_by: entry.deadline,
                finish_by: entry.request.deadline,
                delayed_from: entry.delayed_from,
                item: entry,
            };
            if let Err((entry, refusal)) = self.batcher.push(now, priority, waiting, is_gone, &mut gone) {
                let error = match refusal {
                    Refusal::Full { retry_after } => {
                        InferError::QueueFull { tag: RequestTag(entry.request.id.clone()), retry_after }
                    }
                    Refusal::Unreachable { retry_after } => InferError::Unreachable { retry_after },
                };
                self.refuse(entry, error, Stage::Admission, now);
            }
        }
        self.refuse_gone(gone, now);
    }

    fn refuse(&self, entry: Entry, error: InferError, stage: Stage, now: Timestamp) {
        self.statistics.leave_queue(entry.level, 1);
        self.statistics.refuse(entry, error, stage, now);
    }

    fn refuse_gone(&self, gone: Vec<Entry>, now: Timestamp) {
        for entry in gone {
            self.refuse(entry, InferError::Cancelled, Stage::Queue, now);
        }
    }

    fn dispatch(&mut self) {
        let now = clock::now();
        while let Ok(done) = self.done.try_recv() {
            let took = done.ended_at.since(done.started_at);
            let ran = (done.rows > 0).then_some(Ran { rows: done.rows, cost: done.origin.cost, took });
            self.batcher.finish(now, done.origin.id, ran);
        }
        for (entry, lapse) in self.batcher.expire(now) {
            let error = match lapse {
                Lapse::Expired => InferError::Expired,
                Lapse::Unreachable => InferError::Unreachable { retry_after: None },
            };
            self.refuse(entry, error, Stage::Queue, now);
        }
        let mut gone = Vec::new();
        loop {
            let room = self.room();
            let Some(batch) = self.batcher.poll(now, room, is_gone, &mut gone) else { break };
            if let Err(batch) = self.instances.try_submit(batch) {
                // `room` said there was a place; a pool that has none is one whose instances are gone.
                self.batcher.finish(now, batch.origin.id, None);
                self.refuse_batch(batch);
            }
        }
        self.refuse_gone(gone, now);
    }

    fn refuse_batch(&self, batch: Batch<Entry>) {
        let now = clock::now();
        for member in batch {
            self.refuse(member.item, InferError::SchedulerStopped, Stage::Queue, now);
        }
    }

    /// While an instance runs, one batch may be ready behind it. Where answers must keep the order of
    /// the requests, one batch is under way at a time.
    fn room(&self) -> Room {
        let (in_flight, instances) = (self.instances.in_flight(), self.instances.instances());
        if self.preserve_ordering {
            return if in_flight == 0 { Room::Idle } else { Room::None };
        }
        match in_flight {
            batches if batches < instances => Room::Idle,
            batches if batches < 2 * instances => Room::Behind,
            _ => Room::None,
        }
    }
}

fn is_gone(entry: &Entry) -> bool {
    entry.responder.cancellation().is_cancelled()
}

async fn sleep_until(wakeup: Option<Timestamp>) {
    let delay = wakeup.map_or(Duration::MAX, |wakeup| wakeup.since(clock::now()));
    tokio::time::sleep(delay).await;
}
