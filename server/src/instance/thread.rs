//! An instance's thread: makes the instance, warms it up, and runs what the queue gives it until the queue is closed.
//! Where the instance may have several batches under way, it launches them here, and they end on a thread beside this one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::clock;
use crate::error::{ExecuteError, LoadError};
use crate::timeline::DeviceTurn;

use super::device::{DeviceHealth, DevicePermit, Reservation, Seat};
use super::landing::{Flight, Landing, contained, note_loss};
use super::pool::{BatchDone, Ready, Shared, take_out};
use super::ready::Appetite;
use super::{Backend, Execution, InstanceSlot, ModelInstance, panic_message, warmup};

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
            let runner = Runner { shared: &shared, slot: &slot, backend: backend.as_ref(), seat: seat.as_ref() };
            let made = runner.make().and_then(|mut instance| {
                warmup::run(&shared.served, instance.as_mut())?;
                let depth = backend.depth(&slot);
                let landing = (depth.get() > 1).then(|| Landing::start(&shared, slot.ordinal, depth)).transpose()?;
                Ok((instance, landing))
            });
            let (instance, landing) = match made {
                Ok(made) => made,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            drop(started);
            runner.serve(instance, landing);
        })
        .map(drop)
        .map_err(|error| LoadError::Thread { model, reason: error.to_string() })
}

/// What an instance's thread knows.
struct Runner<'a> {
    shared: &'a Shared,
    slot: &'a InstanceSlot,
    backend: &'a dyn Backend,
    seat: Option<&'a Seat>,
}

/// What became of a batch that an instance took.
enum Outcome {
    /// It has been answered; where the turn on the device is not over yet, it comes back.
    Done(BatchDone, Option<DevicePermit>),
    /// As `Done`, but the instance panicked and its state may be broken.
    Broken(BatchDone),
    /// A device computes it, and the thread beside this one ends it.
    UnderWay,
}

impl Runner<'_> {
    /// Runs batches until none comes any more, or the instance breaks and cannot be made anew.
    fn serve(&self, instance: Box<dyn ModelInstance>, landing: Option<Landing>) {
        // Dropped in this order: what is under way ends before the instance goes.
        let mut instance = Some(instance);
        let landing = landing.as_ref();
        let mut turn = None;
        loop {
            landing.iter().for_each(|landing| landing.flights().wait_for_place());
            let Some(ready) = next(self.shared, self.slot.ordinal, self.seat, turn.take()) else { break };
            if landing.is_some_and(|landing| landing.flights().take_broken())
                && let Err(error) = self.renew(&mut instance, landing)
            {
                return self.retire(&error, Some(ready));
            }
            let Some(running) = instance.as_deref_mut() else { break };
            let (done, is_broken) = match self.run(running, landing, ready) {
                Outcome::UnderWay => continue,
                Outcome::Broken(done) => (done, true),
                Outcome::Done(done, permit) => {
                    // With more to run, the instance asks for its next turn in the same step, so that nobody comes
                    // between who has a weaker claim. A dynamic batcher has asked for it already.
                    let has_more = || self.shared.queue.has_some(self.slot.ordinal, Appetite::All);
                    let goes_on = self.shared.seat.is_none() && has_more();
                    turn = permit.filter(|_| goes_on).map(DevicePermit::exchange);
                    (done, false)
                }
            };
            let renewed = if is_broken { self.renew(&mut instance, landing) } else { Ok(()) };
            self.shared.batch_done(&done);
            if let Err(error) = renewed {
                return self.retire(&error, None);
            }
        }
        landing.iter().for_each(|landing| landing.flights().wait_for_all());
    }

    /// Makes an instance; a panic on the way is an error like any other.
    fn make(&self) -> Result<Box<dyn ModelInstance>, LoadError> {
        catch_unwind(AssertUnwindSafe(|| self.backend.instantiate(self.slot))).unwrap_or_else(|panic| {
            let model = self.shared.served.config.name.to_string();
            Err(LoadError::Panicked { model, message: panic_message(panic.as_ref()) })
        })
    }

    /// Makes the instance anew. The old one goes first, and before it what it has under way: a device may not have room
    /// for two.
    fn renew(&self, instance: &mut Option<Box<dyn ModelInstance>>, landing: Option<&Landing>) -> Result<(), LoadError> {
        landing.iter().for_each(|landing| landing.flights().wait_for_all());
        let old = instance.take();
        self.shared.contain("dropping a broken instance", || drop(old));
        *instance = Some(self.make()?);
        Ok(())
    }

    /// Runs one batch, or launches it. Entries that nobody waits for any more are left out.
    fn run(&self, instance: &mut dyn ModelInstance, landing: Option<&Landing>, ready: Ready) -> Outcome {
        let (shared, ordinal) = (self.shared, self.slot.ordinal);
        let Ready { batch, permit } = ready;
        let device =
            permit.as_ref().map(|permit| DeviceTurn { claimed_at: permit.claimed_at(), granted_at: permit.granted_at() });
        let now = clock::now();
        shared.leave_queue(batch.members().iter().map(|member| &member.item));
        let (live, lapsed) = take_out(batch, &mut |entry| entry.lapsed(now).is_some());
        shared.refuse(lapsed, now);
        let mut done = BatchDone { origin: live.origin, rows: live.rows(), started_at: now, ended_at: now };
        if live.is_empty() {
            return Outcome::Done(done, permit);
        }
        let mut execution = Execution::start(Arc::clone(&shared.served), live).on(ordinal, device);
        let (launched, mut is_broken) = match shared.health(ordinal).and_then(DeviceHealth::lost) {
            // Whoever asks a lost device for more only waits for the same error.
            Some(reason) => {
                let model = shared.served.config.name.to_string();
                (Err(ExecuteError::DeviceLost { model, reason: reason.to_string() }), false)
            }
            None => contained(shared, || instance.launch(&mut execution)),
        };
        let result = match (launched, landing) {
            (Ok(Some(pending)), Some(landing)) => {
                landing.flights().launch(Flight { execution, pending, permit, done });
                return Outcome::UnderWay;
            }
            (Ok(Some(pending)), None) => {
                let (result, broke) = contained(shared, || pending.wait(&mut execution));
                is_broken = broke;
                result
            }
            (Ok(None), _) => Ok(()),
            (Err(error), _) => Err(error),
        };
        note_loss(shared, ordinal, &result);
        // Responders that have not answered do so while they are dropped.
        shared.contain("answering a batch", || execution.finish(result));
        done.ended_at = clock::now();
        if is_broken { Outcome::Broken(done) } else { Outcome::Done(done, permit) }
    }

    /// The instance panicked and could not be made anew. The others go on; it stays to answer whatever is meant for it
    /// alone with an error, and the last one whatever still comes, so that nobody waits for a thread that is gone. `taken`
    /// is what it has taken already.
    fn retire(&self, error: &LoadError, taken: Option<Ready>) {
        let shared = self.shared;
        let model = &shared.served.config.name;
        tracing::error!(model = %model, version = shared.served.version, %error, "an instance panicked and could not be made anew");
        let reason = error.to_string();
        let appetite = if shared.retire() {
            shared.fail(&reason);
            Appetite::All
        } else {
            Appetite::Own
        };
        let mut ready = taken.or_else(|| shared.queue.next(self.slot.ordinal, appetite));
        while let Some(Ready { batch, permit }) = ready {
            drop(permit);
            let error = ExecuteError::NoInstance { model: model.to_string(), reason: reason.clone() };
            shared.leave_queue(batch.members().iter().map(|member| &member.item));
            let started_at = clock::now();
            let origin = batch.origin;
            shared.contain("answering a batch", || Execution::start(Arc::clone(&shared.served), batch).finish(Err(error)));
            shared.batch_done(&BatchDone { origin, rows: 0, started_at, ended_at: clock::now() });
            ready = shared.queue.next(self.slot.ordinal, appetite);
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
