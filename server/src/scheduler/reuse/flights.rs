//! Which requests share an execution, and who of them it stands for. Pure: time is an argument, and what is carried
//! is opaque.
//!
//! A flight is one request on its way through the scheduler for everyone who asked the same. The one whose request it
//! is carries it; the others follow. Where the carrier's time in the queue ends, the first of the followers carries
//! the flight on with a request of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use slab::Slab;

use crate::clock::Timestamp;
use crate::error::InferError;
use crate::request::Cancellation;

use super::key::{BuildKeyHasher, RequestKey};

/// Names a flight; one that has ended is not taken for a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightId {
    slot: usize,
    serial: u64,
}

/// Names the carrier of a flight; one who was followed by another is not taken for him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CarrierId {
    /// The flight.
    pub(super) flight: FlightId,
    serial: u64,
}

/// Names a follower. In this order they carry the flight on: by priority level, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FollowerId {
    flight: FlightId,
    place: (usize, u64),
}

/// Somebody who is no longer part of a flight.
#[derive(Debug)]
pub(super) struct Left<T> {
    /// What was held for him.
    pub(super) item: T,
    /// The token of the flight's request, if he was the last: it is to be cancelled.
    pub(super) abandoned: Option<Cancellation>,
}

/// All flights of one model. `C` is what is held for carriers, `F` for followers.
#[derive(Debug)]
pub(super) struct Flights<C, F> {
    flights: Slab<Flight<C, F>>,
    /// The flights that others may join.
    joinable: HashMap<RequestKey, FlightId, BuildKeyHasher>,
    /// Until when followers wait whose flight has not started.
    lapses: BTreeSet<(Timestamp, FollowerId)>,
    followers: usize,
    serials: u64,
}

#[derive(Debug)]
struct Flight<C, F> {
    serial: u64,
    key: RequestKey,
    /// Priority level of the request that is on its way.
    level: usize,
    has_started: bool,
    /// Stops its request, when nobody waits for it any more.
    token: Cancellation,
    carrier: Option<(u64, C)>,
    followers: BTreeMap<(usize, u64), Follower<F>>,
    /// Its next carrier's request is being submitted; what becomes of it meanwhile.
    passing: Option<Passing>,
}

#[derive(Debug)]
struct Follower<F> {
    item: F,
    lapses_at: Option<Timestamp>,
}

#[derive(Debug)]
enum Passing {
    /// The next carrier has been taken from the followers, and is not named yet.
    Vacant,
    /// His request is being submitted.
    Submitted,
    /// It has been refused while it was.
    Refused(InferError),
}

/// What is to be done when a carrier's request was refused for a reason of its own.
#[derive(Debug)]
pub(super) enum Passed<C, F> {
    /// The flight goes on with the request of this follower; [`Flights::carry`] comes next.
    On(Option<C>, F),
    /// Nobody is left, and the flight has ended.
    Ended(Option<C>),
    /// Whoever is submitting the flight's request goes on with it, and gets the error there.
    Elsewhere,
}

impl<C, F> Flight<C, F> {
    fn admits(&self, level: usize) -> bool {
        self.has_started || self.level <= level
    }
}

impl<C, F> Default for Flights<C, F> {
    fn default() -> Self {
        Self { flights: Slab::new(), joinable: HashMap::default(), lapses: BTreeSet::new(), followers: 0, serials: 0 }
    }
}

impl<C, F> Flights<C, F> {
    /// Whether there is a flight that a request of this key and priority level can join.
    pub(super) fn can_join(&self, key: &RequestKey, level: usize) -> bool {
        let flight = self.joinable.get(key).and_then(|id| self.flight(*id));
        flight.is_some_and(|flight| flight.admits(level))
    }

    /// Lets a request join the flight of its key. `lapses_at` is when its time is over, unless the flight has started.
    ///
    /// # Errors
    /// It comes back where there is no flight to join. One that waits at a lower priority level is none: it would hold
    /// back who has priority.
    pub(super) fn join(
        &mut self,
        key: &RequestKey,
        level: usize,
        lapses_at: Option<Timestamp>,
        item: F,
    ) -> Result<FollowerId, F> {
        let place = (level, self.next_serial());
        let Some(id) = self.joinable.get(key).copied() else { return Err(item) };
        let Some(flight) = self.flight_mut(id).filter(|flight| flight.admits(level)) else {
            return Err(item);
        };
        let has_started = flight.has_started;
        flight.followers.insert(place, Follower { item, lapses_at });
        self.followers += 1;
        let follower = FollowerId { flight: id, place };
        if let (Some(at), false) = (lapses_at, has_started) {
            self.lapses.insert((at, follower));
        }
        Ok(follower)
    }

    /// Begins a flight, whose request is stopped by `token`. From now on others of its key join this one.
    pub(super) fn begin(
        &mut self,
        key: RequestKey,
        level: usize,
        token: Cancellation,
        carrier: impl FnOnce(FlightId) -> C,
    ) -> CarrierId {
        let serial = self.next_serial();
        let (followers, passing) = (BTreeMap::new(), None);
        let vacant = self.flights.vacant_entry();
        let id = FlightId { slot: vacant.key(), serial };
        let carrier = Some((serial, carrier(id)));
        vacant.insert(Flight { serial, key, level, has_started: false, token, carrier, followers, passing });
        self.joinable.insert(key, id);
        CarrierId { flight: id, serial }
    }

    /// What is held for the carrier of a flight, while there is one.
    pub(super) fn carrier_mut(&mut self, id: CarrierId) -> Option<&mut C> {
        let (serial, carrier) = self.flight_mut(id.flight)?.carrier.as_mut()?;
        (*serial == id.serial).then_some(carrier)
    }

    /// What is held for a follower, while he is one.
    pub(super) fn follower_mut(&mut self, id: FollowerId) -> Option<&mut F> {
        self.flight_mut(id.flight)?.followers.get_mut(&id.place).map(|follower| &mut follower.item)
    }

    /// The flight's request runs: its followers' time in the queue is over with its own.
    pub(super) fn start(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get_mut(id.slot).filter(|flight| flight.serial == id.serial) else { return };
        flight.has_started = true;
        for (place, follower) in &flight.followers {
            if let Some(at) = follower.lapses_at {
                self.lapses.remove(&(at, FollowerId { flight: id, place: *place }));
            }
        }
    }

    /// The carrier waits no longer. His request goes on for the others.
    pub(super) fn leave_carrier(&mut self, id: CarrierId) -> Option<Left<C>> {
        let flight = self.flight_mut(id.flight)?;
        let (_, item) = flight.carrier.take_if(|(serial, _)| *serial == id.serial)?;
        let abandoned = self.abandon(id.flight);
        Some(Left { item, abandoned })
    }

    /// A follower waits no longer.
    pub(super) fn leave(&mut self, id: FollowerId) -> Option<Left<F>> {
        let flight = self.flight_mut(id.flight)?;
        let follower = flight.followers.remove(&id.place)?;
        self.followers -= 1;
        if let Some(at) = follower.lapses_at {
            self.lapses.remove(&(at, id));
        }
        let abandoned = self.abandon(id.flight);
        Some(Left { item: follower.item, abandoned })
    }

    /// Takes out every follower whose time is over.
    pub(super) fn lapse(&mut self, now: Timestamp) -> Vec<Left<F>> {
        let mut lapsed = Vec::new();
        while let Some((_, id)) = self.lapses.first().copied().filter(|(at, _)| *at <= now) {
            match self.leave(id) {
                Some(left) => lapsed.push(left),
                // It cannot be: whoever leaves takes his entry along. The loop must end all the same.
                None => drop(self.lapses.pop_first()),
            }
        }
        lapsed
    }

    /// When the next follower's time is over.
    pub(super) fn next_lapse(&self) -> Option<Timestamp> {
        self.lapses.first().map(|(at, _)| *at)
    }

    /// The carrier's request was refused for a reason of its own: the next in line takes over.
    pub(super) fn pass_on(&mut self, id: FlightId, error: &InferError) -> Passed<C, F> {
        let Some(flight) = self.flight_mut(id) else { return Passed::Ended(None) };
        if let Some(passing) = &mut flight.passing {
            *passing = Passing::Refused(error.clone());
            return Passed::Elsewhere;
        }
        self.take_next(id)
    }

    fn take_next(&mut self, id: FlightId) -> Passed<C, F> {
        let Some(flight) = self.flight_mut(id) else { return Passed::Ended(None) };
        let carrier = flight.carrier.take().map(|(_, carrier)| carrier);
        let Some((place, follower)) = flight.followers.pop_first() else {
            self.remove(id);
            return Passed::Ended(carrier);
        };
        flight.level = place.0;
        flight.passing = Some(Passing::Vacant);
        let restarts = std::mem::take(&mut flight.has_started);
        if restarts {
            // They wait again.
            for (place, follower) in &self.flights[id.slot].followers {
                if let Some(at) = follower.lapses_at {
                    self.lapses.insert((at, FollowerId { flight: id, place: *place }));
                }
            }
        } else if let Some(at) = follower.lapses_at {
            self.lapses.remove(&(at, FollowerId { flight: id, place }));
        }
        self.followers -= 1;
        Passed::On(carrier, follower.item)
    }

    /// The token under which the requests of a flight run.
    pub(super) fn token(&self, id: FlightId) -> Option<Cancellation> {
        Some(self.flight(id)?.token.clone())
    }

    /// Takes up the new carrier, whose request is submitted next; `None` where the flight has ended.
    pub(super) fn carry(&mut self, id: FlightId, carrier: C) -> Option<CarrierId> {
        let serial = self.next_serial();
        let flight = self.flight_mut(id)?;
        flight.carrier = Some((serial, carrier));
        flight.passing = Some(Passing::Submitted);
        Some(CarrierId { flight: id, serial })
    }

    /// The new carrier's request has been submitted. Where it was refused meanwhile, the next in line takes over, and
    /// the error is for the one who carried it.
    pub(super) fn submitted(&mut self, id: FlightId) -> Option<(InferError, Passed<C, F>)> {
        match self.flight_mut(id)?.passing.take()? {
            Passing::Vacant | Passing::Submitted => None,
            Passing::Refused(error) => Some((error, self.take_next(id))),
        }
    }

    /// The flight has its outcome. It is for all that come back.
    pub(super) fn end(&mut self, id: FlightId) -> (Option<C>, Vec<F>) {
        let Some(flight) = self.remove(id) else { return (None, Vec::new()) };
        for (place, follower) in &flight.followers {
            if let Some(at) = follower.lapses_at {
                self.lapses.remove(&(at, FollowerId { flight: id, place: *place }));
            }
        }
        self.followers -= flight.followers.len();
        (flight.carrier.map(|(_, carrier)| carrier), flight.followers.into_values().map(|follower| follower.item).collect())
    }

    /// Followers of all flights.
    pub(super) fn followers(&self) -> usize {
        self.followers
    }

    /// Everyone who waits, carriers included.
    pub(super) fn members(&self) -> usize {
        self.flights.len() + self.followers
    }

    fn flight(&self, id: FlightId) -> Option<&Flight<C, F>> {
        self.flights.get(id.slot).filter(|flight| flight.serial == id.serial)
    }

    fn flight_mut(&mut self, id: FlightId) -> Option<&mut Flight<C, F>> {
        self.flights.get_mut(id.slot).filter(|flight| flight.serial == id.serial)
    }

    fn next_serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// Where nobody waits for a flight any more, nobody joins it either, and its token is to be cancelled. Between two
    /// carriers there is one who waits.
    fn abandon(&mut self, id: FlightId) -> Option<Cancellation> {
        let flight = self.flight(id)?;
        if flight.carrier.is_some() || !flight.followers.is_empty() || matches!(flight.passing, Some(Passing::Vacant)) {
            return None;
        }
        let (key, token) = (flight.key, flight.token.clone());
        self.close(&key, id);
        Some(token)
    }

    fn close(&mut self, key: &RequestKey, id: FlightId) {
        if self.joinable.get(key) == Some(&id) {
            self.joinable.remove(key);
        }
    }

    fn remove(&mut self, id: FlightId) -> Option<Flight<C, F>> {
        self.flight(id)?;
        let flight = self.flights.remove(id.slot);
        self.close(&flight.key, id);
        Some(flight)
    }
}
