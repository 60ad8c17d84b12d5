//! What is under way at a model's instances, and how long things will take. Pure.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::clock::Timestamp;

use super::Ran;
use super::fit::ExecutionFit;

/// Batches under way that are remembered for each instance. A driver has at most two there.
const FLIGHTS_PER_INSTANCE: usize = 4;

/// After so long in which predictions have kept everything from running, one request runs in spite of them: nothing
/// else could show that they are wrong, as after a slow first execution.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// Shortest time after which a client is told to try again.
const SHORTEST_RETRY: Duration = Duration::from_millis(1);

/// A batch that was formed and has not ended.
#[derive(Clone, Copy, Debug)]
struct Flight {
    id: u64,
    entries: usize,
    cost: u64,
    /// When an instance took it, as far as can be seen from here.
    started: Option<Timestamp>,
}

/// Work ahead of a request, in batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// Batches that are formed before its own.
    pub(super) batches: u64,
    /// Their cost.
    pub(super) cost: u64,
    /// Cost of its own batch.
    pub(super) own_cost: u64,
}

/// The batches under way and the fit of what batches take.
#[derive(Debug)]
pub(super) struct Forecast {
    pub(super) fit: ExecutionFit,
    flights: VecDeque<Flight>,
    instances: NonZeroUsize,
    idle_since: Timestamp,
    /// Since when requests have been given up by prediction without anything having run.
    starved_since: Option<Timestamp>,
    /// Predictions do not count for the next batch.
    is_probing: bool,
}

impl Forecast {
    pub(super) fn new(instances: usize) -> Self {
        Self {
            fit: ExecutionFit::default(),
            flights: VecDeque::new(),
            instances: NonZeroUsize::new(instances).unwrap_or(NonZeroUsize::MIN),
            idle_since: Timestamp::default(),
            starved_since: None,
            is_probing: false,
        }
    }

    pub(super) fn instances(&self) -> usize {
        self.instances.get()
    }

    /// Batches under way.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Entries of the batches under way.
    pub(super) fn entries(&self) -> usize {
        self.flights.iter().map(|flight| flight.entries).sum()
    }

    /// Since when there has been an instance without a batch, where there is one.
    pub(super) fn idle_since(&self) -> Timestamp {
        self.idle_since
    }

    /// Somebody comes: lets him in whatever is predicted, if predictions have kept everything from running for long.
    pub(super) fn consider(&mut self, now: Timestamp) {
        let is_starved = self.starved_since.is_some_and(|since| now.since(since) >= PROBE_AFTER);
        self.is_probing |= is_starved && self.flights.is_empty();
    }

    /// Somebody was given up by prediction.
    pub(super) fn gave_up(&mut self, now: Timestamp) {
        if self.flights.is_empty() {
            self.starved_since.get_or_insert(now);
        }
    }

    /// Whether the next batch runs whatever is predicted.
    pub(super) fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// A batch leaves for the instances.
    pub(super) fn depart(&mut self, now: Timestamp, id: u64, entries: usize, cost: u64) {
        self.is_probing = false;
        self.starved_since = None;
        if self.flights.len() >= FLIGHTS_PER_INSTANCE * self.instances() {
            self.flights.pop_front();
        }
        let started = (self.flights.len() < self.instances()).then_some(now);
        self.flights.push_back(Flight { id, entries, cost, started });
    }

    /// A batch has ended, or never ran. Returns how many entries it had, as far as is known.
    pub(super) fn arrive(&mut self, now: Timestamp, id: u64, ran: Option<Ran>) -> usize {
        let flight = self.flights.iter().position(|flight| flight.id == id).and_then(|at| self.flights.remove(at));
        let Some(flight) = flight else { return 0 };
        if self.flights.len() + 1 == self.instances() {
            self.idle_since = now;
        }
        if let Some(next) = self.flights.iter_mut().find(|flight| flight.started.is_none()) {
            next.started = Some(now);
        }
        if let Some(ran) = ran {
            self.fit.observe(ran.cost, ran.took);
        }
        flight.entries
    }

    /// What a batch of this cost takes at least, short of luck; zero where nothing is known.
    pub(super) fn surely(&self, cost: u64) -> Duration {
        if self.is_probing {
            return Duration::ZERO;
        }
        self.fit.at_least(cost).unwrap_or(Duration::ZERO)
    }

    /// What a batch of this cost takes at most, short of bad luck; zero where nothing is known.
    pub(super) fn likely(&self, cost: u64) -> Duration {
        self.fit.predict(cost).map_or(Duration::ZERO, |took| took.saturating_add(self.fit.spread()))
    }

    /// From when on an entry is certain to be late: its batch would take longer than is left.
    pub(super) fn latest_start(&self, finish_by: Timestamp, cost: u64) -> Timestamp {
        finish_by.minus(self.surely(cost))
    }

    /// How long until an instance is free for a batch that is formed now.
    pub(super) fn until_start(&self, now: Timestamp) -> Duration {
        self.wait(now, 0, Duration::ZERO)
    }

    /// How long a request will take that arrives now, with this much ahead of it; nothing where nothing is known.
    pub(super) fn until_done(&self, now: Timestamp, ahead: Ahead) -> Option<Duration> {
        let own = self.fit.predict(ahead.own_cost)?;
        // Saturating casts: a cost that is out of all proportion takes for ever.
        let sloped = Duration::from_nanos((self.fit.per_cost_ns() * ahead.cost as f64) as u64);
        let fixed = self.fit.fixed().saturating_mul(u32::try_from(ahead.batches).unwrap_or(u32::MAX));
        Some(self.wait(now, ahead.batches, fixed.saturating_add(sloped)).saturating_add(own))
    }

    /// How long until the queue will have room: until the next batch ends.
    pub(super) fn until_room(&self, now: Timestamp) -> Option<Duration> {
        let left = self.flights.iter().filter(|flight| flight.started.is_some()).map(|flight| self.left(now, flight)).min()?;
        Some(left?.max(SHORTEST_RETRY))
    }

    /// A time after which to try again, never too short to be worth saying.
    pub(super) fn retry(after: Duration) -> Duration {
        after.max(SHORTEST_RETRY)
    }

    fn left(&self, now: Timestamp, flight: &Flight) -> Option<Duration> {
        let whole = self.fit.predict(flight.cost)?;
        Some(flight.started.map_or(whole, |started| whole.saturating_sub(now.since(started))))
    }

    /// How long until a batch starts that is formed behind `batches` more, which take `work` together.
    fn wait(&self, now: Timestamp, batches: u64, work: Duration) -> Duration {
        let instances = self.instances() as u64;
        let under_way = self.flights.len() as u64;
        if under_way.saturating_add(batches) < instances {
            return Duration::ZERO;
        }
        let mut whole = work;
        let mut longest = if batches == 0 { Duration::ZERO } else { work / u32::try_from(batches).unwrap_or(u32::MAX) };
        let mut first_free = if under_way < instances { Some(Duration::ZERO) } else { None };
        for flight in &self.flights {
            let left = self.left(now, flight).unwrap_or(Duration::ZERO);
            whole = whole.saturating_add(left);
            longest = longest.max(left);
            if flight.started.is_some() {
                first_free = Some(first_free.map_or(left, |first| first.min(left)));
            }
        }
        if instances == 1 {
            return whole;
        }
        // The instances end at different times: all others may still have up to the longest batch to do when the first
        // is free, half of it on average.
        let others = longest.saturating_mul(u32::try_from(instances - 1).unwrap_or(u32::MAX)) / 2;
        let even = whole.saturating_sub(others) / u32::try_from(instances).unwrap_or(u32::MAX);
        even.max(first_free.unwrap_or(Duration::ZERO))
    }
}
