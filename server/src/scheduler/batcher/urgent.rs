//! The default policy: the most urgent first, nobody held up by another's shape, nobody passed over for ever. Pure.
//!
//! - Priority levels are strict, 1 first; within a level the earliest deadline goes first. A request without deadline
//!   is as urgent as one that must be done [`PATIENCE`] after it came, so it ages and is served in its turn; requests
//!   whose deadlines agree are served in the order of arrival.
//! - The most urgent request leads the batch. It is filled up from its bucket: with requests of its level, then with
//!   those of lower ones. A level that was passed over by [`PASS_OVER`] batches in a row leads the next one, and so
//!   do, one batch each, further levels that have waited as long.
//! - Requests that were set back (timeout action DELAY) rank between their level and the next one, by the same rule.
//! - Requests are never split, and the first that does not fit ends the batch: by rows, by cost, or because the batch
//!   would then end after a deadline of one of its members.

use std::time::Duration;

use crate::batch::{Batch, Trigger};
use crate::clock::Timestamp;
use crate::config::DynamicBatching;

use super::super::queue::{Buckets, Judgment, Lapse, Lead, Refusal, Slot, Waiting};
use super::Room;
use super::forecast::{Ahead, Forecast};
use super::window::{Decision, Forming, Window};

/// A request without deadline is as urgent as one whose deadline is this long after its arrival.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Batches in a row that may pass over a level in which requests wait.
pub const PASS_OVER: u64 = 31;

/// Each arrival pays for looking at so many slots when a full level is searched for entries whose client has gone.
const SWEEP: usize = 8;

/// The queue, and what has been decided on it.
#[derive(Debug)]
pub(super) struct UrgentFirst<T> {
    policy: DynamicBatching,
    buckets: Buckets<T>,
    window: Window,
    /// Entries that turned out to be late while a batch was formed; they leave with the next [`UrgentFirst::expire`].
    lapsed: Vec<(T, Lapse)>,
    /// Since when somebody waits of those who do.
    waiting_since: Timestamp,
    /// The last decision, as long as nothing has changed.
    decided: Option<(Timestamp, Start)>,
    sweep_credit: usize,
}

/// Whether a batch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Now(Trigger),
    Wait(Timestamp),
}

/// Why an entry is left out of a batch for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Gone,
    Lapsed(Lapse),
}

impl<T> UrgentFirst<T> {
    pub(super) fn new(policy: DynamicBatching) -> Self {
        Self {
            buckets: Buckets::new(policy.policies.len(), policy.preserve_ordering),
            window: Window::new(policy.window),
            policy,
            lapsed: Vec::new(),
            waiting_since: Timestamp::default(),
            decided: None,
            sweep_credit: usize::MAX,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.len() + self.lapsed.len()
    }

    pub(super) fn level_len(&self, level: usize) -> usize {
        self.buckets.level_len(level)
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Takes an entry, or says why not.
    pub(super) fn push(
        &mut self,
        now: Timestamp,
        level: usize,
        mut entry: Waiting<T>,
        forecast: &Forecast,
        is_gone: impl Fn(&T) -> bool,
        gone: &mut Vec<T>,
    ) -> Result<(), (T, Refusal)> {
        self.sweep_credit = self.sweep_credit.saturating_add(SWEEP);
        let max_entries = self.policy.policies[level].max_entries.get();
        if self.buckets.level_len(level) >= max_entries && self.sweep_credit >= self.buckets.slots() {
            self.sweep_credit = 0;
            self.sweep(Some(level), is_gone, gone);
        }
        if self.buckets.level_len(level) >= max_entries {
            return Err((entry.item, Refusal::Full { retry_after: forecast.until_room(now) }));
        }
        if self.policy.preserve_ordering {
            // Nothing may overtake it, so it cannot be set back either.
            entry.delayed_from = None;
        }
        let order = order(&entry);
        if let Some(refusal) = self.is_unreachable(now, level, order, &entry, forecast) {
            return Err((entry.item, refusal));
        }
        let timer = timer(entry.start_by, entry.finish_by, entry.delayed_from, entry.cost, forecast);
        if self.buckets.len() == 0 {
            self.waiting_since = now;
        }
        let id = self.buckets.insert(now, level, order, entry);
        if let Some(timer) = timer {
            self.buckets.arm(id, timer);
        }
        self.window.arrived(now, self.buckets.len() + forecast.entries());
        self.decided = None;
        Ok(())
    }

    /// Whether an entry would surely be done too late: by what is under way and ahead of it, less what the executions
    /// scatter.
    fn is_unreachable(
        &mut self,
        now: Timestamp,
        level: usize,
        order: Timestamp,
        entry: &Waiting<T>,
        forecast: &Forecast,
    ) -> Option<Refusal> {
        let left = entry.finish_by?.since(now);
        forecast.fit.predict(entry.cost)?;
        let work = self.buckets.ahead(now, level, order);
        let rows = work.rows.saturating_add(entry.rows.max(1) as u64);
        let cost = work.cost.saturating_add(entry.cost);
        let by_rows = rows.div_ceil(self.policy.max_rows.get() as u64);
        let by_cost = self.policy.max_cost.map_or(0, |max| cost.div_ceil(max.get()));
        // Buckets of other shapes make batches of their own, however little is in them.
        let others = (self.buckets.other_classes(&entry.key) as u64).min(work.rows);
        let batches = (by_rows.max(by_cost).max(1) - 1).max(others);
        let own_cost = entry.cost.max(cost / (batches + 1));
        let ahead = Ahead { batches, cost: cost - own_cost, own_cost };
        let needed = forecast.until_done(now, ahead)?.saturating_sub(forecast.fit.spread());
        let late = needed.checked_sub(left).filter(|late| !late.is_zero())?;
        let is_possible = forecast.surely(entry.cost) < left;
        Some(Refusal::Unreachable { retry_after: is_possible.then(|| Forecast::retry(late)) })
    }

    /// Takes out the entries of a level, or of all, whose client has gone.
    pub(super) fn sweep(&mut self, level: Option<usize>, is_gone: impl Fn(&T) -> bool, gone: &mut Vec<T>) {
        for id in self.buckets.find(level, is_gone) {
            gone.push(self.buckets.remove(id).item);
            self.decided = None;
        }
    }

    /// Takes out the entries that will not run any more, and sets those back whose time in order is over.
    pub(super) fn expire(&mut self, now: Timestamp, forecast: &Forecast) -> Vec<(T, Lapse)> {
        while let Some(id) = self.buckets.due(now) {
            self.decided = None;
            let slot = self.buckets.slot(id);
            if let Some(lapse) = lapse(now, slot.start_by, slot.finish_by, slot.cost, forecast) {
                let item = self.buckets.remove(id).item;
                self.lapsed.push((item, lapse));
                continue;
            }
            if slot.delayed_from.is_some_and(|from| from <= now) {
                let order = slot.finish_by.into_iter().chain(slot.start_by).fold(now.plus(PATIENCE), Timestamp::min);
                self.buckets.set_back(id, order);
            }
            let slot = self.buckets.slot(id);
            if let Some(at) = timer(slot.start_by, slot.finish_by, slot.delayed_from, slot.cost, forecast) {
                self.buckets.arm(id, at);
            }
        }
        std::mem::take(&mut self.lapsed)
    }

    /// A batch of so many entries has ended.
    pub(super) fn finished(&mut self, now: Timestamp, entries: usize, took: Option<Duration>) {
        if let Some(took) = took {
            self.window.finished(now, entries, took);
        }
        self.decided = None;
    }

    /// The next batch, if one should start.
    pub(super) fn poll(
        &mut self,
        now: Timestamp,
        room: Room,
        forecast: &Forecast,
        is_gone: impl Fn(&T) -> bool,
        gone: &mut Vec<T>,
    ) -> Option<Batch<T>> {
        loop {
            let lead = self.buckets.lead(PASS_OVER)?;
            let full = self.full(lead);
            let trigger = match (full, room) {
                (Some(trigger), Room::Idle | Room::Behind) => trigger,
                (None, Room::Idle) => match self.decide(now, lead, forecast) {
                    Start::Now(trigger) => trigger,
                    Start::Wait(_) => return None,
                },
                _ => return None,
            };
            let start = match room {
                Room::Behind => now.plus(forecast.until_start(now)),
                _ => now,
            };
            // Even if the instance is free a little earlier than it seems, they would be late.
            let sure = start.minus(forecast.fit.spread()).max(now);
            let is_mixed = self.buckets.is_mixed();
            let mut filling = Filling::new(&self.policy, start, forecast, trigger);
            let (mut dropped, mut led_wrongly) = (false, false);
            let lapsed = &mut self.lapsed;
            let gathered = self.buckets.gather(
                lead,
                |slot| {
                    match out(now, sure, slot, &is_gone, forecast) {
                        Some(out) => {
                            // Without the one who led, another bucket may be more urgent.
                            led_wrongly |= is_mixed && filling.entries == 0;
                            Judgment::Drop(out)
                        }
                        None => filling.judge(slot.places(), slot.cost, slot.finish_by),
                    }
                },
                |item, out| {
                    dropped = true;
                    match out {
                        Out::Gone => gone.push(item),
                        Out::Lapsed(lapse) => lapsed.push((item, lapse)),
                    }
                },
            );
            self.decided = None;
            let is_closed = filling.entries > 0 && (filling.is_full() || gathered.is_stopped);
            if dropped && (led_wrongly || !is_closed) {
                // It is less than was decided on.
                self.buckets.put_back(gathered);
                continue;
            }
            let trigger = filling.trigger;
            let mut batch = Batch::default();
            let mut cost = 0u64;
            self.buckets.commit(gathered, |slot| {
                cost = cost.saturating_add(slot.cost);
                batch.push(slot.item, slot.rows);
            });
            self.waiting_since = now;
            (batch.origin.trigger, batch.origin.cost) = (trigger, cost);
            return Some(batch);
        }
    }

    /// Whether an idle instance would get a batch.
    pub(super) fn wants(&mut self, now: Timestamp, forecast: &Forecast) -> bool {
        self.start(now, forecast).is_some_and(|start| matches!(start, Start::Now(_)))
    }

    /// When to look again, if nothing else happens.
    pub(super) fn next_wakeup(&mut self, now: Timestamp, room: Room, is_held: bool, forecast: &Forecast) -> Option<Timestamp> {
        if !self.lapsed.is_empty() {
            return Some(now);
        }
        let start = match room {
            Room::Idle if !is_held => self.start(now, forecast).map(|start| match start {
                Start::Now(_) => now,
                Start::Wait(until) => until,
            }),
            _ => None,
        };
        self.buckets.first_timer().into_iter().chain(start).min()
    }

    fn start(&mut self, now: Timestamp, forecast: &Forecast) -> Option<Start> {
        let lead = self.buckets.lead(PASS_OVER)?;
        Some(self.full(lead).map_or_else(|| self.decide(now, lead, forecast), Start::Now))
    }

    /// Whether the batch of the one who leads cannot grow any more, and why.
    fn full(&self, lead: Lead) -> Option<Trigger> {
        let work = self.buckets.forming(lead).work;
        if work.rows >= self.policy.max_rows.get() as u64 || self.policy.max_cost.is_some_and(|max| work.cost >= max.get()) {
            return Some(Trigger::Full);
        }
        (self.policy.preserve_ordering && self.buckets.is_mixed()).then_some(Trigger::Order)
    }

    /// Whether a batch that could still grow starts on an idle instance.
    fn decide(&mut self, now: Timestamp, lead: Lead, forecast: &Forecast) -> Start {
        if let Some((_, start)) = self.decided.filter(|(at, _)| *at == now) {
            return start;
        }
        let bucket = self.buckets.forming(lead);
        let rows = usize::try_from(bucket.work.rows).unwrap_or(usize::MAX);
        let preferred = &self.policy.preferred_rows;
        let start = if preferred.last().is_some_and(|largest| rows >= *largest) || preferred.contains(&rows) {
            Start::Now(Trigger::Preferred)
        } else {
            let forming = Forming {
                entries: bucket.entries,
                rows,
                cost: bucket.work.cost,
                rows_left: self.policy.max_rows.get().saturating_sub(rows),
                oldest: bucket.oldest,
                in_system: self.buckets.len() + forecast.entries(),
                in_flight: forecast.in_flight(),
                instances: forecast.instances(),
                idle_since: forecast.idle_since().max(self.waiting_since),
            };
            match self.window.decide(now, &forming, &forecast.fit) {
                Decision::Go if self.window.last().is_zero() => Start::Now(Trigger::Idle),
                Decision::Go => Start::Now(Trigger::Window),
                Decision::Until(until) => {
                    // What is due first must still be in time, in a batch as large as this one and scattered as they are.
                    let growth = forecast.likely(bucket.work.cost).saturating_sub(forecast.surely(1));
                    let latest = self.buckets.first_timer().map(|first| first.minus(growth));
                    match latest.filter(|latest| *latest < until) {
                        Some(latest) if latest <= now => Start::Now(Trigger::Deadline),
                        Some(latest) => Start::Wait(latest),
                        None => Start::Wait(until),
                    }
                }
            }
        };
        self.decided = Some((now, start));
        start
    }
}

/// A batch that is being filled.
struct Filling<'a> {
    policy: &'a DynamicBatching,
    forecast: &'a Forecast,
    start: Timestamp,
    rows: usize,
    cost: u64,
    entries: usize,
    finish_by: Option<Timestamp>,
    trigger: Trigger,
}

impl<'a> Filling<'a> {
    fn new(policy: &'a DynamicBatching, start: Timestamp, forecast: &'a Forecast, trigger: Trigger) -> Self {
        Self { policy, forecast, start, rows: 0, cost: 0, entries: 0, finish_by: None, trigger }
    }

    fn judge(&mut self, places: usize, cost: u64, finish_by: Option<Timestamp>) -> Judgment<Out> {
        // A deadline that would likely be missed anyway is no reason for a small batch.
        let finish_by = finish_by.filter(|finish_by| self.start.plus(self.forecast.likely(cost)) <= *finish_by);
        let (rows, cost) = (self.rows.saturating_add(places), self.cost.saturating_add(cost));
        let finish_by = self.finish_by.into_iter().chain(finish_by).min();
        if self.entries > 0 {
            if rows > self.policy.max_rows.get() || self.policy.max_cost.is_some_and(|max| cost > max.get()) {
                return Judgment::Stop;
            }
            if finish_by.is_some_and(|finish_by| self.start.plus(self.forecast.likely(cost)) > finish_by) {
                self.trigger = Trigger::Deadline;
                return Judgment::Stop;
            }
        }
        (self.rows, self.cost, self.finish_by) = (rows, cost, finish_by);
        self.entries += 1;
        Judgment::Take
    }

    fn is_full(&self) -> bool {
        self.rows >= self.policy.max_rows.get() || self.policy.max_cost.is_some_and(|max| self.cost >= max.get())
    }
}

/// How urgent an entry is: the smaller, the more.
fn order<T>(entry: &Waiting<T>) -> Timestamp {
    let deadlines = entry.start_by.into_iter().chain(entry.finish_by).chain(entry.delayed_from);
    deadlines.fold(entry.queued_at.plus(PATIENCE), Timestamp::min)
}

/// When the time of an entry is over, or its place in order.
fn timer(
    start_by: Option<Timestamp>,
    finish_by: Option<Timestamp>,
    delayed_from: Option<Timestamp>,
    cost: u64,
    forecast: &Forecast,
) -> Option<Timestamp> {
    let latest = finish_by.map(|finish_by| forecast.latest_start(finish_by, cost));
    start_by.into_iter().chain(latest).chain(delayed_from).min()
}

/// Why an entry is no candidate for a batch that is formed now and starts at `sure` at the earliest, if so.
fn out<T>(now: Timestamp, sure: Timestamp, slot: &Slot<T>, is_gone: &impl Fn(&T) -> bool, forecast: &Forecast) -> Option<Out> {
    if is_gone(&slot.item) {
        return Some(Out::Gone);
    }
    let at = |start| lapse(start, slot.start_by, slot.finish_by, slot.cost, forecast);
    at(now).or_else(|| at(sure).map(|_| Lapse::Unreachable)).map(Out::Lapsed)
}

/// Why an entry must not start at this time, if so.
fn lapse(
    start: Timestamp,
    start_by: Option<Timestamp>,
    finish_by: Option<Timestamp>,
    cost: u64,
    forecast: &Forecast,
) -> Option<Lapse> {
    if start_by.is_some_and(|start_by| start_by <= start) || finish_by.is_some_and(|finish_by| finish_by <= start) {
        Some(Lapse::Expired)
    } else if finish_by.is_some_and(|finish_by| forecast.latest_start(finish_by, cost) <= start) {
        Some(Lapse::Unreachable)
    } else {
        None
    }
}
