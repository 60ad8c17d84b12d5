//! What waits for an instance: a bounded queue, most urgent first, in which a thing may be meant for one instance.
//!
//! [`ReadyState`] decides everything and is pure; [`ReadyQueue`] puts a lock and the sleeping of threads around it.
//! A thread that finds nothing enters itself as resting under the same lock under which things arrive, so no arrival
//! can fall between its look and its sleep. Whoever is woken is taken off the list of those that rest, and whoever
//! takes a thing wakes another thread for what is left, so nothing waits while a thread rests that could take it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::PoisonError;

use slab::Slab;

use crate::clock::Timestamp;

use super::sync::{Condvar, Mutex, MutexGuard};

/// Something that waits in a [`ReadyQueue`] and whose parts may lapse meanwhile.
pub(crate) trait Perishable {
    /// A part that can be taken out.
    type Part;

    /// When the next of its parts lapses.
    fn next_lapse(&self) -> Option<Timestamp>;

    /// Takes out the parts for which `test` holds; the others stay in order.
    fn extract(&mut self, test: &mut dyn FnMut(&Self::Part) -> bool, parts: &mut Vec<Self::Part>);

    /// Whether no part is left.
    fn is_empty(&self) -> bool;
}

/// Who may take a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Whichever instance is free first.
    Any,
    /// This one.
    Instance(usize),
}

/// What an instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appetite {
    /// Whatever it may.
    All,
    /// Only what is meant for it and nobody else.
    Own,
}

/// What was taken out of the queue because nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Lapsed<T: Perishable> {
    /// Parts of things that stay, or of `emptied` things.
    pub(crate) parts: Vec<T::Part>,
    /// Things of which nothing was left; they are in the queue no more.
    pub(crate) emptied: Vec<T>,
}

/// Order of service: the lower value first, among equals the earlier arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    urgency: Timestamp,
    arrival: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    thing: T,
    rank: Rank,
    destination: Destination,
    next_lapse: Option<Timestamp>,
}

/// The queue's state. Time is an argument and threads are numbers.
#[derive(Debug)]
pub(crate) struct ReadyState<T> {
    waiting: Slab<Waiting<T>>,
    shared: BTreeMap<Rank, usize>,
    pinned: Vec<BTreeMap<Rank, usize>>,
    /// Everything that can lapse, by when it does.
    lapses: BTreeSet<(Timestamp, usize)>,
    /// Instances that rest and take anything, the longest resting first.
    resting: VecDeque<usize>,
    /// Instances that rest and take only their own.
    resting_for_own: Vec<usize>,
    capacity: usize,
    arrivals: u64,
    closed: bool,
}

/// What an instance that asks is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Something is there.
    Something,
    /// Nothing now: it is entered as resting, and must sleep until it is woken.
    Rest,
    /// Nothing any more.
    Closed,
}

impl<T: Perishable> ReadyState<T> {
    /// An empty queue for `instances`, in which `capacity` things may wait.
    pub(crate) fn new(instances: usize, capacity: usize) -> Self {
        Self {
            waiting: Slab::new(),
            shared: BTreeMap::new(),
            pinned: (0..instances).map(|_| BTreeMap::new()).collect(),
            lapses: BTreeSet::new(),
            resting: VecDeque::new(),
            resting_for_own: Vec::new(),
            capacity: capacity.max(1),
            arrivals: 0,
            closed: false,
        }
    }

    /// Takes a thing in; returns the instance to wake for it, if one rests.
    ///
    /// # Errors
    /// The thing comes back where as many wait as may, or there is no such instance.
    pub(crate) fn push(&mut self, thing: T, urgency: Timestamp, destination: Destination) -> Result<Option<usize>, T> {
        if self.waiting.len() >= self.capacity || self.closed {
            return Err(thing);
        }
        let rank = Rank { urgency, arrival: self.arrivals };
        let next_lapse = thing.next_lapse();
        let slot = self.waiting.vacant_key();
        let woken = match destination {
            Destination::Any => {
                self.shared.insert(rank, slot);
                self.resting.pop_front()
            }
            Destination::Instance(instance) => {
                let Some(own) = self.pinned.get_mut(instance) else {
                    return Err(thing);
                };
                own.insert(rank, slot);
                self.rouse(instance).then_some(instance)
            }
        };
        self.arrivals += 1;
        if let Some(lapse) = next_lapse {
            self.lapses.insert((lapse, slot));
        }
        self.waiting.insert(Waiting { thing, rank, destination, next_lapse });
        Ok(woken)
    }

    /// Whether there is something for an instance, or what it is to do instead.
    pub(crate) fn look(&mut self, instance: usize, appetite: Appetite) -> Found {
        if self.first(instance, appetite).is_some() {
            return Found::Something;
        }
        if self.closed {
            return Found::Closed;
        }
        match appetite {
            Appetite::All => self.resting.push_back(instance),
            Appetite::Own => self.resting_for_own.push(instance),
        }
        Found::Rest
    }

    /// The most urgent thing for an instance, and another instance to wake because more is left.
    pub(crate) fn take(&mut self, instance: usize, appetite: Appetite) -> Option<(T, Option<usize>)> {
        let slot = self.first(instance, appetite)?;
        let thing = self.remove(slot);
        let woken = if self.shared.is_empty() { None } else { self.resting.pop_front() };
        Some((thing, woken))
    }

    /// Takes an instance off the list of those that rest; whether it was there.
    pub(crate) fn rouse(&mut self, instance: usize) -> bool {
        let resting = self.resting.len() + self.resting_for_own.len();
        self.resting.retain(|resting| *resting != instance);
        self.resting_for_own.retain(|resting| *resting != instance);
        self.resting.len() + self.resting_for_own.len() < resting
    }

    /// When something next lapses.
    pub(crate) fn next_lapse(&self) -> Option<Timestamp> {
        self.lapses.first().map(|(lapse, _)| *lapse)
    }

    /// Takes out, of the things whose time has come by `now`, the parts for which `test` holds.
    pub(crate) fn expire(&mut self, now: Timestamp, test: &mut dyn FnMut(&T::Part) -> bool) -> Lapsed<T> {
        let due: Vec<usize> = self.lapses.iter().take_while(|(lapse, _)| *lapse <= now).map(|(_, slot)| *slot).collect();
        self.extract(due, test)
    }

    /// Takes out the parts for which `test` holds, of everything that waits.
    pub(crate) fn sweep(&mut self, test: &mut dyn FnMut(&T::Part) -> bool) -> Lapsed<T> {
        let all: Vec<usize> = self.waiting.iter().map(|(slot, _)| slot).collect();
        self.extract(all, test)
    }

    /// Nothing comes any more: who finds nothing is told to end. Returns whom to wake for that.
    pub(crate) fn close(&mut self) -> Vec<usize> {
        self.closed = true;
        self.resting.drain(..).chain(self.resting_for_own.drain(..)).collect()
    }

    /// Things that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn first(&self, instance: usize, appetite: Appetite) -> Option<usize> {
        let own = self.pinned.get(instance).and_then(BTreeMap::first_key_value);
        let shared = match appetite {
            Appetite::All => self.shared.first_key_value(),
            Appetite::Own => None,
        };
        own.into_iter().chain(shared).min_by_key(|(rank, _)| **rank).map(|(_, slot)| *slot)
    }

    fn remove(&mut self, slot: usize) -> T {
        let Waiting { thing, rank, destination, next_lapse } = self.waiting.remove(slot);
        match destination {
            Destination::Any => self.shared.remove(&rank),
            Destination::Instance(instance) => self.pinned[instance].remove(&rank),
        };
        if let Some(lapse) = next_lapse {
            self.lapses.remove(&(lapse, slot));
        }
        thing
    }

    fn extract(&mut self, slots: Vec<usize>, test: &mut dyn FnMut(&T::Part) -> bool) -> Lapsed<T> {
        let mut lapsed = Lapsed { parts: Vec::new(), emptied: Vec::new() };
        for slot in slots {
            let waiting = &mut self.waiting[slot];
            waiting.thing.extract(test, &mut lapsed.parts);
            if waiting.thing.is_empty() {
                let thing = self.remove(slot);
                lapsed.emptied.push(thing);
                continue;
            }
            let next = waiting.thing.next_lapse();
            if next != waiting.next_lapse {
                let before = std::mem::replace(&mut waiting.next_lapse, next);
                self.lapses.extend(next.map(|lapse| (lapse, slot)));
                before.into_iter().for_each(|lapse| {
                    self.lapses.remove(&(lapse, slot));
                });
            }
        }
        lapsed
    }
}

/// The queue that submitters and the instances' threads share.
pub(crate) struct ReadyQueue<T> {
    state: Mutex<ReadyState<T>>,
    /// One per instance, so that a thing meant for one wakes that one.
    wakers: Vec<Condvar>,
}

impl<T: Perishable> ReadyQueue<T> {
    /// An empty queue for `instances`, in which `capacity` things may wait, and at least one.
    pub(crate) fn new(instances: usize, capacity: usize) -> Self {
        Self { state: Mutex::new(ReadyState::new(instances, capacity)), wakers: (0..instances).map(|_| Condvar::new()).collect() }
    }

    /// Takes a thing in; the lower `urgency` is served first, equal ones in the order of arrival. Whether an instance
    /// rested that has been woken for it.
    ///
    /// # Errors
    /// The thing comes back where as many wait as may, the queue is closed or there is no such instance.
    pub(crate) fn push(&self, thing: T, urgency: Timestamp, destination: Destination) -> Result<bool, T> {
        let mut state = self.lock();
        let woken = state.push(thing, urgency, destination)?;
        drop(state);
        self.wake(woken);
        Ok(woken.is_some())
    }

    /// How many things for any instance would be served before one of this urgency that comes now; it counts to `most`.
    pub(crate) fn count_before(&self, urgency: Timestamp, most: usize) -> usize {
        self.lock().shared.range(..=Rank { urgency, arrival: u64::MAX }).take(most).count()
    }

    /// The most urgent thing for an instance, for which its thread waits. `None` once the queue is closed and
    /// nothing is left for it.
    pub(crate) fn next(&self, instance: usize, appetite: Appetite) -> Option<T> {
        self.take(self.wait_for_some(instance, appetite)?, instance, appetite)
    }

    /// Waits until there is something for an instance, and leaves it there: whether there will ever be. By the time
    /// the instance takes it, it may be gone.
    pub(crate) fn wait(&self, instance: usize, appetite: Appetite) -> bool {
        self.wait_for_some(instance, appetite).is_some()
    }

    /// The most urgent thing for an instance, if there is one now.
    pub(crate) fn take_now(&self, instance: usize, appetite: Appetite) -> Option<T> {
        self.take(self.lock(), instance, appetite)
    }

    /// Whether there is something for an instance now.
    pub(crate) fn has_some(&self, instance: usize, appetite: Appetite) -> bool {
        self.lock().first(instance, appetite).is_some()
    }

    /// Waits until there is something for an instance; comes back with the lock under which it was seen.
    fn wait_for_some(&self, instance: usize, appetite: Appetite) -> Option<MutexGuard<'_, ReadyState<T>>> {
        let mut state = self.lock();
        loop {
            match state.look(instance, appetite) {
                Found::Something => return Some(state),
                Found::Closed => return None,
                Found::Rest => {
                    state = self.wakers[instance].wait(state).unwrap_or_else(PoisonError::into_inner);
                    // Threads wake without being woken too; who is awake must not be on the list.
                    state.rouse(instance);
                }
            }
        }
    }

    fn take(&self, mut state: MutexGuard<'_, ReadyState<T>>, instance: usize, appetite: Appetite) -> Option<T> {
        let (thing, woken) = state.take(instance, appetite)?;
        drop(state);
        self.wake(woken);
        Some(thing)
    }

    /// When something next lapses.
    pub(crate) fn next_lapse(&self) -> Option<Timestamp> {
        self.lock().next_lapse()
    }

    /// Takes out, of the things whose time has come by `now`, the parts for which `test` holds.
    pub(crate) fn expire(&self, now: Timestamp, test: &mut dyn FnMut(&T::Part) -> bool) -> Lapsed<T> {
        self.lock().expire(now, test)
    }

    /// Takes out the parts for which `test` holds, of everything that waits.
    pub(crate) fn sweep(&self, test: &mut dyn FnMut(&T::Part) -> bool) -> Lapsed<T> {
        self.lock().sweep(test)
    }

    /// Nothing comes any more; what waits is still served.
    pub(crate) fn close(&self) {
        let woken = self.lock().close();
        woken.into_iter().for_each(|instance| self.wake(Some(instance)));
    }

    /// Things that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, ReadyState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, instance: Option<usize>) {
        if let Some(waker) = instance.and_then(|instance| self.wakers.get(instance)) {
            waker.notify_one();
        }
    }
}
