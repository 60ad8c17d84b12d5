//! What waits to be put into a batch: the words for it, and the queue of the dynamic batcher's default policy. May
//! import the words and `config`; must never import `instance` or `observe`. Pure: no clock, no threads.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{InferError, RequestTag};
use crate::request::{BatchKey, Entry};

mod buckets;
mod lane;
mod work;

pub(super) use buckets::{Buckets, Gathered, Judgment, Lead};

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

impl From<Entry> for Waiting<Entry> {
    fn from(entry: Entry) -> Self {
        Self {
            rows: entry.request.rows,
            cost: entry.request.cost,
            key: entry.request.batch_key.clone(),
            queued_at: entry.queued_at,
            start_by: entry.deadline,
            finish_by: entry.request.deadline,
            delayed_from: entry.delayed_from,
            item: entry,
        }
    }
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

impl Refusal {
    /// What the client of `entry` is told.
    pub fn error(self, entry: &Entry) -> InferError {
        match self {
            Self::Full { retry_after } => InferError::QueueFull { tag: RequestTag(entry.request.id.clone()), retry_after },
            Self::Unreachable { retry_after } => InferError::Unreachable { retry_after },
        }
    }
}

/// Why an entry that waited will not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// Its time is over.
    Expired,
    /// It would not be done in time any more if it started now.
    Unreachable,
}

impl Lapse {
    /// What its client is told.
    pub fn error(self) -> InferError {
        match self {
            Self::Expired => InferError::Expired,
            Self::Unreachable => InferError::Unreachable { retry_after: None },
        }
    }
}
