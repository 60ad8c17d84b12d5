//! Threads around the gate of a device.

use std::num::NonZeroUsize;
use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::try_schedules;

/// The gate, over the pure scheduler that the server uses.
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../instance/device/gate.rs"]
mod gate;

use crate::instance::device::{resources, schedule};

/// What the gate takes its locks from.
mod sync {
    pub(super) use std::sync::{Arc, PoisonError};

    pub(super) use super::super::sync::{Condvar, Mutex, MutexGuard, now};
}

use gate::{DeviceGate, DevicePermit, Seat};

fn seats(slots: usize, models: [&str; 2]) -> Vec<Seat> {
    let gate = DeviceGate::new(resources::ResourcePool::default());
    let lane = gate.add_lane(NonZeroUsize::new(slots).unwrap());
    models.into_iter().map(|model| gate.seat(lane, schedule::ShareSpec::new(model), "d", &[]).unwrap()).collect()
}

#[test]
fn each_claim_is_granted_and_no_more_at_a_time_than_there_are_slots() {
    try_schedules(|| {
        super::sync::restart();
        let inside = Arc::new(Mutex::new(0));
        let models: Vec<_> = seats(1, ["a", "b"])
            .into_iter()
            .map(|seat| {
                let inside = Arc::clone(&inside);
                thread::spawn(move || {
                    let mut permit = seat.acquire();
                    for turn in 0..2 {
                        *inside.lock().unwrap() += 1;
                        assert_eq!(*inside.lock().unwrap(), 1, "two turns at a time");
                        *inside.lock().unwrap() -= 1;
                        if turn == 0 {
                            permit = permit.exchange().wait();
                        }
                    }
                    drop(permit);
                })
            })
            .collect();
        models.into_iter().for_each(|model| model.join().unwrap());
    });
}

#[test]
fn a_wide_turn_comes_among_narrow_ones_and_no_more_slots_are_taken_than_there_are() {
    try_schedules(|| {
        super::sync::restart();
        let gate = DeviceGate::new(resources::ResourcePool::default());
        let lane = gate.add_lane(NonZeroUsize::new(2).unwrap());
        let two = NonZeroUsize::new(2).unwrap();
        let seat = |spec| gate.seat(lane, spec, "d", &[]).unwrap();
        let narrow = seat(schedule::ShareSpec { instances: two, ..schedule::ShareSpec::new("narrow") });
        let wide = seat(schedule::ShareSpec { slots: two, ..schedule::ShareSpec::new("wide") });
        let taken = Arc::new(Mutex::new(0));
        let models: Vec<_> = [narrow.clone(), narrow, wide]
            .into_iter()
            .map(|seat| {
                let taken = Arc::clone(&taken);
                thread::spawn(move || {
                    let permit = seat.acquire();
                    let permit = (0..2).fold(permit, |permit, turn| {
                        *taken.lock().unwrap() += seat.slots().get();
                        assert!(*taken.lock().unwrap() <= 2, "more slots are taken than there are");
                        *taken.lock().unwrap() -= seat.slots().get();
                        if turn == 0 { permit.exchange().wait() } else { permit }
                    });
                    drop(permit);
                })
            })
            .collect();
        models.into_iter().for_each(|model| model.join().unwrap());
    });
}

/// Where a permit is put for who asked.
type Told = Arc<(Mutex<Option<DevicePermit>>, Condvar)>;

#[test]
fn who_asks_is_told_and_who_takes_the_question_back_holds_nobody_up() {
    try_schedules(|| {
        super::sync::restart();
        let mut seats = seats(1, ["a", "b"]);
        let (asking, other) = (seats.pop().unwrap(), seats.pop().unwrap());
        let runner = thread::spawn(move || drop(other.acquire()));
        let told: Told = Arc::default();
        let first = Arc::clone(&told);
        let claim = asking.request(move |permit| {
            // The question is taken back: the turn is given back at once, where it comes all the same.
            drop((permit, first));
        });
        drop(claim);
        let second = Arc::clone(&told);
        let claim = asking.request(move |permit| {
            *second.0.lock().unwrap() = Some(permit);
            second.1.notify_one();
        });
        let mut permit = told.0.lock().unwrap();
        while permit.is_none() {
            permit = told.1.wait(permit).unwrap();
        }
        let permit = permit.take();
        drop(claim);
        drop(permit);
        runner.join().unwrap();
    });
}
