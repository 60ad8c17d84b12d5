//! Which entries of a bucket make up a batch, by rows, cost and deadlines. Pure.

use std::time::Duration;

use crate::batch::Trigger;
use crate::clock::Timestamp;

use super::super::queue::{Judgment, Lapse};
use super::Room;
use super::forecast::Forecast;

/// Most entries that are passed over for one batch, in multiples of its rows.
const SKIPPED_BATCHES: usize = 4;

/// The times of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) start_by: Option<Timestamp>,
    pub(super) finish_by: Option<Timestamp>,
    pub(super) cost: u64,
}

impl Times {
    /// Why an entry must not start at this time, if so.
    pub(super) fn lapse(self, start: Timestamp, forecast: &Forecast) -> Option<Lapse> {
        if self.start_by.into_iter().chain(self.finish_by).any(|deadline| deadline <= start) {
            return Some(Lapse::Expired);
        }
        let is_late = |finish_by| forecast.latest_start(finish_by, self.cost) <= start;
        self.finish_by.is_some_and(is_late).then_some(Lapse::Unreachable)
    }
}

/// When the time of an entry is over, or its place in order.
pub(super) fn timer(times: Times, delayed_from: Option<Timestamp>, forecast: &Forecast) -> Option<Timestamp> {
    let latest = times.finish_by.map(|finish_by| forecast.latest_start(finish_by, times.cost));
    times.start_by.into_iter().chain(latest).chain(delayed_from).min()
}

/// When a batch that is formed now starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    now: Timestamp,
    /// Even if an instance is free a little earlier than it seems, it starts no earlier.
    sure: Timestamp,
    pub(super) start: Timestamp,
}

impl Moment {
    pub(super) fn new(now: Timestamp, room: Room, forecast: &Forecast) -> Self {
        let start = match room {
            Room::Behind => now.plus(forecast.until_start(now)),
            Room::Idle | Room::Turn | Room::None => now,
        };
        Self { now, sure: start.minus(forecast.fit.spread()).max(now), start }
    }

    /// Why an entry cannot be in the batch, if so.
    pub(super) fn lapse(self, times: Times, forecast: &Forecast) -> Option<Lapse> {
        let lapse = times.lapse(self.sure, forecast)?;
        // What is late only because an instance has to be waited for has not expired.
        if self.sure > self.now { times.lapse(self.now, forecast).or(Some(Lapse::Unreachable)) } else { Some(lapse) }
    }
}

/// What a batch holds at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) cost: u64,
}

/// What is done about members in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The batch ends before it gets too large for them.
    Cut,
    /// They are passed over: the batch gets as large as this.
    Full {
        /// Its cost, about.
        cost: u64,
    },
}

/// A batch that is being filled.
#[derive(Debug)]
pub(super) struct Filling<'a> {
    limits: Limits,
    plan: Plan,
    start: Timestamp,
    forecast: &'a Forecast,
    rows: usize,
    pub(super) cost: u64,
    pub(super) entries: usize,
    /// Members whose client has a deadline.
    timed: usize,
    skipped: usize,
    /// The earliest deadline that the batch can meet.
    finish_by: Option<Timestamp>,
    pub(super) trigger: Trigger,
}

impl<'a> Filling<'a> {
    pub(super) fn new(limits: Limits, plan: Plan, start: Timestamp, forecast: &'a Forecast, trigger: Trigger) -> Self {
        Self { limits, plan, start, forecast, rows: 0, cost: 0, entries: 0, timed: 0, skipped: 0, finish_by: None, trigger }
    }

    /// Whether an entry joins.
    pub(super) fn judge<D>(&mut self, places: usize, times: Times) -> Judgment<D> {
        if let Plan::Full { cost } = self.plan
            && times.finish_by.is_some_and(|finish_by| self.ends(cost) > finish_by)
        {
            self.skipped += 1;
            return if self.skipped > SKIPPED_BATCHES * self.limits.rows { Judgment::Stop } else { Judgment::Skip };
        }
        let (rows, cost) = (self.rows.saturating_add(places), self.cost.saturating_add(times.cost));
        // A deadline that would likely be missed anyway is no reason for a small batch.
        let own = times.finish_by.filter(|finish_by| self.ends(times.cost) <= *finish_by);
        let finish_by = self.finish_by.into_iter().chain(own).min();
        if self.entries > 0 {
            if rows > self.limits.rows || cost > self.limits.cost {
                return Judgment::Stop;
            }
            if finish_by.is_some_and(|finish_by| self.ends(cost) > finish_by) {
                self.trigger = Trigger::Deadline;
                return Judgment::Stop;
            }
        }
        (self.rows, self.cost, self.finish_by) = (rows, cost, finish_by);
        self.entries += 1;
        self.timed += usize::from(own.is_some());
        Judgment::Take
    }

    /// When a batch of this cost likely ends.
    fn ends(&self, cost: u64) -> Timestamp {
        self.start.plus(self.forecast.likely(cost))
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows >= self.limits.rows || self.cost >= self.limits.cost
    }

    /// Deadlines that are met in a second.
    pub(super) fn timed_rate(&self) -> f64 {
        let took = self.forecast.fit.predict(self.cost).unwrap_or(Duration::ZERO).max(Duration::from_nanos(1));
        self.timed as f64 / took.as_secs_f64()
    }
}
