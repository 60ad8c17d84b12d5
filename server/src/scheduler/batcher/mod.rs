//! The dynamic batcher: which requests run together, and when. Pure: time is an argument, and what is
//! batched is never looked into. May import the words, `config` and `scheduler/queue`; must never import `instance`,
//! `observe` or anything that reads a clock.

use std::time::Duration;

use crate::batch::{Batch, Origin};
use crate::clock::Timestamp;
use crate::config::{BatcherKind, DynamicBatching};

use super::queue::{Lapse, Refusal, Waiting};

mod arrivals;
mod compat;
mod filling;
pub mod fit;
mod forecast;
mod urgent;
pub mod window;

use compat::Compat;
use forecast::Forecast;
use urgent::UrgentFirst;

pub use compat::CHECK_EVERY;
pub use urgent::{PASS_OVER, PATIENCE};

/// Highest cost of one entry: far above anything that could run, and far from overflowing in sums.
const MAX_COST: u64 = 1 << 40;

/// Forms batches of what waits. The driver calls, whenever something happened: [`DynamicBatcher::push`] for arrivals,
/// [`DynamicBatcher::finish`] for batches that ended, then [`DynamicBatcher::expire`], then [`DynamicBatcher::poll`]
/// until it returns nothing, then [`DynamicBatcher::next_wakeup`].
#[derive(Debug)]
pub struct DynamicBatcher<T> {
    policy: Policy<T>,
    levels: DynamicBatching,
    forecast: Forecast,
    /// No batch starts before this many entries wait at once; 0 once they have.
    hold: usize,
    /// Number of the batch that was formed last.
    last_id: u64,
}

#[derive(Debug)]
enum Policy<T> {
    Default(Box<UrgentFirst<T>>),
    Compat(Box<Compat<T>>),
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
    /// As idle, and the turn on a device has come that others wait for too: it gets a batch at once.
    Turn,
    /// All run, and a batch may be made ready behind them: only a full one, since one that is not could still grow.
    Behind,
    /// None.
    None,
}

impl<T> DynamicBatcher<T> {
    /// A batcher with nothing in it, for a model with this many instances.
    pub fn new(policy: DynamicBatching, instances: usize) -> Self {
        Self {
            levels: policy.clone(),
            policy: match policy.batcher {
                BatcherKind::Default => Policy::Default(Box::new(UrgentFirst::new(policy))),
                BatcherKind::Compat => Policy::Compat(Box::new(Compat::new(policy))),
            },
            forecast: Forecast::new(instances),
            hold: 0,
            last_id: 0,
        }
    }

    /// Holds every batch back until `entries` wait at once, for tests of clients that need full queues.
    pub fn held_until(mut self, entries: usize) -> Self {
        self.hold = entries;
        self
    }

    /// Ends a hold, and waits for more no longer: nobody comes whom it would be worth to wait for.
    pub fn release(&mut self) {
        self.hold = 0;
        match &mut self.policy {
            Policy::Default(queue) => queue.release(),
            Policy::Compat(queue) => queue.release(),
        }
    }

    /// Entries that it holds.
    pub fn len(&self) -> usize {
        match &self.policy {
            Policy::Default(queue) => queue.len(),
            Policy::Compat(queue) => queue.len(),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that wait, level by level.
    pub fn depth(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.levels.policies.len()).map(|level| match &self.policy {
            Policy::Default(queue) => queue.level_len(level),
            Policy::Compat(queue) => queue.level_len(level),
        })
    }

    /// Takes an entry of this priority (0 or an unknown one: the default level). Entries for which `is_gone` holds do
    /// not hold places for ever: where its level is full, they are moved to `gone` (at once, or after as many refusals
    /// as pay for the search).
    ///
    /// # Errors
    /// The entry comes back where its level is full, or it could not be done in time.
    pub fn push(
        &mut self,
        now: Timestamp,
        priority: u64,
        mut entry: Waiting<T>,
        is_gone: impl Fn(&T) -> bool,
        gone: &mut Vec<T>,
    ) -> Result<(), (T, Refusal)> {
        let level = self.levels.level(priority) - 1;
        entry.cost = entry.cost.clamp(1, MAX_COST);
        self.forecast.consider(now);
        let pushed = match &mut self.policy {
            Policy::Default(queue) => queue.push(now, level, entry, &self.forecast, is_gone, gone),
            Policy::Compat(queue) => queue.push(level, entry),
        };
        if let Err((_, Refusal::Unreachable { .. })) = pushed {
            self.forecast.gave_up(now);
        }
        pushed
    }

    /// Takes out all entries for which `is_gone` holds. It walks all of them, so a caller waits until as many clients
    /// have left as make up a good part of those who wait.
    pub fn sweep(&mut self, is_gone: impl Fn(&T) -> bool, gone: &mut Vec<T>) {
        match &mut self.policy {
            Policy::Default(queue) => queue.sweep(None, is_gone, gone),
            Policy::Compat(queue) => queue.sweep(is_gone, gone),
        }
    }

    /// Takes out the entries that will not run any more: their time is over, or runs out before they could be done.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(T, Lapse)> {
        let lapsed = match &mut self.policy {
            Policy::Default(queue) => queue.expire(now, &self.forecast),
            Policy::Compat(queue) => queue.expire(now),
        };
        if lapsed.iter().any(|(_, lapse)| *lapse == Lapse::Unreachable) {
            self.forecast.gave_up(now);
        }
        lapsed
    }

    /// Says that a batch of this batcher has ended, and how long it ran; `None` if it did not run at all.
    pub fn finish(&mut self, now: Timestamp, id: u64, ran: Option<Ran>) {
        let entries = self.forecast.arrive(now, id, ran);
        if let Policy::Default(queue) = &mut self.policy {
            queue.finished(now, entries, ran.map(|ran| ran.took));
        }
    }

    /// Whether anything waits that may run, if only after a wait for more.
    pub fn has_work(&self) -> bool {
        !self.is_empty() && !self.is_held()
    }

    /// Whether an idle instance would get a batch now.
    pub fn wants(&mut self, now: Timestamp) -> bool {
        if self.is_held() {
            return false;
        }
        match &mut self.policy {
            Policy::Default(queue) => queue.wants(now, &self.forecast),
            Policy::Compat(queue) => queue.wants(now),
        }
    }

    /// The next batch, if one should start now; it counts as under way until [`DynamicBatcher::finish`] is called for
    /// it. Entries for which `is_gone` holds are moved to `gone` as they are met.
    pub fn poll(&mut self, now: Timestamp, room: Room, is_gone: impl Fn(&T) -> bool, gone: &mut Vec<T>) -> Option<Batch<T>> {
        if room == Room::None && matches!(self.policy, Policy::Default(_)) || self.is_held() {
            return None;
        }
        self.hold = 0;
        let mut batch = match &mut self.policy {
            Policy::Default(queue) => queue.poll(now, room, &self.forecast, is_gone, gone),
            Policy::Compat(queue) => {
                // Triton knows no devices: its delay holds whoever waits.
                let room = if room == Room::Turn { Room::Idle } else { room };
                queue.poll(now, room, is_gone, gone)
            }
        }?;
        self.last_id += 1;
        batch.origin = Origin { id: self.last_id, formed_at: now, ..batch.origin };
        self.forecast.depart(now, self.last_id, batch.len(), batch.origin.cost);
        Some(batch)
    }

    /// When to call again if nothing else happens: [`DynamicBatcher::expire`], then [`DynamicBatcher::poll`].
    pub fn next_wakeup(&mut self, now: Timestamp, room: Room) -> Option<Timestamp> {
        let is_held = self.is_held();
        match &mut self.policy {
            Policy::Default(queue) => queue.next_wakeup(now, room, is_held, &self.forecast),
            Policy::Compat(queue) => queue.next_wakeup(now, room, is_held),
        }
    }

    fn is_held(&self) -> bool {
        self.len() < self.hold
    }
}

#[cfg(test)]
mod tests;
