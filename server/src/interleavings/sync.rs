//! The locks of shuttle, with what it has not: waits that end by time, which is a number here, and the runtime's
//! notifications.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::sync::{Arc, LockResult, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::clock::Timestamp;

pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU64};
pub(super) use shuttle::sync::{Mutex, MutexGuard};

thread_local! {
    /// The time. Shuttle runs all threads of a schedule on one thread of the system.
    static NOW: Cell<Timestamp> = const { Cell::new(Timestamp::from_nanos(0)) };
    /// Condition variables on which somebody waits until a time at most.
    static TIMED: RefCell<Vec<(Timestamp, Arc<shuttle::sync::Condvar>)>> = const { RefCell::new(Vec::new()) };
}

/// Reads the time.
pub(super) fn now() -> Timestamp {
    NOW.get()
}

/// Begins a schedule at time 0.
pub(super) fn restart() {
    NOW.set(Timestamp::default());
    TIMED.take();
}

/// Lets time go on, and wakes those whose wait ends by it.
pub(super) fn advance(to: u64) {
    let to = Timestamp::from_nanos(to);
    NOW.set(to);
    let due: Vec<_> = TIMED.with_borrow_mut(|timed| timed.extract_if(.., |(until, _)| *until <= to).collect());
    for (_, waiting) in due {
        waiting.notify_all();
    }
    shuttle::thread::yield_now();
}

/// A condition variable.
#[derive(Debug, Default)]
pub(super) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    /// A condition variable.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Waits until it is woken.
    pub(super) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    /// Waits until it is woken or the time is over.
    pub(super) fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, delay: Duration) -> LockResult<(MutexGuard<'a, T>, ())> {
        TIMED.with_borrow_mut(|timed| timed.push((now().plus(delay), Arc::clone(&self.0))));
        self.wait(guard).map(|guard| (guard, ())).map_err(|error| PoisonError::new((error.into_inner(), ())))
    }

    /// Waits until it is woken and `condition` does not hold, or the time is over.
    pub(super) fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        delay: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        let until = now().plus(delay);
        while condition(&mut guard) && now() < until {
            guard = self.wait_timeout(guard, until.since(now())).map(|waited| waited.0).map_err(|error| {
                let (guard, ()) = error.into_inner();
                PoisonError::new((guard, ()))
            })?;
        }
        Ok((guard, ()))
    }

    /// Wakes one.
    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all.
    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A notification for one listener, kept while nobody listens: as the runtime's.
#[derive(Default)]
pub(super) struct Notify(Mutex<(bool, Option<Waker>)>);

impl Notify {
    /// A notification that has not been given.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Wakes the listener, or the next who listens.
    pub(super) fn notify_one(&self) {
        let mut state = self.0.lock().unwrap();
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Listens.
    pub(super) async fn notified(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap();
            if std::mem::take(&mut state.0) {
                Poll::Ready(())
            } else {
                state.1 = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await;
    }
}
