//! One device's turns: which of the models that wait for it runs next. Pure: time is an argument, payloads are opaque.
//!
//! Between classes priority is strict, except that a class that waits is passed over at most [`MAX_PASSED`] times
//! in a row. Within a class, shares get device time in proportion to their weights, by start-time fair queueing:
//! every share has a virtual time, which its executions move forward by the time they took over its weight, and
//! the share that is furthest behind runs next. The class has one too, the start tag of what ran last; a share
//! that comes back from idling begins there. So it saves nothing up, and yet it is served before every share that
//! has just used the device: at most the execution that runs then keeps it waiting.
//!
//! An execution takes as many slots as its share says, at once or not at all. A turn that is next and finds too few of
//! them free is waited for, and nobody overtakes it: what narrow turns leave free would never be wide enough otherwise.
//! What an execution uses of the device counts by slot: four slots for a second are four seconds.
//!
//! Source: Goyal, Vin, Cheng, "Start-time fair queueing" (1996); with several slots its extension SFQ(D) of Jin,
//! Chase, Kaur, "Interposed proportional sharing for a storage service utility" (2004).

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::clock::Timestamp;

use super::resources::{Needs, ResourcePool, Ticket};

/// Most executions of higher classes, one after another, while a class waits.
pub const MAX_PASSED: u32 = 16;

/// Most executions that go before a claim while only its resources keep it from running; then what is free of
/// them is kept for it.
pub const MAX_BLOCKED: u32 = 4;

/// Virtual nanoseconds of a share of weight 1 per nanosecond of device time: keeps weights exact enough in integers.
const TAG_SCALE: u128 = 1 << 16;

/// A virtual time.
type Tag = u128;

/// A model version's part of a device, or that of some of its instances.
#[derive(Clone, Debug)]
pub struct ShareSpec {
    /// Model, for reports.
    pub model: Arc<str>,
    /// Version, for reports.
    pub version: u64,
    /// Class; 1 is served first.
    pub priority: u8,
    /// Part of the device's time, against other shares of the class.
    pub weight: NonZeroU32,
    /// Divides the weight: the rate limiter's priority, 1 where it has none.
    pub divisor: NonZeroU32,
    /// Most executions at a time. Claims may be made before one of them has ended.
    pub instances: NonZeroUsize,
    /// Slots that each execution takes; of more than the device has, all of them.
    pub slots: NonZeroUsize,
    /// Resources that each execution holds.
    pub needs: Needs,
}

impl ShareSpec {
    /// A share of weight 1 in the default class, for one instance that takes one slot and needs no resources.
    pub fn new(model: &str) -> Self {
        Self {
            model: model.into(),
            version: 1,
            priority: crate::config::DeviceShare::default().priority,
            weight: NonZeroU32::MIN,
            divisor: NonZeroU32::MIN,
            instances: NonZeroUsize::MIN,
            slots: NonZeroUsize::MIN,
            needs: Needs::default(),
        }
    }

    /// The virtual time of an execution that takes so long.
    fn virtual_time(&self, taken: Duration) -> Tag {
        let used = taken.as_nanos().saturating_mul(self.slots.get() as Tag);
        used.saturating_mul(TAG_SCALE).saturating_mul(self.divisor.get().into()) / Tag::from(self.weight.get())
    }
}

/// Names a share of one scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareId(usize);

/// Names a claim that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimId {
    share: ShareId,
    number: u64,
}

/// A turn on the device, to be given back to the scheduler that gave it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a grant that is not released keeps its slot for ever"]
pub struct Grant {
    share: ShareId,
    claim: ClaimId,
    granted_at: Timestamp,
    /// What the share was charged beforehand.
    charged: Tag,
}

impl Grant {
    /// Whose turn it is.
    pub fn share(&self) -> ShareId {
        self.share
    }

    /// The claim that was granted.
    pub fn claim(&self) -> ClaimId {
        self.claim
    }

    /// When the turn began.
    pub fn granted_at(&self) -> Timestamp {
        self.granted_at
    }
}

/// Device time that has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Sum over all executions, those that run included, of their time in each of the slots that they take.
    pub busy: Duration,
    /// Executions that have begun.
    pub executions: u64,
}

/// The integral of the number of slots that are taken over time.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    /// Executions that run.
    running: usize,
    /// Slots that they take.
    taken: usize,
    used: Used,
    changed_at: Timestamp,
}

impl Meter {
    fn at(&self, now: Timestamp) -> Used {
        let taken = u32::try_from(self.taken).unwrap_or(u32::MAX);
        let since = now.since(self.changed_at).saturating_mul(taken);
        Used { busy: self.used.busy.saturating_add(since), executions: self.used.executions }
    }

    fn begin(&mut self, now: Timestamp, slots: NonZeroUsize) {
        self.used = self.at(now);
        self.used.executions += 1;
        self.changed_at = now;
        self.running += 1;
        self.taken += slots.get();
    }

    fn end(&mut self, now: Timestamp, slots: NonZeroUsize) {
        self.used = self.at(now);
        self.changed_at = now;
        self.running -= 1;
        self.taken -= slots.get();
    }
}

struct Share<T> {
    spec: ShareSpec,
    waiting: VecDeque<Claim<T>>,
    /// Virtual time at which everything that it was granted ends.
    finish: Tag,
    /// Moving average of an execution's time: what the next one is charged until it has ended.
    estimate: Duration,
    /// Executions that went before its first claim while only resources were missing.
    blocked: u32,
    /// Its place in the line for resources, once it has been blocked too often.
    ticket: Option<Ticket>,
    meter: Meter,
    /// It is gone when its last execution ends.
    closing: bool,
}

struct Claim<T> {
    number: u64,
    /// The virtual time of the class when the claim was made.
    arrived: Tag,
    estimate: Option<Duration>,
    payload: T,
}

impl<T> Share<T> {
    fn first(&self) -> Option<&Claim<T>> {
        self.waiting.front().filter(|_| self.meter.running < self.spec.instances.get())
    }
}

#[derive(Debug, Default)]
struct Class {
    /// Virtual time: the latest start tag that was served.
    now: Tag,
    /// Latest virtual end of any of its shares.
    finish: Tag,
    running: usize,
    waiting: usize,
    /// Turns that went to higher classes since it last had one, while it waited.
    passed: u32,
    /// The turn that was counted last.
    counted: u64,
}

impl Class {
    /// A claim was taken back.
    fn withdrawn(&mut self, claims: usize) {
        self.waiting -= claims;
        if self.waiting == 0 {
            self.passed = 0;
        }
    }
}

/// The order in which waiting claims are served; the least is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    /// How often its class has been passed over, from [`MAX_PASSED`] on.
    overdue: Reverse<u32>,
    priority: u8,
    /// Virtual time at which it would begin.
    start: Tag,
    /// Of two that would begin together, the share that has idled goes first.
    finish: Tag,
    number: u64,
}

/// The turns of one device, of whose `slots` each execution takes one or more. `T` is what a claim carries.
pub struct DeviceScheduler<T> {
    slots: NonZeroUsize,
    shares: Slab<Share<T>>,
    classes: BTreeMap<u8, Class>,
    /// Shares with waiting claims, in no order.
    backlog: Vec<usize>,
    claims: u64,
    meter: Meter,
}

impl<T> DeviceScheduler<T> {
    /// An idle device.
    pub fn new(slots: NonZeroUsize) -> Self {
        Self { slots, shares: Slab::new(), classes: BTreeMap::new(), backlog: Vec::new(), claims: 0, meter: Meter::default() }
    }

    /// Slots that no execution takes.
    pub fn free(&self) -> usize {
        self.slots.get() - self.meter.taken
    }

    /// Whether no share is registered.
    pub fn is_unused(&self) -> bool {
        self.shares.is_empty()
    }

    /// Adds a share. It begins level with the share of its class that was served last.
    pub fn register(&mut self, spec: ShareSpec) -> ShareId {
        self.classes.entry(spec.priority).or_default();
        ShareId(self.shares.insert(Share {
            spec: ShareSpec { slots: spec.slots.min(self.slots), ..spec },
            waiting: VecDeque::new(),
            finish: 0,
            estimate: Duration::ZERO,
            blocked: 0,
            ticket: None,
            meter: Meter::default(),
            closing: false,
        }))
    }

    /// Removes a share, once its last execution has been released. Its waiting claims come back.
    pub fn deregister(&mut self, share: ShareId, resources: &mut ResourcePool) -> Vec<T> {
        let removed = &mut self.shares[share.0];
        removed.closing = true;
        let payloads: Vec<T> = removed.waiting.drain(..).map(|claim| claim.payload).collect();
        if let Some(class) = self.classes.get_mut(&removed.spec.priority) {
            class.withdrawn(payloads.len());
        }
        self.leave_line(share, resources);
        self.forget_if_gone(share);
        payloads
    }

    /// Asks for a turn; `estimate` is how long it will take, where the caller knows better than the average of the
    /// share's last turns. [`DeviceScheduler::next`] grants it.
    ///
    /// # Panics
    /// More claims than instances wait, which no caller may ask for: the bound of the queue.
    pub fn claim(&mut self, share: ShareId, estimate: Option<Duration>, payload: T) -> ClaimId {
        let claiming = &mut self.shares[share.0];
        assert!(claiming.waiting.len() < claiming.spec.instances.get(), "more claims than instances");
        self.claims += 1;
        let class = self.classes.entry(claiming.spec.priority).or_default();
        class.waiting += 1;
        if claiming.waiting.is_empty() {
            self.backlog.push(share.0);
        }
        claiming.waiting.push_back(Claim { number: self.claims, arrived: class.now, estimate, payload });
        ClaimId { share, number: self.claims }
    }

    /// Takes back a claim that has not been granted; `None` where it has.
    pub fn withdraw(&mut self, claim: ClaimId, resources: &mut ResourcePool) -> Option<T> {
        let share = self.shares.get_mut(claim.share.0)?;
        let place = share.waiting.iter().position(|waiting| waiting.number == claim.number)?;
        let removed = share.waiting.remove(place)?;
        if let Some(class) = self.classes.get_mut(&share.spec.priority) {
            class.withdrawn(1);
        }
        if share.waiting.is_empty() {
            self.leave_line(claim.share, resources);
            self.backlog.retain(|index| *index != claim.share.0);
        }
        Some(removed.payload)
    }

    /// Grants the next turn, if there is a claim that can run and the slots that it takes are free. One can run of whose
    /// share not all instances run, and whose resources are free. To be called until it grants nothing, after every
    /// claim, every withdrawal and every release.
    pub fn next(&mut self, now: Timestamp, resources: &mut ResourcePool) -> Option<(Grant, T)> {
        if self.free() == 0 {
            return None;
        }
        let (order, index) = self.best(resources)?;
        if self.shares[index].spec.slots.get() > self.free() {
            // What is free is kept for it: nobody goes before whoever is next.
            return None;
        }
        self.count_passed(order, resources);
        let share = &mut self.shares[index];
        let claim = share.waiting.pop_front()?;
        let class = self.classes.entry(share.spec.priority).or_default();
        let start = order.start;
        let charged = share.spec.virtual_time(claim.estimate.unwrap_or(share.estimate));
        share.finish = start.saturating_add(charged);
        share.meter.begin(now, share.spec.slots);
        self.meter.begin(now, share.spec.slots);
        class.now = class.now.max(start);
        class.running += 1;
        class.waiting -= 1;
        class.passed = 0;
        resources.take(&share.spec.needs);
        if share.waiting.is_empty() {
            self.backlog.retain(|waiting| *waiting != index);
        }
        let share = ShareId(index);
        self.leave_line(share, resources);
        let grant = Grant { share, claim: ClaimId { share, number: claim.number }, granted_at: now, charged };
        Some((grant, claim.payload))
    }

    /// Ends a turn: its share is charged the time that it really took, in every slot that it had.
    pub fn release(&mut self, now: Timestamp, grant: Grant, resources: &mut ResourcePool) {
        let share = &mut self.shares[grant.share.0];
        let used = now.since(grant.granted_at);
        share.finish = share.finish.saturating_sub(grant.charged).saturating_add(share.spec.virtual_time(used));
        share.estimate = if share.estimate.is_zero() { used } else { (share.estimate * 3 + used) / 4 };
        share.meter.end(now, share.spec.slots);
        self.meter.end(now, share.spec.slots);
        resources.give_back(&share.spec.needs);
        let class = self.classes.entry(share.spec.priority).or_default();
        class.running -= 1;
        class.finish = class.finish.max(share.finish);
        if class.running == 0 && class.waiting == 0 {
            // Nobody waited, so nobody was wronged: what each had used before counts no more.
            class.now = class.now.max(class.finish);
        }
        self.forget_if_gone(grant.share);
    }

    /// Device time used so far, in all slots together.
    pub fn used(&self, now: Timestamp) -> Used {
        self.meter.at(now)
    }

    /// Device time that each share has used so far.
    pub fn used_by_share(&self, now: Timestamp) -> impl Iterator<Item = (&ShareSpec, Used)> {
        self.shares.iter().map(move |(_, share)| (&share.spec, share.meter.at(now)))
    }

    /// The claim that runs next among those that can.
    fn best(&self, resources: &ResourcePool) -> Option<(Order, usize)> {
        let candidates = self.backlog.iter().filter_map(|index| self.candidate(*index));
        let can_run = |(_, index): &(Order, usize)| {
            let share = &self.shares[*index];
            resources.can_take(&share.spec.needs, share.ticket)
        };
        candidates.filter(can_run).min()
    }

    /// The first claim of a share, if it has one and an instance for it.
    fn candidate(&self, index: usize) -> Option<(Order, usize)> {
        let share = self.shares.get(index)?;
        let claim = share.first()?;
        let passed = self.classes.get(&share.spec.priority).map_or(0, |class| class.passed);
        let order = Order {
            overdue: Reverse(if passed >= MAX_PASSED { passed } else { 0 }),
            priority: share.spec.priority,
            start: claim.arrived.max(share.finish),
            finish: share.finish,
            number: claim.number,
        };
        Some((order, index))
    }

    /// Notes for everyone else that this turn went to another: for lower classes, and for claims that would have been
    /// first if their resources had been free.
    fn count_passed(&mut self, granted: Order, resources: &mut ResourcePool) {
        let turn = self.meter.used.executions + 1;
        for place in 0..self.backlog.len() {
            let Some((order, index)) = self.backlog.get(place).and_then(|index| self.candidate(*index)) else {
                continue;
            };
            let share = &mut self.shares[index];
            let lower = self.classes.get_mut(&order.priority).filter(|_| order.priority > granted.priority);
            if let Some(class) = lower.filter(|class| class.counted < turn) {
                class.counted = turn;
                class.passed += 1;
            }
            if order < granted && !resources.can_take(&share.spec.needs, share.ticket) {
                share.blocked += 1;
                if share.blocked >= MAX_BLOCKED && share.ticket.is_none() {
                    share.ticket = Some(resources.queue(&share.spec.needs));
                }
            }
        }
    }

    /// The first claim of the share no longer waits for resources.
    fn leave_line(&mut self, share: ShareId, resources: &mut ResourcePool) {
        if let Some(share) = self.shares.get_mut(share.0) {
            share.blocked = 0;
            if let Some(ticket) = share.ticket.take() {
                resources.leave(ticket);
            }
        }
    }

    fn forget_if_gone(&mut self, share: ShareId) {
        if self.shares.get(share.0).is_some_and(|share| share.closing && share.meter.running == 0) {
            self.shares.remove(share.0);
            self.backlog.retain(|index| *index != share.0);
        }
    }
}
