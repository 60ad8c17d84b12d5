//! Scripts of Triton's policy.

use expect_test::expect;

use super::*;

fn preferring(mut policy: DynamicBatching, sizes: &[usize]) -> DynamicBatching {
    policy.preferred_rows = sizes.to_vec();
    policy
}

/// With a queue bound, so that batches are only formed for an idle instance.
fn bounded(mut policy: DynamicBatching) -> DynamicBatching {
    policy.run_ahead = false;
    policy
}

#[test]
fn without_delay_the_first_runs_alone_and_the_rest_behind_it() {
    check(
        compat(with_entries(policy(4), 9)),
        "push a
         wants
         poll idle
         push b
         poll behind
         wakeup behind
         push c x2
         poll behind
         push d x2
         poll behind
         push e
         poll behind
         depth
         poll idle",
        expect![[r#"
            0: wants true
            0: a[0..1] (idle)
            0: nothing
            0: wakeup None
            0: nothing
            0: b[0..1] c0[1..2] c1[2..3] d0[3..4] (full)
            0: nothing
            0: depth [0]
            0: d1[0..1] e[1..2] (idle)
        "#]],
    );
}

#[test]
fn exactly_the_best_preferred_prefix_is_sent() {
    check(
        preferring(bounded(compat(with_entries(policy(8), 9))), &[2, 4]),
        "push a x3
         poll idle
         push b x4
         poll idle
         poll idle",
        expect![[r#"
            0: a0[0..1] a1[1..2] (preferred)
            0: a2[0..1] b0[1..2] b1[2..3] b2[3..4] (preferred)
            0: b3[0..1] (idle)
        "#]],
    );
}

#[test]
fn the_prefix_before_the_largest_preferred_size_is_sent() {
    check(
        preferring(bounded(compat(policy(8))), &[4]),
        "push a x2 rows=3
         push big rows=6
         poll idle
         poll idle
         poll idle",
        expect![[r#"
            0: a0[0..3] (preferred)
            0: a1[0..3] (preferred)
            0: big[0..6] (preferred)
        "#]],
    );
}

#[test]
fn another_shape_cuts_the_batch() {
    check(
        compat(policy(4)),
        "push a key=1
         push b key=2
         push c key=1
         poll idle x3",
        expect![[r#"
            0: a[0..1] (order)
            0: b[0..1] (order)
            0: c[0..1] (idle)
        "#]],
    );
    check(
        compat(policy(4)),
        "push a key=1
         poll behind
         push b key=2
         poll behind
         poll behind
         poll idle",
        expect![[r#"
            0: nothing
            0: a[0..1] (idle)
            0: nothing
            0: b[0..1] (idle)
        "#]],
    );
}

#[test]
fn the_delay_runs_from_the_oldest_pending_request() {
    check(
        preferring(bounded(with_delay(compat(with_entries(policy(8), 9)), 5)), &[4]),
        "push a
         poll idle
         wakeup idle
         advance 3
         push b
         wakeup idle
         poll idle
         wants
         wakeup idle
         advance 2
         wants
         poll idle
         push c x3
         poll idle
         push d x2
         poll idle
         wakeup idle",
        expect![[r#"
            0: nothing
            0: wakeup Some(5.0)
            3: wakeup Some(3.0)
            3: nothing
            3: wants false
            3: wakeup Some(5.0)
            5: wants true
            5: a[0..1] b[1..2] (window)
            5: nothing
            5: c0[0..1] c1[1..2] c2[2..3] d0[3..4] (preferred)
            5: wakeup None
        "#]],
    );
}

#[test]
fn priorities_are_strict_and_interrupt_the_walk() {
    check(
        bounded(with_delay(compat(with_levels(policy(2), 2)), 5)),
        "push low level=2
         poll idle
         push high level=1
         push higher level=1
         poll idle
         advance 5
         poll idle",
        expect![[r#"
            0: nothing
            0: high[0..1] higher[1..2] (full)
            5: low[0..1] (window)
        "#]],
    );
    let mut batcher = DynamicBatcher::<String>::new(compat(with_entries(with_levels(policy(1), 2), 100)), 1);
    let push = |batcher: &mut DynamicBatcher<String>, name: &str, level| {
        batcher.push(at(0), level, waiting(name.to_owned(), at(0), |_| None), |_| false, &mut Vec::new()).unwrap();
    };
    push(&mut batcher, "low", 2);
    for _ in 0..90 {
        push(&mut batcher, "high", 1);
    }
    for _ in 0..90 {
        let batch = batcher.poll(at(0), Room::Idle, |_| false, &mut Vec::new()).unwrap();
        assert_eq!(batch.members()[0].item, "high");
    }
}

#[test]
fn timeouts_are_met_at_the_cursor_or_every_half_second() {
    check(
        bounded(compat(policy(1))),
        "push a start_by=5
         push b
         push c start_by=30
         poll none
         wakeup none
         advance 100
         expire
         wakeup none
         advance 400
         expire
         poll behind
         poll idle
         push d start_by=501
         advance 10
         expire
         poll idle
         wakeup idle
         expire",
        expect![[r#"
            0: nothing
            0: wakeup Some(500.0)
            100: lapsed []
            100: wakeup Some(500.0)
            500: lapsed [("a", Expired), ("c", Expired)]
            500: nothing
            500: b[0..1] (full)
            510: lapsed []
            510: nothing
            510: wakeup Some(510.0)
            510: lapsed [("d", Expired)]
        "#]],
    );
}

#[test]
fn under_delay_late_requests_run_last_in_their_level() {
    check(
        bounded(compat(policy(1))),
        "push a delayed_from=5
         push b
         advance 10
         poll idle
         push c
         poll idle x2
         wakeup idle",
        expect![[r#"
            10: b[0..1] (full)
            10: c[0..1] (full)
            10: a[0..1] (full)
            10: wakeup None
        "#]],
    );
}

#[test]
fn bounds_count_what_has_not_been_sent() {
    check(
        compat(policy(2)),
        "push a
         push b
         poll behind
         push c
         poll behind
         push d x4
         depth
         push e
         leave d0
         push f
         poll idle
         sweep
         poll idle",
        expect![[r#"
            0: nothing
            0: a[0..1] b[1..2] (full)
            0: d3 refused: Full { retry_after: None }
            0: depth [4]
            0: e refused: Full { retry_after: None }
            0: f refused: Full { retry_after: None }
            0: c[0..1] d1[1..2] (full) gone ["d0"]
            0: gone []
            0: d2[0..1] (idle)
        "#]],
    );
}

#[test]
fn no_deadline_refuses_on_arrival() {
    check(
        compat(policy(1)),
        "push a
         poll idle
         advance 10
         finish 1 took=10
         push b finish_by=11
         poll idle",
        expect![[r#"
            0: a[0..1] (full)
            10: b[0..1] (full)
        "#]],
    );
}
