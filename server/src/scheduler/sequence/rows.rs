//! The direct strategy: which rows the next batch of an instance has. Pure.

use std::time::Duration;

use crate::batch::Trigger;
use crate::clock::Timestamp;

use super::sequences::{Head, Key, Sequences, Taken};

/// How long the requests of an instance wait for those of further sequences.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// At most this long, counted from the oldest one.
    pub max_queue_delay: Duration,
    /// No longer once so many sequences have a request; 0: not at all.
    pub minimum_ready: usize,
}

/// What an idle instance is to do.
#[derive(Debug)]
pub enum Rows<T> {
    /// Run these now. The row of a request is its sequence's slot; rows between that belong to no request are `None`.
    Run {
        /// The rows, up to the last that belongs to a request.
        rows: Vec<Option<Taken<T>>>,
        /// Why now.
        trigger: Trigger,
    },
    /// Wait until then for further sequences.
    Wait(Timestamp),
    /// Wait for requests.
    Rest,
}

/// The next batch of an idle instance: the next request of each of its sequences that can share a batch with the one
/// that waits longest. Requests of another shape keep their turn.
pub fn next_rows<T, M: Default>(
    sequences: &mut Sequences<T, M>,
    now: Timestamp,
    instance: usize,
    patience: &Patience,
    are_alike: impl Fn(&Head<'_, T, M>, &Head<'_, T, M>) -> bool,
) -> Rows<T> {
    let Some(oldest) = sequences.heads(instance).min_by_key(|head| head.queued_at) else {
        return Rows::Rest;
    };
    let queued_at = oldest.queued_at;
    let keys: Vec<Key> = sequences.heads(instance).filter(|head| are_alike(&oldest, head)).map(|head| head.key).collect();
    let enough = keys.len() >= patience.minimum_ready || patience.max_queue_delay.is_zero();
    let due = queued_at.plus(patience.max_queue_delay);
    if !enough && now < due {
        return Rows::Wait(due);
    }
    let trigger = if enough { Trigger::Idle } else { Trigger::Window };
    let mut rows = Vec::new();
    for taken in keys.into_iter().filter_map(|key| sequences.take(key)) {
        let slot = taken.place.slot;
        if rows.len() <= slot {
            rows.resize_with(slot + 1, || None);
        }
        rows[slot] = Some(taken);
    }
    Rows::Run { rows, trigger }
}
