//! Threads around the timer, and time that goes on.

use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use crate::clock::Timestamp;

use super::timer::{Bell, Timer};
use super::{sync, try_schedules};

/// A bell that counts.
#[derive(Default)]
struct Counter(Mutex<usize>, Condvar);

impl Bell for Counter {
    fn ring(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }
}

impl Counter {
    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while *rung == 0 {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = 0;
    }
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

#[test]
fn every_alarm_rings_when_its_time_has_come() {
    try_schedules(|| {
        sync::restart();
        let timer = Arc::new(Timer::new());
        let running = Arc::clone(&timer);
        let ringing = thread::spawn(move || running.run());
        let owners: Vec<_> = [3, 1]
            .into_iter()
            .map(|moment| {
                let timer = Arc::clone(&timer);
                thread::spawn(move || {
                    let bell = Arc::new(Counter::default());
                    let mut alarm = timer.alarm(Arc::clone(&bell) as _);
                    alarm.ring_by(at(moment), sync::now());
                    bell.wait();
                    assert!(sync::now() >= at(moment), "rung too early");
                })
            })
            .collect();
        // No alarm is set for later: where one is not rung by then, its owner waits for ever.
        (1..=3).for_each(sync::advance);
        owners.into_iter().for_each(|owner| owner.join().unwrap());
        timer.close();
        ringing.join().unwrap();
    });
}

#[test]
fn an_alarm_that_is_set_earlier_rings_earlier() {
    try_schedules(|| {
        sync::restart();
        let timer = Arc::new(Timer::new());
        let running = Arc::clone(&timer);
        let ringing = thread::spawn(move || running.run());
        let bell = Arc::new(Counter::default());
        let mut alarm = timer.alarm(Arc::clone(&bell) as _);
        alarm.ring_by(at(9), sync::now());
        alarm.ring_by(at(2), sync::now());
        // Time goes no further than the earlier moment.
        sync::advance(2);
        bell.wait();
        drop(alarm);
        timer.close();
        ringing.join().unwrap();
    });
}
