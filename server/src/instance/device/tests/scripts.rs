//! Who runs next, case by case.

use expect_test::{Expect, expect};

use super::script;

fn check(slots: usize, lines: &str, expected: Expect) {
    expected.assert_eq(&script(slots, lines));
}

#[test]
fn a_rare_model_waits_for_the_execution_that_runs_and_no_longer() {
    let lines = "
        share flooded
        share rare
        claim flooded
        turn 10 flooded
        turn 10 flooded
        turn 10 flooded
        run 4
        claim rare
        turn 6 flooded
        turn 1
        run 5
        claim rare
        turn 5 flooded
        turn 1
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: flooded runs
        10 ms: flooded runs
        20 ms: flooded runs
        30 ms: flooded runs
        40 ms: rare runs
        41 ms: flooded runs
        51 ms: rare runs
        52 ms: flooded runs
    "#]],
    );
}

#[test]
fn equal_weights_get_equal_time_and_not_equal_turns() {
    // Four executions of the short one take as long as one of the long one.
    let lines = "
        share long
        share short
        claim long short
        turn 40 long
        turn 10 short
        turn 10 short
        turn 10 short
        turn 10 short
        turn 40 long
        turn 10 short
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: long runs
        40 ms: short runs
        50 ms: short runs
        60 ms: short runs
        70 ms: short runs
        80 ms: long runs
        120 ms: short runs
        130 ms: short runs
    "#]],
    );
}

#[test]
fn weights_divide_the_time() {
    let lines = "
        share heavy weight=3
        share light
        claim heavy light
        turn 10 heavy
        turn 10 light
        turn 10 heavy
        turn 10 heavy
        turn 10 heavy
        turn 10 light
        turn 10 heavy
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: heavy runs
        10 ms: light runs
        20 ms: heavy runs
        30 ms: heavy runs
        40 ms: heavy runs
        50 ms: light runs
        60 ms: heavy runs
        70 ms: heavy runs
    "#]],
    );
}

#[test]
fn idling_saves_nothing_up() {
    let lines = "
        share busy
        share idler
        claim busy
        turn 10 busy
        turn 10 busy
        turn 10 busy
        turn 10 busy
        claim idler
        turn 10 busy
        turn 10 idler
        turn 10 busy
        turn 10 idler
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: busy runs
        10 ms: busy runs
        20 ms: busy runs
        30 ms: busy runs
        40 ms: busy runs
        50 ms: idler runs
        60 ms: busy runs
        70 ms: idler runs
        80 ms: busy runs
    "#]],
    );
}
