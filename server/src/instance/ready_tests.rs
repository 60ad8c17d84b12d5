//! Scripts that pin what the queue before the instances gives to whom, and who is woken for it.

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use crate::clock::Timestamp;

use super::ready::{Appetite, Destination, Found, Perishable, ReadyState};

/// A batch of named parts, each with the time at which it lapses (0 for never).
#[derive(Debug, PartialEq, Eq)]
struct Parts(Vec<(String, u64)>);

impl Perishable for Parts {
    type Part = (String, u64);

    fn next_lapse(&self) -> Option<Timestamp> {
        self.0.iter().map(|part| part.1).filter(|lapse| *lapse > 0).min().map(Timestamp::from_nanos)
    }

    fn extract(&mut self, test: &mut dyn FnMut(&Self::Part) -> bool, parts: &mut Vec<Self::Part>) {
        parts.extend(self.0.extract_if(.., |part| test(part)));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn names(parts: &[(String, u64)]) -> String {
    parts.iter().map(|part| part.0.as_str()).collect::<Vec<_>>().join("+")
}

/// Runs a script over two instances and room for four, one step a line: `push PARTS [by=N] [to=N]` (parts are
/// `NAME` or `NAME@LAPSE`, joined by `+`), `take INSTANCE`, `own INSTANCE`, `expire TIME`, `sweep NAMES`, `lapse`,
/// `close`.
fn check(script: &str, expected: Expect) {
    let mut state = ReadyState::new(2, 4);
    let mut log = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).map(|value| value.parse::<u64>().unwrap());
        let number = || words[1].parse::<u64>().unwrap();
        let lapsed = match words[0] {
            "push" => {
                let parts = words[1].split('+').map(|part| part.split_once('@').unwrap_or((part, "0")));
                let parts = Parts(parts.map(|(name, lapse)| (name.to_owned(), lapse.parse().unwrap())).collect());
                let to = value("to=").map_or(Destination::Any, |to| Destination::Instance(usize::try_from(to).unwrap()));
                match state.push(parts, Timestamp::from_nanos(value("by=").unwrap_or(0)), to) {
                    Ok(None) => {}
                    Ok(Some(woken)) => writeln!(log, "{}: wakes {woken}", words[1]).unwrap(),
                    Err(_) => writeln!(log, "{}: refused", words[1]).unwrap(),
                }
                continue;
            }
            "take" | "own" => {
                let appetite = if words[0] == "own" { Appetite::Own } else { Appetite::All };
                let instance = usize::try_from(number()).unwrap();
                match state.look(instance, appetite) {
                    Found::Something => match state.take(instance, appetite).unwrap() {
                        (thing, None) => writeln!(log, "{line}: {}", names(&thing.0)).unwrap(),
                        (thing, Some(woken)) => writeln!(log, "{line}: {}, wakes {woken}", names(&thing.0)).unwrap(),
                    },
                    Found::Rest => writeln!(log, "{line}: rests").unwrap(),
                    Found::Closed => writeln!(log, "{line}: closed").unwrap(),
                }
                continue;
            }
            "lapse" => {
                let next = state.next_lapse().map(Timestamp::as_nanos);
                writeln!(log, "next lapse {next:?}").unwrap();
                continue;
            }
            "close" => {
                writeln!(log, "close wakes {:?}", state.close()).unwrap();
                continue;
            }
            "expire" => {
                let now = number();
                state.expire(Timestamp::from_nanos(now), &mut |part| part.1 > 0 && part.1 <= now)
            }
            "sweep" => state.sweep(&mut |part| words[1].split('+').any(|name| name == part.0)),
            other => panic!("unknown step {other}"),
        };
        writeln!(log, "{line}: {} out, {} emptied, {} wait", names(&lapsed.parts), lapsed.emptied.len(), state.len()).unwrap();
    }
    expected.assert_eq(&log);
}

#[test]
fn the_most_urgent_goes_first_and_equals_in_the_order_of_arrival() {
    check(
        "push a by=5
         push b by=3
         push c by=5
         push d by=3
         push e by=1
         take 0
         take 1
         take 0
         take 1
         take 0",
        expect![[r#"
            e: refused
            take 0: b
            take 1: d
            take 0: a
            take 1: c
            take 0: rests
        "#]],
    );
}

#[test]
fn the_longest_resting_instance_is_woken_once() {
    check(
        "take 1
         take 0
         push a
         push b
         push c
         take 0
         take 1
         take 0
         take 0
         push d",
        expect![[r#"
            take 1: rests
            take 0: rests
            a: wakes 1
            b: wakes 0
            take 0: a
            take 1: b
            take 0: c
            take 0: rests
            d: wakes 0
        "#]],
    );
}

#[test]
fn what_is_meant_for_one_goes_to_that_one_and_leaves_nobody_resting_beside_work() {
    check(
        "take 0
         take 1
         push shared by=2
         push own by=1 to=0
         take 0
         take 1
         push other to=1
         take 0
         take 1
         push lost to=2",
        expect![[r#"
            take 0: rests
            take 1: rests
            shared: wakes 0
            take 0: own, wakes 1
            take 1: shared
            take 0: rests
            take 1: other
            lost: refused
        "#]],
    );
}

#[test]
fn an_instance_that_is_broken_takes_only_its_own() {
    check(
        "own 0
         push a
         push b to=0
         own 0
         own 0
         take 1
         close
         own 0
         take 1",
        expect![[r#"
            own 0: rests
            b: wakes 0
            own 0: b
            own 0: rests
            take 1: a
            close wakes [0]
            own 0: closed
            take 1: closed
        "#]],
    );
}

#[test]
fn what_lapses_is_taken_out_of_its_batch() {
    check(
        "push a@5+b+c@9
         push d@5
         push e to=1
         lapse
         expire 4
         expire 5
         lapse
         take 0
         lapse
         push f@7+g@8 to=1
         expire 8
         lapse
         take 1",
        expect![[r#"
            next lapse Some(5)
            expire 4:  out, 0 emptied, 3 wait
            expire 5: a+d out, 1 emptied, 2 wait
            next lapse Some(9)
            take 0: b+c
            next lapse None
            expire 8: f+g out, 1 emptied, 1 wait
            next lapse None
            take 1: e
        "#]],
    );
}

#[test]
fn a_sweep_takes_out_whoever_has_left() {
    check(
        "push a+b@9
         push c to=1
         push d
         sweep b+c+x
         lapse
         take 1
         take 1
         take 1",
        expect![[r#"
            sweep b+c+x: b+c out, 1 emptied, 2 wait
            next lapse None
            take 1: a
            take 1: d
            take 1: rests
        "#]],
    );
}

#[test]
fn a_closed_queue_gives_out_what_it_holds() {
    check(
        "push a
         push b to=1
         close
         push c
         take 0
         take 0
         take 1
         take 1",
        expect![[r#"
            close wakes []
            c: refused
            take 0: a
            take 0: closed
            take 1: b
            take 1: closed
        "#]],
    );
}
