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
//!   would then end after a deadline of one of its members. Where more wait than a batch holds, and a cut would serve
//!   clearly fewer deadlines than a full batch of those who can wait that long, the full batch runs instead, and those
//!   in too much of a hurry for it are given up: small batches would make all others late too.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::batch::{Batch, Trigger};
use crate::clock::Timestamp;
use crate::config::{DynamicBatching, WindowPolicy};

use super::super::queue::{Buckets, Gathered, Judgment, Lapse, Lead, Refusal, Waiting};
use super::Room;
use super::filling::{Filling, Limits, Moment, Plan, Times, timer};
use super::forecast::{Ahead, Forecast};
use super::window::{Decision, Forming, Window};

/// A request without deadline is as urgent as one whose deadline is this long after its arrival.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Batches in a row that may pass over a level in which requests wait.
pub const PASS_OVER: u64 = 31;

/// A batch that is cut for a deadline must serve this share of the requests with deadlines, in the same time, that a full
/// one without those in a hurry would serve.
const WORTH_CUTTING: f64 = 0.9;

/// Batches after which the scatter of the executions is known well enough to count against a request.
const KNOWN: u32 = 16;

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

/// Who fell out of the queue while a batch was gathered.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    any: bool,
    /// The one who led was among them.
    leader: bool,
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
        let times = Times { start_by: entry.start_by, finish_by: entry.finish_by, cost: entry.cost };
        let timer = timer(times, entry.delayed_from, forecast);
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

    /// Whether an entry would be done too late, by what is under way and ahead of it.
    fn is_unreachable(
        &mut self,
        now: Timestamp,
        level: usize,
        order: Timestamp,
        entry: &Waiting<T>,
        forecast: &Forecast,
    ) -> Option<Refusal> {
        let left = entry.finish_by.filter(|_| !forecast.is_probing())?.since(now);
        forecast.fit.predict(entry.cost)?;
        let work = self.buckets.ahead(now, level, order);
        let rows = work.rows.saturating_add(entry.rows.max(1) as u64);
        let cost = work.cost.saturating_add(entry.cost);
        let by_rows = rows.div_ceil(self.policy.max_rows.get() as u64);
        // A request that costs more than a batch should runs alone, so there are no more batches than requests.
        let by_cost = self.policy.max_cost.map_or(1, |max| {
            let cost = work.cost.saturating_add(entry.cost.min(max.get()));
            cost.div_ceil(max.get()).min(work.rows.saturating_add(1))
        });
        // Buckets of other shapes make batches of their own, however little is in them.
        let others = (self.buckets.other_classes(&entry.key) as u64).min(work.rows);
        let full_batches = by_rows.max(by_cost) - 1;
        let batches = full_batches.max(others);
        let is_deep = full_batches > 0;
        // Behind full batches its own will be full too when its turn comes.
        let own_cost = if is_deep { full_cost(&self.policy, rows, cost) } else { cost / (batches + 1) }.max(entry.cost);
        let before = if is_deep { own_cost.saturating_mul(batches).min(work.cost) } else { cost - own_cost };
        let needed = forecast.until_done(now, Ahead { batches, cost: before, own_cost })?;
        // With little ahead the doubt is in favor of the entry; in a long queue of requests that cannot all be served
        // it is in favor of those who were taken before, and the scatter of all the batches ahead adds up.
        let spread = forecast.fit.spread();
        let needed = if is_deep && forecast.fit.seen() >= KNOWN {
            needed.saturating_add(spread.mul_f64(1.0 + (batches as f64).sqrt()))
        } else {
            needed.saturating_sub(spread)
        };
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
            let times = Times { start_by: slot.start_by, finish_by: slot.finish_by, cost: slot.cost };
            if let Some(lapse) = times.lapse(now, forecast) {
                let item = self.buckets.remove(id).item;
                self.lapsed.push((item, lapse));
                continue;
            }
            if slot.delayed_from.is_some_and(|from| from <= now) {
                let order = slot.finish_by.into_iter().chain(slot.start_by).fold(now.plus(PATIENCE), Timestamp::min);
                self.buckets.set_back(id, order);
            }
            let slot = self.buckets.slot(id);
            if let Some(at) = timer(times, slot.delayed_from, forecast) {
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

    /// From now on an idle instance starts at once.
    pub(super) fn release(&mut self) {
        self.window = Window::new(WindowPolicy::Fixed(Duration::ZERO));
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
                (Some(trigger), Room::Idle | Room::Turn | Room::Behind) => trigger,
                (None, Room::Turn) => Trigger::Idle,
                (None, Room::Idle) => match self.decide(now, lead, forecast) {
                    Start::Now(trigger) => trigger,
                    Start::Wait(_) => return None,
                },
                _ => return None,
            };
            self.decided = None;
            let moment = Moment::new(now, room, forecast);
            let (mut gathered, mut filling, dropped) = self.gather(lead, moment, Plan::Cut, trigger, forecast, &is_gone, gone);
            if dropped.leader || dropped.any && !filling.is_full() && !gathered.is_stopped {
                // It is less than was decided on; and without the one who led, another bucket may be more urgent, or nobody
                // of its rank be left.
                self.buckets.put_back(gathered);
                continue;
            }
            if filling.trigger == Trigger::Deadline && full == Some(Trigger::Full) {
                let cut = filling.timed_rate();
                self.buckets.put_back(gathered);
                let plan = Plan::Full { cost: self.full_cost(lead) };
                (gathered, filling, _) = self.gather(lead, moment, plan, trigger, forecast, &is_gone, gone);
                if cut >= WORTH_CUTTING * filling.timed_rate() {
                    self.buckets.put_back(gathered);
                    (gathered, filling, _) = self.gather(lead, moment, Plan::Cut, trigger, forecast, &is_gone, gone);
                }
            }
            let mut batch = Batch::with_capacity(filling.entries);
            (batch.origin.trigger, batch.origin.cost) = (filling.trigger, filling.cost);
            let lapsed = &mut self.lapsed;
            self.buckets.commit(gathered, |slot, joins| {
                if joins {
                    batch.push(slot.item, slot.rows);
                } else {
                    lapsed.push((slot.item, Lapse::Unreachable));
                }
            });
            self.waiting_since = now;
            return Some(batch);
        }
    }

    /// Gathers a batch by a plan. Who has gone or is late falls out of the queue on the way.
    #[allow(clippy::too_many_arguments, reason = "all of it belongs to one step of `poll`")]
    fn gather<'a>(
        &mut self,
        lead: Lead,
        moment: Moment,
        plan: Plan,
        trigger: Trigger,
        forecast: &'a Forecast,
        is_gone: &impl Fn(&T) -> bool,
        gone: &mut Vec<T>,
    ) -> (Gathered, Filling<'a>, Dropped) {
        let limits = Limits { rows: self.policy.max_rows.get(), cost: self.policy.max_cost.map_or(u64::MAX, NonZeroU64::get) };
        let mut filling = Filling::new(limits, plan, moment.start, forecast, trigger);
        let mut dropped = Dropped::default();
        let lapsed = &mut self.lapsed;
        let gathered = self.buckets.gather(
            lead,
            |slot| {
                let times = Times { start_by: slot.start_by, finish_by: slot.finish_by, cost: slot.cost };
                let out = if is_gone(&slot.item) { Some(None) } else { moment.lapse(times, forecast).map(Some) };
                match out {
                    Some(out) => {
                        dropped.any = true;
                        dropped.leader |= filling.entries == 0;
                        Judgment::Drop(out)
                    }
                    None => filling.judge(slot.places(), times),
                }
            },
            |item, lapse| match lapse {
                None => gone.push(item),
                Some(lapse) => lapsed.push((item, lapse)),
            },
        );
        (gathered, filling, dropped)
    }

    /// The cost of a full batch of the bucket of the one who leads, if its entries were all alike.
    fn full_cost(&self, lead: Lead) -> u64 {
        full_cost(&self.policy, self.buckets.forming(lead).work.rows, self.buckets.forming(lead).work.cost)
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

/// How urgent an entry is: the smaller, the more.
fn order<T>(entry: &Waiting<T>) -> Timestamp {
    let deadlines = entry.start_by.into_iter().chain(entry.finish_by).chain(entry.delayed_from);
    deadlines.fold(entry.queued_at.plus(PATIENCE), Timestamp::min)
}

/// The cost of a full batch of entries like these.
pub(super) fn full_cost(policy: &DynamicBatching, rows: u64, cost: u64) -> u64 {
    let by_rows = u128::from(cost) * policy.max_rows.get() as u128 / u128::from(rows.max(1));
    let by_rows = u64::try_from(by_rows).unwrap_or(u64::MAX).min(cost);
    policy.max_cost.map_or(by_rows, |max| by_rows.min(max.get()))
}
