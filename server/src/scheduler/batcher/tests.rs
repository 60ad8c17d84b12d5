//! Scripts that pin which batch starts when, and properties that pin that nothing is lost.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::config::{DynamicBatching, WindowPolicy};
use crate::request::BatchKey;
use crate::scheduler::queue::Waiting;

use super::{DynamicBatcher, Room};

fn policy(max_rows: usize) -> DynamicBatching {
    let max_rows = NonZeroUsize::new(max_rows).unwrap();
    DynamicBatching::plain(max_rows, NonZeroUsize::new(4).unwrap())
}

fn with_levels(mut policy: DynamicBatching, levels: usize) -> DynamicBatching {
    policy.priority_levels = NonZeroUsize::new(levels).unwrap();
    policy.policies = vec![policy.policies[0]; levels];
    policy
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

/// Runs a script, one step a line, and compares what the batcher says to each:
/// `push NAME [rows=N] [cost=N] [level=N] [key=N] [start_by=MS] [finish_by=MS] [delayed_from=MS]`, `leave NAME`, `advance MS`, `poll idle|behind`,
/// `expire`, `wakeup`. Times are in milliseconds since the start.
fn check(policy: DynamicBatching, script: &str, expected: Expect) {
    check_on(DynamicBatcher::new(policy, 1), script, &expected);
}

fn check_on(mut batcher: DynamicBatcher<String>, script: &str, expected: &Expect) {
    let mut now = 0u64;
    let mut left: HashSet<String> = HashSet::new();
    let mut log = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).map(|value| value.parse::<u64>().unwrap());
        match words[0] {
            "push" => {
                let entry = Waiting {
                    item: words[1].to_owned(),
                    rows: value("rows=").unwrap_or(1) as usize,
                    cost: value("cost=").unwrap_or(1),
                    key: BatchKey(value("key=").map(|key| key as usize).into_iter().collect()),
                    queued_at: at(now),
                    start_by: value("start_by=").map(at),
                    finish_by: value("finish_by=").map(at),
                    delayed_from: value("delayed_from=").map(at),
                };
                let mut gone = Vec::new();
                let level = value("level=").unwrap_or(0);
                if let Err((item, refusal)) = batcher.push(at(now), level, entry, |item| left.contains(item), &mut gone) {
                    writeln!(log, "{now}: {item} refused: {refusal:?}").unwrap();
                }
            }
            "leave" => drop(left.insert(words[1].to_owned())),
            "advance" => now += words[1].parse::<u64>().unwrap(),
            "expire" => writeln!(log, "{now}: expired {:?}", batcher.expire(at(now))).unwrap(),
            "wakeup" => {
                let wakeup = batcher.next_wakeup(at(now), Room::Idle).map(|time| time.as_nanos() / 1_000_000);
                writeln!(log, "{now}: wakeup {wakeup:?}").unwrap();
            }
            "poll" => {
                let room = if words[1] == "idle" { Room::Idle } else { Room::Behind };
                let mut gone = Vec::new();
                let batch = batcher.poll(at(now), room, |item| left.contains(item), &mut gone);
                let text = match batch {
                    None => "nothing".to_owned(),
                    Some(batch) => batch
                        .into_iter()
                        .map(|m| format!("{}[{}..{}]", m.item, m.rows.start, m.rows.end))
                        .collect::<Vec<_>>()
                        .join(" "),
                };
                let gone = if gone.is_empty() { String::new() } else { format!(" gone {gone:?}") };
                writeln!(log, "{now}: {text}{gone}").unwrap();
            }
            other => panic!("unknown step {other}"),
        }
    }
    expected.assert_eq(&log);
}

#[test]
fn an_idle_instance_never_waits_without_a_delay() {
    check(
        policy(4),
        "push a
         poll idle
         poll idle
         push b rows=2
         push c
         poll behind
         poll idle",
        expect![[r#"
            0: a[0..1]
            0: nothing
            0: nothing
            0: b[0..2] c[2..3]
        "#]],
    );
}

#[test]
fn a_full_batch_may_wait_behind_a_running_one() {
    check(
        policy(2),
        "push a
         push b
         push c
         poll behind
         poll behind",
        expect![[r#"
            0: a[0..1] b[1..2]
            0: nothing
        "#]],
    );
}

#[test]
fn a_held_batcher_starts_when_enough_wait_and_then_goes_on() {
    check_on(
        DynamicBatcher::new(policy(4), 1).held_until(3),
        "push a
         push b
         poll idle
         wakeup
         push c
         poll idle
         push d
         poll idle",
        &expect![[r#"
            0: nothing
            0: wakeup None
            0: a[0..1] b[1..2] c[2..3]
            0: d[0..1]
        "#]],
    );
}

#[test]
fn requests_are_never_split() {
    check(
        policy(4),
        "push a rows=3
         push b rows=2
         push c
         poll idle
         poll idle",
        expect![[r#"
            0: a[0..3]
            0: b[0..2] c[2..3]
        "#]],
    );
}

#[test]
fn the_delay_runs_from_the_oldest_request() {
    let mut policy = policy(8);
    policy.window = WindowPolicy::Fixed(Duration::from_millis(5));
    policy.preferred_rows = vec![4, 8];
    check(
        policy,
        "push a
         poll idle
         wakeup
         advance 3
         push b
         poll idle
         advance 2
         poll idle
         push c rows=2
         push d rows=2
         poll idle",
        expect![[r#"
            0: nothing
            0: wakeup Some(5)
            3: nothing
            5: a[0..1] b[1..2]
            5: c[0..2] d[2..4]
        "#]],
    );
}

#[test]
fn other_shapes_do_not_hold_up_a_batch() {
    check(
        policy(4),
        "push a key=1
         push b key=2
         push c key=1
         push d key=2
         poll idle
         poll idle",
        expect![[r#"
            0: a[0..1] c[1..2]
            0: b[0..1] d[1..2]
        "#]],
    );
}

#[test]
fn with_preserved_order_nothing_overtakes() {
    let mut policy = policy(4);
    policy.preserve_ordering = true;
    check(
        policy,
        "push a key=1
         push b key=2
         push c key=1
         poll idle
         poll idle
         poll idle",
        expect![[r#"
            0: a[0..1]
            0: b[0..1]
            0: c[0..1]
        "#]],
    );
}

#[test]
fn higher_levels_go_first_and_bounds_hold_per_level() {
    check(
        with_levels(policy(8), 2),
        "push low level=2
         push high level=1
         push default level=9
         poll idle
         push a level=2
         push b level=2
         push c level=2
         push d level=2
         push e level=2
         push f level=1",
        expect![[r#"
            0: high[0..1] default[1..2] low[2..3]
            0: e refused: Full { retry_after: None }
        "#]],
    );
}

#[test]
fn late_requests_are_refused_or_served_last() {
    check(
        policy(1),
        "push a start_by=5
         push b
         wakeup
         advance 5
         expire
         poll idle",
        expect![[r#"
            0: wakeup Some(0)
            5: expired [("a", Expired)]
            5: b[0..1]
        "#]],
    );
    let delay = policy(1);
    check(
        delay,
        "push a delayed_from=5
         push b
         advance 5
         expire
         poll idle
         poll idle",
        expect![[r#"
            5: expired []
            5: b[0..1]
            5: a[0..1]
        "#]],
    );
}

#[test]
fn who_has_left_takes_no_place() {
    check(
        policy(2),
        "push a
         push b
         push c
         leave a
         leave b
         poll idle",
        expect![[r#"
            0: c[0..1] gone ["a", "b"]
        "#]],
    );
}

/// One step of the property test.
#[derive(Clone, Debug)]
enum Step {
    Push { rows: usize, level: u64, key: usize, deadline: Option<u64> },
    Leave(usize),
    Advance(u64),
    Poll(Room),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..5, 0u64..4, 0usize..3, proptest::option::of(0u64..20))
            .prop_map(|(rows, level, key, deadline)| Step::Push { rows, level, key, deadline }),
        1 => (0usize..50).prop_map(Step::Leave),
        1 => (0u64..4).prop_map(Step::Advance),
        3 => prop_oneof![Just(Room::Idle), Just(Room::Behind), Just(Room::None)].prop_map(Step::Poll),
    ]
}

/// What a run of the property test knows besides the batcher itself.
struct Ledger {
    batcher: DynamicBatcher<usize>,
    policy: DynamicBatching,
    delays: bool,
    now: u64,
    /// Level, key and whether there is a deadline, of every entry ever pushed.
    facts: Vec<(usize, usize, bool)>,
    waiting: HashSet<usize>,
    left: HashSet<usize>,
    /// The entry without a deadline that was served last, by level and key.
    last_served: HashMap<(usize, usize), usize>,
}

impl Ledger {
    fn push(&mut self, rows: usize, level: u64, key: usize, deadline: Option<u64>) {
        let item = self.facts.len();
        self.facts.push((self.policy.level(level), key, deadline.is_some()));
        let deadline = deadline.map(|after| at(self.now + after));
        let (start_by, delayed_from) = if self.delays { (None, deadline) } else { (deadline, None) };
        let entry = Waiting {
            item,
            rows,
            cost: 1,
            key: BatchKey(vec![key]),
            queued_at: at(self.now),
            start_by,
            finish_by: None,
            delayed_from,
        };
        let mut gone = Vec::new();
        let left = &self.left;
        if self.batcher.push(at(self.now), level, entry, |item| left.contains(item), &mut gone).is_ok() {
            self.waiting.insert(item);
        }
        for item in gone {
            assert!(self.left.contains(&item) && self.waiting.remove(&item));
        }
    }

    fn poll(&mut self, room: Room) {
        for (item, _) in self.batcher.expire(at(self.now)) {
            assert!(self.waiting.remove(&item));
            assert!(self.facts[item].2 && !self.delays);
        }
        let mut gone = Vec::new();
        let left = &self.left;
        let batch = self.batcher.poll(at(self.now), room, |item| left.contains(item), &mut gone);
        for item in gone {
            assert!(self.left.contains(&item) && self.waiting.remove(&item));
        }
        if let Some(batch) = batch {
            assert!(room != Room::None);
            self.check(&batch);
        }
        assert_eq!(self.batcher.len(), self.waiting.len());
    }

    /// One key, not too many rows, nobody twice, nobody who left, and first in first out in each level.
    fn check(&mut self, batch: &Batch<usize>) {
        let max_rows = self.policy.max_rows.get();
        assert!((batch.rows() <= max_rows || batch.len() == 1) && batch.len() <= max_rows);
        let key = self.facts[batch.members()[0].item].1;
        for member in batch.members() {
            let (level, own, has_deadline) = self.facts[member.item];
            assert_eq!(own, key);
            assert!(!self.left.contains(&member.item) && self.waiting.remove(&member.item));
            if !has_deadline {
                let last = self.last_served.insert((level, own), member.item);
                assert!(last <= Some(member.item));
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_or_overfilled(
        steps in proptest::collection::vec(step(), 1..120),
        levels in 1usize..4,
        delay in 0u64..6,
        preserve in any::<bool>(),
        delays in any::<bool>(),
    ) {
        let mut policy = with_levels(policy(4), levels);
        policy.window = WindowPolicy::Fixed(Duration::from_millis(delay));
        policy.preserve_ordering = preserve && levels == 1;
        let mut ledger = Ledger {
            batcher: DynamicBatcher::new(policy.clone(), 1),
            policy,
            delays,
            now: 0,
            facts: Vec::new(),
            waiting: HashSet::new(),
            left: HashSet::new(),
            last_served: HashMap::new(),
        };
        for step in steps {
            match step {
                Step::Push { rows, level, key, deadline } => ledger.push(rows, level, key, deadline),
                Step::Leave(item) => drop(ledger.left.insert(item)),
                Step::Advance(millis) => ledger.now += millis,
                Step::Poll(room) => ledger.poll(room),
            }
        }
        // Every queue holds at most four, so this many polls empty them all.
        for _ in 0..4 * levels {
            ledger.now += 100;
            ledger.poll(Room::Idle);
        }
        prop_assert!(ledger.batcher.is_empty());
    }
}
