//! The dynamic batcher: which requests run together, and when. Pure: time is an argument, and what is
//! batched is never looked into.

use std::time::Duration;

use crate::batch::{Batch, Origin, Trigger};
use crate::clock::Timestamp;
use crate::config::{DynamicBatching, WindowPolicy};

use super::queue::{Lapse, Pick, Queue, Refusal, Waiting};

pub mod fit;
pub mod window;

/// Forms batches. Level by level, first in first out within a level; entries whose shapes do not suit a
/// batch stay in place for the next one and hold nobody up.
#[derive(Debug)]
pub struct DynamicBatcher<T> {
    policy: DynamicBatching,
    levels: Vec<Queue<T>>,
    /// No batch starts before this many entries wait at once; 0 once they have.
    hold: usize,
    /// Number of the batch that was formed last.
    last_id: u64,
    /// Batches that were formed and have not ended, the oldest first.
    in_flight: Vec<u64>,
}

/// What a batch did when it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Rows that were executed.
    pub rows: usize,
    /// Their cost.
    pub cost: u64,
    /// From the start of the execution to the last answer.
    pub took: Duration,
}

/// Room for a batch at the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// An instance waits: it gets a batch as soon as the policy allows.
    Idle,
    /// All run, and a batch may be made ready behind them: only a full one, since one that is not could still grow.
    Behind,
    /// None.
    None,
}

impl<T> DynamicBatcher<T> {
    /// A batcher with nothing in it, for a model with this many instances.
    pub fn new(policy: DynamicBatching, _instances: usize) -> Self {
        let levels = policy.policies.iter().map(|level| Queue::new(*level)).collect();
        Self { policy, levels, hold: 0, last_id: 0, in_flight: Vec::new() }
    }

    /// Holds every batch back until `entries` wait at once, for tests of clients that need full queues.
    pub fn held_until(mut self, entries: usize) -> Self {
        self.hold = entries;
        self
    }

    /// Ends a hold.
    pub fn release(&mut self) {
        self.hold = 0;
    }

    /// Entries waiting.
    pub fn len(&self) -> usize {
        self.levels.iter().map(Queue::len).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.levels.iter().all(Queue::is_empty)
    }

    /// Entries that wait, level by level.
    pub fn depth(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.levels.iter().map(Queue::len)
    }

    /// Takes an entry of this priority (0 or an unknown one: the default level). Entries for which `is_gone` holds hold
    /// no places: where its level is full, they are moved to `gone`.
    ///
    /// # Errors
    /// The entry comes back where its level is full, or it could not be done in time.
    pub fn push(
        &mut self,
        _now: Timestamp,
        priority: u64,
        entry: Waiting<T>,
        is_gone: impl Fn(&T) -> bool,
        gone: &mut Vec<T>,
    ) -> Result<(), (T, Refusal)> {
        let level = self.policy.level(priority) - 1;
        let Err(entry) = self.levels[level].push(entry) else {
            return Ok(());
        };
        self.levels[level]
            .take(|entry| if is_gone(&entry.item) { Pick::Take } else { Pick::Skip }, |entry| gone.push(entry.item));
        self.levels[level].push(entry).map_err(|entry| (entry.item, Refusal::Full { retry_after: None }))
    }

    /// Takes out the entries that will not run any more: their time is over, or runs out before they could be done.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(T, Lapse)> {
        self.levels.iter_mut().flat_map(|level| level.expire(now)).map(|item| (item, Lapse::Expired)).collect()
    }

    /// Says that a batch of this batcher has ended, and how long it ran; `None` if it did not run at all.
    pub fn finish(&mut self, _now: Timestamp, id: u64, _ran: Option<Ran>) {
        self.in_flight.retain(|own| *own != id);
    }

    /// Whether an idle instance would get a batch now.
    pub fn wants(&mut self, now: Timestamp) -> bool {
        let Some(head) = self.head().filter(|_| self.hold <= self.len()) else {
            return false;
        };
        let (key, waited) = (head.key.clone(), now.since(head.queued_at));
        let plan = self.plan(&key, &|_| false);
        plan.is_full || plan.is_preferred || waited >= self.delay()
    }

    fn delay(&self) -> Duration {
        match self.policy.window {
            WindowPolicy::Auto { cap } => cap.unwrap_or(Duration::ZERO),
            WindowPolicy::Fixed(delay) => delay,
        }
    }

    /// The next batch, if one should start now. Entries for which `is_gone` holds are moved to `gone`
    /// as they are met. Call [`DynamicBatcher::expire`] first.
    pub fn poll(&mut self, now: Timestamp, room: Room, is_gone: impl Fn(&T) -> bool, gone: &mut Vec<T>) -> Option<Batch<T>> {
        if self.len() >= self.hold {
            self.hold = 0;
        }
        if room == Room::None || self.hold > 0 {
            return None;
        }
        self.drop_gone_heads(&is_gone, gone);
        let head = self.head()?;
        let (key, waited) = (head.key.clone(), now.since(head.queued_at));
        let plan = self.plan(&key, &is_gone);
        let due = match room {
            Room::Idle => plan.is_full || plan.is_preferred || waited >= self.delay(),
            _ => plan.is_full,
        };
        if !due {
            return None;
        }
        let trigger = match (plan.is_full, plan.is_preferred) {
            (true, _) => Trigger::Full,
            (_, true) => Trigger::Preferred,
            _ if self.delay().is_zero() => Trigger::Idle,
            _ => Trigger::Window,
        };
        let mut batch = Batch::default();
        let mut cost = 0u64;
        let mut left = plan.entries;
        let strict = self.policy.preserve_ordering;
        for level in &mut self.levels {
            let pick = |entry: &Waiting<T>| match (left, entry.key == key) {
                (0, _) => Pick::Stop,
                (_, true) => {
                    left -= 1;
                    Pick::Take
                }
                (_, false) if strict => Pick::Stop,
                (_, false) => Pick::Skip,
            };
            level.take(pick, |entry| {
                if is_gone(&entry.item) {
                    gone.push(entry.item);
                } else {
                    cost = cost.saturating_add(entry.cost);
                    batch.push(entry.item, entry.rows);
                }
            });
        }
        if batch.is_empty() {
            return None;
        }
        self.last_id += 1;
        self.in_flight.push(self.last_id);
        batch.origin = Origin { id: self.last_id, formed_at: now, trigger, cost };
        Some(batch)
    }

    /// When to call [`DynamicBatcher::poll`] or [`DynamicBatcher::expire`] again if nothing else happens.
    pub fn next_wakeup(&mut self, _now: Timestamp, room: Room) -> Option<Timestamp> {
        let deadline = self.levels.iter().filter_map(Queue::earliest_deadline).min();
        let due = match room {
            Room::Idle if self.hold == 0 => self.head().map(|head| head.queued_at.plus(self.delay())),
            _ => None,
        };
        deadline.into_iter().chain(due).min()
    }

    fn head(&self) -> Option<&Waiting<T>> {
        self.levels.iter().find_map(Queue::head)
    }

    fn drop_gone_heads(&mut self, is_gone: &impl Fn(&T) -> bool, gone: &mut Vec<T>) {
        for level in &mut self.levels {
            let pick = |entry: &Waiting<T>| if is_gone(&entry.item) { Pick::Take } else { Pick::Stop };
            level.take(pick, |entry| gone.push(entry.item));
        }
    }

    /// How far a batch for `key` reaches: entries are added in order of service while they fit.
    fn plan(&self, key: &crate::request::BatchKey, is_gone: &impl Fn(&T) -> bool) -> Plan {
        let max_rows = self.policy.max_rows.get();
        let mut plan = Plan { entries: 0, rows: 0, is_full: false, is_preferred: false };
        for entry in self.levels.iter().flat_map(Queue::iter) {
            if entry.key != *key {
                if self.policy.preserve_ordering {
                    // Nothing behind may overtake it, so the batch cannot grow.
                    plan.is_full = true;
                    break;
                }
                continue;
            }
            if is_gone(&entry.item) {
                plan.entries += 1;
                continue;
            }
            // An entry without rows (a zero-size batch) still takes a place, so that batches stay bounded.
            let rows = plan.rows + entry.rows.max(1);
            if rows > max_rows && plan.rows > 0 {
                plan.is_full = true;
                break;
            }
            plan.entries += 1;
            plan.rows = rows;
            if rows >= max_rows {
                plan.is_full = true;
                break;
            }
        }
        let largest = self.policy.preferred_rows.last().copied().unwrap_or(max_rows);
        plan.is_preferred = plan.rows >= largest || self.policy.preferred_rows.contains(&plan.rows);
        plan
    }
}

/// What a batch would be made of.
struct Plan {
    /// Entries of the key to take, gone ones included.
    entries: usize,
    rows: usize,
    is_full: bool,
    is_preferred: bool,
}

#[cfg(test)]
mod tests;
