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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::request::ValidRequest;
    use crate::scheduler::reuse::key::Target;

    /// One step of a random life: who and what is chosen among those that there are.
    #[derive(Clone, Debug)]
    enum Op {
        Arrive { key: u64, level: usize, lapses_in: Option<u64> },
        Start(usize),
        End(usize),
        Refuse(usize),
        LeaveCarrier(usize),
        Leave(usize),
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..3u64, 1..3usize, proptest::option::of(0..20u64))
                .prop_map(|(key, level, lapses_in)| Op::Arrive { key, level, lapses_in }),
            1 => any::<usize>().prop_map(Op::Start),
            1 => any::<usize>().prop_map(Op::End),
            2 => any::<usize>().prop_map(Op::Refuse),
            1 => any::<usize>().prop_map(Op::LeaveCarrier),
            2 => any::<usize>().prop_map(Op::Leave),
            1 => (0..10u64).prop_map(Op::Wait),
        ]
    }

    fn key(number: u64) -> RequestKey {
        let request = ValidRequest::empty("");
        RequestKey::of(&Target { model: "m", version: 1, load: number, composing: &[] }, &request).unwrap()
    }

    /// Flights, and what must be true of them. Members are numbers.
    #[derive(Default)]
    struct Life {
        flights: Flights<u64, u64>,
        now: u64,
        arrived: u64,
        /// Who has had an outcome: each exactly once.
        outcomes: BTreeSet<u64>,
        /// Flights whose request is under way, their carrier's name, and their token.
        flying: Vec<(FlightId, CarrierId, Cancellation)>,
        followers: Vec<FollowerId>,
    }

    impl Life {
        fn outcome(&mut self, members: impl IntoIterator<Item = u64>) {
            for member in members {
                assert!(self.outcomes.insert(member), "{member} has had an outcome");
            }
        }

        fn gone(&mut self, left: Left<u64>) {
            self.outcome([left.item]);
            left.abandoned.iter().for_each(Cancellation::cancel);
        }

        fn run(&mut self, op: Op) {
            let pick = |index: usize, of: usize| (of > 0).then(|| index % of);
            match op {
                Op::Arrive { key: number, level, lapses_in } => {
                    let (member, key) = (self.arrived, key(number));
                    self.arrived += 1;
                    let lapses_at = lapses_in.map(|after| Timestamp::from_nanos(self.now + after));
                    match self.flights.join(&key, level, lapses_at, member) {
                        Ok(id) => self.followers.push(id),
                        Err(member) => {
                            let token = Cancellation::default();
                            let id = self.flights.begin(key, level, token.clone(), |_| member);
                            self.flying.push((id.flight, id, token));
                        }
                    }
                }
                Op::Start(index) => {
                    if let Some(index) = pick(index, self.flying.len()) {
                        self.flights.start(self.flying[index].0);
                    }
                }
                Op::End(index) => {
                    if let Some(index) = pick(index, self.flying.len()) {
                        let (carrier, followers) = self.flights.end(self.flying.swap_remove(index).0);
                        self.outcome(carrier.into_iter().chain(followers));
                    }
                }
                Op::Refuse(index) => {
                    if let Some(index) = pick(index, self.flying.len()) {
                        self.refuse(index);
                    }
                }
                Op::LeaveCarrier(index) => {
                    if let Some(index) = pick(index, self.flying.len())
                        && let Some(left) = self.flights.leave_carrier(self.flying[index].1)
                    {
                        self.gone(left);
                    }
                }
                Op::Leave(index) => {
                    if let Some(index) = pick(index, self.followers.len())
                        && let Some(left) = self.flights.leave(self.followers.swap_remove(index))
                    {
                        self.gone(left);
                    }
                }
                Op::Wait(nanos) => {
                    self.now += nanos;
                    let lapsed = self.flights.lapse(Timestamp::from_nanos(self.now));
                    lapsed.into_iter().for_each(|left| self.gone(left));
                    assert!(self.flights.next_lapse().is_none_or(|at| at.as_nanos() > self.now));
                }
            }
        }

        fn refuse(&mut self, index: usize) {
            let id = self.flying[index].0;
            match self.flights.pass_on(id, &InferError::Expired) {
                Passed::On(carrier, next) => {
                    self.outcome(carrier);
                    self.flying[index].1 = self.flights.carry(id, next).expect("the flight goes on");
                    assert!(self.flights.submitted(id).is_none());
                }
                Passed::Ended(carrier) => {
                    self.outcome(carrier);
                    self.flying.swap_remove(index);
                }
                Passed::Elsewhere => panic!("nobody is submitting"),
            }
        }

        /// What is true after every step.
        fn check(&mut self) {
            let waiting = usize::try_from(self.arrived).unwrap() - self.outcomes.len();
            let carriers: Vec<bool> =
                self.flying.iter().map(|(_, carrier, _)| self.flights.carrier_mut(*carrier).is_some()).collect();
            let carried = carriers.iter().filter(|there| **there).count();
            assert_eq!(waiting, carried + self.flights.followers(), "everyone waits in exactly one flight, or has an outcome");
            assert_eq!(self.flights.members(), self.flying.len() + self.flights.followers());
            for ((id, _, token), has_carrier) in self.flying.iter().zip(carriers) {
                let followers = self.flights.flight(*id).expect("it is under way").followers.len();
                let is_waited_for = has_carrier || followers > 0;
                assert_eq!(token.is_cancelled(), !is_waited_for, "a request is stopped exactly when nobody waits for it");
            }
        }
    }

    proptest! {
        #[test]
        fn everyone_has_one_outcome_and_nothing_runs_for_nobody(ops in proptest::collection::vec(op(), 0..120)) {
            let mut life = Life::default();
            for op in ops {
                life.run(op);
                life.check();
            }
            while !life.flying.is_empty() {
                life.run(Op::End(0));
            }
            prop_assert_eq!(life.outcomes.len() as u64, life.arrived);
            prop_assert_eq!(life.flights.members(), 0);
            prop_assert!(life.flights.joinable.is_empty() && life.flights.lapses.is_empty(), "nothing is left behind");
        }
    }
}
