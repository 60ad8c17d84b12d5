//! Scripts of the default policy.

use expect_test::expect;

use super::*;

#[test]
fn an_idle_instance_never_waits_without_a_delay() {
    check(
        policy(4),
        "push a
         wants
         poll idle
         poll idle
         push b rows=2
         push c
         poll behind
         poll none
         poll idle",
        expect![[r#"
            0: wants true
            0: a[0..1] (idle)
            0: nothing
            0: nothing
            0: nothing
            0: b[0..2] c[2..3] (idle)
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
            0: a[0..1] b[1..2] (full)
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
         wants
         poll idle
         wakeup idle
         push c
         poll idle
         push d
         poll idle",
        &expect![[r#"
            0: wants false
            0: nothing
            0: wakeup None
            0: a[0..1] b[1..2] c[2..3] (idle)
            0: d[0..1] (idle)
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
         push d rows=0
         depth
         poll idle
         poll idle",
        expect![[r#"
            0: depth [4]
            0: a[0..3] (full)
            0: b[0..2] c[2..3] d[3..3] (full)
        "#]],
    );
}

#[test]
fn batches_are_cut_by_cost_and_one_above_it_runs_alone() {
    check(
        with_cost(policy(8), 100),
        "push a cost=60
         push b cost=40
         push c cost=1000
         push d cost=1
         poll behind
         poll behind
         poll idle
         push e cost=60
         push f cost=41
         poll idle",
        expect![[r#"
            0: a[0..1] b[1..2] (full)
            0: c[0..1] (full)
            0: d[0..1] (idle)
            0: e[0..1] (full)
        "#]],
    );
}

#[test]
fn the_delay_runs_from_the_oldest_request() {
    let mut policy = with_delay(policy(8), 5);
    policy.preferred_rows = vec![4, 8];
    check(
        policy,
        "push a
         wants
         poll idle
         wakeup idle
         wakeup behind
         advance 3
         push b
         poll idle
         advance 2
         wants
         poll idle
         push c rows=2
         push d rows=2
         poll idle
         wakeup idle",
        expect![[r#"
            0: wants false
            0: nothing
            0: wakeup Some(5.0)
            0: wakeup None
            3: nothing
            5: wants true
            5: a[0..1] b[1..2] (window)
            5: c[0..2] d[2..4] (preferred)
            5: wakeup None
        "#]],
    );
}

#[test]
fn a_preferred_size_never_cuts_a_batch() {
    let mut policy = with_delay(policy(8), 5);
    policy.preferred_rows = vec![2, 4];
    check(
        policy,
        "push a
         push b
         push c
         poll idle
         push d
         poll idle",
        expect![[r#"
            0: nothing
            0: a[0..1] b[1..2] c[2..3] d[3..4] (preferred)
        "#]],
    );
}

#[test]
fn nothing_waits_past_a_deadline() {
    check(
        with_delay(policy(8), 50),
        "push a
         poll idle
         advance 50
         poll idle
         advance 10
         finish 1 took=10
         push b finish_by=85
         poll idle
         wakeup idle
         push c start_by=70
         wakeup idle
         advance 8
         poll idle",
        expect![[r#"
            0: nothing
            50: a[0..1] (window)
            60: nothing
            60: wakeup Some(70.0)
            60: wakeup Some(60.0)
            68: c[0..1] b[1..2] (deadline)
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
            0: a[0..1] c[1..2] (idle)
            0: b[0..1] d[1..2] (idle)
        "#]],
    );
}

#[test]
fn with_preserved_order_nothing_overtakes() {
    let mut policy = with_delay(policy(4), 5);
    policy.preserve_ordering = true;
    check(
        policy,
        "push a key=1
         push b key=1 start_by=50 delayed_from=1
         push c key=2
         push d key=1 start_by=3
         advance 2
         expire
         poll behind
         poll idle
         poll idle
         advance 5
         poll idle",
        expect![[r#"
            2: lapsed []
            2: a[0..1] b[1..2] (order)
            2: c[0..1] (order)
            2: nothing
            7: nothing
        "#]],
    );
}

#[test]
fn the_earliest_deadline_goes_first() {
    check(
        policy(1),
        "push a
         push b start_by=300
         push c start_by=200
         push d finish_by=250
         poll idle x4
         push e start_by=1700
         advance 600
         push f start_by=1650
         push g
         poll idle x3",
        expect![[r#"
            0: c[0..1] (full)
            0: d[0..1] (full)
            0: b[0..1] (full)
            0: a[0..1] (full)
            600: e[0..1] (full)
            600: f[0..1] (full)
            600: g[0..1] (full)
        "#]],
    );
}

#[test]
fn higher_levels_go_first_and_bounds_hold_by_level() {
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
         push f level=1
         depth",
        expect![[r#"
            0: high[0..1] default[1..2] low[2..3] (idle)
            0: e refused: Full { retry_after: None }
            0: depth [1, 4]
        "#]],
    );
}

#[test]
fn a_batch_is_filled_up_from_lower_levels_of_its_shape() {
    check(
        with_levels(policy(3), 2),
        "push a level=2 key=1
         push b level=2 key=2
         push c level=1 key=2
         push d level=2 key=2
         poll idle
         poll idle",
        expect![[r#"
            0: c[0..1] b[1..2] d[2..3] (full)
            0: a[0..1] (idle)
        "#]],
    );
}

#[test]
fn a_level_that_was_passed_over_often_leads() {
    let mut batcher = DynamicBatcher::new(with_entries(with_levels(policy(1), 3), 100), 1);
    let push = |batcher: &mut DynamicBatcher<String>, name: &str, level| {
        let entry = waiting(name.to_owned(), at(0), |_| None);
        batcher.push(at(0), level, entry, |_| false, &mut Vec::new()).unwrap();
    };
    push(&mut batcher, "low", 3);
    push(&mut batcher, "middle", 2);
    for _ in 0..40 {
        push(&mut batcher, "high", 1);
    }
    let mut names = Vec::new();
    while let Some(batch) = batcher.poll(at(0), Room::Idle, |_| false, &mut Vec::new()) {
        names.push(batch.members()[0].item.clone());
    }
    let position = |name: &str| names.iter().position(|own| own == name).unwrap() as u64;
    assert_eq!((names.len(), position("middle"), position("low")), (42, super::super::PASS_OVER, super::super::PASS_OVER + 1));
}

#[test]
fn late_requests_are_refused_in_time() {
    check(
        policy(1),
        "push a start_by=5
         push b
         push c finish_by=7
         wakeup none
         advance 5
         poll idle
         expire
         wakeup none
         advance 2
         poll idle
         wakeup none
         expire",
        expect![[r#"
            0: wakeup Some(5.0)
            5: c[0..1] (full)
            5: lapsed [("a", Expired)]
            5: wakeup None
            7: b[0..1] (full)
            7: wakeup None
            7: lapsed []
        "#]],
    );
}

#[test]
fn under_delay_late_requests_are_set_back() {
    check(
        policy(1),
        "push a delayed_from=5
         push b delayed_from=50
         push c delayed_from=5 finish_by=30
         wakeup none
         advance 5
         expire
         depth
         push d
         poll idle x2
         wakeup none
         advance 25
         expire
         poll idle
         poll idle",
        expect![[r#"
            0: wakeup Some(5.0)
            5: lapsed []
            5: depth [3]
            5: b[0..1] (full)
            5: d[0..1] (full)
            5: wakeup Some(30.0)
            30: lapsed [("c", Expired)]
            30: a[0..1] (full)
            30: nothing
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
         poll idle
         push d x4
         push e
         leave d1
         leave d2
         push f
         poll behind
         poll idle
         push g
         leave g
         sweep",
        expect![[r#"
            0: c[0..1] (idle) gone ["a", "b"]
            0: e refused: Full { retry_after: None }
            0: gone ["d1", "d2"]
            0: d0[0..1] d3[1..2] (full)
            0: f[0..1] (idle)
            0: gone ["g"]
        "#]],
    );
}

#[test]
fn what_cannot_be_done_in_time_is_refused_on_arrival() {
    check(
        with_entries(policy(2), 20),
        "push a finish_by=1
         poll idle
         advance 10
         finish 1 took=10
         push b x2
         poll idle
         finish 2 took=10
         push c finish_by=15
         push d finish_by=25
         push e x2 finish_by=45
         poll idle
         push f x2 finish_by=28
         push g finish_by=45
         push h finish_by=19
         poll behind
         push i x12 finish_by=70",
        expect![[r#"
            0: a[0..1] (idle)
            10: b0[0..1] b1[1..2] (full)
            10: c refused: Unreachable { retry_after: None }
            10: d[0..1] e0[1..2] (full)
            10: h refused: Unreachable { retry_after: Some(8.498748ms) }
            10: f0[0..1] f1[1..2] (full)
            10: i6 refused: Unreachable { retry_after: Some(7.783276ms) }
            10: i7 refused: Unreachable { retry_after: Some(7.783276ms) }
            10: i8 refused: Unreachable { retry_after: Some(7.783276ms) }
            10: i9 refused: Unreachable { retry_after: Some(7.783276ms) }
            10: i10 refused: Unreachable { retry_after: Some(7.783276ms) }
            10: i11 refused: Unreachable { retry_after: Some(7.783276ms) }
        "#]],
    );
}

#[test]
fn a_full_queue_says_when_there_will_be_room() {
    check(
        policy(2),
        "push a x2
         poll idle
         advance 20
         finish 1 took=20
         push b x4
         poll idle
         push c x2
         advance 5
         push d",
        expect![[r#"
            0: a0[0..1] a1[1..2] (full)
            20: b0[0..1] b1[1..2] (full)
            25: d refused: Full { retry_after: Some(15ms) }
        "#]],
    );
}

/// Batches of one row take 11 ms here, each further row one more.
fn learned(script: &str) -> String {
    format!("{}{script}", "learn rows=1 took=11\nlearn rows=2 took=12\n".repeat(30))
}

#[test]
fn a_batch_ends_where_it_would_miss_a_deadline() {
    check(
        with_entries(policy(8), 20),
        &learned(
            "push c finish_by=15
             push d x9
             poll idle
             poll idle
             push f finish_by=10
             poll idle
             expire",
        ),
        expect![[r#"
            0: c[0..1] d0[1..2] d1[2..3] d2[3..4] (deadline)
            0: d3[0..1] d4[1..2] d5[2..3] d6[3..4] d7[4..5] d8[5..6] (idle)
            0: f refused: Unreachable { retry_after: None }
            0: nothing
            0: lapsed []
        "#]],
    );
}

#[test]
fn a_batch_behind_another_leaves_out_who_would_surely_be_late() {
    check(
        with_entries(policy(2), 20),
        &learned(
            "push a x2
             push b start_by=40
             poll idle
             push c finish_by=25
             advance 5
             push d finish_by=23
             push e finish_by=30
             finish 61
             push f x2 finish_by=40
             poll idle
             advance 12
             push g finish_by=40
             push h finish_by=39
             poll behind
             expire
             wakeup behind",
        ),
        expect![[r#"
            0: b[0..1] a0[1..2] (full)
            5: e refused: Unreachable { retry_after: Some(6.191659ms) }
            5: d[0..1] c[1..2] (full)
            17: g refused: Unreachable { retry_after: Some(1.191704ms) }
            17: h[0..1] f0[1..2] (full)
            17: lapsed []
            17: wakeup Some(29.097152)
        "#]],
    );
}
