//! Single flight: identical requests that are under way at the same time run once.
//!
//! What runs is the request of one of them, the carrier, under a token of its own, which is cancelled only when all
//! have left. The scheduler counts that request as it counts any other, so **it stands for the carrier in the
//! statistics**, whether he still waits or not; followers are counted here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{self, Timestamp};
use crate::config::Scheduling;
use crate::error::InferError;
use crate::observe::statistics::{RequestTiming, Stage};
use crate::request::{
    CancelHook, Cancellation, ComputeTiming, Delivery, Entry, InferResponse, Responder, ResponseSink, SingleResponse,
};
use crate::timeline::Source;

use super::flights::{CarrierId, FlightId, Flights, FollowerId, Left, Passed};
use super::key::RequestKey;
use super::{Missed, Scheduler, SharedAnswers, timeline};

/// The flights of a model.
type FlightTable = Mutex<Flights<Carrier, Follower>>;

/// Whose request runs.
pub(super) struct Carrier {
    responder: Responder,
    hook: Option<CancelHook>,
}

/// Who waits for the answer to another's request.
pub(super) struct Follower {
    entry: Entry,
    missed: Missed,
    /// Runs his request where the carrier's time is over before it ran.
    scheduler: Arc<dyn Scheduler>,
    hook: Option<CancelHook>,
}

fn lock(flights: &FlightTable) -> MutexGuard<'_, Flights<Carrier, Follower>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedAnswers {
    /// Lets a request join the flight of its key, or begin one.
    pub(super) fn share(
        self: &Arc<Self>,
        flights: &FlightTable,
        key: RequestKey,
        mut entry: Entry,
        missed: Missed,
        scheduler: &Arc<dyn Scheduler>,
    ) {
        let token = entry.responder.cancellation().clone();
        let (level, lapses_at) = (entry.level, entry.deadline);
        let mut table = lock(flights);
        let is_full = self.is_full(&table, &entry);
        if is_full && (table.followers() > 0 || table.can_join(&key, level)) {
            drop(table);
            let error = entry.queue_full();
            return self.origin.statistics.refuse(entry, error, Stage::Admission, clock::now());
        }
        let is_next = lapses_at.is_some_and(|at| table.next_lapse().is_none_or(|next| at < next));
        // Counted before anyone can take it out again.
        self.origin.statistics.enter_queue(level);
        let follower = Follower { entry, missed, scheduler: Arc::clone(scheduler), hook: None };
        match table.join(&key, level, lapses_at, follower) {
            Ok(id) => {
                drop(table);
                self.follow(flights, id, &token);
                if is_next {
                    self.lapses_changed.notify_one();
                }
            }
            Err(follower) => {
                self.origin.statistics.leave_queue(level, 1);
                entry = follower.entry;
                // A flight that was there a moment ago has put its answer into the cache before it ended.
                if let Some(found) = self.cache.as_ref().and_then(|cache| cache.find(&key)) {
                    drop(table);
                    return self.answer(&mut entry, found);
                }
                let runs = Cancellation::default();
                let begun = table.begin(key, level, runs.clone(), |flight| self.split(flight, key, &mut entry, missed, runs));
                drop(table);
                self.carry(flights, begun, token);
                scheduler.enqueue(vec![entry]);
            }
        }
    }

    /// Whether as many wait as may. A request that waits for another's answer takes a place as one in the queue does.
    fn is_full(&self, table: &Flights<Carrier, Follower>, entry: &Entry) -> bool {
        let config = &self.origin.config;
        let waiting = match &config.scheduling {
            // Its limit is of requests under way, and all of them are in flights.
            Scheduling::Ensemble(_) => table.members(),
            _ => {
                let pending = self.origin.statistics.pending_by_level().nth(entry.level.saturating_sub(1));
                usize::try_from(pending.unwrap_or(0)).unwrap_or(usize::MAX)
            }
        };
        waiting >= config.queue_policy(entry.request.options.priority).max_entries.get()
    }

    /// Gives a request to the flight: its client becomes the carrier, and the flight gets its answer.
    fn split(
        self: &Arc<Self>,
        flight: FlightId,
        key: RequestKey,
        entry: &mut Entry,
        missed: Missed,
        token: Cancellation,
    ) -> Carrier {
        let sink = FlightSink {
            shared: Arc::clone(self),
            flight,
            key,
            missed,
            deadline: entry.deadline.into_iter().chain(entry.request.deadline).min(),
            collected: SingleResponse::default(),
        };
        let responder = std::mem::replace(&mut entry.responder, Responder::new(Box::new(sink), token));
        Carrier { responder, hook: None }
    }

    /// Watches for the client of a carrier to leave.
    fn carry(self: &Arc<Self>, flights: &FlightTable, id: CarrierId, client: Cancellation) {
        let shared = Arc::downgrade(self);
        let hook = client.on_cancel(move || on(&shared, |shared, flights| shared.carrier_left(flights, id)));
        // Whoever has left meanwhile needs no hook; it must not be dropped under the lock.
        let mut hook = Some(hook);
        if let Some(carrier) = lock(flights).carrier_mut(id) {
            std::mem::swap(&mut carrier.hook, &mut hook);
        }
    }

    /// Watches for the client of a follower to leave.
    fn follow(self: &Arc<Self>, flights: &FlightTable, id: FollowerId, client: &Cancellation) {
        let shared = Arc::downgrade(self);
        let hook = client.on_cancel(move || on(&shared, |shared, flights| shared.follower_left(flights, id)));
        let mut hook = Some(hook);
        if let Some(follower) = lock(flights).follower_mut(id) {
            std::mem::swap(&mut follower.hook, &mut hook);
        }
    }

    fn carrier_left(&self, flights: &FlightTable, id: CarrierId) {
        let left = lock(flights).leave_carrier(id);
        if let Some(Left { mut item, abandoned }) = left {
            item.responder.fail(InferError::Cancelled);
            abandoned.iter().for_each(Cancellation::cancel);
        }
    }

    fn follower_left(&self, flights: &FlightTable, id: FollowerId) {
        let left = lock(flights).leave(id);
        if let Some(left) = left {
            self.refuse(left, InferError::Cancelled, clock::now());
        }
    }

    /// Refuses a follower that waited in vain.
    fn refuse(&self, left: Left<Follower>, error: InferError, now: Timestamp) {
        let Left { item: Follower { entry, .. }, abandoned } = left;
        self.origin.statistics.refuse_queued(entry, error, Stage::Queue, now);
        abandoned.iter().for_each(Cancellation::cancel);
    }

    /// Refuses every follower whose time is over; when the next one's is.
    fn lapse(&self, flights: &FlightTable) -> Option<Timestamp> {
        let now = clock::now();
        let mut table = lock(flights);
        let (lapsed, next) = (table.lapse(now), table.next_lapse());
        drop(table);
        lapsed.into_iter().for_each(|left| self.refuse(left, InferError::Expired, now));
        next
    }

    /// The flight's request has been answered.
    fn answer_all(&self, flights: &FlightTable, id: FlightId, response: Box<InferResponse>) {
        let (carrier, followers) = lock(flights).end(id);
        let shared = InferResponse { id: String::new(), timeline: None, ..InferResponse::clone(&response) };
        if let Some(mut carrier) = carrier {
            carrier.responder.deliver_at_once(Delivery::Response { response, last: true });
        }
        for mut follower in followers {
            let now = clock::now();
            let entry = &mut follower.entry;
            let waited = now.since(entry.queued_at);
            let timing = last_part(shared.timing, waited);
            let request = RequestTiming {
                total: now.since(entry.request.received_at),
                queue: waited.saturating_sub(timing.input + timing.infer + timing.output),
            };
            let response = InferResponse {
                id: std::mem::take(&mut entry.request.id),
                timeline: timeline(entry, Source::SingleFlight, now),
                timing,
                ..shared.clone()
            };
            let statistics = &self.origin.statistics;
            statistics.leave_queue(entry.level, 1);
            statistics.record_success(request, timing);
            statistics.record_first_response(request.total);
            if let Missed(Some(looked)) = follower.missed {
                statistics.record_cache_miss(looked);
            }
            entry.responder.deliver_at_once(Delivery::Response { response: Box::new(response), last: true });
        }
    }

    /// The flight's request failed for a reason that concerns all.
    fn fail_all(&self, flights: &FlightTable, id: FlightId, error: &InferError) {
        let (carrier, followers) = lock(flights).end(id);
        if let Some(mut carrier) = carrier {
            carrier.responder.fail(error.clone());
        }
        for Follower { entry, .. } in followers {
            let (now, error) = (clock::now(), error.clone().for_request(&entry.request.id));
            let stage = match &error {
                InferError::EnsembleStep { .. } => Stage::Ensemble,
                error if error.is_refusal() => Stage::Admission,
                _ => Stage::Execution,
            };
            self.origin.statistics.refuse_queued(entry, error, stage, now);
        }
    }

    /// The carrier's request was refused for a reason of its own: those who wait with it go on without him.
    ///
    /// A scheduler may refuse the next one's request at once, and so come here again from within: that goes on in this
    /// loop, not deeper on the stack.
    fn pass_on(self: &Arc<Self>, flights: &FlightTable, id: FlightId, key: RequestKey, error: InferError) {
        let passed = lock(flights).pass_on(id, &error);
        let mut turn = Some((error, passed));
        while let Some((error, passed)) = turn {
            let fail =
                |carrier: Option<Carrier>| carrier.into_iter().for_each(|mut carrier| carrier.responder.fail(error.clone()));
            match passed {
                Passed::Elsewhere => return,
                Passed::Ended(carrier) => return fail(carrier),
                Passed::On(carrier, follower) => {
                    fail(carrier);
                    self.fly(flights, id, key, follower);
                }
            }
            turn = lock(flights).submitted(id);
        }
    }

    /// Submits the request of a follower, who carries the flight from now on.
    fn fly(self: &Arc<Self>, flights: &FlightTable, id: FlightId, key: RequestKey, follower: Follower) {
        let Follower { mut entry, missed, scheduler, hook } = follower;
        drop(hook);
        self.origin.statistics.leave_queue(entry.level, 1);
        let client = entry.responder.cancellation().clone();
        let mut table = lock(flights);
        let Some(token) = table.token(id) else {
            // It cannot be: nothing of the flight is under way that could end it.
            drop(table);
            return scheduler.enqueue(vec![entry]);
        };
        let carrier = self.split(id, key, &mut entry, missed, token);
        let carried = table.carry(id, carrier);
        drop(table);
        if let Some(carrier) = carried {
            self.carry(flights, carrier, client);
        }
        scheduler.enqueue(vec![entry]);
    }
}

/// Does something with the flights of a model that is still there.
fn on(shared: &Weak<SharedAnswers>, act: impl FnOnce(&Arc<SharedAnswers>, &FlightTable)) {
    if let Some(shared) = shared.upgrade()
        && let Some(flights) = &shared.flights
    {
        act(&shared, flights);
    }
}

/// Refuses followers when their time is over, until the model version is gone.
pub(super) async fn watch_lapses(shared: Weak<SharedAnswers>, changed: Arc<Notify>) {
    while let Some(shared) = shared.upgrade() {
        let next = shared.flights.as_ref().and_then(|flights| shared.lapse(flights));
        drop(shared);
        match next {
            None => changed.notified().await,
            Some(at) => tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(at.since(clock::now())) => {}
            },
        }
    }
}

/// What of an execution's times fell into the time that a request waited for it, which may have begun in the middle.
fn last_part(timing: ComputeTiming, mut waited: Duration) -> ComputeTiming {
    let mut cut = |part: Duration| {
        let part = part.min(waited);
        waited = waited.saturating_sub(part);
        part
    };
    let (output, infer) = (cut(timing.output), cut(timing.infer));
    ComputeTiming { input: cut(timing.input), infer, output }
}

/// Takes the answer to the request of a flight.
struct FlightSink {
    shared: Arc<SharedAnswers>,
    flight: FlightId,
    key: RequestKey,
    missed: Missed,
    /// The carrier's time may be over before that of others.
    deadline: Option<Timestamp>,
    collected: SingleResponse,
}

impl FlightSink {
    /// Whether the request was refused for what its client alone asked: how long he waits, and whether he does.
    fn is_own(&self, error: &InferError) -> bool {
        match error.root() {
            InferError::Cancelled => true,
            // Inside an ensemble it may have been a step's own limit, which all who wait share.
            InferError::Expired | InferError::DeadlineExceeded if matches!(error, InferError::EnsembleStep { .. }) => {
                self.deadline.is_some_and(|deadline| clock::now() >= deadline)
            }
            InferError::Expired | InferError::Unreachable { .. } | InferError::DeadlineExceeded => self.deadline.is_some(),
            _ => false,
        }
    }
}

impl ResponseSink for FlightSink {
    fn started(&mut self) {
        if let Some(flights) = &self.shared.flights {
            lock(flights).start(self.flight);
        }
    }

    /// Never waits.
    fn deliver(&mut self, delivery: Delivery) {
        let (Some(outcome), Some(flights)) = (self.collected.take(delivery), &self.shared.flights) else { return };
        match outcome {
            Ok(response) => {
                // Who comes when the flight has ended finds the answer in the cache.
                self.shared.keep(self.key, &response, self.missed);
                self.shared.answer_all(flights, self.flight, response);
            }
            Err(error) if self.is_own(&error) => self.shared.pass_on(flights, self.flight, self.key, error),
            Err(error) => self.shared.fail_all(flights, self.flight, &error),
        }
    }
}
