//! Threads around the queue before the instances.

use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use crate::clock::Timestamp;

use super::ready::{Appetite, Destination, Perishable, ReadyQueue};
use super::try_schedules;

/// A thing with a number, which lapses at a time.
#[derive(Debug)]
struct Thing(Option<usize>, Option<u64>);

impl Perishable for Thing {
    type Part = usize;

    fn next_lapse(&self) -> Option<Timestamp> {
        self.1.map(Timestamp::from_nanos)
    }

    fn extract(&mut self, test: &mut dyn FnMut(&usize) -> bool, parts: &mut Vec<usize>) {
        if self.0.is_some_and(|number| test(&number)) {
            parts.extend(self.0.take());
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// What came out, and who is to close the queue when all has.
struct Out {
    queue: ReadyQueue<Thing>,
    taken: Mutex<Vec<(usize, usize)>>,
    all: usize,
}

impl Out {
    fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { queue: ReadyQueue::new(2, all), taken: Mutex::new(Vec::new()), all })
    }

    /// Only what came out ends the test: a thread that sleeps beside something it could take is a deadlock.
    fn note(&self, thing: usize, instance: usize) {
        let mut taken = self.taken.lock().unwrap();
        taken.push((thing, instance));
        let is_last = taken.len() == self.all;
        drop(taken);
        if is_last {
            self.queue.close();
        }
    }

    fn check(&self) {
        let mut things: Vec<usize> = self.taken.lock().unwrap().iter().map(|(thing, _)| *thing).collect();
        things.sort_unstable();
        assert_eq!(things, (0..self.all).collect::<Vec<_>>(), "each thing once");
    }
}

fn push(out: &Out, thing: usize, destination: Destination) {
    out.queue.push(Thing(Some(thing), None), Timestamp::default(), destination).unwrap();
}

#[test]
fn whatever_comes_is_taken_once_by_whom_it_is_meant_for() {
    try_schedules(|| {
        let out = Out::new(4);
        let takers: Vec<_> = (0..2)
            .map(|instance| {
                let out = Arc::clone(&out);
                thread::spawn(move || {
                    while let Some(thing) = out.queue.next(instance, Appetite::All) {
                        out.note(thing.0.unwrap(), instance);
                    }
                })
            })
            .collect();
        let other = Arc::clone(&out);
        let pusher = thread::spawn(move || {
            push(&other, 0, Destination::Any);
            push(&other, 1, Destination::Instance(1));
        });
        push(&out, 2, Destination::Instance(0));
        push(&out, 3, Destination::Any);
        pusher.join().unwrap();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        out.check();
        for (thing, instance) in out.taken.lock().unwrap().iter() {
            assert!((*thing != 1 || *instance == 1) && (*thing != 2 || *instance == 0));
        }
    });
}

#[test]
fn an_instance_that_looks_first_and_takes_later_misses_nothing() {
    try_schedules(|| {
        let out = Out::new(3);
        let takers: Vec<_> = (0..2)
            .map(|instance| {
                let out = Arc::clone(&out);
                thread::spawn(move || {
                    while out.queue.wait(instance, Appetite::All) {
                        if let Some(thing) = out.queue.take_now(instance, Appetite::All) {
                            out.note(thing.0.unwrap(), instance);
                        }
                    }
                })
            })
            .collect();
        push(&out, 0, Destination::Any);
        push(&out, 1, Destination::Instance(0));
        push(&out, 2, Destination::Any);
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        out.check();
    });
}

#[test]
fn what_lapses_while_instances_take_comes_out_once() {
    try_schedules(|| {
        let out = Out::new(3);
        let expiring = Arc::clone(&out);
        let taking = Arc::clone(&out);
        let expirer = thread::spawn(move || {
            for now in 1..3 {
                let lapsed = expiring.queue.expire(Timestamp::from_nanos(now), &mut |thing| *thing < 2);
                assert_eq!(lapsed.parts.len(), lapsed.emptied.len());
                lapsed.parts.into_iter().for_each(|thing| expiring.note(thing, 9));
            }
        });
        let taker = thread::spawn(move || {
            while let Some(thing) = taking.queue.next(0, Appetite::All) {
                taking.note(thing.0.unwrap(), 0);
            }
        });
        for thing in 0..3 {
            let lapse = (thing < 2).then_some(thing as u64 + 1);
            out.queue.push(Thing(Some(thing), lapse), Timestamp::default(), Destination::Any).unwrap();
        }
        expirer.join().unwrap();
        taker.join().unwrap();
        out.check();
    });
}

#[test]
fn an_instance_that_is_broken_leaves_the_rest_to_the_other() {
    try_schedules(|| {
        let out = Out::new(3);
        let takers: Vec<_> = [(0, Appetite::Own), (1, Appetite::All)]
            .into_iter()
            .map(|(instance, appetite)| {
                let out = Arc::clone(&out);
                thread::spawn(move || {
                    // It was at work when it broke: it took anything before.
                    if appetite == Appetite::Own
                        && let Some(thing) = out.queue.take_now(instance, Appetite::All)
                    {
                        out.note(thing.0.unwrap(), instance);
                    }
                    while let Some(thing) = out.queue.next(instance, appetite) {
                        out.note(thing.0.unwrap(), instance);
                    }
                })
            })
            .collect();
        push(&out, 0, Destination::Any);
        push(&out, 1, Destination::Instance(0));
        push(&out, 2, Destination::Any);
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        out.check();
    });
}

#[test]
fn no_instance_rests_beside_what_another_leaves_to_run_its_own() {
    try_schedules(|| {
        let out = Out::new(2);
        let shared_is_taken = Arc::new((Mutex::new(false), Condvar::new()));
        let takers: Vec<_> = (0..2)
            .map(|instance| {
                let (out, shared_is_taken) = (Arc::clone(&out), Arc::clone(&shared_is_taken));
                thread::spawn(move || {
                    while let Some(thing) = out.queue.next(instance, Appetite::All) {
                        let (taken, changed) = &*shared_is_taken;
                        let mut taken = taken.lock().unwrap();
                        if thing.0 == Some(0) {
                            *taken = true;
                            changed.notify_all();
                        }
                        // Its own runs for as long as nobody takes the other.
                        while !*taken {
                            taken = changed.wait(taken).unwrap();
                        }
                        drop(taken);
                        out.note(thing.0.unwrap(), instance);
                    }
                })
            })
            .collect();
        out.queue.push(Thing(Some(0), None), Timestamp::from_nanos(2), Destination::Any).unwrap();
        out.queue.push(Thing(Some(1), None), Timestamp::from_nanos(1), Destination::Instance(0)).unwrap();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        out.check();
    });
}
