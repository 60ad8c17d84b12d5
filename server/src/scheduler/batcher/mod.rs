//! The dynamic batcher: which requests run together, and when. Pure: time is an argument, and what is
//! batched is never looked into.

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::config::{DynamicBatching, TimeoutAction};

use super::queue::{Pick, Queue, Waiting};

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
    /// A batcher with nothing in it.
    pub fn new(policy: DynamicBatching) -> Self {
        let levels = policy.policies.iter().map(|level| Queue::new(*level)).collect();
        Self { policy, levels, hold: 0 }
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

    /// Takes an entry of this priority (0 or an unknown one: the default level).
    ///
    /// # Errors
    /// The entry comes back where its level's queue is full.
    pub fn push(&mut self, priority: u64, entry: Waiting<T>) -> Result<(), T> {
        let level = self.policy.level(priority) - 1;
        self.levels[level].push(entry).map_err(|entry| entry.item)
    }

    /// Whether entries of this priority are moved back, not refused, when their time is over.
    pub fn delays(&self, priority: u64) -> bool {
        let level = self.policy.level(priority) - 1;
        self.policy.policies.get(level).is_some_and(|policy| policy.action == TimeoutAction::Delay)
    }

    /// Takes out the entries that are refused because their time in the queue is over.
    pub fn expire(&mut self, now: Timestamp) -> Vec<T> {
        self.levels.iter_mut().flat_map(|level| level.expire(now)).collect()
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
            Room::Idle => plan.is_full || plan.is_preferred || waited >= self.policy.max_queue_delay,
            _ => plan.is_full,
        };
        if !due {
            return None;
        }
        let mut batch = Batch::default();
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
            level.take(
                pick,
                |entry| if is_gone(&entry.item) { gone.push(entry.item) } else { batch.push(entry.item, entry.rows) },
            );
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// When to call [`DynamicBatcher::poll`] or [`DynamicBatcher::expire`] again if nothing else happens.
    pub fn next_wakeup(&self, room: Room) -> Option<Timestamp> {
        let deadline = self.levels.iter().filter_map(Queue::earliest_deadline).min();
        let due = match room {
            Room::Idle if self.hold == 0 => self.head().map(|head| head.queued_at.plus(self.policy.max_queue_delay)),
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
