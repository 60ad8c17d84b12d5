//! The task of a model with sequence batching: it owns the sequences, forms batches and hands them to instances.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::batch::{Batch, Origin};
use crate::clock::{self, Timestamp};
use crate::config::{SequenceBatching, SequenceStrategy};
use crate::error::{InferError, RequestTag, SequenceFault};
use crate::instance::{BatchDone, InstancePool};
use crate::observe::statistics::{ModelStatistics, Stage};
use crate::request::{Entry, ValidRequest};

use super::super::Scheduler;
use super::super::batcher::{DynamicBatcher, Ran, Room};
use super::super::timer::{Bell, Timer};
use super::rows::{Patience, Rows, next_rows};
use super::sequences::{Arrival, Key, Lapse, Limits, Refusal, Sequences, Taken};
use super::sink::{Report, Reports, SequenceSink};
use super::tensors::{Memory, Tensors};

/// Entries taken from the channel at a time, so that a flood of arrivals does not keep batches from starting.
const ARRIVALS_PER_TURN: usize = 256;

/// Most entries on their way to the task, whatever the queue allows: a limit of the channel itself.
const MAX_TRANSIT: usize = 1 << 20;

/// How often the task looks for clients that have left, while requests wait. It looks at all that waits.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Handle on the task: it passes entries on.
pub struct SequenceScheduler {
    sender: mpsc::Sender<Entry>,
    statistics: Arc<ModelStatistics>,
    reports: Arc<Reports>,
}

impl SequenceScheduler {
    /// Starts the task on the current tokio runtime. It ends when the handle is dropped, all that waited has run and
    /// no sequence has a request any more.
    pub fn start(policy: &SequenceBatching, instances: InstancePool, statistics: Arc<ModelStatistics>) -> Self {
        let (sender, receiver) = mpsc::channel(policy.max_entries.get().min(MAX_TRANSIT));
        let reports = Arc::<Reports>::default();
        let for_hook = Arc::clone(&reports);
        instances.on_done(move |done| for_hook.add(Report::Done(*done)));
        let config = Arc::clone(&instances.served().config);
        let Some(tensors) = Tensors::new(&config, policy) else {
            tracing::error!(model = %config.name, "a first state is not of its state's shape; the model refuses all requests");
            return Self { sender, statistics, reports };
        };
        let count = instances.instances();
        let (slots, lanes) = match &policy.strategy {
            SequenceStrategy::Direct { slots, .. } => (*slots, (0..count).map(|_| Lane::default()).collect()),
            SequenceStrategy::Oldest { candidates, batching } => {
                let lane = || Lane { in_flight: 0, batcher: Some(DynamicBatcher::new(batching.clone(), 1)) };
                (*candidates, (0..count).map(|_| lane()).collect())
            }
        };
        let limits = Limits { instances: count, slots, max_entries: policy.max_entries, max_idle: policy.max_idle };
        let task = Task {
            sequences: Sequences::new(limits),
            strategy: policy.strategy.clone(),
            model: Arc::clone(&config.name),
            tensors: Arc::new(tensors),
            lanes,
            running: HashMap::new(),
            batches: 0,
            padding: None,
            swept_at: Timestamp::default(),
            closing: false,
            hurries: false,
            wakeup: None,
            instances,
            statistics: Arc::clone(&statistics),
            reports: Arc::clone(&reports),
        };
        tokio::spawn(task.run(receiver));
        Self { sender, statistics, reports }
    }
}

impl Scheduler for SequenceScheduler {
    fn enqueue(&self, group: Vec<Entry>) {
        for entry in group {
            self.statistics.enter_queue(entry.level);
            if let Err(error) = self.sender.try_send(entry) {
                let (entry, stopped) = match error {
                    mpsc::error::TrySendError::Full(entry) => (entry, false),
                    mpsc::error::TrySendError::Closed(entry) => (entry, true),
                };
                let error = if stopped { InferError::SchedulerStopped } else { entry.queue_full() };
                self.statistics.refuse_queued(entry, error, Stage::Admission, clock::now());
            }
        }
    }

    fn release(&self) {
        self.reports.add(Report::Hurry);
    }
}

/// One instance, as the task sees it.
#[derive(Default)]
struct Lane {
    /// Batches that it has and has not finished.
    in_flight: usize,
    /// With the strategy oldest: what batches its sequences' requests.
    batcher: Option<DynamicBatcher<Entry>>,
}

/// A batch that an instance has.
struct Running {
    instance: usize,
    /// What the lane's batcher calls it.
    inner: Option<u64>,
}

/// The task: the only owner of the sequences, so there is no lock.
struct Task {
    sequences: Sequences<Entry, Memory>,
    strategy: SequenceStrategy,
    model: Arc<str>,
    tensors: Arc<Tensors>,
    lanes: Vec<Lane>,
    /// By the number of the batch. At most two for each instance.
    running: HashMap<u64, Running>,
    batches: u64,
    /// What filled the rows of the last batch that belonged to nobody; most batches are like the one before.
    padding: Option<Arc<ValidRequest>>,
    swept_at: Timestamp,
    closing: bool,
    /// Nothing waits for further sequences any more.
    hurries: bool,
    /// When a batch is due that waits for more requests.
    wakeup: Option<Timestamp>,
    instances: InstancePool,
    statistics: Arc<ModelStatistics>,
    reports: Arc<Reports>,
}

impl Task {
    async fn run(mut self, mut receiver: mpsc::Receiver<Entry>) {
        let reports = Arc::clone(&self.reports);
        let mut alarm = Timer::shared().alarm(Arc::clone(&reports) as Arc<dyn Bell>);
        let mut arrivals = Vec::with_capacity(ARRIVALS_PER_TURN);
        while !(self.closing && self.sequences.is_empty()) {
            if let Some(wakeup) = self.next_wakeup() {
                alarm.ring_by(wakeup, clock::now());
            }
            tokio::select! {
                received = receiver.recv_many(&mut arrivals, ARRIVALS_PER_TURN), if !self.closing => {
                    if received == 0 {
                        self.closing = true;
                        self.hurry();
                    }
                }
                () = reports.arrived() => {}
            }
            let now = clock::now();
            for entry in arrivals.drain(..) {
                self.accept(entry, now);
            }
            self.step(now);
        }
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        let waiting = self.sequences.len() + self.instances.waiting();
        let sweep = (waiting > 0).then(|| self.swept_at.plus(SWEEP_INTERVAL));
        let lapse = self.instances.next_lapse();
        self.sequences.next_wakeup().into_iter().chain(sweep).chain(lapse).chain(self.wakeup).min()
    }

    fn accept(&mut self, entry: Entry, now: Timestamp) {
        let options = &entry.request.options;
        let arrival = Arrival {
            id: options.sequence_id.clone(),
            start: options.sequence_start,
            end: options.sequence_end,
            queued_at: entry.queued_at,
            start_by: entry.deadline,
            item: entry,
        };
        if let Err((entry, refusal)) = self.sequences.push(arrival) {
            let error = match refusal {
                Refusal::Full => InferError::QueueFull { tag: RequestTag(entry.request.id.clone()), retry_after: None },
                Refusal::NoStart => {
                    let id = entry.request.options.sequence_id.to_string();
                    SequenceFault::NoStart { model: self.model.to_string(), id }.into()
                }
            };
            self.refuse(entry, error, Stage::Admission, now);
        }
    }

    /// Everything that is to be done now.
    fn step(&mut self, now: Timestamp) {
        for report in self.reports.take() {
            self.take_report(report, now);
        }
        let lapsed = self.sequences.expire(now);
        self.drop_lapsed(lapsed, now);
        // Batches wait for an instance where that waits for its device.
        if self.instances.next_lapse().is_some_and(|lapse| lapse <= now) {
            self.instances.expire(now);
        }
        if now >= self.swept_at.plus(SWEEP_INTERVAL) {
            self.swept_at = now;
            let lapsed = self.sequences.sweep(is_gone);
            self.drop_lapsed(lapsed, now);
            self.instances.sweep(now);
        }
        self.wakeup = None;
        for instance in 0..self.lanes.len() {
            match self.strategy {
                SequenceStrategy::Direct { max_queue_delay, minimum_ready, .. } => {
                    let patience = Patience { max_queue_delay, minimum_ready: if self.hurries { 0 } else { minimum_ready } };
                    self.run_rows(instance, &patience, now);
                }
                SequenceStrategy::Oldest { .. } => self.run_oldest(instance, now),
            }
        }
    }

    fn take_report(&mut self, report: Report, now: Timestamp) {
        match report {
            Report::Over { key, outcome, states } => {
                if let Some(memory) = self.sequences.memory(key) {
                    for (number, value) in states {
                        if let Some(slot) = memory.get_mut(number) {
                            *slot = value;
                        }
                    }
                }
                let lapsed = self.sequences.finish(now, key, outcome);
                self.drop_lapsed(lapsed, now);
            }
            Report::Done(done) => self.end_batch(&done, now),
            Report::Hurry => self.hurry(),
        }
    }

    /// Nobody goes on with a sequence of which nothing waits or runs, so it makes room for those in the backlog; and
    /// nothing waits for others to join it.
    fn hurry(&mut self) {
        self.hurries = true;
        self.sequences.close();
        for batcher in self.lanes.iter_mut().filter_map(|lane| lane.batcher.as_mut()) {
            batcher.release();
        }
    }

    fn end_batch(&mut self, done: &BatchDone, now: Timestamp) {
        let Some(Running { instance, inner }) = self.running.remove(&done.origin.id) else {
            return;
        };
        let lane = &mut self.lanes[instance];
        lane.in_flight -= 1;
        if let (Some(batcher), Some(inner)) = (&mut lane.batcher, inner) {
            let took = done.ended_at.since(done.started_at);
            let ran = (done.rows > 0).then_some(Ran { rows: done.rows, cost: done.origin.cost, took });
            batcher.finish(now, inner, ran);
        }
    }

    /// Ends the sequences of an instance whose next request nobody wants any more.
    fn drop_gone_heads(&mut self, instance: usize, now: Timestamp) {
        let gone: Vec<Key> = self.sequences.heads(instance).filter(|head| is_gone(head.item)).map(|head| head.key).collect();
        for key in gone {
            let lapsed = self.sequences.cancel(key);
            self.drop_lapsed(lapsed, now);
        }
    }

    /// The direct strategy: an idle instance gets the next request of each of its sequences. Batches are not made
    /// ready behind a running one: its sequences' next requests could not be in them.
    fn run_rows(&mut self, instance: usize, patience: &Patience, now: Timestamp) {
        if self.lanes[instance].in_flight > 0 || !self.sequences.is_ready(instance) {
            return;
        }
        self.drop_gone_heads(instance, now);
        let tensors = Arc::clone(&self.tensors);
        let rows = next_rows(&mut self.sequences, now, instance, patience, |a, b| {
            tensors.are_alike((&a.item.request, a.memory), (&b.item.request, b.memory))
        });
        let (rows, trigger) = match rows {
            Rows::Run { rows, trigger } => (rows, trigger),
            Rows::Wait(until) => return self.wake_by(Some(until)),
            Rows::Rest => return,
        };
        let mut entries: Vec<Option<Entry>> = rows.into_iter().map(|row| row.map(|taken| self.prepare(taken))).collect();
        let Some(padding) = entries.iter().flatten().next().map(|entry| self.padding_like(&entry.request)) else {
            return;
        };
        let mut batch = Batch::default();
        let cost = entries.iter().flatten().map(|entry| entry.request.cost).fold(0, u64::saturating_add);
        for entry in entries.drain(..) {
            let entry = match entry {
                Some(entry) => Entry { stand_in: Some(Arc::clone(&padding)), ..entry },
                None => Entry::padding(&padding),
            };
            batch.push(entry, 1);
        }
        batch.origin = Origin { id: 0, formed_at: now, trigger, cost };
        self.submit(instance, batch, None, now);
    }

    /// The strategy oldest: the next requests of an instance's sequences go through a dynamic batcher.
    fn run_oldest(&mut self, instance: usize, now: Timestamp) {
        self.drop_gone_heads(instance, now);
        let keys: Vec<Key> = self.sequences.heads(instance).map(|head| head.key).collect();
        for key in keys {
            if let Some(taken) = self.sequences.take(key) {
                let entry = self.prepare(taken);
                self.batch_later(instance, entry, now);
            }
        }
        let Some(batcher) = &mut self.lanes[instance].batcher else { return };
        for (entry, lapse) in batcher.expire(now) {
            self.refuse(entry, lapse.error(), Stage::Queue, now);
        }
        loop {
            let room = self.room(instance);
            let mut gone = Vec::new();
            let Some(batcher) = &mut self.lanes[instance].batcher else { return };
            let batch = batcher.poll(now, room, is_gone, &mut gone);
            for entry in gone {
                self.refuse(entry, InferError::Cancelled, Stage::Queue, now);
            }
            let Some(batch) = batch else { break };
            let inner = batch.origin.id;
            self.submit(instance, batch, Some(inner), now);
        }
        let room = self.room(instance);
        let Some(batcher) = &mut self.lanes[instance].batcher else { return };
        let wakeup = batcher.next_wakeup(now, room);
        self.wake_by(wakeup);
    }

    fn batch_later(&mut self, instance: usize, entry: Entry, now: Timestamp) {
        let Some(batcher) = &mut self.lanes[instance].batcher else { return };
        let mut gone = Vec::new();
        let pushed = batcher.push(now, 0, entry.into(), is_gone, &mut gone);
        for entry in gone {
            self.refuse(entry, InferError::Cancelled, Stage::Queue, now);
        }
        if let Err((entry, refusal)) = pushed {
            let error = refusal.error(&entry);
            self.refuse(entry, error, Stage::Queue, now);
        }
    }

    /// While an instance runs, one batch may be ready behind it. Where answers must keep the order of the requests, one
    /// batch is under way at a time.
    fn room(&self, instance: usize) -> Room {
        let prepares_batches = match &self.strategy {
            SequenceStrategy::Oldest { batching, .. } => batching.prepares_batches(),
            SequenceStrategy::Direct { .. } => false,
        };
        match self.lanes[instance].in_flight {
            0 => Room::Idle,
            1 if prepares_batches => Room::Behind,
            _ => Room::None,
        }
    }

    /// A request that is to run now, as its model sees it.
    fn prepare(&mut self, taken: Taken<Entry>) -> Entry {
        let Taken { key, item: mut entry, .. } = taken;
        if let Some(memory) = self.sequences.memory(key) {
            self.tensors.fill(&mut entry.request, memory);
        }
        Entry { responder: SequenceSink::wrap(entry.responder, key, &self.tensors, &self.reports), ..entry }
    }

    /// Padding for a batch of such requests.
    fn padding_like(&mut self, model: &ValidRequest) -> Arc<ValidRequest> {
        fn shapes(request: &ValidRequest) -> impl Iterator<Item = Option<&crate::tensor::Shape>> {
            request.inputs.iter().map(|input| input.as_ref().map(crate::tensor::Tensor::shape))
        }
        match &self.padding {
            Some(padding) if shapes(padding).eq(shapes(model)) => Arc::clone(padding),
            _ => Arc::clone(self.padding.insert(Arc::new(self.tensors.padding(model)))),
        }
    }

    fn submit(&mut self, instance: usize, mut batch: Batch<Entry>, inner: Option<u64>, now: Timestamp) {
        self.batches += 1;
        batch.origin.id = self.batches;
        self.running.insert(self.batches, Running { instance, inner });
        self.lanes[instance].in_flight += 1;
        if let Err(batch) = self.instances.try_submit_to(instance, batch) {
            // The lane said there was a place; a pool that has none is one whose instances are gone.
            let done = BatchDone { origin: batch.origin, rows: 0, started_at: now, ended_at: now };
            self.end_batch(&done, now);
            for member in batch.into_iter().filter(|member| !member.item.is_padding()) {
                self.refuse(member.item, InferError::SchedulerStopped, Stage::Queue, now);
            }
        }
    }

    fn drop_lapsed(&self, lapsed: Vec<(Entry, Lapse)>, now: Timestamp) {
        for (entry, lapse) in lapsed {
            let error = match lapse {
                Lapse::Expired => InferError::Expired,
                Lapse::SequenceExpired => SequenceFault::Expired.into(),
                Lapse::Canceled => InferError::Cancelled,
            };
            self.refuse(entry, error, Stage::Queue, now);
        }
    }

    fn refuse(&self, entry: Entry, error: InferError, stage: Stage, now: Timestamp) {
        self.statistics.refuse_queued(entry, error, stage, now);
    }

    fn wake_by(&mut self, time: Option<Timestamp>) {
        self.wakeup = self.wakeup.into_iter().chain(time).min();
    }
}

fn is_gone(entry: &Entry) -> bool {
    entry.responder.cancellation().is_cancelled()
}
