//! An instance's thread: makes the instance, warms it up, and runs what the queue gives it until the queue is closed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::batch::Batch;
use crate::clock;
use crate::error::{ExecuteError, LoadError};
use crate::request::Entry;
use crate::timeline::DeviceTurn;

use super::device::{DevicePermit, Reservation, Seat};
use super::pool::{BatchDone, Ready, Shared, take_out};
use super::ready::Appetite;
use super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion, panic_message, warmup};

/// Starts the thread of one instance. It reports once through `started`: that the instance is ready, or why it is not.
///
/// # Errors
/// The system has no thread left.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    slot: InstanceSlot,
    backend: Arc<dyn Backend>,
    seat: Option<Seat>,
    started: Sender<Result<(), LoadError>>,
) -> Result<(), LoadError> {
    let shared = Arc::clone(shared);
    let model = shared.served.config.name.to_string();
    std::thread::Builder::new()
        .name(format!("{model}#{}", slot.ordinal))
        .spawn(move || {
            let made = create(&shared.served, backend.as_ref(), &slot)
                .and_then(|mut instance| warmup::run(&shared.served, instance.as_mut()).map(|()| instance));
            let instance = match made {
                Ok(instance) => instance,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            drop(started);
            serve(&shared, &slot, backend.as_ref(), seat.as_ref(), instance);
        })
        .map(drop)
        .map_err(|error| LoadError::Thread { model, reason: error.to_string() })
}

/// Runs batches until none comes any more, or the instance breaks and cannot be made anew.
fn serve(shared: &Shared, slot: &InstanceSlot, backend: &dyn Backend, seat: Option<&Seat>, mut instance: Box<dyn ModelInstance>) {
    let mut turn = None;
    while let Some(Ready { batch, permit }) = next(shared, slot.ordinal, seat, turn.take()) {
        let device =
            permit.as_ref().map(|permit| DeviceTurn { claimed_at: permit.claimed_at(), granted_at: permit.granted_at() });
        let (done, outcome) = run(shared, (slot.ordinal, device), instance.as_mut(), batch);
        // With more to run, the instance asks for its next turn in the same step, so that nobody comes between who
        // has a weaker claim. A dynamic batcher has asked for it already.
        let goes_on = shared.seat.is_none() && outcome.is_ok() && shared.queue.has_some(slot.ordinal, Appetite::All);
        turn = permit.filter(|_| goes_on).map(DevicePermit::exchange);
        let fresh = outcome.err().map(|Broken| create(&shared.served, backend, slot));
        shared.batch_done(&done);
        match fresh {
            None => {}
            Some(Ok(fresh)) => instance = fresh,
            Some(Err(error)) => return retire(shared, slot, &error),
        }
    }
}

/// The next batch for an instance, with its turn on the device. Where the instance has to ask for that, it takes the
/// batch only then: until its turn comes, the batch may lapse, and more urgent ones may come.
fn next(shared: &Shared, ordinal: usize, seat: Option<&Seat>, mut turn: Option<Reservation>) -> Option<Ready> {
    let Some(seat) = seat else {
        return shared.queue.next(ordinal, Appetite::All);
    };
    if shared.seat.is_some() {
        let ready = shared.queue.next(ordinal, Appetite::All)?;
        let permit = ready.permit.or_else(|| Some(seat.acquire()));
        return Some(Ready { permit, ..ready });
    }
    loop {
        let permit = match turn.take() {
            Some(turn) => turn.wait(),
            None if !shared.queue.wait(ordinal, Appetite::All) => return None,
            None => seat.acquire(),
        };
        if let Some(ready) = shared.queue.take_now(ordinal, Appetite::All) {
            return Some(Ready { permit: Some(permit), ..ready });
        }
    }
}

/// An instance panicked and could not be made anew. The others go on; it stays to answer whatever is meant for it
/// alone with an error, and the last one whatever still comes, so that nobody waits for a thread that is gone.
fn retire(shared: &Shared, slot: &InstanceSlot, error: &LoadError) {
    let model = &shared.served.config.name;
    tracing::error!(model = %model, version = shared.served.version, %error, "an instance panicked and could not be made anew");
    let reason = error.to_string();
    let appetite = if shared.retire() {
        shared.fail(&reason);
        Appetite::All
    } else {
        Appetite::Own
    };
    while let Some(Ready { batch, permit }) = shared.queue.next(slot.ordinal, appetite) {
        drop(permit);
        let error = ExecuteError::NoInstance { model: model.to_string(), reason: reason.clone() };
        shared.leave_queue(batch.members().iter().map(|member| &member.item));
        let started_at = clock::now();
        let origin = batch.origin;
        shared.contain("answering a batch", || Execution::start(Arc::clone(&shared.served), batch).finish(Err(error)));
        shared.batch_done(&BatchDone { origin, rows: 0, started_at, ended_at: clock::now() });
    }
}

/// Makes an instance; a panic on the way is an error like any other.
fn create(served: &ServedVersion, backend: &dyn Backend, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
    catch_unwind(AssertUnwindSafe(|| backend.instantiate(slot))).unwrap_or_else(|panic| {
        Err(LoadError::Panicked { model: served.config.name.to_string(), message: panic_message(panic.as_ref()) })
    })
}

/// The instance panicked; its state may be broken.
struct Broken;

/// Runs one batch on an instance, by its number, and its turn on the device. Entries that nobody waits for any more are left out.
fn run(
    shared: &Shared,
    (ordinal, device): (usize, Option<DeviceTurn>),
    instance: &mut dyn ModelInstance,
    batch: Batch<Entry>,
) -> (BatchDone, Result<(), Broken>) {
    let served = &shared.served;
    let now = clock::now();
    shared.leave_queue(batch.members().iter().map(|member| &member.item));
    let (live, lapsed) = take_out(batch, &mut |entry| entry.lapsed(now).is_some());
    shared.refuse(lapsed, now);
    let mut done = BatchDone { origin: live.origin, rows: live.rows(), started_at: now, ended_at: now };
    if live.is_empty() {
        return (done, Ok(()));
    }
    let mut execution = Execution::start(Arc::clone(served), live).on(ordinal, device);
    let (result, outcome) = match catch_unwind(AssertUnwindSafe(|| instance.execute(&mut execution))) {
        Ok(result) => (result, Ok(())),
        Err(panic) => {
            let message = panic_message(panic.as_ref());
            tracing::error!(model = %served.config.name, version = served.version, panic = message, "the model panicked while executing");
            (Err(ExecuteError::Panicked { model: served.config.name.to_string(), message }), Err(Broken))
        }
    };
    // Responders that have not answered do so while they are dropped.
    shared.contain("answering a batch", || execution.finish(result));
    done.ended_at = clock::now();
    (done, outcome)
}
