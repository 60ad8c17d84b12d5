//! What holds for every policy, whatever comes.

use std::collections::HashMap;

use proptest::prelude::*;

use crate::scheduler::queue::Lapse;

use super::super::{CHECK_EVERY, PASS_OVER, PATIENCE};
use super::*;

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Push(Shape),
    Leave(usize),
    /// In units of 100 µs.
    Advance(u64),
    Poll(Room),
    /// The oldest batch ends.
    Finish,
}

/// What is pushed; times count from the push, in units of 100 µs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) cost: u64,
    pub(super) level: u64,
    pub(super) key: usize,
    pub(super) start_by: Option<u64>,
    pub(super) finish_by: Option<u64>,
    pub(super) delayed_from: Option<u64>,
}

/// Everything about a policy that is chosen at random.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) levels: usize,
    pub(super) delay: Option<u64>,
    pub(super) max_cost: Option<u64>,
    pub(super) preserve_ordering: bool,
    pub(super) instances: usize,
    pub(super) compat: bool,
    pub(super) run_ahead: bool,
}

impl Choice {
    pub(super) fn policy(&self) -> DynamicBatching {
        let mut policy = with_levels(policy(4), self.levels);
        policy.preferred_rows = vec![2, 4];
        policy.window = match self.delay {
            Some(millis) => WindowPolicy::Fixed(Duration::from_millis(millis)),
            None => WindowPolicy::Auto { cap: None },
        };
        policy.max_cost = self.max_cost.and_then(NonZeroU64::new);
        policy.preserve_ordering = self.preserve_ordering && self.levels == 1;
        policy.run_ahead = self.run_ahead;
        if self.compat {
            policy.batcher = BatcherKind::Compat;
            policy.max_cost = None;
        }
        policy
    }
}

pub(super) fn choice() -> impl Strategy<Value = Choice> {
    let limits = (1usize..4, proptest::option::of(0u64..6), proptest::option::of(3u64..12));
    (limits, any::<bool>(), 1usize..3, any::<bool>(), any::<bool>()).prop_map(
        |((levels, delay, max_cost), preserve_ordering, instances, compat, run_ahead)| Choice {
            levels,
            delay,
            max_cost,
            preserve_ordering,
            instances,
            compat,
            run_ahead,
        },
    )
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = || proptest::option::weighted(0.4, 0u64..300);
    let shape = (0usize..5, 1u64..6, 0u64..4, 0usize..3, time(), time(), time());
    let push = shape.prop_map(|(rows, cost, level, key, start_by, finish_by, delayed_from)| {
        Step::Push(Shape { rows, cost, level, key, start_by, finish_by, delayed_from })
    });
    let room = prop_oneof![3 => Just(Room::Idle), 2 => Just(Room::Behind), 1 => Just(Room::None)];
    let step = prop_oneof![
        6 => push,
        1 => (0usize..60).prop_map(Step::Leave),
        2 => (0u64..40).prop_map(Step::Advance),
        4 => room.prop_map(Step::Poll),
        2 => Just(Step::Finish),
    ];
    proptest::collection::vec(step, 1..150)
}

pub(super) fn tenths(count: u64) -> Timestamp {
    Timestamp::from_nanos(count * 100_000)
}

pub(super) fn entry(item: usize, shape: Shape, now: u64) -> Waiting<usize> {
    let time = |after: Option<u64>| after.map(|after| tenths(now + after));
    Waiting {
        item,
        rows: shape.rows,
        cost: shape.cost,
        key: BatchKey(vec![shape.key]),
        queued_at: tenths(now),
        start_by: time(shape.start_by),
        finish_by: time(shape.finish_by),
        delayed_from: time(shape.delayed_from),
    }
}

/// How long a batch of this cost takes here.
pub(super) fn took(cost: u64) -> Duration {
    Duration::from_micros(1000 + 300 * cost)
}

/// What a run knows besides the batcher itself.
struct Ledger {
    batcher: DynamicBatcher<usize>,
    policy: DynamicBatching,
    now: u64,
    entries: Vec<Waiting<usize>>,
    levels: Vec<usize>,
    waiting: HashSet<usize>,
    left: HashSet<usize>,
    in_flight: Vec<(u64, u64)>,
    /// The entry that was served last, of those that are alike in level, key and deadlines.
    last_served: HashMap<(usize, usize), usize>,
    ended: usize,
}

impl Ledger {
    fn new(choice: &Choice) -> Self {
        Self {
            batcher: DynamicBatcher::new(choice.policy(), choice.instances),
            policy: choice.policy(),
            now: 0,
            entries: Vec::new(),
            levels: Vec::new(),
            waiting: HashSet::new(),
            left: HashSet::new(),
            in_flight: Vec::new(),
            last_served: HashMap::new(),
            ended: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(shape) => self.push(shape),
            Step::Leave(item) => drop(self.left.insert(item)),
            Step::Advance(tenths) => self.now += tenths,
            Step::Poll(room) => {
                self.poll(room);
            }
            Step::Finish => self.finish(),
        }
        assert_eq!(self.batcher.len(), self.waiting.len());
    }

    fn ends(&mut self, item: usize) {
        assert!(self.waiting.remove(&item), "{item} ended twice, or never came");
        self.ended += 1;
    }

    fn push(&mut self, shape: Shape) {
        let item = self.entries.len();
        let entry = entry(item, shape, self.now);
        self.entries.push(entry.clone());
        self.levels.push(self.policy.level(shape.level));
        let mut gone = Vec::new();
        let left = &self.left;
        let pushed = self.batcher.push(tenths(self.now), shape.level, entry, |item| left.contains(item), &mut gone);
        self.waiting.insert(item);
        for item in gone {
            assert!(self.left.contains(&item));
            self.ends(item);
        }
        if let Err((item, _)) = pushed {
            self.ends(item);
        }
        for (depth, level) in self.batcher.depth().zip(&self.policy.policies) {
            assert!(depth <= level.max_entries.get());
        }
    }

    fn poll(&mut self, room: Room) -> bool {
        let now = tenths(self.now);
        for (item, lapse) in self.batcher.expire(now) {
            let entry = &self.entries[item];
            let is_over = entry.start_by.into_iter().chain(entry.finish_by).any(|deadline| deadline <= now);
            let has_deadline = entry.start_by.is_some() || entry.finish_by.is_some();
            assert!(is_over || lapse == Lapse::Unreachable && has_deadline);
            self.ends(item);
        }
        let mut gone = Vec::new();
        let left = &self.left;
        let batch = self.batcher.poll(now, room, |item| left.contains(item), &mut gone);
        for item in gone {
            assert!(self.left.contains(&item));
            self.ends(item);
        }
        let Some(batch) = batch else { return false };
        assert!(room != Room::None);
        self.in_flight.push((batch.origin.id, batch.origin.cost));
        self.check(&batch);
        true
    }

    /// One key, within the limits, rows without gaps, nobody who left or is late, and first in first out.
    fn check(&mut self, batch: &Batch<usize>) {
        let (max_rows, now) = (self.policy.max_rows.get(), tenths(self.now));
        assert!((batch.rows() <= max_rows || batch.len() == 1) && (1..=max_rows).contains(&batch.len()));
        assert!(self.policy.max_cost.is_none_or(|max| batch.origin.cost <= max.get() || batch.len() == 1));
        let key = self.entries[batch.members()[0].item].key.clone();
        let (mut end, mut cost) = (0, 0);
        for member in batch.members() {
            let entry = self.entries[member.item].clone();
            assert_eq!((&entry.key, member.rows.start, member.rows.len()), (&key, end, entry.rows));
            (end, cost) = (member.rows.end, cost + entry.cost);
            if self.policy.batcher == BatcherKind::Default {
                assert!(!self.left.contains(&member.item), "{} has left", member.item);
                assert!(entry.start_by.into_iter().chain(entry.finish_by).all(|deadline| deadline > now));
            }
            if (entry.start_by, entry.finish_by, entry.delayed_from) == (None, None, None) {
                let last = self.last_served.insert((self.levels[member.item], key.0[0]), member.item);
                assert!(last <= Some(member.item));
            }
            self.ends(member.item);
        }
        assert_eq!((batch.rows(), batch.origin.cost), (end, cost));
    }

    fn finish(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let (id, cost) = self.in_flight.remove(0);
        self.batcher.finish(tenths(self.now), id, Some(Ran { rows: 1, cost, took: took(cost) }));
    }
}

/// The steps of a driver: it looks when something happens, and when the batcher asked it to.
struct Driver {
    ledger: Ledger,
    instances: usize,
    /// When the batches in flight end.
    ends: Vec<u64>,
}

impl Driver {
    fn room(&self) -> Room {
        match (self.ledger.in_flight.len(), self.ledger.policy.preserve_ordering) {
            (0, _) => Room::Idle,
            (_, true) => Room::None,
            (batches, _) if batches < self.instances => Room::Idle,
            (batches, _) if batches < 2 * self.instances => Room::Behind,
            _ => Room::None,
        }
    }

    fn dispatch(&mut self) {
        while self.ledger.poll(self.room()) {
            let busy_until =
                if self.ends.len() < self.instances { self.ledger.now } else { self.ends[self.ends.len() - self.instances] };
            let cost = self.ledger.in_flight.last().map_or(0, |(_, cost)| *cost);
            let took = took(cost).as_nanos() as u64;
            self.ends.push(busy_until.max(self.ledger.now) + took.div_ceil(100_000));
            self.ends.sort_unstable();
        }
    }

    /// Goes on to a time, from one event to the next.
    fn advance(&mut self, until: u64) {
        for _ in 0..10_000 {
            let wakeup = self.ledger.batcher.next_wakeup(tenths(self.ledger.now), self.room());
            let wakeup = wakeup.map(|at| at.as_nanos().div_ceil(100_000));
            let Some(next) = wakeup.into_iter().chain(self.ends.first().copied()).min().filter(|next| *next <= until) else {
                self.ledger.now = self.ledger.now.max(until);
                return;
            };
            self.ledger.now = self.ledger.now.max(next);
            if self.ends.first().is_some_and(|end| *end <= self.ledger.now) {
                self.ends.remove(0);
                self.ledger.finish();
            }
            self.dispatch();
        }
        panic!("the batcher asks to be called again and again, and nothing happens");
    }
}

/// Time between two batches where somebody could starve, in units of 100 µs.
const TURN: u64 = 20;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_overfilled(steps in steps(), choice in choice()) {
        let mut ledger = Ledger::new(&choice);
        for step in steps {
            ledger.step(step);
        }
        // Every queue holds at most four, and the payload of Triton's policy four more.
        for _ in 0..4 * choice.levels + 8 {
            ledger.now += 100_000;
            ledger.finish();
            ledger.poll(Room::Idle);
        }
        prop_assert!(ledger.batcher.is_empty());
        prop_assert_eq!(ledger.ended, ledger.entries.len());
    }

    /// The batcher is only called when something happens or when it asked for it; all the same everybody is answered,
    /// nobody waits while an instance is idle for longer than a window, and nobody waits past a deadline.
    #[test]
    fn nothing_waits_without_a_wakeup(steps in steps(), choice in choice()) {
        let mut driver = Driver { ledger: Ledger::new(&choice), instances: choice.instances, ends: Vec::new() };
        for step in steps {
            match step {
                Step::Push(shape) => {
                    driver.ledger.push(shape);
                    driver.dispatch();
                }
                Step::Advance(by) => driver.advance(driver.ledger.now + by),
                Step::Leave(item) => drop(driver.ledger.left.insert(item)),
                Step::Poll(_) | Step::Finish => {}
            }
            let ledger = &driver.ledger;
            for item in ledger.waiting.iter().filter(|item| !ledger.left.contains(item)) {
                let entry = &ledger.entries[*item];
                let slack = if choice.compat { CHECK_EVERY } else { Duration::from_micros(100) };
                let deadlines = entry.start_by.into_iter().chain(entry.finish_by.filter(|_| !choice.compat));
                prop_assert!(choice.compat || deadlines.min().is_none_or(|deadline| tenths(ledger.now) < deadline.plus(slack)));
            }
        }
        // Whatever waits runs within the windows and the executions of all, with nobody calling.
        driver.advance(driver.ledger.now + 20_000);
        prop_assert!(driver.ledger.batcher.is_empty(), "{} wait without a wake-up", driver.ledger.batcher.len());
        prop_assert_eq!(driver.ledger.ended, driver.ledger.entries.len());
    }

    /// One request at the lowest level, of a shape of its own, among a flood of others: it leads a batch after at most as
    /// many others as the rule allows, and in its own level after its patience at the latest.
    #[test]
    fn nobody_starves(levels in 1usize..4, flood in proptest::collection::vec((1u64..4, 0usize..3, 1u64..5000), 20..60)) {
        let mut batcher = DynamicBatcher::new(with_entries(with_levels(policy(2), levels), 10_000), 1);
        let level = levels as u64;
        let mut now = 0;
        let shape = |key, deadline: Option<u64>| Shape { rows: 1, cost: 1, level: 0, key, start_by: deadline, finish_by: None, delayed_from: None };
        batcher.push(tenths(0), level, entry(0, shape(9, None), 0), |_| false, &mut Vec::new()).unwrap();
        let mut batches = 0u64;
        let served = flood.iter().cycle().take(900).any(|(level, key, deadline)| {
            now += TURN;
            for _ in 0..4 {
                let item = entry(1, shape(*key, Some(*deadline)), now);
                batcher.push(tenths(now), *level, item, |_| false, &mut Vec::new()).unwrap();
            }
            batcher.expire(tenths(now));
            let batch = batcher.poll(tenths(now), Room::Idle, |_| false, &mut Vec::new());
            batches += u64::from(batch.is_some());
            batch.is_some_and(|batch| batch.members()[0].item == 0)
        });
        prop_assert!(served, "it never ran");
        // Behind the more urgent of its own level until it is due itself, then behind the levels that also have to wait.
        let patience = PATIENCE.as_nanos() as u64 / (100_000 * TURN);
        prop_assert!(batches <= patience + (PASS_OVER + 1) * (levels as u64 + 1), "{batches} batches went before it");
    }
}
