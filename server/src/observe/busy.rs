//! When a model instance ran batches and when it had nothing to do, and how busy a device was of late.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// The clock of one instance. Its thread sets it; whoever watches reads it, so its lock is hardly ever contended.
#[derive(Debug, Default)]
pub struct BusyClock(Mutex<Busy>);

#[derive(Debug, Default)]
struct Busy {
    /// Since when at least one batch runs, if one does.
    since: Option<Timestamp>,
    /// Batches that run: an instance may launch one while another is under way.
    running: usize,
    /// When the last batch ended.
    idle_since: Timestamp,
    /// Time of the batches that have ended.
    total: Duration,
}

impl BusyClock {
    /// A batch begins; returns when the last before it ended, the origin of time for the first.
    pub fn begin(&self, now: Timestamp) -> Timestamp {
        let mut busy = self.lock();
        busy.running += 1;
        busy.since.get_or_insert(now);
        busy.idle_since
    }

    /// A batch has ended.
    pub fn end(&self, now: Timestamp) {
        let mut busy = self.lock();
        if busy.running == 0 {
            return;
        }
        busy.running -= 1;
        busy.idle_since = now;
        if busy.running == 0
            && let Some(since) = busy.since.take()
        {
            busy.total = busy.total.saturating_add(now.since(since));
        }
    }

    /// Time of all batches, the one that runs included.
    pub fn total(&self, now: Timestamp) -> Duration {
        let busy = self.lock();
        busy.total.saturating_add(busy.since.map_or(Duration::ZERO, |since| now.since(since)))
    }

    fn lock(&self) -> MutexGuard<'_, Busy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of its time in which something was busy between the last two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BusyShare {
    last: Option<(Timestamp, Duration)>,
    share: f64,
}

impl BusyShare {
    /// Looks: `busy` is its time up to now, in all of its `slots` together.
    pub fn look(&mut self, now: Timestamp, busy: Duration, slots: usize) {
        if let Some((at, before)) = self.last.replace((now, busy)) {
            #[allow(clippy::cast_precision_loss)]
            let capacity = now.since(at).as_secs_f64() * slots as f64;
            if capacity > 0.0 {
                self.share = (busy.saturating_sub(before).as_secs_f64() / capacity).clamp(0.0, 1.0);
            }
        }
    }

    /// The share at the last look, 0 to 1.
    pub fn share(self) -> f64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_that_runs_counts_too() {
        let at = |millis: u64| Timestamp::from_nanos(millis * 1_000_000);
        let clock = BusyClock::default();
        assert_eq!(clock.begin(at(10)), Timestamp::default());
        assert_eq!(clock.total(at(15)).as_millis(), 5);
        clock.end(at(17));
        assert_eq!(clock.total(at(99)).as_millis(), 7);
        assert_eq!(clock.begin(at(20)), at(17), "idle since the last end");
        clock.end(at(21));
        clock.end(at(30));
        assert_eq!(clock.total(at(99)).as_millis(), 8, "what has ended ends once");
    }

    #[test]
    fn batches_that_overlap_count_once() {
        let at = |millis: u64| Timestamp::from_nanos(millis * 1_000_000);
        let clock = BusyClock::default();
        clock.begin(at(10));
        assert_eq!(clock.begin(at(12)), Timestamp::default(), "none has ended");
        clock.end(at(15));
        assert_eq!((clock.total(at(16)).as_millis(), clock.begin(at(16))), (6, at(15)));
        clock.end(at(18));
        clock.end(at(20));
        assert_eq!(clock.total(at(99)).as_millis(), 10);
    }

    #[test]
    fn a_share_is_of_all_slots_since_the_last_look() {
        let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
        let mut share = BusyShare::default();
        share.look(at(10), Duration::from_secs(7), 2);
        assert_eq!(share.share(), 0.0, "nothing to compare with");
        share.look(at(12), Duration::from_secs(8), 2);
        assert_eq!(share.share(), 0.25);
        share.look(at(12), Duration::from_secs(9), 2);
        assert_eq!(share.share(), 0.25, "no time has passed");
        share.look(at(13), Duration::from_secs(99), 2);
        assert_eq!(share.share(), 1.0);
    }
}
