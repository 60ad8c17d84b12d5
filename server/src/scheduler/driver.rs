//! What drives a model's dynamic batcher, without the task around it: what has happened goes in, what is to be done
//! comes out. Pure: time is an argument, and what is batched is never looked into.

use std::time::Duration;

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::config::DynamicBatching;

use super::batcher::{DynamicBatcher, Ran, Room};
use super::queue::{Lapse, Refusal, Waiting};

/// How often what waits is looked through for those whose clients have left, who otherwise hold their memory until
/// they are met.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Whoever has waited this long for a turn on the device has waited for others, and not for the notice.
const CONTENDED: Duration = Duration::from_micros(100);

/// For each so many that wait, looking through them is put off once more.
const ENTRIES_PER_SWEEP_INTERVAL: usize = 1 << 16;

/// Something that is to be done, in the order in which it comes out.
#[derive(Debug)]
pub(crate) enum Action<T> {
    /// An instance is to run this. What comes of it is told by [`Driver::on_done`], whatever it is.
    Submit(Batch<T>),
    /// It will not run; its client is to be told.
    Refuse(T, Reason),
    /// The device is to be asked for; [`Driver::on_seat`] tells when it is there.
    Ask,
    /// The device is not needed after all: take back the question, or give back what was granted.
    Leave,
}

/// Why something will not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It was not even queued.
    Refused(Refusal),
    /// Its time ran out in the queue.
    Lapsed(Lapse),
    /// Its client left while it was in the queue.
    Gone,
}

/// Whether the model may use its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// It shares the device with nobody.
    Own,
    /// It has not asked.
    Away,
    /// It has asked and waits.
    Asked,
    /// It may run one batch.
    Granted,
}

/// A batcher and what it must know of its instances.
#[derive(Debug)]
pub(crate) struct Driver<T> {
    batcher: DynamicBatcher<T>,
    instances: usize,
    /// Batches submitted that have not ended.
    in_flight: usize,
    /// One batch is under way at a time, so that answers leave in the order of the requests.
    preserve_ordering: bool,
    /// While an instance runs, one batch may be ready behind it.
    prepares_batches: bool,
    seat: Seat,
    /// When it last asked for the device.
    asked_at: Option<Timestamp>,
    open: bool,
    /// Nothing is held back any more.
    released: bool,
    /// When what waits is next looked through.
    sweep_at: Timestamp,
}

impl<T> Driver<T> {
    /// A driver of an empty batcher over idle instances. With `shares_device`, every batch needs a seat on the device,
    /// and is formed only when that is there.
    pub(crate) fn new(batcher: DynamicBatcher<T>, policy: &DynamicBatching, instances: usize, shares_device: bool) -> Self {
        let seat = if shares_device { Seat::Away } else { Seat::Own };
        Self {
            batcher,
            instances,
            in_flight: 0,
            preserve_ordering: policy.preserve_ordering,
            prepares_batches: policy.prepares_batches(),
            seat,
            asked_at: None,
            open: true,
            released: false,
            sweep_at: Timestamp::default(),
        }
    }

    /// A request has come.
    pub(crate) fn on_arrival(
        &mut self,
        now: Timestamp,
        priority: u64,
        waiting: Waiting<T>,
        is_gone: impl Fn(&T) -> bool,
        actions: &mut Vec<Action<T>>,
    ) {
        if self.batcher.is_empty() {
            self.sweep_at = now.plus(SWEEP_INTERVAL);
        }
        let mut gone = Vec::new();
        let refused = self.batcher.push(now, priority, waiting, is_gone, &mut gone);
        actions.extend(gone.into_iter().map(|item| Action::Refuse(item, Reason::Gone)));
        if let Err((item, refusal)) = refused {
            actions.push(Action::Refuse(item, Reason::Refused(refusal)));
        }
    }

    /// A submitted batch has ended; `ran` is nothing where none of it ran, as when no instance took it.
    pub(crate) fn on_done(&mut self, now: Timestamp, batch: u64, ran: Option<Ran>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.batcher.finish(now, batch, ran);
    }

    /// The device is there; whether it is still wanted.
    pub(crate) fn on_seat(&mut self) -> bool {
        let wanted = self.seat == Seat::Asked;
        if wanted {
            self.seat = Seat::Granted;
        }
        wanted
    }

    /// Nothing may be held back any more: the server is stopping, or another version serves. Told again, it does nothing.
    pub(crate) fn on_release(&mut self) {
        if !std::mem::replace(&mut self.released, true) {
            self.batcher.release();
        }
    }

    /// Nobody comes any more: what is held back would wait for ever.
    pub(crate) fn on_close(&mut self) {
        self.open = false;
        self.on_release();
    }

    /// Does whatever can be done now. To be called after anything has happened, and when the time of
    /// [`Driver::next_wakeup`] has come.
    pub(crate) fn step(&mut self, now: Timestamp, is_gone: impl Fn(&T) -> bool, actions: &mut Vec<Action<T>>) {
        for (item, lapse) in self.batcher.expire(now) {
            actions.push(Action::Refuse(item, Reason::Lapsed(lapse)));
        }
        let mut gone = Vec::new();
        if now >= self.sweep_at && !self.batcher.is_empty() {
            self.sweep_at = now.plus(self.sweep_interval());
            self.batcher.sweep(&is_gone, &mut gone);
        }
        loop {
            let room = match (self.seat, self.room()) {
                // The window is for an idle device; a turn that has been waited for is used at once.
                (Seat::Granted, Room::Idle) if self.asked_at.is_some_and(|at| now.since(at) >= CONTENDED) => Room::Turn,
                (_, room) => room,
            };
            if !self.take_seat(now, room, actions) {
                break;
            }
            let Some(batch) = self.batcher.poll(now, room, &is_gone, &mut gone) else { break };
            self.in_flight += 1;
            if self.seat == Seat::Granted {
                // One seat is good for one batch.
                self.seat = Seat::Away;
            }
            actions.push(Action::Submit(batch));
        }
        if self.seat == Seat::Granted {
            // Whoever it was for has left or lapsed meanwhile.
            self.seat = Seat::Away;
            actions.push(Action::Leave);
        }
        actions.extend(gone.into_iter().map(|item| Action::Refuse(item, Reason::Gone)));
    }

    /// The more there is to look through, the more seldom that is done.
    fn sweep_interval(&self) -> Duration {
        let times = 1 + self.batcher.len() / ENTRIES_PER_SWEEP_INTERVAL;
        SWEEP_INTERVAL.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
    }

    /// Whether a batch may be formed now, as far as the device is concerned; asks for it where one would be.
    fn take_seat(&mut self, now: Timestamp, room: Room, actions: &mut Vec<Action<T>>) -> bool {
        let seat = self.seat;
        match seat {
            Seat::Own | Seat::Granted => true,
            // It asks while its instances run, too, so as to keep its place in the order: no turn is granted before
            // one of them has ended. Nor does it wait for its window first: on a device that others use, it would
            // then wait for both, one after the other.
            Seat::Away if room == Room::Idle && self.asks(now) => {
                self.seat = Seat::Asked;
                self.asked_at = Some(now);
                actions.push(Action::Ask);
                false
            }
            Seat::Asked if self.batcher.is_empty() => {
                self.seat = Seat::Away;
                actions.push(Action::Leave);
                false
            }
            Seat::Away | Seat::Asked => false,
        }
    }

    /// Whether to ask for the device. Where a turn that came at once was of no use, it asks again when something has
    /// changed, or the window is over.
    fn asks(&mut self, now: Timestamp) -> bool {
        self.batcher.wants(now) || self.batcher.has_work() && self.asked_at != Some(now)
    }

    /// When to call [`Driver::step`] at the latest if nothing happens before.
    pub(crate) fn next_wakeup(&mut self, now: Timestamp) -> Option<Timestamp> {
        // Who has asked for the device or waits for an instance is woken by those.
        let room = if self.seat == Seat::Asked { Room::None } else { self.room() };
        let sweep = (!self.batcher.is_empty()).then_some(self.sweep_at);
        self.batcher.next_wakeup(now, room).into_iter().chain(sweep).min()
    }

    /// Entries that the batcher holds.
    pub(crate) fn waiting(&self) -> usize {
        self.batcher.len()
    }

    /// Whether all is done: nobody comes any more, nothing waits and nothing runs.
    pub(crate) fn is_finished(&self) -> bool {
        !self.open && self.batcher.is_empty() && self.in_flight == 0
    }

    /// While an instance runs, one batch may be ready behind it. Where answers must keep the order of the requests,
    /// one batch is under way at a time. Where every batch needs a turn on the device, none is made ready before that
    /// has come.
    fn room(&self) -> Room {
        let (running, ready) = match (self.preserve_ordering, self.seat) {
            (true, _) => (1, 0),
            (false, Seat::Own) if self.prepares_batches => (self.instances, self.instances),
            (false, Seat::Own) => (self.instances, 0),
            (false, _) => (2 * self.instances, 0),
        };
        match self.in_flight {
            batches if batches < running => Room::Idle,
            batches if batches < running + ready => Room::Behind,
            _ => Room::None,
        }
    }
}
