//! One line of entries in the order of their urgency. Pure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::clock::Timestamp;

/// A place in a line: the more urgent first, and of the equally urgent the one that came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) order: Timestamp,
    /// Number of the entry in the order of arrival; it tells an entry from a later one in the same slot.
    pub(super) seq: u64,
    /// Where the entry is kept.
    pub(super) slot: usize,
}

/// Tickets, the smallest first. Those that come in order, which is nearly all where requests are alike, stand in a
/// run and cost nothing to sort; only the others go through a heap.
///
/// Tickets of entries that have left by another way stay until they are met; who owns the lane tells them apart.
#[derive(Debug, Default)]
pub(super) struct Lane {
    run: VecDeque<Ticket>,
    heap: BinaryHeap<Reverse<Ticket>>,
}

impl Lane {
    /// Tickets, stale ones included.
    pub(super) fn len(&self) -> usize {
        self.run.len() + self.heap.len()
    }

    pub(super) fn push(&mut self, ticket: Ticket) {
        if self.run.back().is_none_or(|last| *last <= ticket) {
            self.run.push_back(ticket);
        } else {
            self.heap.push(Reverse(ticket));
        }
    }

    pub(super) fn peek(&self) -> Option<Ticket> {
        let run = self.run.front().copied();
        match self.heap.peek() {
            Some(Reverse(heap)) => Some(run.map_or(*heap, |run| run.min(*heap))),
            None => run,
        }
    }

    pub(super) fn pop(&mut self) -> Option<Ticket> {
        let from_run = match (self.run.front(), self.heap.peek()) {
            (Some(run), Some(Reverse(heap))) => run < heap,
            (run, _) => run.is_some(),
        };
        if from_run { self.run.pop_front() } else { self.heap.pop().map(|Reverse(ticket)| ticket) }
    }

    /// Puts back a ticket that was popped, when all that were popped after it are back.
    pub(super) fn put_back(&mut self, ticket: Ticket) {
        self.run.push_front(ticket);
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Ticket) -> bool) {
        self.run.retain(&mut keep);
        self.heap.retain(|Reverse(ticket)| keep(ticket));
    }
}
