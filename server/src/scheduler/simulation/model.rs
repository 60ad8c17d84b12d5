//! One simulated model: the real batcher, virtual instances, and in between what the driver of a real model
//! does.

use std::collections::VecDeque;

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::config::{DynamicBatching, TimeoutAction};
use crate::instance::device::schedule::Grant;
use crate::request::BatchKey;
use crate::scheduler::batcher::{DynamicBatcher, Ran, Room};
use crate::scheduler::driver::{Action, Driver, Reason};
use crate::scheduler::queue::{Lapse, Refusal, Waiting};

use super::device::{CostCurve, Run};
use super::observer::{Event, Observer};
use super::random::Random;
use super::report::{Execution, ModelReport, Outcome, Request};
use super::shared::{SimulatedShare, VirtualDevice};
use super::traffic::{Draft, Source, Traffic};

/// Requests accepted before the batcher is asked: a driver, too, looks up from its channel now and then.
const ARRIVALS_PER_TURN: usize = 256;

/// Wake-ups in a row, without an arrival or the end of an execution, after which a model is given up: one
/// that asks to be woken again and again does nothing else.
const MAX_IDLE_WAKEUPS: u32 = 1_000;

/// One model of a scenario.
#[derive(Clone, Debug)]
pub struct SimulatedModel {
    /// How it batches.
    pub policy: DynamicBatching,
    /// Its instances.
    pub instances: usize,
    /// What an execution costs.
    pub curve: CostCurve,
    /// Who calls it.
    pub traffic: Traffic,
    /// Its part of the device, where that is shared.
    pub share: SimulatedShare,
}

/// A batch on an instance.
#[derive(Debug)]
struct Running {
    batch: Batch<u32>,
    cost: u64,
    ends_at: Timestamp,
    run: Run,
    /// The turn on the device that is shared.
    grant: Option<Grant>,
}

/// A model while it runs.
#[derive(Debug)]
pub(super) struct Model {
    index: usize,
    policy: DynamicBatching,
    driver: Driver<u32>,
    actions: Vec<Action<u32>>,
    source: Source,
    keys: Vec<BatchKey>,
    curve: CostCurve,
    random: Random,
    instances: usize,
    shares_device: bool,
    running: Vec<Running>,
    /// Formed batches behind the running ones.
    ready: VecDeque<Batch<u32>>,
    wakeup: Option<Timestamp>,
    /// Turns in a row in which nobody arrived and nothing ended.
    idle_wakeups: u32,
    /// The driver was told something since it was asked.
    is_told: bool,
    /// Requests without an outcome.
    open: usize,
    /// Why the run cannot go on.
    fault: Option<String>,
    report: ModelReport,
}

impl Model {
    pub(super) fn new(index: usize, setup: &SimulatedModel, shares_device: bool, random: &mut Random) -> Self {
        let batcher = DynamicBatcher::new(setup.policy.clone(), setup.instances);
        Self {
            index,
            policy: setup.policy.clone(),
            driver: Driver::new(batcher, &setup.policy, setup.instances, shares_device),
            actions: Vec::new(),
            source: Source::new(&setup.traffic, random.fork()),
            keys: (0..setup.traffic.mix.shapes.max(1)).map(|shape| BatchKey(vec![shape])).collect(),
            curve: setup.curve,
            random: random.fork(),
            instances: setup.instances,
            shares_device,
            running: Vec::with_capacity(setup.instances),
            ready: VecDeque::new(),
            wakeup: None,
            idle_wakeups: 0,
            is_told: false,
            open: 0,
            fault: None,
            report: ModelReport::default(),
        }
    }

    /// When something happens next.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        let mut next = self.source.next_at();
        for at in self.running.iter().map(|running| running.ends_at).chain(self.wakeup) {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        next
    }

    /// Requests that have no outcome yet.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Why the run cannot go on, if so.
    pub(super) fn fault(&self) -> Option<String> {
        let restless = self.idle_wakeups > MAX_IDLE_WAKEUPS;
        self.fault.clone().or_else(|| restless.then(|| "it asks to be woken again and again".to_owned()))
    }

    pub(super) fn into_report(self) -> ModelReport {
        self.report
    }

    /// Does what is to be done at this time.
    pub(super) fn advance(&mut self, now: Timestamp, device: &mut Option<VirtualDevice>, observer: &mut impl Observer) {
        self.idle_wakeups += 1;
        self.finish(now, device, observer);
        for _ in 0..ARRIVALS_PER_TURN {
            if self.source.next_at().is_none_or(|next| next > now) {
                break;
            }
            let draft = self.source.take(now);
            self.arrive(now, &draft, observer);
        }
        self.step(now, device, observer);
    }

    /// The device that is shared is there.
    pub(super) fn seat(&mut self, now: Timestamp, device: &mut Option<VirtualDevice>, observer: &mut impl Observer) {
        self.driver.on_seat();
        self.step(now, device, observer);
    }

    fn arrive(&mut self, now: Timestamp, draft: &Draft, observer: &mut impl Observer) {
        self.idle_wakeups = 0;
        let request = self.request(now, draft);
        let number = u32::try_from(self.report.requests.len()).unwrap_or(u32::MAX);
        self.report.requests.push(request);
        self.open += 1;
        let waiting = Waiting {
            item: number,
            rows: request.rows,
            cost: request.cost,
            key: self.keys[request.shape].clone(),
            queued_at: now,
            start_by: request.start_by,
            finish_by: request.finish_by,
            delayed_from: request.delayed_from,
        };
        let mut actions = std::mem::take(&mut self.actions);
        let requests = &self.report.requests;
        self.driver.on_arrival(now, draft.priority, waiting, |item| requests[*item as usize].is_gone(now), &mut actions);
        let mut queued = true;
        for action in actions.drain(..) {
            if let Action::Refuse(item, reason) = action {
                queued &= item != number;
                self.end(now, item, outcome(reason), observer);
            }
        }
        self.actions = actions;
        if queued {
            self.report.deepest = self.report.deepest.max(self.driver.waiting());
            observer.see(self.index, now, &self.report.requests, Event::Queued(number));
        }
    }

    /// The deadlines of a request that arrives now, as the server derives them.
    fn request(&self, now: Timestamp, draft: &Draft) -> Request {
        let level = self.policy.level(draft.priority) - 1;
        let policy = self.policy.policies[level];
        let timeout = policy.timeout_for(draft.timeout).map(|timeout| now.plus(timeout));
        let finish_by = draft.deadline.map(|deadline| now.plus(deadline));
        let (start_by, delayed_from) = match policy.action {
            TimeoutAction::Reject => (finish_by.into_iter().chain(timeout).min(), None),
            TimeoutAction::Delay => (finish_by, timeout),
        };
        let leave = draft.leave.map(|leave| now.plus(leave));
        Request {
            arrived_at: now,
            rows: draft.rows,
            cost: draft.cost,
            shape: draft.shape,
            priority: draft.priority,
            start_by,
            finish_by,
            delayed_from,
            leaves_at: leave.into_iter().chain(finish_by).min(),
            outcome: Outcome::Open,
            started_at: now,
            ended_at: now,
        }
    }

    /// Does what the driver says, until it has nothing more to say.
    fn step(&mut self, now: Timestamp, device: &mut Option<VirtualDevice>, observer: &mut impl Observer) {
        loop {
            self.is_told = false;
            self.act(now, device, observer);
            if !self.is_told || self.fault.is_some() {
                break;
            }
        }
        self.wakeup = self.driver.next_wakeup(now);
        let waits_for_device = device.as_ref().is_some_and(|device| device.is_asked(self.index));
        let room = if waits_for_device { Room::None } else { self.room() };
        let settled = Event::Settled { wakeup: self.wakeup, room, waiting: self.driver.waiting() };
        observer.see(self.index, now, &self.report.requests, settled);
    }

    fn act(&mut self, now: Timestamp, device: &mut Option<VirtualDevice>, observer: &mut impl Observer) {
        let mut actions = std::mem::take(&mut self.actions);
        let requests = &self.report.requests;
        self.driver.step(now, |item| requests[*item as usize].is_gone(now), &mut actions);
        for action in actions.drain(..) {
            match (action, device.as_mut()) {
                (Action::Submit(batch), _) => {
                    let room = self.room();
                    observer.see(self.index, now, &self.report.requests, Event::Formed { batch: &batch, room });
                    self.ready.push_back(batch);
                    self.start(now, device, observer);
                }
                (Action::Refuse(item, reason), _) => self.end(now, item, outcome(reason), observer),
                (Action::Ask, Some(device)) => device.claim(self.index),
                (Action::Leave, Some(device)) => device.leave(self.index, now),
                (Action::Ask | Action::Leave, None) => {
                    self.fault = Some("it asks for a device, but it shares none".to_owned());
                }
            }
        }
        self.actions = actions;
    }

    /// Idle instances take ready batches.
    fn start(&mut self, now: Timestamp, device: &mut Option<VirtualDevice>, observer: &mut impl Observer) {
        while self.running.len() < self.instances {
            let Some(batch) = self.ready.pop_front() else {
                return;
            };
            let id = batch.origin.id;
            let requests = &self.report.requests;
            let (batch, dead) = batch.partition(|item| !requests[*item as usize].is_dead(now));
            for item in dead {
                let outcome = if self.report.requests[item as usize].is_gone(now) { Outcome::Left } else { Outcome::Expired };
                self.end(now, item, outcome, observer);
            }
            let grant = device.as_mut().and_then(|device| device.take(self.index));
            if self.shares_device && grant.is_none() {
                self.fault = Some(format!("batch {id} starts without a turn on the device"));
            }
            if batch.is_empty() {
                self.driver.on_done(now, id, None);
                self.is_told = true;
                if let (Some(device), Some(grant)) = (device.as_mut(), grant) {
                    device.release(now, grant);
                }
            } else {
                self.run(now, batch, grant, observer);
            }
        }
    }

    fn run(&mut self, now: Timestamp, batch: Batch<u32>, grant: Option<Grant>, observer: &mut impl Observer) {
        let cost = batch.members().iter().map(|member| self.report.requests[member.item as usize].cost).sum();
        let mut run = self.curve.draw(&mut self.random, batch.rows(), cost);
        if self.report.executions.is_empty() {
            run.took += self.curve.cold_start;
        }
        let first = self.report.members.len();
        let mut dead = 0;
        for member in batch.members() {
            let request = &mut self.report.requests[member.item as usize];
            request.started_at = now;
            dead += usize::from(request.is_dead(now));
            self.report.members.push((member.item, member.rows.clone()));
        }
        let ends_at = now.plus(run.took);
        self.report.executions.push(Execution {
            batch: batch.origin.id,
            formed_at: batch.origin.formed_at,
            trigger: batch.origin.trigger,
            started_at: now,
            ended_at: ends_at,
            rows: batch.rows(),
            cost,
            members: first..self.report.members.len(),
            dead,
            failed: run.failed,
        });
        observer.see(self.index, now, &self.report.requests, Event::Started { batch: &batch });
        self.running.push(Running { batch, cost, ends_at, run, grant });
    }

    /// Answers the batches that are over, and starts those that are ready behind them.
    fn finish(&mut self, now: Timestamp, device: &mut Option<VirtualDevice>, observer: &mut impl Observer) {
        while let Some(over) = self.running.iter().position(|running| running.ends_at <= now) {
            let Running { batch, cost, run, grant, .. } = self.running.swap_remove(over);
            if let (Some(device), Some(grant)) = (device.as_mut(), grant) {
                device.release(now, grant);
            }
            self.driver.on_done(now, batch.origin.id, Some(Ran { rows: batch.rows(), cost, took: run.took }));
            self.idle_wakeups = 0;
            observer.see(self.index, now, &self.report.requests, Event::Finished { batch: &batch, failed: run.failed });
            let outcome = if run.failed { Outcome::Failed } else { Outcome::Answered };
            for member in batch {
                self.settle(now, member.item, outcome);
            }
            self.start(now, device, observer);
        }
    }

    /// Ends a request that does not run.
    fn end(&mut self, now: Timestamp, item: u32, outcome: Outcome, observer: &mut impl Observer) {
        self.settle(now, item, outcome);
        observer.see(self.index, now, &self.report.requests, Event::Ended(item, outcome));
    }

    fn settle(&mut self, now: Timestamp, item: u32, outcome: Outcome) {
        let request = &mut self.report.requests[item as usize];
        if request.outcome != Outcome::Open {
            self.fault = Some(format!("request {item} ends as {outcome:?}, but it has ended as {:?}", request.outcome));
            return;
        }
        request.outcome = outcome;
        request.ended_at = now;
        let client_left = request.leaves_at;
        self.open -= 1;
        // A client that left turned to its next request then, not when the server took notice.
        self.source.answered(client_left.map_or(now, |left| left.min(now)), now);
    }

    fn prepares(&self) -> bool {
        !self.shares_device && self.policy.prepares_batches()
    }

    /// While all instances run, one batch for each may be ready behind it, unless the device is shared or the policy
    /// keeps batches open. Where answers must keep the order of the requests, one batch is under way at a time.
    fn room(&self) -> Room {
        let in_flight = self.running.len() + self.ready.len();
        if self.policy.preserve_ordering {
            return if in_flight == 0 { Room::Idle } else { Room::None };
        }
        match in_flight {
            batches if batches < self.instances => Room::Idle,
            batches if batches < 2 * self.instances && self.prepares() => Room::Behind,
            _ => Room::None,
        }
    }
}

fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::Refused(Refusal::Full { .. }) => Outcome::Full,
        Reason::Refused(Refusal::Unreachable { .. }) => Outcome::Unreachable,
        Reason::Lapsed(Lapse::Expired) => Outcome::Expired,
        Reason::Lapsed(Lapse::Unreachable) => Outcome::Lapsed,
        Reason::Gone => Outcome::Left,
    }
}
