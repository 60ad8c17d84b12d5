//! Threads around a cancellation token and a responder.

use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::Mutex;
use shuttle::thread;

use crate::error::InferError;

use super::request::{Cancellation, Delivery, Responder, ResponseSink};
use super::{sync, try_schedules};

#[test]
fn whoever_waits_is_woken_and_every_hook_is_called_once() {
    try_schedules(|| {
        sync::restart();
        let token = Cancellation::default();
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let token = token.clone();
                // Time stands still: only the cancellation can end the wait.
                thread::spawn(move || assert!(token.wait(Duration::from_secs(1))))
            })
            .collect();
        let calls = Arc::new(Mutex::new(0));
        let (hooking, counting) = (token.clone(), Arc::clone(&calls));
        let hooker = thread::spawn(move || hooking.on_cancel(move || *counting.lock().unwrap() += 1));
        token.cancel();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        drop(hooker.join().unwrap());
        assert_eq!(*calls.lock().unwrap(), 1);
        token.cancel();
        assert_eq!(*calls.lock().unwrap(), 1);
    });
}

#[test]
fn a_hook_that_is_forgotten_is_called_once_or_never() {
    try_schedules(|| {
        let token = Cancellation::default();
        let calls = Arc::new(Mutex::new(0));
        let counting = Arc::clone(&calls);
        let hook = token.on_cancel(move || *counting.lock().unwrap() += 1);
        let cancelling = thread::spawn(move || token.cancel());
        drop(hook);
        cancelling.join().unwrap();
        assert!(*calls.lock().unwrap() <= 1);
    });
}

/// Counts last deliveries.
struct Sink(Arc<Mutex<Vec<bool>>>);

impl ResponseSink for Sink {
    fn deliver(&mut self, delivery: Delivery) {
        self.0.lock().unwrap().push(delivery.is_last());
    }
}

#[test]
fn a_request_gets_one_last_delivery_whoever_has_it() {
    try_schedules(|| {
        let deliveries = Arc::new(Mutex::new(Vec::new()));
        let token = Cancellation::default();
        let mut responder = Responder::new(Box::new(Sink(Arc::clone(&deliveries))), token.clone());
        let leaving = thread::spawn(move || token.cancel());
        // The queue hands it on, and whoever takes it answers, refuses or forgets it.
        let taker = thread::spawn(move || {
            if responder.cancellation().is_cancelled() {
                responder.fail(InferError::Cancelled);
            } else {
                responder.deliver(Delivery::Failed { error: InferError::Expired, last: false });
            }
            responder
        });
        let mut responder = taker.join().unwrap();
        if responder.cancellation().is_cancelled() {
            responder.fail(InferError::Cancelled);
        }
        drop(responder);
        leaving.join().unwrap();
        let deliveries = deliveries.lock().unwrap();
        assert_eq!(deliveries.iter().filter(|last| **last).count(), 1);
        assert_eq!(deliveries.last(), Some(&true));
    });
}
