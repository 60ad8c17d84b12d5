//! The concurrent shell of the device schedulers: seats, from which instances and drivers claim turns, and the
//! permits that hold them.
//!
//! **Invariant:** whoever is granted a turn is told by the thread that made it possible, and never under the lock.
//! **Invariant:** after every change the lock is held until nothing more can be granted, so that no claim waits
//! while it could run.

use std::fmt;
use std::num::NonZeroUsize;

use super::resources::ResourcePool;
use super::schedule::{ClaimId, DeviceScheduler, Grant, ShareId, ShareSpec, Used};
use super::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, now};
use crate::clock::Timestamp;
use crate::config::Resource;
use crate::error::LoadError;

/// Devices that are scheduled under one lock: one, or all that share a rate limiter's resources.
#[derive(Default)]
pub struct DeviceGate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: Vec<DeviceScheduler<Waiter>>,
    resources: ResourcePool,
}

/// A device of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(usize);

/// One who waits for a turn.
struct Waiter {
    place: Arc<Place>,
    claimed_at: Timestamp,
    told: Told,
}

/// How one who waits learns of it.
enum Told {
    Call(Box<dyn FnOnce(DevicePermit) + Send>),
    Slot(Arc<Slot>),
}

/// Where a blocked thread finds its permit.
#[derive(Default)]
struct Slot {
    permit: Mutex<Option<DevicePermit>>,
    filled: Condvar,
}

/// What some instances of a model version share: a share of one device. Dropped last, it is deregistered.
struct Place {
    gate: Arc<DeviceGate>,
    lane: Lane,
    share: ShareId,
    slots: NonZeroUsize,
    needs: super::resources::Needs,
}

/// Turns that have been granted and not been told.
type Granted = Vec<(Grant, Waiter)>;

impl DeviceGate {
    /// A gate without devices, over these resources.
    pub fn new(resources: ResourcePool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { lanes: Vec::new(), resources }) })
    }

    /// Adds a device.
    pub fn add_lane(&self, slots: NonZeroUsize) -> Lane {
        let mut state = self.lock();
        state.lanes.push(DeviceScheduler::new(slots));
        Lane(state.lanes.len() - 1)
    }

    /// Puts another device in the place of one that nobody uses; `false` where somebody does.
    pub fn replace_lane(&self, lane: Lane, slots: NonZeroUsize) -> bool {
        let mut state = self.lock();
        let scheduler = &mut state.lanes[lane.0];
        let unused = scheduler.is_unused();
        if unused {
            *scheduler = DeviceScheduler::new(slots);
        }
        unused
    }

    /// Registers a share: `spec` with the resources that `needs` names, counted on device `device`.
    ///
    /// # Errors
    /// As [`ResourcePool::register`].
    pub fn seat(self: &Arc<Self>, lane: Lane, spec: ShareSpec, device: &str, needs: &[Resource]) -> Result<Seat, LoadError> {
        let mut state = self.lock();
        let needs = state.resources.register(&spec.model, device, needs)?;
        let slots = spec.slots;
        let share = state.lanes[lane.0].register(ShareSpec { needs: needs.clone(), ..spec });
        Ok(Seat { place: Arc::new(Place { gate: Arc::clone(self), lane, share, slots, needs }) })
    }

    /// Device time used in a lane so far, in all, and by each share.
    pub fn used(&self, lane: Lane) -> (Used, Vec<(ShareSpec, Used)>) {
        let state = self.lock();
        let (scheduler, now) = (&state.lanes[lane.0], now());
        (scheduler.used(now), scheduler.used_by_share(now).map(|(spec, used)| (spec.clone(), used)).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants what can be granted, lets the lock go and tells those who were granted a turn.
    fn settle(mut state: MutexGuard<'_, State>, now: Timestamp) {
        let State { lanes, resources } = &mut *state;
        let mut granted = Granted::new();
        for lane in lanes {
            while let Some(grant) = lane.next(now, resources) {
                granted.push(grant);
            }
        }
        drop(state);
        for (grant, waiter) in granted {
            waiter.tell(grant);
        }
    }
}

impl State {
    fn claim(&mut self, place: &Arc<Place>, told: Told) -> ClaimId {
        let waiter = Waiter { place: Arc::clone(place), claimed_at: now(), told };
        self.lanes[place.lane.0].claim(place.share, None, waiter)
    }

    fn release(&mut self, place: &Place, grant: Grant, now: Timestamp) {
        self.lanes[place.lane.0].release(now, grant, &mut self.resources);
    }
}

impl Waiter {
    fn tell(self, grant: Grant) {
        let permit = DevicePermit { place: self.place, claimed_at: self.claimed_at, grant: Some(grant) };
        match self.told {
            Told::Call(call) => call(permit),
            Told::Slot(slot) => {
                *slot.permit.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
                slot.filled.notify_one();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Permits and claims hold their place, so there are none left.
        let mut state = self.gate.lock();
        let State { lanes, resources } = &mut *state;
        let waiting = lanes[self.lane.0].deregister(self.share, resources);
        resources.deregister(&self.needs);
        drop(state);
        drop(waiting);
    }
}

/// The right of a model version's instances to claim turns on a device.
#[derive(Clone)]
pub struct Seat {
    place: Arc<Place>,
}

impl Seat {
    /// Asks for a turn. `granted` gets the permit, perhaps at once, on the thread that asks or on any that releases
    /// a turn; it must hand the permit on and neither block nor take a lock under which turns are claimed or
    /// released. Dropping the claim withdraws it; the permit may be under way already.
    ///
    /// Claims may be made while all instances run: none is granted before one of them has ended, and so a model
    /// that goes on keeps its place in the order. At most as many as there are instances may wait at a time.
    pub fn request(&self, granted: impl FnOnce(DevicePermit) + Send + 'static) -> Claim {
        self.ask(self.place.gate.lock(), Told::Call(Box::new(granted)))
    }

    /// Asks for a turn that is waited for later.
    pub fn reserve(&self) -> Reservation {
        self.reserve_under(self.place.gate.lock())
    }

    /// Blocks until it is this seat's turn.
    pub fn acquire(&self) -> DevicePermit {
        self.reserve().wait()
    }

    fn reserve_under(&self, state: MutexGuard<'_, State>) -> Reservation {
        let slot = Arc::new(Slot::default());
        let claim = self.ask(state, Told::Slot(Arc::clone(&slot)));
        Reservation { slot, _claim: claim }
    }

    fn ask(&self, mut state: MutexGuard<'_, State>, told: Told) -> Claim {
        let id = state.claim(&self.place, told);
        DeviceGate::settle(state, now());
        Claim { place: Arc::clone(&self.place), id }
    }

    /// Slots that each of its turns takes.
    pub fn slots(&self) -> NonZeroUsize {
        self.place.slots
    }

    /// Whether claims from both seats are the same to the device.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.place, &other.place)
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("lane", &self.place.lane).field("share", &self.place.share).finish_non_exhaustive()
    }
}

/// A claim that waits, or has been granted. Dropping it withdraws it.
#[must_use = "dropping a claim withdraws it"]
pub struct Claim {
    place: Arc<Place>,
    id: ClaimId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.place.gate.lock();
        let State { lanes, resources } = &mut *state;
        let withdrawn = lanes[self.place.lane.0].withdraw(self.id, resources);
        if withdrawn.is_some() {
            // It may have been the one for which resources were kept.
            DeviceGate::settle(state, now());
        } else {
            drop(state);
        }
        // What a claim carries is dropped without the lock: it may hold permits of its own.
        drop(withdrawn);
    }
}

/// A turn that will be waited for. Dropping it gives the turn up.
#[must_use = "dropping a reservation gives the turn up"]
pub struct Reservation {
    slot: Arc<Slot>,
    _claim: Claim,
}

impl Reservation {
    /// Blocks until the turn has come.
    pub fn wait(self) -> DevicePermit {
        let mut filled = self.slot.permit.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(permit) = filled.take() {
                drop(filled);
                return permit;
            }
            filled = self.slot.filled.wait(filled).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A turn on a device. Dropping it ends the turn; the time between is charged to the model.
#[must_use = "dropping a permit ends the turn"]
pub struct DevicePermit {
    place: Arc<Place>,
    claimed_at: Timestamp,
    grant: Option<Grant>,
}

impl DevicePermit {
    /// When the turn was asked for.
    pub fn claimed_at(&self) -> Timestamp {
        self.claimed_at
    }

    /// When the turn began.
    pub fn granted_at(&self) -> Timestamp {
        self.grant.as_ref().map_or_else(Timestamp::default, Grant::granted_at)
    }

    /// Ends the turn and asks for the next in one step, so that nobody comes between who has a weaker claim. To be
    /// used in place of a drop by an instance that has more to run.
    pub fn exchange(mut self) -> Reservation {
        let mut state = self.place.gate.lock();
        if let Some(grant) = self.grant.take() {
            state.release(&self.place, grant, now());
        }
        Seat { place: Arc::clone(&self.place) }.reserve_under(state)
    }
}

impl fmt::Debug for DevicePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevicePermit").field("grant", &self.grant).finish_non_exhaustive()
    }
}

impl Drop for DevicePermit {
    fn drop(&mut self) {
        let Some(grant) = self.grant.take() else {
            return;
        };
        let mut state = self.place.gate.lock();
        let now = now();
        state.release(&self.place, grant, now);
        DeviceGate::settle(state, now);
    }
}
