//! Scripts that pin what a run does next, and properties of runs over random graphs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::config::{EnsembleGraph, EnsembleStep, StepTensor};
use crate::error::InferError;
use crate::request::VersionChoice;

use super::{Fault, Firing, Move, Plan, Run, StepFacts, needed_steps};

/// A graph with what is known of its models.
struct Sketch {
    graph: EnsembleGraph,
    facts: Vec<StepFacts>,
}

impl Sketch {
    fn new(inputs: &[&str], outputs: &[&str]) -> Self {
        let mut sketch = Self {
            graph: EnsembleGraph {
                tensors: Vec::new(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                steps: Vec::new(),
                max_requests: NonZeroUsize::MIN,
                max_inflight: None,
            },
            facts: Vec::new(),
        };
        sketch.graph.inputs = inputs.iter().map(|name| sketch.tensor(name)).collect();
        sketch.graph.outputs = outputs.iter().map(|name| sketch.tensor(name)).collect();
        sketch
    }

    fn tensor(&mut self, name: &str) -> usize {
        if let Some(index) = self.graph.tensors.iter().position(|known| **known == *name) {
            return index;
        }
        self.graph.tensors.push(name.into());
        self.graph.tensors.len() - 1
    }

    /// Inputs with `?` are optional in the model.
    fn step(&mut self, model: &str, inputs: &[&str], outputs: &[&str], decoupled: bool) {
        let mut map = |names: &[&str]| -> Vec<StepTensor> {
            let names = names.iter().map(|name| name.trim_end_matches('?'));
            names.map(|name| StepTensor { name: name.into(), tensor: self.tensor(name) }).collect()
        };
        let step =
            EnsembleStep { model: model.into(), version: VersionChoice::Latest, inputs: map(inputs), outputs: map(outputs) };
        self.graph.steps.push(step);
        self.facts.push(StepFacts { decoupled, optional: inputs.iter().map(|name| name.ends_with('?')).collect() });
    }

    /// Parses `in A B`, `out C`, and steps as `name A,B? > C` or `name* A > B` for a decoupled one.
    fn parse(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let list = |key: &str| -> Vec<&str> {
            lines.iter().filter_map(|line| line.strip_prefix(key)).flat_map(str::split_whitespace).collect()
        };
        let mut sketch = Self::new(&list("in "), &list("out "));
        for line in lines.iter().filter(|line| line.contains('>')) {
            let (left, outputs) = line.split_once('>').unwrap();
            let (name, inputs) = left.trim().split_once(' ').unwrap();
            let inputs: Vec<&str> = inputs.split(',').map(str::trim).collect();
            let outputs: Vec<&str> = outputs.split(',').map(str::trim).collect();
            sketch.step(name.trim_end_matches('*'), &inputs, &outputs, name.ends_with('*'));
        }
        sketch
    }

    fn plan(&self, requested: &[bool]) -> Arc<Plan> {
        let needed = needed_steps(&self.graph, requested);
        let facts: Vec<Option<StepFacts>> =
            self.facts.iter().zip(needed).map(|(facts, needed)| needed.then(|| facts.clone())).collect();
        Arc::new(Plan::new(&self.graph, requested, &facts))
    }
}

/// Plays a script on a graph. Lines:
/// `start A=1 B=- want C,D` (`-` leaves an input out, no `want` asks for all outputs), then
/// `name#frame C=2 D=-` (a response), the same with `.` at the end (the last one), `name#frame end`,
/// `name#frame fail` or `name#frame fail.`, `abort`.
fn play(graph: &str, script: &str) -> String {
    let sketch = Sketch::parse(graph);
    let mut out = String::new();
    let mut run: Option<Run<String>> = None;
    let mut wanted = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let moves = match (&mut run, line.strip_prefix("start")) {
            (_, Some(start)) => {
                let (values, want) = start.split_once("want").unwrap_or((start, ""));
                let names = |list: &[usize]| list.iter().map(|index| sketch.graph.tensors[*index].clone()).collect::<Vec<_>>();
                let want: Vec<&str> = want.trim().split(',').filter(|name| !name.is_empty()).collect();
                wanted = names(&sketch.graph.outputs);
                let requested: Vec<bool> = wanted.iter().map(|name| want.is_empty() || want.contains(&&**name)).collect();
                wanted.retain(|name| want.is_empty() || want.contains(&&**name));
                let inputs = assigned(values, &names(&sketch.graph.inputs));
                let (started, moves) = Run::start(sketch.plan(&requested), inputs);
                run = Some(started);
                moves
            }
            (Some(run), None) => event(run, &sketch, line),
            (None, None) => panic!("a script begins with start"),
        };
        writeln!(out, "{line}").unwrap();
        for next in moves {
            writeln!(out, "    {}", describe(&next, &sketch, &wanted)).unwrap();
        }
    }
    out
}

/// The values of `A=1 B=-` in the order of `names`.
fn assigned(text: &str, names: &[Arc<str>]) -> Vec<Option<String>> {
    let pairs: BTreeMap<&str, &str> = text.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    names.iter().map(|name| pairs.get(&**name).filter(|value| **value != "-").map(ToString::to_string)).collect()
}

fn event(run: &mut Run<String>, sketch: &Sketch, line: &str) -> Vec<Move<String>> {
    if line == "abort" {
        return run.abort(InferError::Cancelled);
    }
    let (target, what) = line.split_once(' ').unwrap();
    let (name, frame) = target.split_once('#').unwrap();
    let step = sketch.graph.steps.iter().position(|step| &*step.model == name).unwrap();
    let frame = frame.parse().unwrap();
    let last = what.ends_with('.');
    match what.trim_end_matches('.').trim() {
        "end" => run.on_end(step, frame),
        "fail" => run.on_failed(step, frame, InferError::Abandoned, last),
        values => {
            let names: Vec<Arc<str>> = sketch.graph.steps[step].outputs.iter().map(|output| Arc::clone(&output.name)).collect();
            run.on_response(step, frame, assigned(values, &names), last)
        }
    }
}

fn describe(next: &Move<String>, sketch: &Sketch, wanted: &[Arc<str>]) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    match next {
        Move::Fire(Firing { step, frame, inputs }) => {
            let values: Vec<String> = inputs.iter().map(text).collect();
            format!("fire {}#{frame}({})", sketch.graph.steps[*step].model, values.join(", "))
        }
        Move::Answer { outputs, last } => {
            let values: Vec<String> = wanted.iter().zip(outputs).map(|(name, value)| format!("{name}={}", text(value))).collect();
            format!("answer {}{}", values.join(" "), if *last { ", the last" } else { "" })
        }
        Move::Finish => "finish".to_owned(),
        Move::Fail(Fault::Step(_)) => "fail: step".to_owned(),
        Move::Fail(fault) => format!("fail: {fault:?}"),
    }
}

fn check(graph: &str, script: &str, expected: Expect) {
    expected.assert_eq(&play(graph, script));
}

const DIAMOND: &str = "
    in A B
    out C SUM
    left A > l
    right A,B > r,SUM
    join l,r > C";

#[test]
fn branches_start_together_and_the_join_waits_for_both() {
    check(
        DIAMOND,
        "start A=1 B=2\n right#0 r=3 SUM=4.\n left#0 l=5.\n join#0 C=6.",
        expect![[r#"
        start A=1 B=2
            fire left#0(1)
            fire right#0(1, 2)
        right#0 r=3 SUM=4.
        left#0 l=5.
            fire join#0(5, 3)
        join#0 C=6.
            answer C=6 SUM=4, the last
    "#]],
    );
}

#[test]
fn steps_that_nothing_requested_needs_do_not_run() {
    check(
        DIAMOND,
        "start A=1 B=2 want SUM\n right#0 r=3 SUM=4.",
        expect![[r#"
        start A=1 B=2 want SUM
            fire right#0(1, 2)
        right#0 r=3 SUM=4.
            answer SUM=4, the last
    "#]],
    );
}

#[test]
fn an_input_that_is_an_output_is_answered_at_once() {
    check(
        "in A\n out A C\n step A > C",
        "start A=1 want A",
        expect![[r#"
        start A=1 want A
            answer A=1, the last
    "#]],
    );
}

#[test]
fn what_a_step_leaves_out_is_absent_for_those_that_can_do_without() {
    let graph = "in A\n out C D\n first A > x,D\n second x?,A > C";
    check(
        graph,
        "start A=1\n first#0 x=- D=2.\n second#0 C=3.",
        expect![[r#"
        start A=1
            fire first#0(1)
        first#0 x=- D=2.
            fire second#0(-, 1)
        second#0 C=3.
            answer C=3 D=2, the last
    "#]],
    );
    check(
        graph,
        "start A=1\n first#0 x=4 D=-.\n second#0 C=3.",
        expect![[r#"
        start A=1
            fire first#0(1)
        first#0 x=4 D=-.
            fire second#0(4, 1)
        second#0 C=3.
            answer C=3 D=-, the last
    "#]],
    );
    // The client may leave inputs out as well.
    check(
        "in A B\n out C\n step A,B? > C",
        "start A=1 B=-\n step#0 C=3.",
        expect![[r#"
        start A=1 B=-
            fire step#0(1, -)
        step#0 C=3.
            answer C=3, the last
    "#]],
    );
}

#[test]
fn what_a_step_cannot_do_without_is_a_deadlock() {
    let graph = "in A\n out C\n first A > x\n other A > y\n second x,y > C";
    check(
        graph,
        "start A=1\n first#0 x=-.\n other#0 y=1.",
        expect![[r#"
        start A=1
            fire first#0(1)
            fire other#0(1)
        first#0 x=-.
        other#0 y=1.
            fail: Deadlock
    "#]],
    );
}

#[test]
fn the_first_error_wins_and_running_steps_are_awaited() {
    check(
        DIAMOND,
        "start A=1 B=2\n left#0 fail.\n right#0 r=1 SUM=2.",
        expect![[r#"
        start A=1 B=2
            fire left#0(1)
            fire right#0(1, 2)
        left#0 fail.
        right#0 r=1 SUM=2.
            fail: step
    "#]],
    );
    check(
        DIAMOND,
        "start A=1 B=2\n abort\n left#0 fail.\n right#0 fail.\n abort",
        expect![[r#"
        start A=1 B=2
            fire left#0(1)
            fire right#0(1, 2)
        abort
        left#0 fail.
        right#0 fail.
            fail: Aborted(Cancelled)
        abort
    "#]],
    );
}

#[test]
fn a_plain_step_answers_exactly_once() {
    let graph = "in A\n out C\n step A > C";
    check(
        graph,
        "start A=1\n step#0 C=2\n step#0 end",
        expect![[r#"
        start A=1
            fire step#0(1)
        step#0 C=2
        step#0 end
            answer C=2, the last
    "#]],
    );
    check(
        graph,
        "start A=1\n step#0 C=2\n step#0 C=3\n step#0 end",
        expect![[r#"
        start A=1
            fire step#0(1)
        step#0 C=2
        step#0 C=3
        step#0 end
            fail: ResponseCount { got: 2 }
    "#]],
    );
    check(
        graph,
        "start A=1\n step#0 end",
        expect![[r#"
        start A=1
            fire step#0(1)
        step#0 end
            fail: ResponseCount { got: 0 }
    "#]],
    );
}

const STREAM: &str = "
    in A B
    out C I
    repeat* A > x,I
    one x,B > C";

#[test]
fn responses_of_a_decoupled_step_never_mix_and_keep_their_order() {
    check(
        STREAM,
        "start A=7 B=8\n repeat#0 x=1 I=a\n repeat#0 x=2 I=b\n one#2 C=20.\n one#1 C=10.\n repeat#0 x=3 I=c.\n one#3 C=30.",
        expect![[r#"
            start A=7 B=8
                fire repeat#0(7)
            repeat#0 x=1 I=a
                fire one#1(1, 8)
            repeat#0 x=2 I=b
                fire one#2(2, 8)
            one#2 C=20.
            one#1 C=10.
                answer C=10 I=a
                answer C=20 I=b
            repeat#0 x=3 I=c.
                fire one#3(3, 8)
            one#3 C=30.
                answer C=30 I=c, the last
        "#]],
    );
    check(
        STREAM,
        "start A=7 B=8\n repeat#0 x=1 I=a\n one#1 C=10.\n repeat#0 end",
        expect![[r#"
        start A=7 B=8
            fire repeat#0(7)
        repeat#0 x=1 I=a
            fire one#1(1, 8)
        one#1 C=10.
            answer C=10 I=a
        repeat#0 end
            finish
    "#]],
    );
    check(
        STREAM,
        "start A=7 B=8\n repeat#0 end",
        expect![[r#"
        start A=7 B=8
            fire repeat#0(7)
        repeat#0 end
            finish
    "#]],
    );
}

#[test]
fn an_error_in_one_iteration_ends_the_request() {
    check(
        STREAM,
        "start A=7 B=8\n repeat#0 x=1 I=a\n one#1 fail.\n repeat#0 x=2 I=b\n repeat#0 end",
        expect![[r#"
        start A=7 B=8
            fire repeat#0(7)
        repeat#0 x=1 I=a
            fire one#1(1, 8)
        one#1 fail.
        repeat#0 x=2 I=b
        repeat#0 end
            fail: step
    "#]],
    );
    check(
        STREAM,
        "start A=7 B=8\n repeat#0 fail\n repeat#0 end",
        expect![[r#"
        start A=7 B=8
            fire repeat#0(7)
        repeat#0 fail
        repeat#0 end
            fail: step
    "#]],
    );
}

#[test]
fn iterations_share_what_does_not_depend_on_them() {
    let graph = "in A B\n out C D\n repeat* A > x\n slow B > D\n both x,D > C";
    check(
        graph,
        "start A=1 B=2\n repeat#0 x=1\n repeat#0 x=2.\n slow#0 D=9.\n both#2 C=22.\n both#1 C=11.",
        expect![[r#"
        start A=1 B=2
            fire repeat#0(1)
            fire slow#0(2)
        repeat#0 x=1
        repeat#0 x=2.
        slow#0 D=9.
            fire both#1(1, 9)
            fire both#2(2, 9)
        both#2 C=22.
        both#1 C=11.
            answer C=11 D=9
            answer C=22 D=9, the last
    "#]],
    );
}

#[test]
fn decoupled_steps_nest() {
    check(
        "in A\n out C\n outer* A > x\n inner* x > y\n last y > C",
        "start A=1\n outer#0 x=1\n outer#0 x=2.\n inner#2 y=20\n inner#1 y=10.\n last#4 C=100.\n last#3 C=200.\n inner#2 end",
        expect![[r#"
            start A=1
                fire outer#0(1)
            outer#0 x=1
                fire inner#1(1)
            outer#0 x=2.
                fire inner#2(2)
            inner#2 y=20
                fire last#3(20)
            inner#1 y=10.
                fire last#4(10)
            last#4 C=100.
            last#3 C=200.
                answer C=200
                answer C=100
            inner#2 end
                finish
        "#]],
    );
}

#[test]
fn a_stream_that_nobody_follows_is_bounded() {
    let sketch = Sketch::parse("in A\n out C\n repeat* A > x\n slow A > y\n both x,y > C");
    let (mut run, _) = Run::start(sketch.plan(&[true]), vec![Some(1)]);
    for _ in 1..super::MAX_OPEN_FRAMES {
        assert_eq!(run.on_response(0, 0, vec![Some(2)], false), []);
    }
    assert_eq!(run.on_response(0, 0, vec![Some(2)], false), []);
    assert_eq!(run.on_response(1, 0, vec![Some(2)], true), []);
    assert_eq!(run.on_end(0, 0), [Move::Fail(Fault::TooManyFrames)]);
}

#[test]
fn a_long_stream_leaves_nothing_behind() {
    let sketch = Sketch::parse(STREAM);
    let (mut run, _) = Run::start(sketch.plan(&[true, true]), vec![Some(1), Some(2)]);
    for turn in 1..=10_000 {
        let fired = run.on_response(0, 0, vec![Some(turn), Some(turn)], false);
        let [Move::Fire(Firing { step: 1, frame, .. })] = fired.as_slice() else { panic!("{fired:?}") };
        let answer = run.on_response(1, *frame, vec![Some(0)], true);
        assert_eq!(answer, [Move::Answer { outputs: vec![Some(0), Some(turn)], last: false }]);
        assert_eq!((run.frames.len(), run.answers.len()), (1, 0));
    }
    assert_eq!(run.on_end(0, 0), [Move::Finish]);
}

#[test]
fn tensors_leave_with_their_last_use() {
    let sketch = Sketch::parse("in A\n out C\n first A > x\n second x,x > y\n third x,y > C");
    let value = Arc::new(());
    let (mut run, moves) = Run::start(sketch.plan(&[true]), vec![Some(Arc::clone(&value))]);
    drop(moves);
    assert_eq!(Arc::strong_count(&value), 1);
    drop(run.on_response(0, 0, vec![Some(Arc::clone(&value))], true));
    assert_eq!(Arc::strong_count(&value), 2, "the third step has yet to read it");
    drop(run.on_response(1, 0, vec![Some(Arc::new(()))], true));
    assert_eq!(Arc::strong_count(&value), 1);
}

/// A small generator, so that one number describes a whole case.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides.max(1) as u64).unwrap()
    }
}

/// A random graph in which no step, and no set of requested outputs, mixes unrelated decoupled steps.
fn random_sketch(dice: &mut Dice) -> (Sketch, Vec<bool>) {
    let mut sketch = Sketch::new(&["i0", "i1"], &[]);
    let mut origins: Vec<Option<usize>> = vec![None, None];
    let steps = 1 + dice.roll(7);
    for position in 0..steps {
        let mut inputs: Vec<usize> = Vec::new();
        for _ in 0..1 + dice.roll(3) {
            let tensor = dice.roll(origins.len());
            let known = inputs.iter().find_map(|input| origins[*input]);
            if known.is_none() || origins[tensor].is_none() || known == origins[tensor] {
                inputs.push(tensor);
            }
        }
        let decoupled = dice.roll(4) == 0;
        let origin = if decoupled { Some(position) } else { inputs.iter().find_map(|input| origins[*input]) };
        let inputs: Vec<String> = inputs.iter().map(|tensor| sketch.graph.tensors[*tensor].to_string()).collect();
        let outputs: Vec<String> = (0..1 + dice.roll(2)).map(|output| format!("t{position}.{output}")).collect();
        origins.extend(outputs.iter().map(|_| origin));
        sketch.step(
            &format!("s{position}"),
            &inputs.iter().map(String::as_str).collect::<Vec<_>>(),
            &outputs.iter().map(String::as_str).collect::<Vec<_>>(),
            decoupled,
        );
    }
    sketch.graph.outputs = (2..origins.len()).collect();
    let mut scope = None;
    let mut requested: Vec<bool> = Vec::new();
    for tensor in &sketch.graph.outputs {
        let wanted = dice.roll(2) == 0 && (scope.is_none() || origins[*tensor].is_none() || scope == origins[*tensor]);
        scope = if wanted { scope.or(origins[*tensor]) } else { scope };
        requested.push(wanted);
    }
    if !requested.contains(&true) {
        requested[0] = true;
    }
    (sketch, requested)
}

/// What the graph means, without any order of events: the value of each tensor, given the response number
/// of every decoupled step that it depends on.
struct Meaning<'a> {
    sketch: &'a Sketch,
    responses: usize,
}

impl Meaning<'_> {
    fn writer(&self, tensor: usize) -> Option<usize> {
        self.sketch.graph.steps.iter().position(|step| step.outputs.iter().any(|output| output.tensor == tensor))
    }

    fn steps_behind(&self, tensor: usize, found: &mut BTreeSet<usize>) {
        if let Some(writer) = self.writer(tensor)
            && found.insert(writer)
        {
            self.sketch.graph.steps[writer].inputs.iter().for_each(|input| self.steps_behind(input.tensor, found));
        }
    }

    fn value(&self, tensor: usize, turns: &BTreeMap<usize, usize>) -> String {
        let name = &self.sketch.graph.tensors[tensor];
        let Some(writer) = self.writer(tensor) else { return name.to_string() };
        let inputs: Vec<String> =
            self.sketch.graph.steps[writer].inputs.iter().map(|input| self.value(input.tensor, turns)).collect();
        output_value(name, &inputs, self.sketch.facts[writer].decoupled.then(|| turns[&writer]))
    }

    /// All answers, sorted.
    fn answers(&self, requested: &[usize]) -> Vec<Vec<Option<String>>> {
        let mut behind = BTreeSet::new();
        requested.iter().for_each(|tensor| self.steps_behind(*tensor, &mut behind));
        let mut all = vec![BTreeMap::new()];
        for step in behind.into_iter().filter(|step| self.sketch.facts[*step].decoupled) {
            all = all
                .into_iter()
                .flat_map(|turns: BTreeMap<usize, usize>| {
                    (0..self.responses).map(move |turn| turns.iter().map(|(k, v)| (*k, *v)).chain([(step, turn)]).collect())
                })
                .collect();
        }
        let mut answers: Vec<_> =
            all.iter().map(|turns| requested.iter().map(|tensor| Some(self.value(*tensor, turns))).collect()).collect();
        answers.sort();
        answers
    }
}

/// A value that tells how it came to be; hashed, for nested ones would grow without end.
fn output_value(name: &str, inputs: &[String], turn: Option<usize>) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (name, inputs, turn).hash(&mut hasher);
    format!("{name}:{:x}", hasher.finish())
}

/// A step that was fired, and how far it is.
struct Flying {
    firing: Firing<String>,
    turn: usize,
}

/// Plays a random case to its end.
struct Game<'a> {
    sketch: &'a Sketch,
    dice: Dice,
    responses: usize,
    flying: Vec<Flying>,
    fired: BTreeSet<(usize, u64)>,
    answers: Vec<Vec<Option<String>>>,
    endings: usize,
    failed: bool,
}

impl Game<'_> {
    fn take(&mut self, moves: Vec<Move<String>>) {
        for next in moves {
            assert_eq!(self.endings, 0, "nothing follows the end");
            match next {
                Move::Fire(firing) => {
                    assert!(!self.failed, "no step starts after an error");
                    assert!(self.fired.insert((firing.step, firing.frame)), "fired twice: {firing:?}");
                    self.flying.push(Flying { firing, turn: 0 });
                }
                Move::Answer { outputs, last } => {
                    self.answers.push(outputs);
                    self.endings += usize::from(last);
                }
                Move::Finish => self.endings += 1,
                Move::Fail(fault) => {
                    assert!(matches!(fault, Fault::Step(_)), "{fault:?}");
                    assert!(self.failed && self.flying.is_empty(), "running steps are awaited");
                    self.endings += 1;
                }
            }
        }
    }

    fn turn(&mut self, run: &mut Run<String>, may_fail: bool) {
        let chosen = self.dice.roll(self.flying.len());
        let Flying { firing, turn } = &self.flying[chosen];
        let (step, frame, turn) = (firing.step, firing.frame, *turn);
        let decoupled = self.sketch.facts[step].decoupled;
        let total = if decoupled { self.responses } else { 1 };
        let moves = if may_fail && self.dice.roll(12) == 0 {
            self.failed = true;
            self.flying.swap_remove(chosen);
            run.on_failed(step, frame, InferError::Abandoned, true)
        } else if turn == total {
            self.flying.swap_remove(chosen);
            run.on_end(step, frame)
        } else {
            let inputs: Vec<String> = firing.inputs.iter().map(|input| input.clone().unwrap()).collect();
            let outputs = self.sketch.graph.steps[step]
                .outputs
                .iter()
                .map(|output| Some(output_value(&output.name, &inputs, decoupled.then_some(turn))))
                .collect();
            self.flying[chosen].turn += 1;
            let last = turn + 1 == total && self.dice.roll(2) == 0;
            if last {
                self.flying.swap_remove(chosen);
            }
            run.on_response(step, frame, outputs, last)
        };
        self.take(moves);
    }
}

/// More events than any of the random cases has.
const MAX_TURNS: usize = 1_000_000;

fn play_random(seed: u64, may_fail: bool) {
    let mut dice = Dice(seed);
    let (sketch, requested) = random_sketch(&mut dice);
    let responses = dice.roll(4);
    let wanted: Vec<usize> =
        sketch.graph.outputs.iter().zip(&requested).filter(|(_, wanted)| **wanted).map(|(tensor, _)| *tensor).collect();
    let inputs = vec![Some("i0".to_owned()), Some("i1".to_owned())];
    let (mut run, moves) = Run::start(sketch.plan(&requested), inputs);
    let mut game = Game {
        sketch: &sketch,
        dice,
        responses,
        flying: Vec::new(),
        fired: BTreeSet::new(),
        answers: Vec::new(),
        endings: 0,
        failed: false,
    };
    game.take(moves);
    for _ in 0..MAX_TURNS {
        if game.flying.is_empty() {
            break;
        }
        game.turn(&mut run, may_fail);
    }
    assert_eq!(game.endings, 1, "exactly one end");
    let meaning = Meaning { sketch: &sketch, responses };
    let mut behind = BTreeSet::new();
    wanted.iter().for_each(|tensor| meaning.steps_behind(*tensor, &mut behind));
    assert!(game.fired.iter().all(|(step, _)| behind.contains(step)), "only what is needed runs");
    let expected = meaning.answers(&wanted);
    game.answers.sort();
    if game.failed {
        assert!(game.answers.iter().all(|answer| expected.contains(answer)));
    } else {
        assert_eq!(game.answers, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_right_whatever_the_order(seed in any::<u64>()) {
        play_random(seed, false);
    }

    #[test]
    fn errors_end_requests_exactly_once(seed in any::<u64>()) {
        play_random(seed, true);
    }
}
