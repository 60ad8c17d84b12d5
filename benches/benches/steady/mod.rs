//! A dynamic batcher in which a number of requests wait all the time: as many leave as come.

use std::num::NonZeroUsize;
use std::time::Duration;

use server::batch::Batch;
use server::clock::Timestamp;
use server::config::{DynamicBatching, QueuePolicy};
use server::request::BatchKey;
use server::scheduler::batcher::{DynamicBatcher, Ran, Room};
use server::scheduler::queue::Waiting;

/// Requests of a batch, and requests that come at once.
pub(crate) const BATCH: usize = 32;

/// Priority levels of [`Mix::Levels`].
const LEVELS: usize = 4;

/// Shapes of [`Mix::Shapes`].
const SHAPES: usize = 64;

/// What the requests are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// One shape, no deadlines.
    Alike,
    /// Many shapes.
    Shapes,
    /// Random deadlines.
    Deadlines,
    /// Several priority levels.
    Levels,
}

/// The batcher and its clock.
pub(crate) struct Steady {
    mix: Mix,
    batcher: DynamicBatcher<u64>,
    now: Timestamp,
    queued: usize,
    count: u64,
    random: u64,
}

impl Steady {
    /// A batcher with so many requests in it.
    pub(crate) fn new(mix: Mix, queued: usize) -> Self {
        let size = |size: usize| NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
        let mut policy = DynamicBatching::plain(size(BATCH), size(queued + 2 * BATCH));
        if mix == Mix::Levels {
            policy.priority_levels = size(LEVELS);
            policy.policies = vec![QueuePolicy::bounded(size(queued + 2 * BATCH)); LEVELS];
        }
        let now = Timestamp::from_nanos(1_000_000_000);
        let mut steady = Self { mix, batcher: DynamicBatcher::new(policy, 1), now, queued, count: 0, random: 7 };
        while steady.batcher.len() < queued {
            let arrivals = steady.arrivals();
            steady.accept(arrivals);
        }
        // A few turns, so that everything has its size and the fit knows something.
        for _ in 0..2 * queued / BATCH + 8 {
            let arrivals = steady.arrivals();
            drop(steady.turn(arrivals));
        }
        steady
    }

    /// The requests that come next.
    pub(crate) fn arrivals(&mut self) -> Vec<Waiting<u64>> {
        (0..BATCH).map(|_| self.arrival()).collect()
    }

    fn arrival(&mut self) -> Waiting<u64> {
        self.count += 1;
        let (start_by, finish_by) = match self.mix {
            Mix::Deadlines => (Some(self.deadline()), Some(self.deadline())),
            _ => (None, None),
        };
        let shape = if self.mix == Mix::Shapes { self.count as usize % SHAPES } else { 0 };
        Waiting {
            item: self.count,
            rows: 1,
            cost: 1,
            key: BatchKey(vec![shape]),
            queued_at: self.now,
            start_by,
            finish_by,
            delayed_from: None,
        }
    }

    /// Between 0.1 and 0.9 s from now (xorshift).
    fn deadline(&mut self) -> Timestamp {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.now.plus(Duration::from_micros(100_000 + self.random % 800_000))
    }

    fn accept(&mut self, arrivals: Vec<Waiting<u64>>) {
        let mut gone = Vec::new();
        for arrival in arrivals {
            let priority = arrival.item % LEVELS as u64 + 1;
            // A refusal is a request that was dealt with, too.
            let _ = self.batcher.push(self.now, priority, arrival, |_| false, &mut gone);
        }
    }

    /// They come, and as many leave in batches that have ended when the next come.
    pub(crate) fn turn(&mut self, arrivals: Vec<Waiting<u64>>) -> Vec<Batch<u64>> {
        self.now = self.now.plus(Duration::from_nanos(100 * BATCH as u64));
        self.accept(arrivals);
        let expired = self.batcher.expire(self.now);
        let mut gone = Vec::new();
        let mut batches = Vec::new();
        drop(expired);
        while self.batcher.len() > self.queued {
            let Some(batch) = self.batcher.poll(self.now, Room::Idle, |_| false, &mut gone) else { break };
            let took = Duration::from_nanos(50 + batch.origin.cost);
            self.batcher.finish(self.now, batch.origin.id, Some(Ran { rows: batch.rows(), cost: batch.origin.cost, took }));
            batches.push(batch);
        }
        batches
    }
}
