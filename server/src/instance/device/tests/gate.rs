//! The concurrent shell: who is told, on which thread, and that real threads never exceed the slots.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, bounded};

use super::super::gate::{Claim, DeviceGate, DevicePermit, Seat};
use super::super::resources::{ResourceLimits, ResourcePool};
use super::super::schedule::ShareSpec;
use super::need_of;

fn one(slots: usize) -> NonZeroUsize {
    NonZeroUsize::new(slots).unwrap()
}

/// Seats of models on one device: weight and instances of each.
fn seats<const N: usize>(slots: usize, models: [(u32, usize); N]) -> [Seat; N] {
    let gate = DeviceGate::new(ResourcePool::default());
    let lane = gate.add_lane(one(slots));
    models.map(|(weight, instances)| {
        let spec = ShareSpec { weight: NonZeroU32::new(weight).unwrap(), instances: one(instances), ..ShareSpec::new("m") };
        gate.seat(lane, spec, "0", &[]).unwrap()
    })
}

/// A claim whose permit, if it comes, is found in the channel.
fn claim(seat: &Seat) -> (Claim, Receiver<DevicePermit>) {
    let (sender, permits) = bounded(1);
    let claim = seat.request(move |permit| sender.send(permit).unwrap());
    (claim, permits)
}

#[test]
fn a_free_device_is_granted_at_once_and_a_busy_one_by_whoever_releases_it() {
    let [a, b] = seats(1, [(1, 1), (1, 1)]);
    let (_first, permits) = claim(&a);
    let permit = permits.try_recv().unwrap();
    let (_second, waiting) = claim(&b);
    assert!(waiting.try_recv().is_err());
    drop(permit);
    let permit = waiting.try_recv().unwrap();
    let third = a.reserve();
    let other = std::thread::spawn(move || drop(permit));
    drop(third.wait());
    other.join().unwrap();
}

#[test]
fn a_claim_that_is_dropped_is_withdrawn() {
    let [a, b] = seats(1, [(1, 1), (1, 1)]);
    let permit = a.acquire();
    let (claimed, permits) = claim(&b);
    drop(claimed);
    drop(b.reserve());
    drop(permit);
    assert!(permits.recv().is_err(), "the callback was dropped uncalled");
    // The device is free: nobody holds what was withdrawn.
    drop(a.acquire());
    // A permit that was granted to a reservation which nobody waits for goes back.
    drop(a.reserve());
    drop(b.acquire());
}

#[test]
fn a_permit_may_be_dropped_where_it_is_granted() {
    let [a, b] = seats(1, [(1, 1), (1, 64)]);
    let permit = a.acquire();
    let granted = Arc::new(AtomicUsize::new(0));
    let claims: Vec<Claim> = (0..64)
        .map(|_| {
            let granted = Arc::clone(&granted);
            b.request(move |permit| {
                drop(permit);
                granted.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    drop(permit);
    assert_eq!(granted.load(Ordering::Relaxed), 64);
    drop(claims);
    drop(a.acquire());
}

#[test]
fn a_claim_before_the_release_keeps_a_weight_and_one_after_it_does_not() {
    let [heavy, light] = seats(1, [(1000, 1), (1, 1)]);
    let permit = heavy.acquire();
    let (_first, permits) = claim(&light);
    let next = permit.exchange();
    let permit = permits.try_recv().expect("it comes from idling, so it goes first");
    let end = crate::clock::now().plus(std::time::Duration::from_micros(200));
    while crate::clock::now() < end {
        std::hint::spin_loop();
    }
    let (_second, permits) = claim(&light);
    drop(permit);
    let next = next.wait().exchange();
    let next = next.wait().exchange();
    assert!(permits.try_recv().is_err(), "the light one has used the device for long");
    drop(next.wait());
    let permit = permits.try_recv().expect("nobody else had claimed");
    let late = heavy.reserve();
    drop(permit);
    drop(late.wait());
}

#[test]
fn resources_are_held_across_devices_and_given_back() {
    let gate = DeviceGate::new(ResourcePool::new(ResourceLimits::default()));
    let (one_lane, other_lane) = (gate.add_lane(one(1)), gate.add_lane(one(1)));
    let needs = [need_of("license:1", true)];
    let a = gate.seat(one_lane, ShareSpec::new("a"), "0", &needs).unwrap();
    let b = gate.seat(other_lane, ShareSpec::new("b"), "1", &needs).unwrap();
    let permit = a.acquire();
    let (_claim, permits) = claim(&b);
    assert!(permits.try_recv().is_err(), "its device is free, the license is not");
    drop(permit);
    drop(permits.try_recv().unwrap());
    assert!(!gate.replace_lane(one_lane, one(1)), "a share is registered");
    drop(a);
    assert!(gate.replace_lane(one_lane, one(2)));
    let (used, by_share) = gate.used(one_lane);
    assert_eq!((used.executions, by_share.len()), (0, 0));
}

#[test]
fn threads_never_exceed_the_slots_and_all_get_their_turns() {
    const TURNS: usize = 300;
    let gate = DeviceGate::new(ResourcePool::default());
    let lane = gate.add_lane(one(2));
    let [a, b, c] = [(1, 3, 1), (3, 2, 1), (1, 1, 2)].map(|(weight, instances, slots)| {
        let weight = NonZeroU32::new(weight).unwrap();
        let spec = ShareSpec { weight, instances: one(instances), slots: one(slots), ..ShareSpec::new("m") };
        gate.seat(lane, spec, "0", &[]).unwrap()
    });
    let running = AtomicUsize::new(0);
    let most = AtomicUsize::new(0);
    let turns = Mutex::new(Vec::new());
    let work = |seat: &Seat, name: char| {
        let mut next = Some(seat.reserve());
        for turn in 0..TURNS {
            let permit = next.take().unwrap().wait();
            let slots = seat.slots().get();
            most.fetch_max(running.fetch_add(slots, Ordering::AcqRel) + slots, Ordering::AcqRel);
            turns.lock().unwrap().push(name);
            running.fetch_sub(slots, Ordering::AcqRel);
            // Some exchange, some drop and come again, some withdraw once more.
            next = Some(match turn % 3 {
                0 => permit.exchange(),
                1 => {
                    drop(permit);
                    seat.reserve()
                }
                _ => {
                    drop(permit.exchange());
                    seat.reserve()
                }
            });
        }
    };
    std::thread::scope(|scope| {
        for (seat, name, instances) in [(&a, 'a', 3), (&b, 'b', 2), (&c, 'c', 1)] {
            for _ in 0..instances {
                scope.spawn(move || work(seat, name));
            }
        }
    });
    assert!(most.into_inner() <= 2);
    assert_eq!(turns.into_inner().unwrap().len(), 6 * TURNS);
}
