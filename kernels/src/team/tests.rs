//! Shares and teams: nothing lost or done twice, panics, scratch memory, names.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::{Share, Team};
use crate::isa::Isa;

fn team(threads: usize, scratch_bytes: usize) -> Team {
    Team::new("crew", NonZeroUsize::new(threads).expect("at least one"), scratch_bytes).expect("threads start")
}

#[test]
fn every_share_is_run_once_and_at_the_same_time() {
    for threads in [1, 2, 3, 5] {
        let team = team(threads, 0);
        assert_eq!(team.threads(), threads);
        for _ in 0..20 {
            let seen = Mutex::new(Vec::new());
            // Nobody passes before all have come: this ends only if members run at the same time.
            let together = std::sync::Barrier::new(threads);
            team.run(|share, _| {
                together.wait();
                seen.lock().unwrap().push((share.index, share.count));
            });
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, (0..threads).map(|index| (index, threads)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_panic_comes_out_once_all_are_done_and_the_team_works_on() {
    for threads in [1, 3] {
        let team = team(threads, 0);
        for round in 0..5 {
            let done = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(|share, _| {
                    if share.index == round % threads {
                        std::panic::resume_unwind(Box::new("a member fails"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let payload = result.expect_err("the panic comes out");
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"a member fails"));
            assert_eq!(done.load(Ordering::Relaxed), threads - 1);
        }
        let sum = AtomicUsize::new(0);
        team.run(|share, _| {
            sum.fetch_add(share.index + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), threads * (threads + 1) / 2);
    }
}

#[test]
fn scratch_memory_is_each_members_own_and_stays() {
    let team = team(3, 100);
    team.run(|share, scratch| {
        let bytes = scratch.as_mut_slice::<u8>();
        assert_eq!(bytes, [0; 100]);
        bytes.fill(share.index as u8 + 1);
    });
    let places = Mutex::new(Vec::new());
    for _ in 0..2 {
        team.run(|share, scratch| {
            let bytes = scratch.as_slice::<u8>();
            assert_eq!(bytes, [share.index as u8 + 1; 100]);
            places.lock().unwrap().push((share.index, bytes.as_ptr().addr()));
        });
    }
    let mut places = places.into_inner().unwrap();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 3, "each member has one place");
}

#[test]
fn threads_are_named_and_a_team_of_one_has_none() {
    let names = Mutex::new(Vec::new());
    let note = |_: Share, _: &mut crate::aligned::Aligned| {
        names.lock().unwrap().push(std::thread::current().name().map(str::to_owned));
    };
    team(2, 0).run(note);
    names.lock().unwrap().sort();
    assert_eq!(std::mem::take(&mut *names.lock().unwrap()), [Some("crew-0".to_owned()), Some("crew-1".to_owned())]);
    let here = std::thread::current().id();
    for team in [team(1, 0), Team::single(0)] {
        team.run(|_, _| assert_eq!(std::thread::current().id(), here));
        assert_eq!(team.enter(|| std::thread::current().id()), here);
    }
}

#[test]
fn operations_run_inside_the_team_too() {
    let team = team(2, 0);
    let inside = team.enter(|| {
        let count = AtomicUsize::new(0);
        team.run(|_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (count.into_inner(), std::thread::current().name().map(str::to_owned))
    });
    assert_eq!(inside.0, 2);
    assert!(inside.1.is_some_and(|name| name.starts_with("crew-")));
    let failed = catch_unwind(AssertUnwindSafe(|| team.enter(|| std::panic::resume_unwind(Box::new(7)))));
    assert!(failed.is_err_and(|payload: Box<dyn std::any::Any + Send>| payload.downcast_ref::<i32>() == Some(&7)));
}

#[test]
fn a_team_uses_the_instructions_it_is_told_to() {
    assert_eq!(Team::single(0).isa(), Isa::detect());
    for isa in Isa::available() {
        assert_eq!(Team::single(0).with_isa(isa).isa(), isa);
    }
}

proptest! {
    #[test]
    fn shares_cover_everything_in_order_and_evenly(items in 0usize..5000, count in 1usize..70) {
        let shares: Vec<_> = (0..count).map(|index| Share { index, count }.of(items)).collect();
        prop_assert_eq!(shares[0].start, 0);
        prop_assert_eq!(shares[count - 1].end, items);
        prop_assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
        let (least, most) = (shares.iter().map(|s| s.len()).min(), shares.iter().map(|s| s.len()).max());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
        prop_assert_eq!(Share::WHOLE.of(items), 0..items);
    }

    #[test]
    fn rows_are_each_given_out_once(rows in 0usize..40, n in 1usize..9) {
        for team in Team::all() {
            let mut output = vec![0f32; rows * n];
            let calls = AtomicUsize::new(0);
            team.rows(&mut output, n, usize::MAX, |range, part| {
                calls.fetch_add(1, Ordering::Relaxed);
                assert_eq!(part.len(), range.len() * n);
                for (row, part) in range.zip(part.chunks_exact_mut(n)) {
                    part.iter_mut().for_each(|x| *x += 1.0 + row as f32);
                }
            });
            prop_assert_eq!(calls.into_inner(), team.threads());
            let want: Vec<f32> = (0..rows * n).map(|index| 1.0 + (index / n) as f32).collect();
            prop_assert_eq!(&output, &want);
        }
    }
}
