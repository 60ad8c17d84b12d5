//! One priority level's queue: first in, first out, bounded, with deadlines. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::QueuePolicy;
use crate::request::BatchKey;

/// Something that waits to be put into a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting<T> {
    /// The thing itself; never looked into.
    pub item: T,
    /// Its rows.
    pub rows: usize,
    /// Work that it makes, in the model's unit.
    pub cost: u64,
    /// What must be equal for two to share a batch.
    pub key: BatchKey,
    /// When it entered the queue.
    pub queued_at: Timestamp,
    /// When it must not be started any more: the earliest of its client's deadline, its timeout and its queue's.
    pub start_by: Option<Timestamp>,
    /// When its client stops waiting: it must be done by then.
    pub finish_by: Option<Timestamp>,
    /// Under the timeout action DELAY: when it moves back behind all entries of its level that are in time.
    pub delayed_from: Option<Timestamp>,
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its level holds as many as it may.
    Full {
        /// How long it will take, as far as is known, until there is room.
        retry_after: Option<Duration>,
    },
    /// What is ahead of it will take longer than it can wait.
    Unreachable {
        /// How long it will take, as far as is known, until such a request could be done in time.
        retry_after: Option<Duration>,
    },
}

/// Why an entry that waited will not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// Its time is over.
    Expired,
    /// It would not be done in time any more if it started now.
    Unreachable,
}

impl<T> Waiting<T> {
    fn deadline(&self) -> Option<Timestamp> {
        self.start_by.into_iter().chain(self.finish_by).chain(self.delayed_from).min()
    }

    fn is_late(&self, now: Timestamp) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.start_by.into_iter().chain(self.finish_by).any(|deadline| now >= deadline)
    }
}

/// The queue of one level. Under the timeout action DELAY, entries whose time is over go behind all others.
#[derive(Debug)]
pub struct Queue<T> {
    policy: QueuePolicy,
    waiting: VecDeque<Waiting<T>>,
    delayed: VecDeque<Waiting<T>>,
    /// No deadline is earlier than this; it may be too early after entries have left.
    earliest_deadline: Option<Timestamp>,
}

/// What one look at a waiting entry decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// It joins the batch.
    Take,
    /// It stays where it is; look at the next.
    Skip,
    /// It stays, and so does all behind it.
    Stop,
}

impl<T> Queue<T> {
    /// An empty queue under this policy.
    pub fn new(policy: QueuePolicy) -> Self {
        Self { policy, waiting: VecDeque::new(), delayed: VecDeque::new(), earliest_deadline: None }
    }

    /// Entries waiting, delayed ones included.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.delayed.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// The entry comes back where the queue holds as many as it may.
    pub fn push(&mut self, entry: Waiting<T>) -> Result<(), Waiting<T>> {
        if self.len() >= self.policy.max_entries.get() {
            return Err(entry);
        }
        if let Some(deadline) = entry.deadline() {
            let earliest = self.earliest_deadline.get_or_insert(deadline);
            *earliest = deadline.min(*earliest);
        }
        self.waiting.push_back(entry);
        Ok(())
    }

    /// The entry that is served next.
    pub fn head(&self) -> Option<&Waiting<T>> {
        self.waiting.front().or_else(|| self.delayed.front())
    }

    /// All entries in the order in which they are served.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting<T>> {
        self.waiting.iter().chain(&self.delayed)
    }

    /// When the next deadline passes, at the earliest.
    pub fn earliest_deadline(&self) -> Option<Timestamp> {
        self.earliest_deadline
    }

    /// Takes out what is late (action REJECT) or moves it behind all others (action DELAY).
    pub fn expire(&mut self, now: Timestamp) -> Vec<T> {
        let mut refused = Vec::new();
        if self.earliest_deadline.is_none_or(|earliest| now < earliest) {
            return refused;
        }
        let (over, delayed): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.delayed).into_iter().partition(|entry| entry.is_over(now));
        self.delayed = delayed;
        refused.extend(over.into_iter().map(|entry| entry.item));
        for mut entry in std::mem::take(&mut self.waiting) {
            if entry.is_over(now) {
                refused.push(entry.item);
            } else if entry.is_late(now) {
                entry.delayed_from = None;
                self.delayed.push_back(entry);
            } else {
                self.waiting.push_back(entry);
            }
        }
        self.earliest_deadline = self.waiting.iter().chain(&self.delayed).filter_map(Waiting::deadline).min();
        refused
    }

    /// Walks the entries in order of service and takes out those that `pick` takes.
    pub fn take(&mut self, mut pick: impl FnMut(&Waiting<T>) -> Pick, mut taken: impl FnMut(Waiting<T>)) {
        for lane in [&mut self.waiting, &mut self.delayed] {
            let mut skipped = VecDeque::new();
            let mut stopped = false;
            while let Some(entry) = lane.pop_front() {
                match pick(&entry) {
                    Pick::Take => taken(entry),
                    Pick::Skip => skipped.push_back(entry),
                    Pick::Stop => {
                        lane.push_front(entry);
                        stopped = true;
                        break;
                    }
                }
            }
            while let Some(entry) = skipped.pop_back() {
                lane.push_front(entry);
            }
            if stopped {
                return;
            }
        }
    }
}
