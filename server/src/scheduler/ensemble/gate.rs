//! `max_inflight_requests`: a decoupled step waits while the steps behind it are busy.

use std::sync::PoisonError;
use std::time::Duration;

use super::sync::{Condvar, Mutex, MutexGuard, now};

/// How long a producer is held back at most. Triton's limit, after which it logs and lets through.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How often a waiting producer looks whether its client has left, of which nothing tells it.
pub(super) const LOOK_AROUND: Duration = Duration::from_millis(100);

/// Requests under way per step, counted over all requests of the ensemble.
pub(super) struct Gate {
    limit: usize,
    counts: Mutex<Vec<usize>>,
    freed: Condvar,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// There was room; places are taken.
    Admitted,
    /// There was none for too long; places are taken all the same.
    Forced,
    /// The request is over; no place is taken.
    GivenUp,
}

impl Gate {
    pub(super) fn new(limit: usize, steps: usize) -> Self {
        Self { limit, counts: Mutex::new(vec![0; steps]), freed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until each of the `watched` steps has room, then takes a place in each of `taken`.
    pub(super) fn admit(&self, watched: &[usize], taken: &[usize], is_over: impl Fn() -> bool) -> Admission {
        let deadline = now().plus(LONGEST_WAIT);
        let mut admission = Admission::Admitted;
        let mut counts = self.lock();
        while watched.iter().any(|step| counts[*step] >= self.limit) {
            if is_over() {
                return Admission::GivenUp;
            }
            if now() >= deadline {
                admission = Admission::Forced;
                break;
            }
            counts = self.freed.wait_timeout(counts, LOOK_AROUND).unwrap_or_else(PoisonError::into_inner).0;
        }
        taken.iter().for_each(|step| counts[*step] += 1);
        admission
    }

    /// Takes a place without waiting.
    pub(super) fn take(&self, step: usize) {
        self.lock()[step] += 1;
    }

    /// Gives places back.
    pub(super) fn give_back(&self, step: usize, places: usize) {
        let mut counts = self.lock();
        counts[step] = counts[step].saturating_sub(places);
        drop(counts);
        self.freed.notify_all();
    }

    /// Wakes those that wait, to see whether their request is over.
    pub(super) fn wake(&self) {
        // Taken so that a producer between its look and its wait does not miss it.
        drop(self.lock());
        self.freed.notify_all();
    }
}
