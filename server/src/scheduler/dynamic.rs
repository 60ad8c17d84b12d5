//! The task that drives a model's dynamic batcher.

use std::sync::Arc;

use crate::clock::{self, Timestamp};
use crate::config::DynamicBatching;
use crate::error::InferError;
use crate::instance::InstancePool;
use crate::instance::device::{Claim, DevicePermit};
use crate::observe::statistics::{ModelStatistics, Stage};
use crate::request::Entry;

use super::Scheduler;
use super::batcher::{DynamicBatcher, Ran};
use super::drive::{Note, Surroundings, Task};
use super::driver::{Action, Driver, Reason};
use super::mailbox::{Mailbox, Unposted};
use super::queue::Waiting;
use super::timer::{Alarm, Timer};

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

/// Handle on the task: it passes entries on.
pub struct DynamicScheduler {
    mailbox: Arc<Mailbox<Entry, Note<DevicePermit>>>,
    statistics: Arc<ModelStatistics>,
}

/// What is around the task: the model's instances and its device.
struct Model {
    instances: InstancePool,
    statistics: Arc<ModelStatistics>,
    mailbox: Arc<Mailbox<Entry, Note<DevicePermit>>>,
    alarm: Alarm,
    /// The question for the device, while it waits for an answer.
    claim: Option<Claim>,
    permit: Option<DevicePermit>,
}

/// Answers whoever is left when the task ends.
struct Ending(Task<Model>);

impl DynamicScheduler {
    /// Starts the task on the current tokio runtime. It ends when the handle is dropped and all that
    /// waited has run.
    pub fn start(policy: DynamicBatching, instances: InstancePool, statistics: Arc<ModelStatistics>) -> Self {
        // The mailbox only passes entries on; the bounds that clients meet are those of the levels.
        let capacity = policy.policies.iter().map(|level| level.max_entries.get()).fold(0, usize::saturating_add);
        // As many batches are in flight at once as run and wait behind the running ones, and a turn on the device may
        // come together with one that was meant for a question taken back.
        let mailbox = Mailbox::new(capacity.clamp(1, MAX_TRANSIT), 2 * instances.places() + 2);
        let notes = Arc::clone(&mailbox);
        instances.on_done(move |done| {
            let took = done.ended_at.since(done.started_at);
            let ran = (done.rows > 0).then_some(Ran { rows: done.rows, cost: done.origin.cost, took });
            tell(&notes, Note::Done { batch: done.origin.id, ran });
        });
        let batcher = DynamicBatcher::new(policy.clone(), instances.places()).held_until(held_entries());
        let driver = Driver::new(batcher, &policy, instances.places(), instances.seat().is_some());
        let model = Model {
            instances,
            statistics: Arc::clone(&statistics),
            mailbox: Arc::clone(&mailbox),
            alarm: Timer::shared().alarm(Arc::clone(&mailbox) as _),
            claim: None,
            permit: None,
        };
        let mut ending = Ending(Task::new(driver, Arc::clone(&mailbox), model));
        tokio::spawn(async move { ending.0.run().await });
        Self { mailbox, statistics }
    }
}

fn tell(mailbox: &Mailbox<Entry, Note<DevicePermit>>, note: Note<DevicePermit>) {
    if let Err(note) = mailbox.note(note) {
        tracing::error!(?note, "a scheduler was told of more than it asked for");
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
                self.statistics.refuse_queued(entry, error, Stage::Admission, clock::now());
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

impl Surroundings for Model {
    type Item = Entry;
    type Permit = DevicePermit;

    fn now(&mut self) -> Timestamp {
        clock::now()
    }

    fn waiting(&self, entry: Entry) -> (u64, Waiting<Entry>) {
        let waiting = Waiting::from(entry);
        (waiting.item.request.options.priority, waiting)
    }

    fn is_gone(entry: &Entry) -> bool {
        entry.responder.cancellation().is_cancelled()
    }

    fn perform(&mut self, action: Action<Entry>, now: Timestamp) -> Option<u64> {
        match action {
            Action::Submit(batch) => {
                // The driver submits no more than the queue before the instances holds.
                let batch = self.instances.try_submit_with(self.permit.take(), batch).err()?;
                let id = batch.origin.id;
                for member in batch {
                    self.statistics.refuse_queued(member.item, InferError::SchedulerStopped, Stage::Queue, now);
                }
                return Some(id);
            }
            Action::Refuse(entry, reason) => {
                let (error, stage) = error_for(&entry, reason);
                self.statistics.refuse_queued(entry, error, stage, now);
            }
            Action::Ask => {
                let mailbox = Arc::clone(&self.mailbox);
                let told = move |permit| tell(&mailbox, Note::Seat(permit));
                self.claim = self.instances.seat().map(|seat| seat.request(told));
            }
            Action::Leave => (self.claim, self.permit) = (None, None),
        }
        None
    }

    fn seat(&mut self, permit: DevicePermit) {
        (self.claim, self.permit) = (None, Some(permit));
    }

    fn expire(&mut self, now: Timestamp) {
        self.instances.expire(now);
    }

    fn next_lapse(&self) -> Option<Timestamp> {
        self.instances.next_lapse()
    }

    fn wake_by(&mut self, at: Timestamp, now: Timestamp) {
        self.alarm.ring_by(at, now);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Task { mailbox, post, surroundings: model, .. } = &mut self.0;
        // A task that panicked leaves a model behind that must not take requests: nobody would answer them.
        if std::thread::panicking() {
            model.instances.fail("its scheduler panicked");
        }
        mailbox.close();
        let now = clock::now();
        for _ in 0..2 {
            // What it had taken, and what still lies there.
            for entry in std::mem::take(&mut post.arrivals) {
                model.statistics.refuse_queued(entry, InferError::SchedulerStopped, Stage::Queue, now);
            }
            mailbox.take(post);
        }
    }
}

/// What its client is told, and where the request was.
fn error_for(entry: &Entry, reason: Reason) -> (InferError, Stage) {
    match reason {
        Reason::Refused(refusal) => (refusal.error(entry), Stage::Admission),
        Reason::Lapsed(lapse) => (lapse.error(), Stage::Queue),
        Reason::Gone => (InferError::Cancelled, Stage::Queue),
    }
}
