//! Scripts that pin which batch starts when, properties that pin that nothing is lost, and a naive model of the default
//! policy with which it is compared step by step.
//!
//! Bugs that were planted, one at a time, and the tests that failed:
//!
//! | bug | caught by, among others |
//! |---|---|
//! | an entry is lost: `commit` drops the last of a lane | `properties::nothing_is_lost_doubled_or_overfilled` (the length is wrong), `reference::it_does_what_the_naive_model_does` |
//! | off by one in the row range: `Batch::push` begins a row late | `properties::nothing_is_lost_doubled_or_overfilled` (rows have gaps), `default::requests_are_never_split` |
//! | off by one in the limit: a batch takes one row too many | `properties::nothing_is_lost_doubled_or_overfilled`, `default::requests_are_never_split` |
//! | a missed wake-up: `next_wakeup` forgets the timers | `properties::nothing_waits_without_a_wakeup`, `default::late_requests_are_refused_in_time` |
//! | a missed wake-up: the end of the window is forgotten | `properties::nothing_waits_without_a_wakeup`, `default::the_delay_runs_from_the_oldest_request` |
//! | a canceled entry runs: `is_gone` is not asked | `properties::nothing_is_lost_doubled_or_overfilled`, `default::who_has_left_takes_no_place` |
//! | an expired entry runs: its times are not asked | `reference::it_does_what_the_naive_model_does`, `default::late_requests_are_refused_in_time` |
//! | priorities are ignored: every entry gets rank 0 | `reference::it_does_what_the_naive_model_does`, `default::higher_levels_go_first_and_bounds_hold_by_level` |
//! | a level starves: no rank gets its turn | `properties::nobody_starves`, `default::a_level_that_was_passed_over_often_leads` |

use std::collections::HashSet;
use std::fmt::Write as _;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use expect_test::Expect;

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::config::{BatcherKind, DynamicBatching, WindowPolicy};
use crate::request::BatchKey;
use crate::scheduler::queue::Waiting;

use super::{DynamicBatcher, Ran, Room};

mod compat;
mod default;
mod properties;
mod reference;

/// One level with room for four, no window.
fn policy(max_rows: usize) -> DynamicBatching {
    DynamicBatching::plain(NonZeroUsize::new(max_rows).unwrap(), NonZeroUsize::new(4).unwrap())
}

fn with_levels(mut policy: DynamicBatching, levels: usize) -> DynamicBatching {
    policy.priority_levels = NonZeroUsize::new(levels).unwrap();
    policy.policies = vec![policy.policies[0]; levels];
    policy
}

fn with_entries(mut policy: DynamicBatching, entries: usize) -> DynamicBatching {
    policy.policies.iter_mut().for_each(|level| level.max_entries = NonZeroUsize::new(entries).unwrap());
    policy
}

fn with_delay(mut policy: DynamicBatching, millis: u64) -> DynamicBatching {
    policy.window = WindowPolicy::Fixed(Duration::from_millis(millis));
    policy
}

fn with_cost(mut policy: DynamicBatching, cost: u64) -> DynamicBatching {
    policy.max_cost = Some(NonZeroU64::new(cost).unwrap());
    policy
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

/// Runs a script, one step a line, and compares what the batcher says to each. Times are in milliseconds since the
/// start.
///
/// - `push NAME [xN] [rows=N] [cost=N] [level=N] [key=N] [start_by=MS] [finish_by=MS] [delayed_from=MS]`
/// - `leave NAME`: its client goes; `sweep`: those who have gone are taken out
/// - `advance MS`, `expire`, `poll idle|behind|none [xN]`, `wants`, `wakeup idle|behind|none`, `depth`
/// - `learn rows=N took=MS xN`: a batch of one request is formed and has ended
/// - `finish ID [took=MS]`: a batch ends; without a time it did not run
fn check(policy: DynamicBatching, script: &str, expected: Expect) {
    check_on(DynamicBatcher::new(policy, 1), script, &expected);
}

fn check_on(batcher: DynamicBatcher<String>, script: &str, expected: &Expect) {
    let mut run = ScriptRun { batcher, now: 0, left: HashSet::new(), costs: Vec::new(), log: String::new() };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        run.step(line);
    }
    expected.assert_eq(&run.log);
}

struct ScriptRun {
    batcher: DynamicBatcher<String>,
    now: u64,
    left: HashSet<String>,
    /// Rows and cost of every batch.
    costs: Vec<(usize, u64)>,
    log: String,
}

impl ScriptRun {
    fn say(&mut self, text: &str) {
        writeln!(self.log, "{}: {text}", self.now).unwrap();
    }

    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).map(|value| value.parse::<u64>().unwrap());
        let times = words.iter().find_map(|word| word.strip_prefix('x')?.parse::<u64>().ok()).unwrap_or(1);
        let now = at(self.now);
        let room = || match words[1] {
            "idle" => Room::Idle,
            "behind" => Room::Behind,
            "none" => Room::None,
            other => panic!("unknown room {other}"),
        };
        match words[0] {
            "push" => {
                for time in 0..times {
                    let name = if times == 1 { words[1].to_owned() } else { format!("{}{time}", words[1]) };
                    self.push(value("level=").unwrap_or(0), waiting(name, now, value));
                }
            }
            "learn" => {
                for _ in 0..times {
                    let entry = waiting("learned".to_owned(), now, value);
                    self.batcher.push(now, 0, entry, |_| false, &mut Vec::new()).unwrap();
                    let batch = self.batcher.poll(now, Room::Idle, |_| false, &mut Vec::new()).unwrap();
                    self.costs.push((batch.rows(), batch.origin.cost));
                    let took = Duration::from_millis(value("took=").unwrap());
                    let ran = Ran { rows: batch.rows(), cost: batch.origin.cost, took };
                    self.batcher.finish(now, batch.origin.id, Some(ran));
                }
            }
            "leave" => drop(self.left.insert(words[1].to_owned())),
            "sweep" => {
                let mut gone = Vec::new();
                self.batcher.sweep(|item| self.left.contains(item), &mut gone);
                gone.sort();
                self.say(&format!("gone {gone:?}"));
            }
            "advance" => self.now += words[1].parse::<u64>().unwrap(),
            "expire" => {
                let lapsed = self.batcher.expire(now);
                self.say(&format!("lapsed {lapsed:?}"));
            }
            "wants" => {
                let wants = self.batcher.wants(now);
                self.say(&format!("wants {wants}"));
            }
            "wakeup" => {
                let wakeup = self.batcher.next_wakeup(now, room()).map(|time| time.as_nanos() as f64 / 1e6);
                self.say(&format!("wakeup {wakeup:?}"));
            }
            "depth" => {
                let depth: Vec<usize> = self.batcher.depth().collect();
                self.say(&format!("depth {depth:?}"));
            }
            "poll" => (0..times).for_each(|_| self.poll(room())),
            "finish" => {
                let id: usize = words[1].parse().unwrap();
                let (rows, cost) = self.costs[id - 1];
                let ran = value("took=").map(|millis| Ran { rows, cost, took: Duration::from_millis(millis) });
                self.batcher.finish(now, id as u64, ran);
            }
            other => panic!("unknown step {other}"),
        }
    }

    fn push(&mut self, level: u64, entry: Waiting<String>) {
        let mut gone = Vec::new();
        let refused = self.batcher.push(at(self.now), level, entry, |item| self.left.contains(item), &mut gone);
        if !gone.is_empty() {
            gone.sort();
            self.say(&format!("gone {gone:?}"));
        }
        if let Err((item, refusal)) = refused {
            self.say(&format!("{item} refused: {refusal:?}"));
        }
    }

    fn poll(&mut self, room: Room) {
        let mut gone = Vec::new();
        let batch = self.batcher.poll(at(self.now), room, |item| self.left.contains(item), &mut gone);
        let text = match &batch {
            None => "nothing".to_owned(),
            Some(batch) => {
                self.costs.push((batch.rows(), batch.origin.cost));
                format!("{} ({})", members(batch), batch.origin.trigger.as_str())
            }
        };
        let gone = if gone.is_empty() { String::new() } else { format!(" gone {gone:?}") };
        self.say(&format!("{text}{gone}"));
    }
}

fn waiting(item: String, now: Timestamp, value: impl Fn(&str) -> Option<u64>) -> Waiting<String> {
    let rows = value("rows=").unwrap_or(1);
    Waiting {
        item,
        rows: rows as usize,
        cost: value("cost=").unwrap_or(rows),
        key: BatchKey(value("key=").map(|key| key as usize).into_iter().collect()),
        queued_at: now,
        start_by: value("start_by=").map(at),
        finish_by: value("finish_by=").map(at),
        delayed_from: value("delayed_from=").map(at),
    }
}

fn members(batch: &Batch<String>) -> String {
    let member = |m: &crate::batch::Member<String>| format!("{}[{}..{}]", m.item, m.rows.start, m.rows.end);
    batch.members().iter().map(member).collect::<Vec<_>>().join(" ")
}

fn compat(mut policy: DynamicBatching) -> DynamicBatching {
    policy.batcher = BatcherKind::Compat;
    policy
}
