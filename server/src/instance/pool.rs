//! The instances of one model version: their threads, and the bounded queue of batches they share.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::batch::{Batch, Origin};
use crate::clock::{self, Timestamp};
use crate::error::{ExecuteError, InferError, LoadError};
use crate::observe::statistics::Stage;
use crate::request::Entry;

use super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion, warmup};

/// Called by an instance's thread.
type Hook = Box<dyn Fn() + Send + Sync>;

/// Called by an instance's thread after each batch.
type DoneHook = Box<dyn Fn(&BatchDone) + Send + Sync>;

/// A batch that an instance is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchDone {
    /// How it came about.
    pub origin: Origin,
    /// Rows that were executed; 0 where nobody waited for any of its requests any more.
    pub rows: usize,
    /// When an instance took it.
    pub started_at: Timestamp,
    /// When its last request was answered.
    pub ended_at: Timestamp,
}

/// Handle on the running instances. When the last clone is dropped, the instances finish the batches
/// that are queued and end.
#[derive(Clone)]
pub struct InstancePool {
    sender: Sender<Batch<Entry>>,
    shared: Arc<Shared>,
}

/// What the handle and the threads share.
struct Shared {
    served: Arc<ServedVersion>,
    /// Batches submitted and not finished.
    in_flight: AtomicUsize,
    /// Threads that can run batches.
    working: AtomicUsize,
    instances: usize,
    done_hook: OnceLock<DoneHook>,
    failure_hook: OnceLock<Hook>,
    failure: Mutex<Option<String>>,
}

impl InstancePool {
    /// Starts all instances and runs their warmup; returns when every one is ready.
    /// `queue_batches` is how many batches may wait for an instance.
    ///
    /// # Errors
    /// The first instance that could not be made or warmed up; those that were are ended again.
    pub fn start(served: Arc<ServedVersion>, backend: &Arc<dyn Backend>, queue_batches: usize) -> Result<Self, LoadError> {
        let slots: Vec<InstanceSlot> = served
            .config
            .instance_groups
            .iter()
            .flat_map(|group| std::iter::repeat_n(group, group.count))
            .enumerate()
            .map(|(ordinal, group)| InstanceSlot { group: group.clone(), ordinal })
            .collect();
        let (sender, receiver) = bounded(queue_batches.max(1));
        let shared = Arc::new(Shared {
            served,
            in_flight: AtomicUsize::new(0),
            working: AtomicUsize::new(slots.len()),
            instances: slots.len(),
            done_hook: OnceLock::new(),
            failure_hook: OnceLock::new(),
            failure: Mutex::new(None),
        });
        let (ready_sender, ready) = bounded(slots.len());
        for slot in slots {
            spawn_instance(&shared, slot, Arc::clone(backend), receiver.clone(), ready_sender.clone())?;
        }
        drop(ready_sender);
        // Every thread reports once; one that died without a word closes the channel.
        for _ in 0..shared.instances {
            ready.recv().unwrap_or_else(|_| {
                Err(LoadError::Panicked {
                    model: shared.served.config.name.to_string(),
                    message: "the instance's thread ended".to_owned(),
                })
            })?;
        }
        Ok(Self { sender, shared })
    }

    /// Number of instances.
    pub fn instances(&self) -> usize {
        self.shared.instances
    }

    /// The model version that runs here.
    pub fn served(&self) -> &Arc<ServedVersion> {
        &self.shared.served
    }

    /// Batches submitted and not finished.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// Why no instance works any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands a batch to the next free instance.
    ///
    /// # Errors
    /// The batch comes back where as many wait as may.
    pub fn try_submit(&self, batch: Batch<Entry>) -> Result<(), Batch<Entry>> {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        self.sender.try_send(batch).map_err(|error| {
            self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
            match error {
                TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
            }
        })
    }

    /// Sets what an instance calls after each batch. Only the first call counts.
    pub fn on_done(&self, hook: impl Fn(&BatchDone) + Send + Sync + 'static) {
        let _ = self.shared.done_hook.set(Box::new(hook));
    }

    /// Sets what is called when no instance works any more, at once if that is so already. Only the first call
    /// counts.
    pub fn on_failure(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.failure_hook.set(Box::new(hook));
        // The last instance may have failed before the hook was there to be called; called twice is harmless.
        if self.failure().is_some() {
            self.shared.failed();
        }
    }
}

fn spawn_instance(
    shared: &Arc<Shared>,
    slot: InstanceSlot,
    backend: Arc<dyn Backend>,
    receiver: Receiver<Batch<Entry>>,
    ready: Sender<Result<(), LoadError>>,
) -> Result<(), LoadError> {
    let shared = Arc::clone(shared);
    let model = shared.served.config.name.to_string();
    std::thread::Builder::new()
        .name(format!("{model}#{}", slot.ordinal))
        .spawn(move || {
            let mut instance = match create(&shared.served, backend.as_ref(), &slot) {
                Ok(mut instance) => match warmup::run(&shared.served, instance.as_mut()) {
                    Ok(()) => instance,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                },
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            drop(ready);
            while let Ok(batch) = receiver.recv() {
                let (done, outcome) = run(&shared.served, instance.as_mut(), batch);
                if outcome.is_err() {
                    match create(&shared.served, backend.as_ref(), &slot) {
                        Ok(fresh) => instance = fresh,
                        Err(error) => return retire(&shared, &receiver, &done, &error),
                    }
                }
                shared.batch_done(&done);
            }
        })
        .map(drop)
        .map_err(|error| LoadError::Thread { model, reason: error.to_string() })
}

impl Shared {
    fn failed(&self) {
        if let Some(hook) = self.failure_hook.get() {
            hook();
        }
    }

    fn batch_done(&self, done: &BatchDone) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        if let Some(hook) = self.done_hook.get() {
            hook(done);
        }
    }
}

/// An instance panicked and could not be made anew. The others go on; the last one stays to answer
/// whatever still comes with an error, so that nobody waits for a thread that is gone.
fn retire(shared: &Shared, receiver: &Receiver<Batch<Entry>>, done: &BatchDone, error: &LoadError) {
    let model = &shared.served.config.name;
    tracing::error!(model = %model, version = shared.served.version, %error, "an instance panicked and could not be made anew");
    shared.batch_done(done);
    if shared.working.fetch_sub(1, Ordering::AcqRel) > 1 {
        return;
    }
    let reason = error.to_string();
    *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
    shared.failed();
    while let Ok(batch) = receiver.recv() {
        let error = ExecuteError::NoInstance { model: model.to_string(), reason: reason.clone() };
        leave_queue(&shared.served, &batch);
        let started_at = clock::now();
        let origin = batch.origin;
        Execution::start(Arc::clone(&shared.served), batch).finish(Err(error));
        shared.batch_done(&BatchDone { origin, rows: 0, started_at, ended_at: clock::now() });
    }
}

/// Makes an instance; a panic on the way is an error like any other.
fn create(served: &ServedVersion, backend: &dyn Backend, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
    catch_unwind(AssertUnwindSafe(|| backend.instantiate(slot))).unwrap_or_else(|panic| {
        Err(LoadError::Panicked { model: served.config.name.to_string(), message: panic_message(panic.as_ref()) })
    })
}

/// A batch has left its model's queue.
fn leave_queue(served: &ServedVersion, batch: &Batch<Entry>) {
    // Neighbors are mostly of one level, so this is one step for most batches.
    for same in batch.members().chunk_by(|one, next| one.item.level == next.item.level) {
        served.statistics.leave_queue(same[0].item.level, u64::try_from(same.len()).unwrap_or(u64::MAX));
    }
}

/// The instance panicked; its state may be broken.
struct Broken;

/// Runs one batch on an instance. Entries that nobody waits for any more are left out.
fn run(served: &Arc<ServedVersion>, instance: &mut dyn ModelInstance, batch: Batch<Entry>) -> (BatchDone, Result<(), Broken>) {
    let now = clock::now();
    leave_queue(served, &batch);
    let (live, lapsed) = batch.partition(|entry| entry.lapsed(now).is_none());
    for entry in lapsed {
        let error = entry.lapsed(now).unwrap_or(InferError::Cancelled);
        served.statistics.refuse(entry, error, Stage::Ready, now);
    }
    let mut done = BatchDone { origin: live.origin, rows: live.rows(), started_at: now, ended_at: now };
    if live.is_empty() {
        return (done, Ok(()));
    }
    let mut execution = Execution::start(Arc::clone(served), live);
    let (result, outcome) = match catch_unwind(AssertUnwindSafe(|| instance.execute(&mut execution))) {
        Ok(result) => (result, Ok(())),
        Err(panic) => {
            let message = panic_message(panic.as_ref());
            tracing::error!(model = %served.config.name, version = served.version, message, "the model panicked while executing");
            (Err(ExecuteError::Panicked { model: served.config.name.to_string(), message }), Err(Broken))
        }
    };
    // Whoever takes the answers runs on this thread too (an ensemble goes on with its graph): the thread must
    // outlive that. Responders that have not answered do so while they are dropped.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| execution.finish(result))) {
        let message = panic_message(panic.as_ref());
        tracing::error!(model = %served.config.name, version = served.version, message, "answering a batch panicked");
    }
    done.ended_at = clock::now();
    (done, outcome)
}

/// What a panic says, where it says something.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
