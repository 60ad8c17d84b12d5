//! The batches of one instance between their launch and their end: at most so many, ended in the order of launches.
//!
//! The instance's thread launches, the thread beside it waits for ends. A place is free again as soon as the device is
//! done with a batch, before its requests are answered, so that the device is never kept waiting for answers.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::PoisonError;

use super::sync::{Condvar, Mutex, MutexGuard};

/// What has been launched and has not ended. See the [module](self).
pub(crate) struct Flights<T> {
    state: Mutex<State<T>>,
    /// For the instance's thread, which waits for ends.
    landed: Condvar,
    /// For the thread beside it, which waits for launches.
    launched: Condvar,
}

struct State<T> {
    /// Launched, and nobody waits for it yet.
    flying: VecDeque<T>,
    /// Launched and not ended.
    under_way: usize,
    most: usize,
    is_broken: bool,
    is_closed: bool,
}

impl<T> Flights<T> {
    /// Nothing under way, of at most so many.
    pub(crate) fn new(most: NonZeroUsize) -> Self {
        let flying = VecDeque::with_capacity(most.get());
        let state = State { flying, under_way: 0, most: most.get(), is_broken: false, is_closed: false };
        Self { state: Mutex::new(state), landed: Condvar::new(), launched: Condvar::new() }
    }

    /// Waits until another may be launched.
    pub(crate) fn wait_for_place(&self) {
        let mut state = self.lock();
        while state.under_way >= state.most {
            state = self.landed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes in what has been launched. Whoever launches has waited for a place before.
    pub(crate) fn launch(&self, flight: T) {
        let mut state = self.lock();
        state.under_way += 1;
        state.flying.push_back(flight);
        drop(state);
        self.launched.notify_one();
    }

    /// Waits for the next that was launched, in order; `None` once nothing is launched any more.
    pub(crate) fn next(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(flight) = state.flying.pop_front() {
                return Some(flight);
            }
            if state.is_closed {
                return None;
            }
            state = self.launched.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What [`Flights::next`] gave has ended, so that its place is free; `is_broken` where the instance is of no use any
    /// more.
    pub(crate) fn land(&self, is_broken: bool) {
        let mut state = self.lock();
        state.under_way = state.under_way.saturating_sub(1);
        state.is_broken |= is_broken;
        drop(state);
        self.landed.notify_one();
    }

    /// Whether the instance was found to be of no use since this was last asked.
    pub(crate) fn take_broken(&self) -> bool {
        std::mem::take(&mut self.lock().is_broken)
    }

    /// Waits until nothing is under way.
    pub(crate) fn wait_for_all(&self) {
        let mut state = self.lock();
        while state.under_way > 0 {
            state = self.landed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing is launched any more; what was still ends.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.launched.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
