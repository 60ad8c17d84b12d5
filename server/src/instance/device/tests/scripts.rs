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

#[test]
fn time_counts_and_not_what_was_expected() {
    // The first execution takes four times as long as any before; the next turns make up for it.
    let lines = "
        share a
        share b
        claim a b
        turn 10 a
        turn 10 b
        turn 40 a
        turn 10 b
        turn 10 b
        turn 10 b
        turn 10 b
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: a runs
        10 ms: b runs
        20 ms: a runs
        60 ms: b runs
        70 ms: b runs
        80 ms: b runs
        90 ms: b runs
        100 ms: a runs
    "#]],
    );
}

#[test]
fn a_higher_class_goes_first_and_a_lower_one_is_passed_over_16_times() {
    let turns = "turn 1 high\n".repeat(17);
    let lines = format!("share high priority=1\nshare low priority=3\nclaim high\nclaim low\n{turns}turn 1\nturn 1 high low");
    let said = script(1, &lines);
    let order: String = said.lines().map(|line| if line.contains("high") { 'h' } else { 'l' }).collect();
    // The first turn was granted before anyone else waited.
    assert_eq!(order, format!("h{}lhh", "h".repeat(16)));
}

#[test]
fn a_claim_that_is_made_early_keeps_its_place_and_waits_for_its_instance() {
    let lines = "
        share a instances=2
        share b
        claim a
        claim a
        claim a
        run 10
        claim b
        end a
        run 10
        end a
    ";
    check(
        3,
        lines,
        expect![[r#"
        0 ms: a runs
        0 ms: a runs
        10 ms: b runs
        10 ms: a runs
    "#]],
    );
}

#[test]
fn slots_run_side_by_side() {
    let lines = "
        share a instances=3
        share b
        claim a a a
        claim b
        run 5
        end a
        run 5
        end a
        end b
        end a
    ";
    check(
        2,
        lines,
        expect![[r#"
        0 ms: a runs
        0 ms: a runs
        5 ms: b runs
        10 ms: a runs
    "#]],
    );
}

#[test]
fn a_turn_that_is_next_and_does_not_fit_is_waited_for() {
    // The slot that becomes free first is kept for the wide one, although a narrow one waits that would fit.
    let lines = "
        share narrow instances=2
        share wide slots=2
        claim narrow narrow
        run 10
        claim wide narrow narrow
        end narrow
        run 10
        end narrow
        run 10
        end wide
    ";
    check(
        2,
        lines,
        expect![[r#"
        0 ms: narrow runs
        0 ms: narrow runs
        20 ms: wide runs
        30 ms: narrow runs
        30 ms: narrow runs
    "#]],
    );
}

#[test]
fn a_wide_turn_counts_for_all_its_slots() {
    // Alone on two slots, the narrow model is due twice as many turns as the one that takes both at a time.
    let lines = "
        share wide slots=2
        share narrow
        claim wide narrow
        turn 10 wide
        turn 10 narrow
        turn 10 narrow
        turn 10 wide
        turn 10 narrow
        turn 10 narrow
        turn 10 wide
    ";
    check(
        2,
        lines,
        expect![[r#"
        0 ms: wide runs
        10 ms: narrow runs
        20 ms: narrow runs
        30 ms: wide runs
        40 ms: narrow runs
        50 ms: narrow runs
        60 ms: wide runs
        70 ms: narrow runs
    "#]],
    );
}

#[test]
fn a_higher_class_goes_before_a_wide_turn_and_is_stopped_for_it_in_the_end() {
    let urgent = "turn 1 urgent urgent\n".repeat(8);
    let lines = format!(
        "share urgent priority=1 instances=2\nshare wide priority=3 slots=2\nclaim urgent urgent\nclaim wide\n{urgent}turn 1 urgent urgent"
    );
    let said = script(2, &lines);
    assert_eq!(said.lines().filter(|line| line.ends_with("urgent runs")).count(), 18, "{said}");
    assert!(said.ends_with("8 ms: urgent runs\n9 ms: wide runs\n"), "{said}");
}

#[test]
fn whoever_waited_behind_a_wide_turn_goes_when_it_is_withdrawn() {
    let lines = "
        share narrow instances=2
        share wide slots=3
        claim narrow
        run 1
        claim wide
        claim narrow
        run 1
        withdraw wide
        share huge slots=9
        end narrow
        end narrow
        claim huge
    ";
    check(
        2,
        lines,
        expect![[r#"
        0 ms: narrow runs
        2 ms: narrow runs
        2 ms: huge runs
    "#]],
    );
}

#[test]
fn withdrawn_claims_are_never_granted() {
    let lines = "
        share a
        share b
        share c
        claim a
        claim b
        claim c
        withdraw b
        run 10
        end a
        run 10
        end c
        claim b
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: a runs
        10 ms: c runs
        20 ms: b runs
    "#]],
    );
}

#[test]
fn a_share_is_gone_when_its_last_execution_has_ended() {
    let lines = "
        share a instances=2
        share b
        claim a a
        claim b
        remove a
        run 10
        end a
        run 10
        end b
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: a runs
        0 ms: a is gone, 1 claims came back
        10 ms: b runs
    "#]],
    );
}

#[test]
fn an_instance_runs_only_while_its_resources_are_free() {
    let lines = "
        limit r 3
        share a needs=r:2
        share b needs=r:2
        share c needs=r:1
        claim a
        claim b
        claim c
        run 10
        end a
        end c
        end b
    ";
    check(
        4,
        lines,
        expect![[r#"
        0 ms: a runs
        0 ms: c runs
        10 ms: b runs
    "#]],
    );
}

#[test]
fn there_is_as_much_as_the_largest_need_unless_told() {
    let lines = "
        share a instances=2 needs=r:1
        share b needs=r:3
        claim a a
        claim b
        end a a
        claim a a
        run 10
        end b
        remove b
        run 10
        end a a
        claim a a
        run 10
        end a
    ";
    check(
        4,
        lines,
        expect![[r#"
            0 ms: a runs
            0 ms: a runs
            0 ms: b runs
            10 ms: a runs
            10 ms: a runs
            10 ms: b is gone, 0 claims came back
            20 ms: a runs
            30 ms: a runs
        "#]],
    );
}

#[test]
fn needs_that_can_never_be_met_are_refused() {
    let lines = "
        limit r 2
        limit s 0
        share a needs=r:3
        share b needs=r:1,s:1
        share c needs=r:2,s:0
        share d global=r:1
        share e needs=x:1 global=x:1
        remove c
        share f global=r:1
    ";
    check(
        1,
        lines,
        expect![[r#"
            a is refused: Resource count for "r" is limited to 2 which will prevent scheduling of one or more model instances, the minimum required count is 3
            b is refused: Resource count for "s" is limited to 0 which will prevent scheduling of one or more model instances, the minimum required count is 1
            d is refused: Resource "r" is present as both global and device-specific resource in the model configuration.
            e is refused: Resource "x" is present as both global and device-specific resource in the model configuration.
            0 ms: c is gone, 0 claims came back
        "#]],
    );
}

#[test]
fn limits_may_be_for_one_device() {
    let lines = "
        limit r 10 10
        limit s 1
        limit s 4 0
        limit t 1 7
        share a needs=r:4
        share b needs=s:4
        share c needs=s:5
        share d global=t:2
        share e global=t:1
    ";
    check(
        1,
        lines,
        expect![[r#"
        a is refused: Resource count for "r" is limited to 0 which will prevent scheduling of one or more model instances, the minimum required count is 4
        c is refused: Resource count for "s" is limited to 4 which will prevent scheduling of one or more model instances, the minimum required count is 5
        d is refused: Resource count for "t" is limited to 1 which will prevent scheduling of one or more model instances, the minimum required count is 2
    "#]],
    );
}

#[test]
fn what_is_free_is_kept_for_a_large_need_that_was_overtaken_four_times() {
    // Two small ones take turns so that there is never enough for the large one.
    let lines = "
        limit r 2
        share small instances=2 needs=r:1
        share large needs=r:2
        share other
        claim small small
        claim large
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        claim other
        run 10
        end small
        run 10
        end large
    ";
    check(
        4,
        lines,
        expect![[r#"
        0 ms: small runs
        0 ms: small runs
        10 ms: small runs
        20 ms: small runs
        30 ms: small runs
        40 ms: small runs
        50 ms: other runs
        60 ms: large runs
        70 ms: small runs
    "#]],
    );
}

#[test]
fn a_large_need_that_is_given_up_lets_the_others_go_on() {
    let lines = "
        limit r 2
        share small instances=2 needs=r:1
        share large needs=r:2
        claim small small
        claim large
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        run 10
        end small
        claim small
        withdraw large
    ";
    check(
        4,
        lines,
        expect![[r#"
        0 ms: small runs
        0 ms: small runs
        10 ms: small runs
        20 ms: small runs
        30 ms: small runs
        40 ms: small runs
        50 ms: small runs
    "#]],
    );
}

#[test]
fn idling_saves_nothing_up_while_others_are_never_idle() {
    let lines = "
        share a
        share b
        share idler
        claim a b
        turn 10 a
        turn 10 b
        turn 10 a
        turn 10 b
        turn 10 a
        turn 10 b
        turn 10 a
        claim idler
        turn 10 b
        turn 10 idler
        turn 10 a
        turn 10 b
        turn 10 idler
    ";
    check(
        1,
        lines,
        expect![[r#"
        0 ms: a runs
        10 ms: b runs
        20 ms: a runs
        30 ms: b runs
        40 ms: a runs
        50 ms: b runs
        60 ms: a runs
        70 ms: b runs
        80 ms: idler runs
        90 ms: a runs
        100 ms: b runs
        110 ms: idler runs
        120 ms: a runs
    "#]],
    );
}
