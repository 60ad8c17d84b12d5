//! The queue of the default policy: entries in buckets of those that may share a batch, each bucket sorted by priority
//! level and urgency. Pure.
//!
//! No operation walks the queue. An entry costs a slot in a slab, a ticket in the lane of its bucket and rank, and where
//! it has a deadline a ticket among the timers. Entries that leave otherwise than from the head of their lane leave
//! stale tickets, which are dropped when they are met or when they outnumber the live ones.
//!
//! A *rank* is half a priority level: entries in time, and behind them those that were set back (timeout action DELAY).

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::clock::Timestamp;
use crate::request::BatchKey;

use super::Waiting;
use super::lane::{Lane, Ticket};
use super::work::{Work, WorkAhead};

/// Stale tickets that a lane may hold besides as many as it has live ones.
const STALE_TICKETS: usize = 64;

/// Stands for no slot in the links between slots.
const NONE: usize = usize::MAX;

/// An entry in the queue.
#[derive(Debug)]
pub(in crate::scheduler) struct Slot<T> {
    pub(in crate::scheduler) item: T,
    pub(in crate::scheduler) rows: usize,
    pub(in crate::scheduler) cost: u64,
    pub(in crate::scheduler) queued_at: Timestamp,
    pub(in crate::scheduler) start_by: Option<Timestamp>,
    pub(in crate::scheduler) finish_by: Option<Timestamp>,
    pub(in crate::scheduler) delayed_from: Option<Timestamp>,
    seq: u64,
    class: usize,
    rank: usize,
    /// The slot of time in which its work is counted.
    time_slot: u64,
    /// Neighbors in the order of arrival within the bucket.
    older: usize,
    newer: usize,
}

impl<T> Slot<T> {
    /// Rows that it takes of a batch: one that has none still takes a place, so that batches stay bounded.
    pub(in crate::scheduler) fn places(&self) -> usize {
        self.rows.max(1)
    }

    fn work(&self) -> Work {
        Work { rows: self.places() as u64, cost: self.cost }
    }

    fn level(&self) -> usize {
        self.rank / 2
    }

    fn is_set_back(&self) -> bool {
        self.rank % 2 == 1
    }
}

/// A bucket: entries that may share a batch.
#[derive(Debug)]
struct Class {
    key: BatchKey,
    /// By rank, ascending; none is empty.
    lanes: Vec<ClassLane>,
    entries: usize,
    work: Work,
    oldest: usize,
    newest: usize,
}

#[derive(Debug)]
struct ClassLane {
    rank: usize,
    lane: Lane,
    /// Its first live ticket, which stands in [`Buckets::heads`].
    head: Ticket,
    entries: usize,
}

/// What a bucket holds, for whom it is decided whether its batch starts.
#[derive(Clone, Copy, Debug)]
pub(in crate::scheduler) struct Forming {
    pub(in crate::scheduler) entries: usize,
    pub(in crate::scheduler) work: Work,
    /// When the oldest was queued.
    pub(in crate::scheduler) oldest: Timestamp,
}

/// Who leads the next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheduler) struct Lead {
    class: usize,
    rank: usize,
}

/// What becomes of an entry that is looked at for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheduler) enum Judgment<D> {
    /// It joins the batch.
    Take,
    /// It is passed over, and leaves the queue if this batch is formed.
    Skip,
    /// It leaves the queue for this reason.
    Drop(D),
    /// It stays, and ends the batch.
    Stop,
}

/// Entries gathered for a batch; they leave the queue by [`Buckets::commit`] or stay by [`Buckets::put_back`].
#[derive(Debug)]
pub(in crate::scheduler) struct Gathered {
    class: usize,
    lanes: Vec<GatheredLane>,
    /// Whether an entry ended the batch.
    pub(in crate::scheduler) is_stopped: bool,
}

#[derive(Debug)]
struct GatheredLane {
    rank: usize,
    /// Whether its head was the most urgent of the rank.
    leads_rank: bool,
    /// Those that were looked at, and whether they join the batch.
    tickets: Vec<(Ticket, bool)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rank {
    entries: usize,
    /// Number of batches at the time when somebody began to wait here, or was served last in order.
    since: u64,
}

/// The queue.
#[derive(Debug)]
pub(in crate::scheduler) struct Buckets<T> {
    /// Nothing overtakes: urgency is the order of arrival.
    strict: bool,
    slots: Slab<Slot<T>>,
    classes: Slab<Class>,
    by_key: HashTable<usize>,
    hasher: DefaultHashBuilder,
    /// The head of every lane.
    heads: BTreeSet<(usize, Ticket)>,
    ranks: Vec<Rank>,
    /// The ranks where somebody waits, by [`Rank::since`].
    turns: BTreeSet<(u64, usize)>,
    timers: Lane,
    work: WorkAhead,
    last_seq: u64,
    batches: u64,
}

impl<T> Buckets<T> {
    /// An empty queue of so many priority levels.
    pub(in crate::scheduler) fn new(levels: usize, strict: bool) -> Self {
        Self {
            strict,
            slots: Slab::new(),
            classes: Slab::new(),
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            heads: BTreeSet::new(),
            ranks: vec![Rank::default(); 2 * levels],
            turns: BTreeSet::new(),
            timers: Lane::default(),
            work: WorkAhead::new(levels),
            last_seq: 0,
            batches: 0,
        }
    }

    /// Entries.
    pub(in crate::scheduler) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Slots that [`Buckets::find`] walks.
    pub(in crate::scheduler) fn slots(&self) -> usize {
        self.slots.capacity()
    }

    /// Entries of a level, those that were set back included.
    pub(in crate::scheduler) fn level_len(&self, level: usize) -> usize {
        self.ranks[2 * level].entries + self.ranks[2 * level + 1].entries
    }

    /// Buckets with entries that may not share a batch with one of this key.
    pub(in crate::scheduler) fn other_classes(&self, key: &BatchKey) -> usize {
        self.classes.len() - usize::from(self.class_of(key).is_some())
    }

    /// Whether entries wait that may not share a batch with all others.
    pub(in crate::scheduler) fn is_mixed(&self) -> bool {
        self.classes.len() > 1
    }

    fn class_of(&self, key: &BatchKey) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        self.by_key.find(hash, |class| self.classes[*class].key == *key).copied()
    }

    fn class_for(&mut self, key: BatchKey) -> usize {
        if let Some(class) = self.class_of(&key) {
            return class;
        }
        let hash = self.hasher.hash_one(&key);
        let class = Class { key, lanes: Vec::new(), entries: 0, work: Work::default(), oldest: NONE, newest: NONE };
        let class = self.classes.insert(class);
        let (classes, hasher) = (&self.classes, &self.hasher);
        self.by_key.insert_unique(hash, class, |class| hash_of(hasher, &classes[*class].key));
        class
    }

    /// Adds an entry of a level.
    pub(in crate::scheduler) fn insert(&mut self, now: Timestamp, level: usize, order: Timestamp, entry: Waiting<T>) -> usize {
        let class = self.class_for(entry.key);
        let order = if self.strict { Timestamp::default() } else { order };
        let rank = 2 * level;
        self.last_seq += 1;
        let newest = self.classes[class].newest;
        let mut slot = Slot {
            item: entry.item,
            rows: entry.rows,
            cost: entry.cost,
            queued_at: entry.queued_at,
            start_by: entry.start_by,
            finish_by: entry.finish_by,
            delayed_from: entry.delayed_from,
            seq: self.last_seq,
            class,
            rank,
            time_slot: 0,
            older: newest,
            newer: NONE,
        };
        let work = slot.work();
        slot.time_slot = self.work.add(now, level, order, work);
        let id = self.slots.insert(slot);
        match self.slots.get_mut(newest) {
            Some(newest) => newest.newer = id,
            None => self.classes[class].oldest = id,
        }
        let class = &mut self.classes[class];
        class.newest = id;
        class.entries += 1;
        class.work.add(work);
        self.enqueue(Ticket { order, seq: self.last_seq, slot: id });
        id
    }

    /// Puts the ticket of an entry into the lane of its bucket and rank.
    fn enqueue(&mut self, ticket: Ticket) {
        let (class, rank) = (self.slots[ticket.slot].class, self.slots[ticket.slot].rank);
        let state = &mut self.ranks[rank];
        if state.entries == 0 {
            state.since = self.batches;
            self.turns.insert((state.since, rank));
        }
        state.entries += 1;
        let lanes = &mut self.classes[class].lanes;
        match lanes.binary_search_by_key(&rank, |lane| lane.rank) {
            Ok(at) => {
                let lane = &mut lanes[at];
                lane.entries += 1;
                lane.lane.push(ticket);
                if ticket < lane.head {
                    self.heads.remove(&(rank, lane.head));
                    self.heads.insert((rank, ticket));
                    lane.head = ticket;
                }
            }
            Err(at) => {
                let mut lane = Lane::default();
                lane.push(ticket);
                lanes.insert(at, ClassLane { rank, lane, head: ticket, entries: 1 });
                self.heads.insert((rank, ticket));
            }
        }
    }

    /// Who leads the next batch: the most urgent of the highest rank, unless a rank was passed over by `pass_over`
    /// batches in a row, which is then its turn.
    pub(in crate::scheduler) fn lead(&self, pass_over: u64) -> Option<Lead> {
        let overdue = self.turns.first().filter(|(since, _)| !self.strict && self.batches - since >= pass_over);
        let rank = overdue.map_or(0, |(_, rank)| *rank);
        let (rank, ticket) = self.heads.range((rank, Ticket { order: Timestamp::default(), seq: 0, slot: 0 })..).next()?;
        Some(Lead { class: self.slots[ticket.slot].class, rank: *rank })
    }

    /// What waits in the bucket of the one who leads.
    pub(in crate::scheduler) fn forming(&self, lead: Lead) -> Forming {
        let class = &self.classes[lead.class];
        Forming { entries: class.entries, work: class.work, oldest: self.slots[class.oldest].queued_at }
    }

    /// An entry.
    pub(in crate::scheduler) fn slot(&self, id: usize) -> &Slot<T> {
        &self.slots[id]
    }

    /// Entries of a level, or of all, for which this holds. It walks all slots.
    pub(in crate::scheduler) fn find(&self, level: Option<usize>, holds: impl Fn(&T) -> bool) -> Vec<usize> {
        let found = self.slots.iter().filter(|(_, slot)| level.is_none_or(|level| slot.level() == level) && holds(&slot.item));
        found.map(|(id, _)| id).collect()
    }

    /// Work that is served before an entry of this level and order.
    pub(in crate::scheduler) fn ahead(&mut self, now: Timestamp, level: usize, order: Timestamp) -> Work {
        let order = if self.strict { Timestamp::default() } else { order };
        self.work.ahead(now, level, order)
    }

    /// Sets the time at which [`Buckets::due`] returns an entry, once.
    pub(in crate::scheduler) fn arm(&mut self, id: usize, at: Timestamp) {
        if self.timers.len() > 2 * self.slots.len() + STALE_TICKETS {
            let slots = &self.slots;
            self.timers.retain(|ticket| is_live(slots, ticket));
        }
        self.timers.push(Ticket { order: at, seq: self.slots[id].seq, slot: id });
    }

    /// The earliest time that is set.
    pub(in crate::scheduler) fn first_timer(&mut self) -> Option<Timestamp> {
        while let Some(ticket) = self.timers.peek() {
            if is_live(&self.slots, &ticket) {
                return Some(ticket.order);
            }
            self.timers.pop();
        }
        None
    }

    /// An entry whose time has come.
    pub(in crate::scheduler) fn due(&mut self, now: Timestamp) -> Option<usize> {
        self.first_timer().filter(|first| *first <= now)?;
        self.timers.pop().map(|ticket| ticket.slot)
    }

    /// Moves an entry behind all of its level that are in time. Its timer has to be set anew.
    pub(in crate::scheduler) fn set_back(&mut self, id: usize, order: Timestamp) {
        let slot = &self.slots[id];
        let (old, class, rank, level, work, time_slot) =
            (slot.seq, slot.class, slot.rank, slot.level(), slot.work(), slot.time_slot);
        self.work.set_back(level, time_slot, work);
        self.leave_rank(rank);
        lane_of(&mut self.classes[class], rank).entries -= 1;
        self.last_seq += 1;
        let slot = &mut self.slots[id];
        (slot.seq, slot.rank, slot.delayed_from) = (self.last_seq, 2 * level + 1, None);
        self.leave_lane(class, rank, old);
        self.enqueue(Ticket { order, seq: self.last_seq, slot: id });
    }

    /// Takes an entry out.
    pub(in crate::scheduler) fn remove(&mut self, id: usize) -> Slot<T> {
        let slot = self.unlink(id);
        self.leave_lane(slot.class, slot.rank, slot.seq);
        self.drop_if_empty(slot.class);
        slot
    }

    /// Looks at entries of the bucket of the one who leads, its rank first and then rank by rank, until one ends the
    /// batch. Those that `judge` drops are handed to `dropped`.
    pub(in crate::scheduler) fn gather<D>(
        &mut self,
        lead: Lead,
        mut judge: impl FnMut(&Slot<T>) -> Judgment<D>,
        mut dropped: impl FnMut(T, D),
    ) -> Gathered {
        // With a strict order the batch ends before the first that may not join it.
        let limit = if self.strict { self.heads.iter().nth(1).map(|(_, ticket)| *ticket) } else { None };
        let own = std::iter::once(lead.rank);
        let others = self.classes[lead.class].lanes.iter().map(|lane| lane.rank).filter(|rank| *rank != lead.rank);
        let ranks: Vec<usize> = own.chain(others).collect();
        let mut gathered = Gathered { class: lead.class, lanes: Vec::with_capacity(ranks.len()), is_stopped: false };
        for rank in ranks {
            let lane = lane_of(&mut self.classes[lead.class], rank);
            let first = self.heads.range((rank, Ticket { order: Timestamp::default(), seq: 0, slot: 0 })..).next();
            let leads_rank = first == Some(&(rank, lane.head));
            self.heads.remove(&(rank, lane.head));
            let mut tickets = Vec::with_capacity(lane.entries.min(64));
            while let Some(ticket) = lane_of(&mut self.classes[lead.class], rank).lane.peek() {
                if let Some(slot) = self.slots.get(ticket.slot).filter(|slot| slot.seq == ticket.seq) {
                    let judgment = if limit.is_some_and(|limit| ticket > limit) { Judgment::Stop } else { judge(slot) };
                    match judgment {
                        Judgment::Take => tickets.push((ticket, true)),
                        Judgment::Skip => tickets.push((ticket, false)),
                        Judgment::Drop(why) => dropped(self.unlink(ticket.slot).item, why),
                        Judgment::Stop => {
                            gathered.is_stopped = true;
                            break;
                        }
                    }
                }
                lane_of(&mut self.classes[lead.class], rank).lane.pop();
            }
            gathered.lanes.push(GatheredLane { rank, leads_rank, tickets });
            if gathered.is_stopped {
                break;
            }
        }
        gathered
    }

    /// Takes the gathered entries out, in order: a batch has been formed. The flag says whether an entry is in it.
    pub(in crate::scheduler) fn commit(&mut self, gathered: Gathered, mut left: impl FnMut(Slot<T>, bool)) {
        self.batches += 1;
        for GatheredLane { rank, leads_rank, tickets } in gathered.lanes {
            let is_served = leads_rank && !tickets.is_empty();
            for (ticket, joins) in tickets {
                left(self.unlink(ticket.slot), joins);
            }
            self.settle(gathered.class, rank);
            let state = &mut self.ranks[rank];
            if is_served && state.entries > 0 {
                self.turns.remove(&(state.since, rank));
                state.since = self.batches;
                self.turns.insert((state.since, rank));
            }
        }
        self.drop_if_empty(gathered.class);
    }

    /// Leaves the gathered entries where they were.
    pub(in crate::scheduler) fn put_back(&mut self, gathered: Gathered) {
        for GatheredLane { rank, tickets, .. } in gathered.lanes {
            let lane = lane_of(&mut self.classes[gathered.class], rank);
            for (ticket, _) in tickets.into_iter().rev() {
                lane.lane.put_back(ticket);
            }
            self.settle(gathered.class, rank);
        }
        self.drop_if_empty(gathered.class);
    }

    /// Takes an entry out of everything but its lane.
    fn unlink(&mut self, id: usize) -> Slot<T> {
        let slot = self.slots.remove(id);
        let work = slot.work();
        if slot.is_set_back() {
            self.work.remove_set_back(slot.level(), work);
        } else {
            self.work.remove(slot.level(), slot.time_slot, work);
        }
        self.leave_rank(slot.rank);
        let class = &mut self.classes[slot.class];
        class.entries -= 1;
        class.work.remove(work);
        lane_of(class, slot.rank).entries -= 1;
        match self.slots.get_mut(slot.older) {
            Some(older) => older.newer = slot.newer,
            None => class.oldest = slot.newer,
        }
        match self.slots.get_mut(slot.newer) {
            Some(newer) => newer.older = slot.older,
            None => class.newest = slot.older,
        }
        slot
    }

    fn leave_rank(&mut self, rank: usize) {
        let state = &mut self.ranks[rank];
        state.entries -= 1;
        if state.entries == 0 {
            self.turns.remove(&(state.since, rank));
        }
    }

    /// An entry has left a lane by another way than from its head; its ticket is stale now.
    fn leave_lane(&mut self, class: usize, rank: usize, seq: u64) {
        let lane = lane_of(&mut self.classes[class], rank);
        if lane.head.seq == seq {
            self.heads.remove(&(rank, lane.head));
            self.settle(class, rank);
        } else if lane.lane.len() > 2 * lane.entries + STALE_TICKETS {
            let slots = &self.slots;
            lane.lane.retain(|ticket| is_live(slots, ticket));
        }
    }

    /// Finds the new head of a lane whose head is not among the heads, and drops the lane where there is none.
    fn settle(&mut self, class: usize, rank: usize) {
        let lanes = &mut self.classes[class].lanes;
        let Ok(at) = lanes.binary_search_by_key(&rank, |lane| lane.rank) else { return };
        let lane = &mut lanes[at];
        while let Some(ticket) = lane.lane.peek() {
            if is_live(&self.slots, &ticket) {
                lane.head = ticket;
                self.heads.insert((rank, ticket));
                return;
            }
            lane.lane.pop();
        }
        lanes.remove(at);
    }

    fn drop_if_empty(&mut self, class: usize) {
        if self.classes[class].entries > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&self.classes[class].key);
        if let Ok(entry) = self.by_key.find_entry(hash, |own| *own == class) {
            entry.remove();
        }
        self.classes.remove(class);
    }
}

fn hash_of(hasher: &DefaultHashBuilder, key: &BatchKey) -> u64 {
    hasher.hash_one(key)
}

fn is_live<T>(slots: &Slab<Slot<T>>, ticket: &Ticket) -> bool {
    slots.get(ticket.slot).is_some_and(|slot| slot.seq == ticket.seq)
}

/// The lane of a rank in which entries of the bucket wait.
fn lane_of(class: &mut Class, rank: usize) -> &mut ClassLane {
    match class.lanes.binary_search_by_key(&rank, |lane| lane.rank) {
        Ok(at) => &mut class.lanes[at],
        Err(_) => unreachable!("a lane is kept as long as entries of its rank wait"),
    }
}
