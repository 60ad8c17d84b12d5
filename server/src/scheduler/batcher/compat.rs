//! Triton's policy, batch by batch, for those whose tests or habits depend on it. Pure.
//!
//! Requests are taken from the front of the queue and nowhere else: strictly by level, first in first out in a level.
//! A request whose shape differs from the batch's ends the batch. Preferred sizes are obeyed: where the queue's prefix
//! reaches one, exactly that prefix is sent. The delay runs from the oldest request that has not been sent. Timeouts are
//! looked at when a request is met, and every [`CHECK_EVERY`] while no instance is free.
//!
//! What is sent goes into a *payload*, which an instance picks up when it is free. Where nothing is configured that
//! looks at waiting requests (`run_ahead`), the payload fills while all instances are busy, and a payload that is full
//! leaves room for one more.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::{Batch, Trigger};
use crate::clock::Timestamp;
use crate::config::{DynamicBatching, TimeoutAction, WindowPolicy};
use crate::request::BatchKey;

use super::super::queue::{Lapse, Refusal, Waiting};
use super::Room;

/// How often timeouts are looked at while no instance is free.
pub const CHECK_EVERY: Duration = Duration::from_millis(500);

/// One priority level.
#[derive(Debug)]
struct Level<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Requests whose time is over under the timeout action DELAY.
    delayed: VecDeque<Waiting<T>>,
}

/// What has been sent and not been picked up.
#[derive(Debug)]
struct Payload<T> {
    members: Vec<Waiting<T>>,
    rows: usize,
    /// It does not grow any more.
    is_saturated: bool,
    trigger: Trigger,
}

impl<T> Default for Payload<T> {
    fn default() -> Self {
        Self { members: Vec::new(), rows: 0, is_saturated: false, trigger: Trigger::Idle }
    }
}

/// A prefix of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Prefix {
    requests: usize,
    rows: usize,
}

/// How far the queue has been walked. It goes on from there until something before that point changes.
#[derive(Clone, Debug, Default)]
struct Walk {
    level: usize,
    in_delayed: bool,
    index: usize,
    /// What was met.
    pending: Prefix,
    /// The longest prefix of a preferred size.
    best: Prefix,
    /// Why the walk cannot go on, where it cannot.
    stopped: Option<Trigger>,
    /// The batch is as large as it should get.
    is_saturated: bool,
    key: Option<BatchKey>,
    oldest: Option<Timestamp>,
    nearest_timeout: Option<Timestamp>,
}

/// What is to be done with the walked prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    Send { requests: usize, is_saturated: bool, trigger: Trigger },
    Wait(Timestamp),
}

/// The queue and the payload.
#[derive(Debug)]
pub(super) struct Compat<T> {
    policy: DynamicBatching,
    delay: Duration,
    levels: Vec<Level<T>>,
    payload: Payload<T>,
    walk: Walk,
    /// Requests whose timeouts were met; they leave with the next [`Compat::expire`].
    lapsed: Vec<(T, Lapse)>,
    /// While no instance is free: when timeouts are looked at next.
    next_check: Option<Timestamp>,
    /// Requests have come since the queue was looked at.
    is_fresh: bool,
}

impl<T> Compat<T> {
    pub(super) fn new(policy: DynamicBatching) -> Self {
        let delay = match policy.window {
            WindowPolicy::Fixed(delay) => delay,
            WindowPolicy::Auto { cap } => cap.unwrap_or(Duration::ZERO),
        };
        let level = || Level { waiting: VecDeque::new(), delayed: VecDeque::new() };
        Self {
            levels: policy.policies.iter().map(|_| level()).collect(),
            policy,
            delay,
            payload: Payload::default(),
            walk: Walk::default(),
            lapsed: Vec::new(),
            next_check: None,
            is_fresh: false,
        }
    }

    /// From now on nothing is held back for its delay.
    pub(super) fn release(&mut self) {
        self.delay = Duration::ZERO;
        self.walk = Walk::default();
        self.is_fresh = true;
    }

    pub(super) fn len(&self) -> usize {
        let queued: usize = (0..self.levels.len()).map(|level| self.level_len(level)).sum();
        queued + self.payload.members.len() + self.lapsed.len()
    }

    pub(super) fn level_len(&self, level: usize) -> usize {
        self.levels[level].waiting.len() + self.levels[level].delayed.len()
    }

    pub(super) fn push(&mut self, level: usize, entry: Waiting<T>) -> Result<(), (T, Refusal)> {
        if self.level_len(level) >= self.policy.policies[level].max_entries.get() {
            return Err((entry.item, Refusal::Full { retry_after: None }));
        }
        if level < self.walk.level || level == self.walk.level && self.walk.in_delayed {
            self.walk = Walk::default();
        }
        self.levels[level].waiting.push_back(entry);
        self.is_fresh = true;
        Ok(())
    }

    /// Takes out the requests whose client has gone, which the queue itself does only when it meets them.
    pub(super) fn sweep(&mut self, is_gone: impl Fn(&T) -> bool, gone: &mut Vec<T>) {
        for lane in self.levels.iter_mut().flat_map(|level| [&mut level.waiting, &mut level.delayed]) {
            let (left, kept): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(lane).into_iter().partition(|entry| is_gone(&entry.item));
            *lane = kept;
            gone.extend(left.into_iter().map(|entry| entry.item));
        }
        self.walk = Walk::default();
        self.is_fresh = true;
    }

    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<(T, Lapse)> {
        if self.next_check.is_some_and(|at| at <= now) {
            self.next_check = Some(now.plus(CHECK_EVERY));
            for (level, policy) in self.levels.iter_mut().zip(&self.policy.policies) {
                if policy.action == TimeoutAction::Reject {
                    let (late, kept): (VecDeque<_>, VecDeque<_>) =
                        std::mem::take(&mut level.waiting).into_iter().partition(|entry| is_late(entry, now));
                    level.waiting = kept;
                    self.lapsed.extend(late.into_iter().map(|entry| (entry.item, Lapse::Expired)));
                }
            }
            self.walk = Walk::default();
            self.is_fresh = true;
        }
        std::mem::take(&mut self.lapsed)
    }

    pub(super) fn poll(
        &mut self,
        now: Timestamp,
        room: Room,
        is_gone: impl Fn(&T) -> bool,
        gone: &mut Vec<T>,
    ) -> Option<Batch<T>> {
        if !self.may_form(room) {
            self.next_check = self.next_check.or(Some(now.plus(CHECK_EVERY)));
            return None;
        }
        self.next_check = None;
        self.is_fresh = false;
        while !self.payload.is_saturated {
            self.walk_on(now, &is_gone, gone);
            let Verdict::Send { requests, is_saturated, trigger } = self.verdict(now) else { break };
            self.send(requests, is_saturated, trigger);
            if room == Room::Idle {
                break;
            }
        }
        let is_picked_up = self.payload.is_saturated || room == Room::Idle;
        if self.payload.members.is_empty() || !is_picked_up {
            return None;
        }
        let payload = std::mem::take(&mut self.payload);
        self.walk = Walk::default();
        let mut batch = Batch::with_capacity(payload.members.len());
        batch.origin.trigger = payload.trigger;
        for entry in payload.members {
            batch.origin.cost = batch.origin.cost.saturating_add(entry.cost);
            batch.push(entry.item, entry.rows);
        }
        Some(batch)
    }

    /// Whether an idle instance would get a batch.
    pub(super) fn wants(&mut self, now: Timestamp) -> bool {
        if !self.payload.members.is_empty() {
            return true;
        }
        self.walk_on(now, &|_| false, &mut Vec::new());
        matches!(self.verdict(now), Verdict::Send { .. })
    }

    pub(super) fn next_wakeup(&mut self, now: Timestamp, room: Room, is_held: bool) -> Option<Timestamp> {
        if !self.lapsed.is_empty() {
            return Some(now);
        }
        if !self.may_form(room) {
            let has_requests = (0..self.levels.len()).any(|level| self.level_len(level) > 0);
            return self.next_check.filter(|_| has_requests);
        }
        if is_held {
            return None;
        }
        let may_send = self.is_fresh || room == Room::Idle && !self.payload.members.is_empty();
        match self.verdict(now) {
            _ if may_send => Some(now),
            Verdict::Wait(until) => Some(until),
            Verdict::Send { .. } => Some(now),
            Verdict::Nothing => None,
        }
    }

    fn may_form(&self, room: Room) -> bool {
        match room {
            Room::Idle | Room::Turn => true,
            Room::Behind => self.policy.run_ahead,
            Room::None => false,
        }
    }

    /// Walks the queue as far as a batch may reach, and applies the queue policy to each request that is met.
    fn walk_on(&mut self, now: Timestamp, is_gone: &impl Fn(&T) -> bool, gone: &mut Vec<T>) {
        if self.walk.nearest_timeout.is_some_and(|at| at <= now) {
            self.walk = Walk::default();
        }
        while self.walk.stopped.is_none() && self.walk.level < self.levels.len() {
            let walk = &mut self.walk;
            let level = &mut self.levels[walk.level];
            let lane = if walk.in_delayed { &mut level.delayed } else { &mut level.waiting };
            let Some(entry) = lane.get(walk.index) else {
                // At the end of the last queue the cursor stays, so that it meets who comes next.
                if !walk.in_delayed && !level.delayed.is_empty() {
                    (walk.in_delayed, walk.index) = (true, 0);
                } else if walk.level + 1 < self.levels.len() && self.levels[walk.level + 1..].iter().any(Level::has_requests) {
                    (walk.level, walk.in_delayed, walk.index) = (walk.level + 1, false, 0);
                } else {
                    return;
                }
                continue;
            };
            let is_delayed = entry.delayed_from.is_some_and(|from| from <= now);
            if is_gone(&entry.item) {
                gone.extend(lane.remove(walk.index).map(|entry| entry.item));
            } else if is_late(entry, now) {
                self.lapsed.extend(lane.remove(walk.index).map(|entry| (entry.item, Lapse::Expired)));
            } else if is_delayed {
                if let Some(mut entry) = lane.remove(walk.index) {
                    entry.delayed_from = None;
                    level.delayed.push_back(entry);
                }
            } else if walk.meet(entry, &self.payload, &self.policy) {
                walk.index += 1;
            }
        }
    }

    fn verdict(&self, now: Timestamp) -> Verdict {
        let walk = &self.walk;
        let send = |prefix: Prefix, is_saturated, trigger| Verdict::Send { requests: prefix.requests, is_saturated, trigger };
        let Some(oldest) = walk.oldest else {
            // Who is next may not join the payload, which is closed by that.
            let is_closed = walk.stopped.is_some() && !self.payload.members.is_empty();
            return if is_closed { send(walk.pending, true, self.payload.trigger) } else { Verdict::Nothing };
        };
        let age = now.since(oldest);
        if walk.best.requests > 0 && (self.delay.is_zero() || age < self.delay) {
            return send(walk.best, walk.is_saturated, Trigger::Preferred);
        }
        let rows = self.payload.rows + walk.pending.rows;
        let is_largest = rows >= largest_preferred(&self.policy);
        if let Some(trigger) = walk.stopped.or(is_largest.then_some(Trigger::Preferred)) {
            return send(walk.pending, true, trigger);
        }
        if self.delay.is_zero() {
            return send(walk.pending, walk.is_saturated, Trigger::Idle);
        }
        if age >= self.delay {
            return send(walk.pending, walk.is_saturated, Trigger::Window);
        }
        if !self.payload.members.is_empty() && !self.policy.preferred_rows.contains(&self.payload.rows) {
            return send(walk.pending, walk.is_saturated, self.payload.trigger);
        }
        Verdict::Wait(walk.nearest_timeout.into_iter().fold(oldest.plus(self.delay), Timestamp::min))
    }

    /// Moves a prefix of the queue into the payload.
    fn send(&mut self, requests: usize, is_saturated: bool, trigger: Trigger) {
        let mut left = requests;
        for lane in self.levels.iter_mut().flat_map(|level| [&mut level.waiting, &mut level.delayed]) {
            let count = left.min(lane.len());
            for entry in lane.drain(..count) {
                self.payload.rows += entry.rows.max(1);
                self.payload.members.push(entry);
            }
            left -= count;
        }
        self.payload.is_saturated |= is_saturated;
        self.payload.trigger = if self.payload.rows >= self.policy.max_rows.get() { Trigger::Full } else { trigger };
        self.walk = Walk::default();
    }
}

impl<T> Level<T> {
    fn has_requests(&self) -> bool {
        !self.waiting.is_empty() || !self.delayed.is_empty()
    }
}

impl Walk {
    /// Adds a request to the prefix if it may join; otherwise the walk is over.
    fn meet<T>(&mut self, entry: &Waiting<T>, payload: &Payload<T>, policy: &DynamicBatching) -> bool {
        let before = payload.rows + self.pending.rows;
        let rows = before + entry.rows.max(1);
        if before > 0 {
            if rows > largest_preferred(policy) && self.best.requests == 0 {
                self.best = self.pending;
                self.is_saturated = true;
            }
            if rows > policy.max_rows.get() {
                self.stopped = Some(Trigger::Full);
                return false;
            }
            let key = payload.members.first().map(|first| &first.key).or(self.key.as_ref());
            if key.is_some_and(|key| *key != entry.key) {
                self.stopped = Some(Trigger::Order);
                return false;
            }
        } else {
            self.key = Some(entry.key.clone());
        }
        self.pending = Prefix { requests: self.pending.requests + 1, rows: self.pending.rows + entry.rows.max(1) };
        self.oldest = Some(self.oldest.map_or(entry.queued_at, |oldest| oldest.min(entry.queued_at)));
        self.nearest_timeout = self.nearest_timeout.into_iter().chain(entry.start_by).chain(entry.delayed_from).min();
        if policy.preferred_rows.contains(&rows) {
            self.best = self.pending;
        }
        true
    }
}

/// Whether the time of a request in the queue is over.
fn is_late<T>(entry: &Waiting<T>, now: Timestamp) -> bool {
    entry.start_by.is_some_and(|start_by| start_by <= now)
}

fn largest_preferred(policy: &DynamicBatching) -> usize {
    policy.preferred_rows.last().copied().unwrap_or(policy.max_rows.get())
}
