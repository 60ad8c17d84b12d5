//! Threads around the limit of an ensemble's step.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use super::ensemble_gate::{Admission, Gate};
use super::{sync, try_schedules};

#[test]
fn as_many_as_may_are_let_in_and_nobody_is_forgotten() {
    try_schedules(|| {
        sync::restart();
        let gate = Arc::new(Gate::new(1, 2));
        let inside = Arc::new(Mutex::new(0));
        let producers: Vec<_> = (0..3)
            .map(|_| {
                let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
                thread::spawn(move || {
                    assert_eq!(gate.admit(&[1], &[1], || false), Admission::Admitted);
                    *inside.lock().unwrap() += 1;
                    assert_eq!(*inside.lock().unwrap(), 1, "more than the limit");
                    *inside.lock().unwrap() -= 1;
                    gate.give_back(1, 1);
                })
            })
            .collect();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
    });
}

#[test]
fn a_producer_whose_request_is_over_is_woken() {
    try_schedules(|| {
        sync::restart();
        let gate = Arc::new(Gate::new(1, 1));
        gate.take(0);
        let over = Arc::new(AtomicBool::new(false));
        let (waiting, is_over) = (Arc::clone(&gate), Arc::clone(&over));
        // Time stands still: only the call that wakes it can end the wait.
        let producer = thread::spawn(move || waiting.admit(&[0], &[0], || is_over.load(Ordering::SeqCst)));
        over.store(true, Ordering::SeqCst);
        gate.wake();
        assert_eq!(producer.join().unwrap(), Admission::GivenUp);
    });
}
