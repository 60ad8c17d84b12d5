//! Scripts that pin which sequence has which place and what runs when, and properties that pin that nothing is lost.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::batch::Trigger;
use crate::clock::Timestamp;
use crate::request::SequenceId;

use super::rows::{Patience, Rows, next_rows};
use super::sequences::{Arrival, Key, Lapse, Limits, Outcome, Refusal, Sequences};

/// A request of a script: its name, and what must be equal for two to share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Item {
    name: String,
    shape: u64,
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

fn limits(instances: usize, slots: usize, max_entries: usize) -> Limits {
    let [slots, max_entries] = [slots, max_entries].map(|count| NonZeroUsize::new(count).unwrap());
    Limits { instances, slots, max_entries, max_idle: Duration::from_millis(1000) }
}

const AT_ONCE: Patience = Patience { max_queue_delay: Duration::ZERO, minimum_ready: 0 };

/// Runs a script, one step a line, and writes down what each says. Steps: `push NAME of=ID [start] [end] [shape=N]
/// [by=MS]`, `rows INSTANCE` (the next batch of an instance), `done NAME`, `broken NAME` (it did not reach the model),
/// `late NAME`, `leave NAME` (its client), `sweep`, `expire`, `close`, `advance MS`, `wakeup`.
struct Script {
    sequences: Sequences<Item, ()>,
    patience: Patience,
    now: u64,
    running: HashMap<String, Key>,
    gone: HashSet<String>,
    log: String,
}

impl Script {
    fn run(limits: Limits, patience: Patience, script: &str, expected: Expect) {
        let mut this = Self {
            sequences: Sequences::new(limits),
            patience,
            now: 0,
            running: HashMap::new(),
            gone: HashSet::new(),
            log: String::new(),
        };
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            this.step(&line.split_whitespace().collect::<Vec<_>>());
        }
        expected.assert_eq(&this.log);
    }

    fn step(&mut self, words: &[&str]) {
        self.sequences.assert_consistent();
        let name = words.get(1).copied().unwrap_or_default();
        match words[0] {
            "push" => self.push(words),
            "rows" => self.rows(name.parse().unwrap()),
            "done" => self.finish(name, Outcome::Answered),
            "broken" => self.finish(name, Outcome::Canceled),
            "late" => self.finish(name, Outcome::Expired),
            "leave" => drop(self.gone.insert(name.to_owned())),
            "sweep" => {
                let gone = &self.gone;
                let lapsed = self.sequences.sweep(|item| gone.contains(&item.name));
                self.lapsed(&lapsed);
            }
            "expire" => {
                let lapsed = self.sequences.expire(at(self.now));
                self.lapsed(&lapsed);
            }
            "close" => self.sequences.close(),
            "advance" => self.now += name.parse::<u64>().unwrap(),
            "wakeup" => {
                let wakeup = self.sequences.next_wakeup().map(|time| time.as_nanos() / 1_000_000);
                writeln!(self.log, "{}: wakeup {wakeup:?}", self.now).unwrap();
            }
            other => panic!("unknown step {other}"),
        }
    }

    fn push(&mut self, words: &[&str]) {
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
        let number = |key: &str| value(key).map(|value| value.parse::<u64>().unwrap());
        let arrival = Arrival {
            id: SequenceId::Text(value("of=").unwrap().to_owned()),
            start: words.contains(&"start"),
            end: words.contains(&"end"),
            queued_at: at(self.now),
            start_by: number("by=").map(at),
            item: Item { name: words[1].to_owned(), shape: number("shape=").unwrap_or(0) },
        };
        if let Err((item, refusal)) = self.sequences.push(arrival) {
            writeln!(self.log, "{}: {} refused, {refusal:?}", self.now, item.name).unwrap();
        }
    }

    fn rows(&mut self, instance: usize) {
        let shape = |head: &super::sequences::Head<'_, Item, ()>| head.item.shape;
        let rows = next_rows(&mut self.sequences, at(self.now), instance, &self.patience, |a, b| shape(a) == shape(b));
        let text = match rows {
            Rows::Rest => "rest".to_owned(),
            Rows::Wait(until) => format!("wait until {}", until.as_nanos() / 1_000_000),
            Rows::Run { rows, trigger } => {
                let rows: Vec<String> = rows
                    .into_iter()
                    .map(|row| match row {
                        None => "-".to_owned(),
                        Some(taken) => {
                            self.running.insert(taken.item.name.clone(), taken.key);
                            taken.item.name
                        }
                    })
                    .collect();
                format!("{} ({})", rows.join(" "), trigger.as_str())
            }
        };
        writeln!(self.log, "{}: instance {instance}: {text}", self.now).unwrap();
    }

    fn finish(&mut self, name: &str, outcome: Outcome) {
        let key = self.running.remove(name).unwrap();
        let lapsed = self.sequences.finish(at(self.now), key, outcome);
        self.lapsed(&lapsed);
    }

    fn lapsed(&mut self, lapsed: &[(Item, Lapse)]) {
        for (item, lapse) in lapsed {
            writeln!(self.log, "{}: {} {lapse:?}", self.now, item.name).unwrap();
        }
    }
}

#[test]
fn a_sequence_keeps_its_row_and_others_leave_gaps() {
    Script::run(
        limits(1, 4, 16),
        AT_ONCE,
        "push a1 of=a start
         push b1 of=b start
         push c1 of=c start
         rows 0
         done a1
         done b1
         done c1
         push c2 of=c
         rows 0
         done c2
         push b2 of=b end
         push a2 of=a
         rows 0
         rows 0",
        expect![[r#"
            0: instance 0: a1 b1 c1 (idle)
            0: instance 0: - - c2 (idle)
            0: instance 0: a2 b2 (idle)
            0: instance 0: rest
        "#]],
    );
}

#[test]
fn one_request_of_a_sequence_runs_at_a_time() {
    Script::run(
        limits(1, 2, 16),
        AT_ONCE,
        "push a1 of=a start
         push a2 of=a
         push a3 of=a end
         rows 0
         rows 0
         done a1
         rows 0
         done a2
         rows 0
         done a3
         rows 0",
        expect![[r#"
            0: instance 0: a1 (idle)
            0: instance 0: rest
            0: instance 0: a2 (idle)
            0: instance 0: a3 (idle)
            0: instance 0: rest
        "#]],
    );
}

#[test]
fn sequences_spread_over_instances_and_the_backlog_is_served_in_order() {
    Script::run(
        limits(2, 1, 16),
        AT_ONCE,
        "push a1 of=a start end
         push b1 of=b start
         push c1 of=c start
         push d1 of=d start
         push c2 of=c
         rows 0
         rows 1
         done b1
         rows 1
         done a1
         rows 0
         push b2 of=b end
         rows 1
         done b2
         rows 1
         done c1
         rows 0",
        expect![[r#"
            0: instance 0: a1 (idle)
            0: instance 1: b1 (idle)
            0: instance 1: rest
            0: instance 0: c1 (idle)
            0: instance 1: b2 (idle)
            0: instance 1: d1 (idle)
            0: instance 0: c2 (idle)
        "#]],
    );
}

#[test]
fn a_sequence_must_start_and_after_its_end_start_again() {
    Script::run(
        limits(1, 2, 16),
        AT_ONCE,
        "push a0 of=a
         push a0 of=a end
         push a1 of=a start end
         push a2 of=a
         push a3 of=a start
         rows 0
         done a1
         done a3
         push a4 of=a start
         rows 0",
        expect![[r#"
            0: a0 refused, NoStart
            0: a0 refused, NoStart
            0: a2 refused, NoStart
            0: instance 0: a1 a3 (idle)
            0: instance 0: - a4 (idle)
        "#]],
    );
}

#[test]
fn an_idle_sequence_ends_and_its_place_goes_to_the_backlog() {
    Script::run(
        limits(1, 1, 16),
        AT_ONCE,
        "push a1 of=a start
         rows 0
         push b1 of=b start
         advance 5000
         expire
         wakeup
         done a1
         wakeup
         advance 999
         expire
         rows 0
         advance 1
         expire
         rows 0
         push a2 of=a",
        expect![[r#"
            0: instance 0: a1 (idle)
            5000: wakeup None
            5000: wakeup Some(6000)
            5999: instance 0: rest
            6000: instance 0: b1 (idle)
            6000: a2 refused, NoStart
        "#]],
    );
}

#[test]
fn a_request_keeps_its_sequence_from_being_idle() {
    Script::run(
        limits(1, 1, 16),
        AT_ONCE,
        "push a1 of=a start
         rows 0
         done a1
         advance 900
         push a2 of=a
         advance 900
         expire
         rows 0
         done a2
         advance 999
         expire
         push a3 of=a
         rows 0",
        expect![[r#"
            0: instance 0: a1 (idle)
            1800: instance 0: a2 (idle)
            2799: instance 0: a3 (idle)
        "#]],
    );
}

#[test]
fn a_timeout_in_the_backlog_ends_the_sequence() {
    Script::run(
        limits(1, 1, 16),
        AT_ONCE,
        "push a1 of=a start
         push b1 of=b start
         push b2 of=b by=100
         push c1 of=c start
         wakeup
         advance 100
         expire
         push b3 of=b
         rows 0
         done a1
         push a2 of=a end
         rows 0
         done a2
         rows 0",
        expect![[r#"
            0: wakeup Some(100)
            100: b1 SequenceExpired
            100: b2 SequenceExpired
            100: b3 refused, NoStart
            100: instance 0: a1 (idle)
            100: instance 0: a2 (idle)
            100: instance 0: c1 (idle)
        "#]],
    );
}

#[test]
fn a_timeout_of_a_sequence_with_a_place_leaves_no_gap() {
    Script::run(
        limits(1, 2, 16),
        AT_ONCE,
        "push a1 of=a start
         rows 0
         push a2 of=a by=50
         push a3 of=a
         advance 50
         expire
         push a4 of=a
         push b1 of=b start
         rows 0
         done a1
         push c1 of=c start
         rows 0",
        expect![[r#"
            0: instance 0: a1 (idle)
            50: a2 Expired
            50: a3 SequenceExpired
            50: a4 refused, NoStart
            50: instance 0: - b1 (idle)
            50: instance 0: c1 (idle)
        "#]],
    );
}

#[test]
fn a_cancel_takes_the_whole_sequence_along() {
    Script::run(
        limits(1, 1, 16),
        AT_ONCE,
        "push a1 of=a start
         push a2 of=a
         push a3 of=a
         push b1 of=b start
         push c1 of=c start
         leave a3
         leave b1
         sweep
         push a4 of=a
         rows 0",
        expect![[r#"
            0: a1 Canceled
            0: a2 Canceled
            0: a3 Canceled
            0: b1 Canceled
            0: a4 refused, NoStart
            0: instance 0: c1 (idle)
        "#]],
    );
}

#[test]
fn a_request_that_did_not_reach_the_model_ends_its_sequence() {
    Script::run(
        limits(1, 2, 16),
        AT_ONCE,
        "push a1 of=a start
         push a2 of=a
         push b1 of=b start
         push b2 of=b
         rows 0
         broken a1
         late b1
         push a3 of=a
         push b3 of=b",
        expect![[r#"
            0: instance 0: a1 b1 (idle)
            0: a2 Canceled
            0: b2 SequenceExpired
            0: a3 refused, NoStart
            0: b3 refused, NoStart
        "#]],
    );
}

#[test]
fn the_queue_is_bounded_and_a_refused_request_may_come_again() {
    Script::run(
        limits(1, 1, 2),
        AT_ONCE,
        "push a1 of=a start
         push b1 of=b start
         push a2 of=a
         push c1 of=c start
         rows 0
         push a2 of=a end
         push b2 of=b
         done a1
         rows 0",
        expect![[r#"
            0: a2 refused, Full
            0: c1 refused, Full
            0: instance 0: a1 (idle)
            0: b2 refused, Full
            0: instance 0: a2 (idle)
        "#]],
    );
}

#[test]
fn a_wait_for_more_sequences_ends_with_enough_of_them_or_the_delay() {
    let patience = Patience { max_queue_delay: Duration::from_millis(10), minimum_ready: 2 };
    Script::run(
        limits(1, 4, 16),
        patience,
        "push a1 of=a start
         rows 0
         advance 4
         push b1 of=b start
         rows 0
         done a1
         done b1
         push a2 of=a
         rows 0
         advance 10
         rows 0",
        expect![[r#"
            0: instance 0: wait until 10
            4: instance 0: a1 b1 (idle)
            4: instance 0: wait until 14
            14: instance 0: a2 (window)
        "#]],
    );
}

#[test]
fn requests_of_another_shape_keep_their_turn() {
    Script::run(
        limits(1, 4, 16),
        AT_ONCE,
        "push a1 of=a start shape=1
         advance 1
         push b1 of=b start shape=2
         push c1 of=c start shape=1
         rows 0
         done a1
         done c1
         advance 1
         push a2 of=a shape=1
         rows 0
         done b1
         rows 0",
        expect![[r#"
            1: instance 0: a1 - c1 (idle)
            2: instance 0: - b1 (idle)
            2: instance 0: a2 (idle)
        "#]],
    );
}

#[test]
fn at_the_end_nothing_waits_for_sequences_that_nobody_goes_on_with() {
    Script::run(
        limits(1, 1, 16),
        AT_ONCE,
        "push a1 of=a start
         rows 0
         done a1
         push b1 of=b start
         push c1 of=c start
         close
         rows 0
         done b1
         rows 0
         done c1
         wakeup",
        expect![[r#"
            0: instance 0: a1 (idle)
            0: instance 0: b1 (idle)
            0: instance 0: c1 (idle)
            0: wakeup None
        "#]],
    );
}

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Push { sequence: u8, start: bool, end: bool, by: Option<u8>, shape: u8 },
    Rows { instance: usize },
    Finish { which: u8, outcome: u8 },
    Leave { which: u8 },
    Sweep,
    Advance { millis: u16 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..6, any::<bool>(), prop::bool::weighted(0.3), prop::option::weighted(0.2, 0u8..200), 0u8..2)
            .prop_map(|(sequence, start, end, by, shape)| Step::Push { sequence, start, end, by, shape }),
        5 => (0usize..3).prop_map(|instance| Step::Rows { instance }),
        5 => (any::<u8>(), 0u8..8).prop_map(|(which, outcome)| Step::Finish { which, outcome }),
        1 => any::<u8>().prop_map(|which| Step::Leave { which }),
        1 => Just(Step::Sweep),
        3 => (0u16..400).prop_map(|millis| Step::Advance { millis }),
    ];
    prop::collection::vec(step, 1..200)
}

/// A request of a random life: the number of the arrival, its shape, and the number of its sequence's arrivals.
#[derive(Clone, Debug)]
struct Request {
    number: usize,
    sequence: u8,
    shape: u8,
    first: bool,
}

/// What a random life must keep to, whatever happens.
#[derive(Default)]
struct Ledger {
    pushed: usize,
    outcomes: HashMap<usize, &'static str>,
    running: Vec<(Key, Request)>,
    /// Last request of each sequence's incarnation that ran, by key.
    last_run: HashMap<Key, usize>,
    /// Row of each sequence, by key.
    rows: HashMap<Key, (usize, usize)>,
    by_row: HashMap<(usize, usize), Key>,
    gone: HashSet<usize>,
}

impl Ledger {
    fn end(&mut self, request: &Request, outcome: &'static str) {
        assert_eq!(self.outcomes.insert(request.number, outcome), None, "request {} has two outcomes", request.number);
    }

    /// A sequence is gone: its key and row may belong to another.
    fn forget(&mut self, key: Key) {
        if let Some(row) = self.rows.remove(&key) {
            self.by_row.remove(&row);
        }
        self.last_run.remove(&key);
    }

    /// Sequences that ended (idle, expired, swept) leave key and row to others, which have no memory yet.
    fn forget_ended(&mut self, sequences: &mut Sequences<Request, Vec<u8>>) {
        let mut is_over = |key: &Key| sequences.memory(*key).is_none_or(|memory| memory.is_empty());
        let over: Vec<Key> = self.rows.keys().copied().filter(|key| is_over(key)).collect();
        over.into_iter().for_each(|key| self.forget(key));
    }

    fn ran(&mut self, key: Key, row: (usize, usize), request: &Request) {
        assert!(self.running.iter().all(|(other, _)| *other != key), "two requests of a sequence run at once");
        let last = self.last_run.insert(key, request.number);
        if last.is_none() {
            assert!(request.first, "a sequence began to run in its middle");
        }
        assert!(last.is_none_or(|last| last < request.number), "a sequence's requests ran out of order");
        assert_eq!(*self.rows.entry(key).or_insert(row), row, "a sequence changed its row");
        assert_eq!(*self.by_row.entry(row).or_insert(key), key, "two sequences have one row");
    }
}

/// A random life: sequences, what must hold of them, and who waits.
struct Life {
    sequences: Sequences<Request, Vec<u8>>,
    ledger: Ledger,
    waiting: HashMap<usize, Request>,
    now: u64,
}

impl Life {
    const LIMITS: (usize, usize, usize) = (3, 2, 12);

    fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let (instances, slots, max_entries) = Self::LIMITS;
        let sequences = Sequences::new(limits(instances, slots, max_entries));
        let mut life = Self { sequences, ledger: Ledger::default(), waiting: HashMap::new(), now: 0 };
        for step in steps {
            match step {
                Step::Push { .. } => life.push(&step)?,
                Step::Rows { instance } => life.rows(instance)?,
                Step::Finish { which, outcome } => life.finish(which, outcome),
                Step::Leave { which } => drop(life.ledger.gone.insert(usize::from(which))),
                Step::Sweep => {
                    let gone = &life.ledger.gone;
                    let lapsed = life.sequences.sweep(|request| gone.contains(&request.number));
                    life.lapse(lapsed);
                    let left = life.waiting.keys().find(|number| life.ledger.gone.contains(number));
                    prop_assert_eq!(left, None, "who left still waits");
                }
                Step::Advance { millis } => life.now += u64::from(millis),
            }
            prop_assert_eq!(life.sequences.len(), life.waiting.len());
            life.sequences.assert_consistent();
            life.ledger.forget_ended(&mut life.sequences);
        }
        life.end()
    }

    fn lapse(&mut self, lapsed: Vec<(Request, Lapse)>) {
        for (request, _) in lapsed {
            self.waiting.remove(&request.number);
            self.ledger.end(&request, "lapsed");
        }
    }

    fn push(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let Step::Push { sequence, start, end, by, shape } = *step else { return Ok(()) };
        self.ledger.pushed += 1;
        let request = Request { number: self.ledger.pushed, sequence, shape, first: start };
        let arrival = Arrival {
            id: SequenceId::Number(u64::from(sequence)),
            start,
            end,
            queued_at: at(self.now),
            start_by: by.map(|by| at(self.now + u64::from(by))),
            item: request.clone(),
        };
        match self.sequences.push(arrival) {
            Ok(()) => drop(self.waiting.insert(request.number, request)),
            Err((refused, refusal)) => {
                prop_assert!(refusal != Refusal::NoStart || !start);
                prop_assert!(refusal != Refusal::Full || self.waiting.len() == Self::LIMITS.2);
                self.ledger.end(&refused, "refused");
            }
        }
        Ok(())
    }

    fn rows(&mut self, instance: usize) -> Result<(), TestCaseError> {
        let lapsed = self.sequences.expire(at(self.now));
        self.lapse(lapsed);
        self.ledger.forget_ended(&mut self.sequences);
        let rows = next_rows(&mut self.sequences, at(self.now), instance, &AT_ONCE, |a, b| a.item.shape == b.item.shape);
        let Rows::Run { rows, trigger } = rows else { return Ok(()) };
        prop_assert_eq!(trigger, Trigger::Idle);
        prop_assert!(rows.len() <= Self::LIMITS.1);
        prop_assert!(rows.last().is_some_and(Option::is_some), "rows end with padding");
        let shapes: HashSet<u8> = rows.iter().flatten().map(|taken| taken.item.shape).collect();
        prop_assert_eq!(shapes.len(), 1);
        for (row, taken) in rows.into_iter().enumerate().filter_map(|(row, taken)| Some((row, taken?))) {
            prop_assert_eq!((taken.place.instance, taken.place.slot), (instance, row));
            self.waiting.remove(&taken.item.number);
            self.ledger.ran(taken.key, (instance, row), &taken.item);
            let memory = self.sequences.memory(taken.key).unwrap();
            prop_assert!(memory.iter().all(|sequence| *sequence == taken.item.sequence), "a foreign memory");
            memory.push(taken.item.sequence);
            self.ledger.running.push((taken.key, taken.item));
        }
        Ok(())
    }

    fn finish(&mut self, which: u8, outcome: u8) {
        if self.ledger.running.is_empty() {
            return;
        }
        let index = usize::from(which) % self.ledger.running.len();
        let (key, request) = self.ledger.running.remove(index);
        self.ledger.end(&request, "ran");
        let outcome = match outcome {
            0 => Outcome::Canceled,
            1 => Outcome::Expired,
            _ => Outcome::Answered,
        };
        let lapsed = self.sequences.finish(at(self.now), key, outcome);
        if outcome != Outcome::Answered {
            self.ledger.forget(key);
        }
        self.lapse(lapsed);
    }

    /// Everything that still waits gets to run, and nothing is left.
    fn end(mut self) -> Result<(), TestCaseError> {
        self.sequences.close();
        for _ in 0..200 {
            for (key, request) in std::mem::take(&mut self.ledger.running) {
                self.ledger.end(&request, "ran");
                prop_assert!(self.sequences.finish(at(self.now), key, Outcome::Answered).is_empty());
            }
            for instance in 0..Self::LIMITS.0 {
                let rows = next_rows(&mut self.sequences, at(self.now), instance, &AT_ONCE, |_, _| true);
                let Rows::Run { rows, .. } = rows else { continue };
                for taken in rows.into_iter().flatten() {
                    self.waiting.remove(&taken.item.number);
                    self.ledger.running.push((taken.key, taken.item));
                }
            }
            if self.ledger.running.is_empty() {
                break;
            }
        }
        prop_assert!(self.sequences.is_empty(), "sequences are left: {:?}", self.sequences);
        prop_assert!(self.waiting.is_empty());
        prop_assert_eq!(self.sequences.next_wakeup(), None);
        prop_assert_eq!(self.ledger.outcomes.len(), self.ledger.pushed);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_request_has_one_outcome_and_no_two_sequences_share_a_row(steps in steps()) {
        Life::run(steps)?;
    }
}
