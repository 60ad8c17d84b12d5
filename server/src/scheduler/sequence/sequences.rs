//! Which sequences there are, where each has its place, and which of their requests run next. Pure: time is an
//! argument, and what waits is never looked into.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::Duration;

use slab::Slab;

use crate::clock::Timestamp;
use crate::request::SequenceId;

use super::places::{Place, Places};

/// Limits of a model's sequences.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Instances.
    pub instances: usize,
    /// Sequences of one instance at a time.
    pub slots: NonZeroUsize,
    /// Requests that wait, those of sequences in the backlog included. Each sequence in the backlog has at least one.
    pub max_entries: NonZeroUsize,
    /// Time without a request, waiting or running, after which a sequence is over.
    pub max_idle: Duration,
}

/// A request that arrives.
#[derive(Clone, Debug)]
pub struct Arrival<T> {
    /// Its sequence.
    pub id: SequenceId,
    /// It is the first of its sequence.
    pub start: bool,
    /// It is the last of its sequence.
    pub end: bool,
    /// When it came.
    pub queued_at: Timestamp,
    /// When it must have started.
    pub start_by: Option<Timestamp>,
    /// The request itself.
    pub item: T,
}

/// Why an arrival was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such sequence, and it does not start one.
    NoStart,
    /// As many wait as may.
    Full,
}

/// Why a request that waited must not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// Its own time is over.
    Expired,
    /// The time of another request of its sequence is over, or that of any where the sequence had no place yet.
    SequenceExpired,
    /// A request of its sequence was canceled.
    Canceled,
}

/// Names a sequence from its first request until its last has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(usize);

/// How a request that ran came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model answered it, be it with an error: the sequence goes on.
    Answered,
    /// It never reached the model, or its client left: the sequence has a gap, and is over.
    Canceled,
    /// As [`Outcome::Canceled`], because its time was over.
    Expired,
}

/// A request that is to run now.
#[derive(Debug)]
pub struct Taken<T> {
    /// Its sequence, for [`Sequences::finish`].
    pub key: Key,
    /// Its sequence's place.
    pub place: Place,
    /// The request.
    pub item: T,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    ticket: u64,
    queued_at: Timestamp,
    start_by: Option<Timestamp>,
}

#[derive(Debug)]
struct Sequence<T, M> {
    id: SequenceId,
    /// Order among all sequences.
    number: u64,
    place: Option<Place>,
    queue: VecDeque<Waiting<T>>,
    /// One of its requests runs.
    running: bool,
    /// It takes no more requests.
    closed: bool,
    idle_from: Option<Timestamp>,
    /// Kept for the model between its requests.
    memory: M,
}

/// The sequences of one model version. `T` is a request, `M` what is kept between the requests of a sequence.
///
/// At most one request of a sequence runs at a time. A sequence whose request could not run, because it expired or its
/// client left, has a gap that no model could see; it ends there, and its later requests are refused.
#[derive(Debug)]
pub struct Sequences<T, M> {
    limits: Limits,
    places: Places,
    sequences: Slab<Sequence<T, M>>,
    /// Those that take requests.
    open: HashMap<SequenceId, usize>,
    /// Those without a place, by number.
    backlog: BTreeMap<u64, usize>,
    /// Of each instance, those with a place of which a request can run, by number.
    ready: Vec<BTreeSet<(u64, usize)>>,
    /// Waiting requests that must start by some time: that time, ticket, sequence.
    deadlines: BTreeSet<(Timestamp, u64, usize)>,
    /// Sequences of which nothing waits or runs, by since when.
    idle: BTreeSet<(Timestamp, usize)>,
    waiting: usize,
    tickets: u64,
    numbers: u64,
    /// No request comes any more.
    closing: bool,
}

impl<T, M: Default> Sequences<T, M> {
    /// No sequences.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: Places::new(limits.instances, limits.slots.get()),
            sequences: Slab::new(),
            open: HashMap::new(),
            backlog: BTreeMap::new(),
            ready: vec![BTreeSet::new(); limits.instances],
            deadlines: BTreeSet::new(),
            idle: BTreeSet::new(),
            waiting: 0,
            tickets: 0,
            numbers: 0,
            closing: false,
        }
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Sequences without a place.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// What is kept for a sequence.
    pub fn memory(&mut self, key: Key) -> Option<&mut M> {
        self.sequences.get_mut(key.0).map(|sequence| &mut sequence.memory)
    }

    /// Takes a request in. The first of a sequence gives it a place, or puts it into the backlog.
    ///
    /// A request that says it is the first of a sequence that is under way goes on with that sequence, as in Triton.
    ///
    /// # Errors
    /// The request comes back where it belongs to no sequence, or there is no room. One that is refused for want of
    /// room is no part of its sequence, and may be sent again.
    pub fn push(&mut self, arrival: Arrival<T>) -> Result<(), (T, Refusal)> {
        let known = self.open.get(&arrival.id).copied();
        if known.is_none() && !arrival.start {
            return Err((arrival.item, Refusal::NoStart));
        }
        if self.waiting >= self.limits.max_entries.get() {
            return Err((arrival.item, Refusal::Full));
        }
        let key = known.unwrap_or_else(|| self.begin(arrival.id.clone()));
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(start_by) = arrival.start_by {
            self.deadlines.insert((start_by, ticket, key));
        }
        self.waiting += 1;
        let sequence = &mut self.sequences[key];
        if let Some(idle_from) = sequence.idle_from.take() {
            self.idle.remove(&(idle_from, key));
        }
        let waiting = Waiting { item: arrival.item, ticket, queued_at: arrival.queued_at, start_by: arrival.start_by };
        sequence.queue.push_back(waiting);
        if arrival.end {
            sequence.closed = true;
            self.open.remove(&arrival.id);
        }
        self.note_ready(key);
        Ok(())
    }

    fn begin(&mut self, id: SequenceId) -> usize {
        self.numbers += 1;
        let place = self.places.take();
        let key = self.sequences.insert(Sequence {
            id: id.clone(),
            number: self.numbers,
            place,
            queue: VecDeque::new(),
            running: false,
            closed: false,
            idle_from: None,
            memory: M::default(),
        });
        if place.is_none() {
            self.backlog.insert(self.numbers, key);
        }
        self.open.insert(id, key);
        key
    }

    /// Enters a sequence as ready where it is.
    fn note_ready(&mut self, key: usize) {
        let sequence = &self.sequences[key];
        if let (Some(place), false, false) = (sequence.place, sequence.running, sequence.queue.is_empty()) {
            self.ready[place.instance].insert((sequence.number, key));
        }
    }

    /// Whether a request of this instance's sequences can run.
    pub fn is_ready(&self, instance: usize) -> bool {
        self.ready.get(instance).is_some_and(|ready| !ready.is_empty())
    }

    /// The next request of each sequence of this instance that can run, the oldest sequence first, and since when it
    /// waits.
    pub fn heads(&self, instance: usize) -> impl Iterator<Item = Head<'_, T, M>> {
        let ready = self.ready.get(instance).into_iter().flatten();
        ready.filter_map(|(_, key)| {
            let sequence = self.sequences.get(*key)?;
            let head = sequence.queue.front()?;
            let place = sequence.place?;
            Some(Head { key: Key(*key), place, item: &head.item, queued_at: head.queued_at, memory: &sequence.memory })
        })
    }

    /// Takes the next request of a sequence, which runs until [`Sequences::finish`].
    pub fn take(&mut self, key: Key) -> Option<Taken<T>> {
        let sequence = self.sequences.get_mut(key.0).filter(|sequence| !sequence.running)?;
        let place = sequence.place?;
        let head = sequence.queue.pop_front()?;
        sequence.running = true;
        self.ready[place.instance].remove(&(sequence.number, key.0));
        self.forget(key.0, head.start_by, head.ticket);
        Some(Taken { key, place, item: head.item })
    }

    /// A request does not wait any more.
    fn forget(&mut self, key: usize, start_by: Option<Timestamp>, ticket: u64) {
        self.waiting -= 1;
        if let Some(start_by) = start_by {
            self.deadlines.remove(&(start_by, ticket, key));
        }
    }

    /// A request that was taken is over. What comes back must not run.
    pub fn finish(&mut self, now: Timestamp, key: Key, outcome: Outcome) -> Vec<(T, Lapse)> {
        let Some(sequence) = self.sequences.get_mut(key.0) else {
            return Vec::new();
        };
        sequence.running = false;
        match outcome {
            Outcome::Canceled => return self.end(key.0, Lapse::Canceled, None),
            Outcome::Expired => return self.end(key.0, Lapse::SequenceExpired, None),
            Outcome::Answered => {}
        }
        match (sequence.queue.is_empty(), sequence.closed || self.closing) {
            (true, true) => self.release(key.0),
            (true, false) => {
                sequence.idle_from = Some(now);
                self.idle.insert((now, key.0));
            }
            (false, _) => self.note_ready(key.0),
        }
        Vec::new()
    }

    /// Takes out the requests whose time is over, and with them the rest of their sequences; ends sequences that were
    /// idle for too long.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(T, Lapse)> {
        let mut lapsed = Vec::new();
        while let Some((_, ticket, key)) = self.deadlines.first().copied().filter(|(start_by, ..)| *start_by <= now) {
            let in_backlog = self.sequences.get(key).is_some_and(|sequence| sequence.place.is_none());
            let own = (!in_backlog).then_some((ticket, Lapse::Expired));
            lapsed.append(&mut self.end(key, Lapse::SequenceExpired, own));
        }
        while let Some((_, key)) = self.idle.first().copied().filter(|(from, _)| from.plus(self.limits.max_idle) <= now) {
            self.release(key);
        }
        lapsed
    }

    /// Takes out the sequences of which a request waits that nobody wants any more. It looks at all that waits.
    pub fn sweep(&mut self, is_gone: impl Fn(&T) -> bool) -> Vec<(T, Lapse)> {
        let has_gone = |sequence: &Sequence<T, M>| sequence.queue.iter().any(|waiting| is_gone(&waiting.item));
        let gone: Vec<usize> = self.sequences.iter().filter(|(_, sequence)| has_gone(sequence)).map(|(key, _)| key).collect();
        gone.into_iter().flat_map(|key| self.end(key, Lapse::Canceled, None)).collect()
    }

    /// Takes out one sequence of which a request waits that nobody wants any more.
    pub fn cancel(&mut self, key: Key) -> Vec<(T, Lapse)> {
        self.end(key.0, Lapse::Canceled, None)
    }

    /// No request comes any more: sequences are over when nothing of them waits or runs.
    pub fn close(&mut self) {
        self.closing = true;
        while let Some((_, key)) = self.idle.first().copied() {
            self.release(key);
        }
    }

    /// When to call [`Sequences::expire`] if nothing else happens.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let deadline = self.deadlines.first().map(|(start_by, ..)| *start_by);
        let idle = self.idle.first().map(|(from, _)| from.plus(self.limits.max_idle));
        deadline.into_iter().chain(idle).min()
    }

    /// Ends a sequence before its last request. What waited of it comes back with `lapse`, or, where its ticket is
    /// that of `own`, with the lapse there. Its place is free once nothing of it runs.
    fn end(&mut self, key: usize, lapse: Lapse, own: Option<(u64, Lapse)>) -> Vec<(T, Lapse)> {
        let Some(sequence) = self.sequences.get_mut(key) else {
            return Vec::new();
        };
        sequence.closed = true;
        let queue = std::mem::take(&mut sequence.queue);
        if let Some(place) = sequence.place {
            self.ready[place.instance].remove(&(sequence.number, key));
        }
        if self.open.get(&sequence.id) == Some(&key) {
            self.open.remove(&sequence.id);
        }
        if !sequence.running {
            self.release(key);
        }
        let mut lapsed = Vec::with_capacity(queue.len());
        for waiting in queue {
            self.forget(key, waiting.start_by, waiting.ticket);
            let lapse = own.filter(|(ticket, _)| *ticket == waiting.ticket).map_or(lapse, |(_, lapse)| lapse);
            lapsed.push((waiting.item, lapse));
        }
        lapsed
    }

    /// Forgets a sequence of which nothing waits or runs; its place goes to the oldest one of the backlog.
    fn release(&mut self, key: usize) {
        let sequence = self.sequences.remove(key);
        if let Some(idle_from) = sequence.idle_from {
            self.idle.remove(&(idle_from, key));
        }
        if self.open.get(&sequence.id) == Some(&key) {
            self.open.remove(&sequence.id);
        }
        self.backlog.remove(&sequence.number);
        let Some(place) = sequence.place else {
            return;
        };
        self.places.free(place);
        if let Some((_, next)) = self.backlog.pop_first() {
            self.sequences[next].place = self.places.take();
            self.note_ready(next);
        }
    }
}

/// The next request of a sequence that can run.
#[derive(Debug)]
pub struct Head<'a, T, M> {
    /// Its sequence.
    pub key: Key,
    /// The sequence's place.
    pub place: Place,
    /// The request.
    pub item: &'a T,
    /// Since when it waits.
    pub queued_at: Timestamp,
    /// What is kept for the sequence.
    pub memory: &'a M,
}

#[cfg(test)]
impl<T, M: Default> Sequences<T, M> {
    /// Checks that all lists tell the same story, and that the backlog is served first in first out.
    pub(super) fn assert_consistent(&self) {
        let mut places = BTreeSet::new();
        let (mut waiting, mut timed, mut idle, mut ready) = (0, 0, 0, 0);
        for (key, sequence) in &self.sequences {
            waiting += sequence.queue.len();
            timed += sequence.queue.iter().filter(|waiting| waiting.start_by.is_some()).count();
            let is_open = self.open.get(&sequence.id) == Some(&key);
            assert_eq!(is_open, !sequence.closed, "a sequence is open if its id leads to it");
            assert_eq!(self.backlog.get(&sequence.number) == Some(&key), sequence.place.is_none());
            let nothing = sequence.queue.is_empty() && !sequence.running;
            assert_eq!(sequence.idle_from.is_some(), nothing, "a sequence of which nothing waits or runs is idle");
            idle += usize::from(nothing);
            match sequence.place {
                Some(place) => {
                    assert!(places.insert(place), "two sequences have one place");
                    let can_run = !sequence.running && !sequence.queue.is_empty();
                    assert_eq!(self.ready[place.instance].contains(&(sequence.number, key)), can_run);
                    ready += usize::from(can_run);
                    let first_waiting = self.backlog.keys().next().copied().unwrap_or(u64::MAX);
                    assert!(sequence.number < first_waiting, "a sequence overtook the backlog");
                }
                None => assert!(!sequence.running && !sequence.queue.is_empty(), "nothing waits in the backlog for nothing"),
            }
        }
        let listed = (self.waiting, self.deadlines.len(), self.idle.len(), self.ready.iter().map(BTreeSet::len).sum::<usize>());
        assert_eq!(listed, (waiting, timed, idle, ready));
        let room = self.limits.instances * self.limits.slots.get();
        assert!(self.backlog.is_empty() || places.len() == room, "a place is free while a sequence waits for one");
    }
}
