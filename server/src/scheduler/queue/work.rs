//! How much work waits ahead of a place in the queue, without walking the queue. Pure.

use crate::clock::Timestamp;

/// Places that are summed up in one block.
const BLOCK: usize = 32;

/// Width of a slot of time, as a power of two of nanoseconds: about 1 ms.
const WIDTH_BITS: u32 = 20;

/// Slots of a level: together a little more than the longest time that an order lies ahead. What lies further ahead
/// counts into the last slot.
const SLOTS: u64 = 1024;

/// Work that waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::scheduler) struct Work {
    /// Rows; an entry without rows counts as one.
    pub(in crate::scheduler) rows: u64,
    /// Cost, in the model's unit.
    pub(in crate::scheduler) cost: u64,
}

impl Work {
    pub(super) fn add(&mut self, other: Self) {
        self.rows = self.rows.wrapping_add(other.rows);
        self.cost = self.cost.wrapping_add(other.cost);
    }

    pub(super) fn remove(&mut self, other: Self) {
        self.rows = self.rows.wrapping_sub(other.rows);
        self.cost = self.cost.wrapping_sub(other.cost);
    }
}

/// Sums over the beginning of a row of places: changed in two additions, summed in at most one for each block and
/// for each place of the last block.
#[derive(Debug)]
struct Sums {
    places: Vec<Work>,
    blocks: Vec<Work>,
}

impl Sums {
    fn new(places: usize) -> Self {
        Self { places: vec![Work::default(); places], blocks: vec![Work::default(); places.div_ceil(BLOCK)] }
    }

    fn add(&mut self, place: usize, work: Work) {
        self.places[place].add(work);
        self.blocks[place / BLOCK].add(work);
    }

    fn remove(&mut self, place: usize, work: Work) {
        self.places[place].remove(work);
        self.blocks[place / BLOCK].remove(work);
    }

    /// The sum of the places before `end`.
    fn before(&self, end: usize) -> Work {
        let mut sum = Work::default();
        let block = end / BLOCK;
        for work in &self.blocks[..block] {
            sum.add(*work);
        }
        for work in &self.places[block * BLOCK..end] {
            sum.add(*work);
        }
        sum
    }
}

/// The entries of one level by their order, in slots of time that are reused round and round.
#[derive(Debug)]
struct Ring {
    sums: Sums,
    /// The slot of time that was current last; all earlier ones are in `passed`.
    base: u64,
    /// Work whose order has passed.
    passed: Work,
    /// All of it.
    whole: Work,
}

impl Ring {
    fn new() -> Self {
        Self { sums: Sums::new(SLOTS as usize), base: 0, passed: Work::default(), whole: Work::default() }
    }

    /// Moves on to `now`: what was due before has passed.
    fn advance(&mut self, now: Timestamp) {
        let base = now.as_nanos() >> WIDTH_BITS;
        if self.passed == self.whole {
            self.base = self.base.max(base);
        }
        let end = base.min(self.base.saturating_add(SLOTS));
        while self.base < end {
            let place = place(self.base);
            let work = self.sums.places[place];
            if work != Work::default() {
                self.sums.remove(place, work);
                self.passed.add(work);
            }
            self.base += 1;
        }
        self.base = self.base.max(base);
    }

    /// Adds work and returns the slot of time that it is counted in.
    fn add(&mut self, order: Timestamp, work: Work) -> u64 {
        let slot = (order.as_nanos() >> WIDTH_BITS).min(self.base + SLOTS - 1);
        self.whole.add(work);
        if slot < self.base {
            self.passed.add(work);
        } else {
            self.sums.add(place(slot), work);
        }
        slot
    }

    fn remove(&mut self, slot: u64, work: Work) {
        self.whole.remove(work);
        if slot < self.base {
            self.passed.remove(work);
        } else {
            self.sums.remove(place(slot), work);
        }
    }

    /// Work whose order is not after this one's slot of time.
    fn until(&self, order: Timestamp) -> Work {
        let mut sum = self.passed;
        let slot = order.as_nanos() >> WIDTH_BITS;
        if slot < self.base {
            return sum;
        }
        if slot >= self.base + SLOTS - 1 {
            return self.whole;
        }
        let (from, to) = (place(self.base), place(slot) + 1);
        if from >= to {
            // The slots of this turn reach over the end of the row: all but those between.
            sum = self.whole;
        }
        sum.remove(self.sums.before(from));
        sum.add(self.sums.before(to));
        sum
    }
}

fn place(slot: u64) -> usize {
    (slot % SLOTS) as usize
}

/// The work of all levels.
#[derive(Debug)]
pub(super) struct WorkAhead {
    levels: Sums,
    rings: Vec<Option<Box<Ring>>>,
}

impl WorkAhead {
    pub(super) fn new(levels: usize) -> Self {
        Self { levels: Sums::new(levels), rings: (0..levels).map(|_| None).collect() }
    }

    /// Adds work of a level and returns the slot of time that it is counted in, which its removal asks for.
    pub(super) fn add(&mut self, now: Timestamp, level: usize, order: Timestamp, work: Work) -> u64 {
        self.levels.add(level, work);
        let ring = self.rings[level].get_or_insert_with(|| Box::new(Ring::new()));
        ring.advance(now);
        ring.add(order, work)
    }

    pub(super) fn remove(&mut self, level: usize, slot: u64, work: Work) {
        self.levels.remove(level, work);
        if let Some(ring) = &mut self.rings[level] {
            ring.remove(slot, work);
        }
    }

    /// Takes work out of the order of its level: it stays ahead of lower levels only.
    pub(super) fn set_back(&mut self, level: usize, slot: u64, work: Work) {
        if let Some(ring) = &mut self.rings[level] {
            ring.remove(slot, work);
        }
    }

    /// Removes work that was set back.
    pub(super) fn remove_set_back(&mut self, level: usize, work: Work) {
        self.levels.remove(level, work);
    }

    /// Work that is served before an entry of this level and order: that of the levels above, and that of its own
    /// level whose order is earlier, or later by less than a slot of time.
    pub(super) fn ahead(&mut self, now: Timestamp, level: usize, order: Timestamp) -> Work {
        let mut sum = self.levels.before(level);
        if let Some(ring) = &mut self.rings[level] {
            ring.advance(now);
            sum.add(ring.until(order));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list: nothing is lost, counted twice, or out of place by more than a slot of time.
        #[test]
        fn it_agrees_with_a_list(steps in proptest::collection::vec((0u64..400, 0u64..1000, 0usize..3, 1u64..9), 1..80)) {
            let mut work = WorkAhead::new(3);
            let mut list: Vec<(usize, u64, u64, u64)> = Vec::new();
            let mut now = 5_000_000_000u64;
            for (advance, ahead, level, cost) in steps {
                now += advance * 3_000_000;
                let (now, order) = (Timestamp::from_nanos(now), now + ahead * 1_000_000);
                let slot = work.add(now, level, Timestamp::from_nanos(order), Work { rows: 1, cost });
                list.push((level, order, cost, slot));
                if cost == 3 {
                    let (level, _, cost, slot) = list.swap_remove(advance as usize % list.len());
                    work.remove(level, slot, Work { rows: 1, cost });
                }
                let sum = |level: usize, order: u64, list: &[(usize, u64, u64, u64)]| -> u64 {
                    list.iter().filter(|(l, o, ..)| *l < level || *l == level && *o <= order).map(|(_, _, cost, _)| cost).sum()
                };
                let got = work.ahead(now, level, Timestamp::from_nanos(order)).cost;
                let width = 1 << WIDTH_BITS;
                prop_assert!(got >= sum(level, order, &list));
                prop_assert!(got <= sum(level, order + width, &list));
            }
        }
    }
}
