//! One thread that rings bells at points in time. The runtime's own timer counts in milliseconds, and a batch that
//! waits for others waits less than that; a thread's sleep is good for tens of microseconds.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError};

use crate::clock::Timestamp;

use super::sync::{self, Condvar, Mutex, MutexGuard};

/// What an alarm rings. It is called by the timer's thread, which others wait for: it must only wake somebody.
pub(crate) trait Bell: Send + Sync {
    /// Wakes whoever listens; if he is awake, he must look again before he sleeps.
    fn ring(&self);
}

/// The alarms that are set, and the thread that rings them.
pub(crate) struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// By time; the number tells alarms of one time apart.
    alarms: BTreeMap<(Timestamp, u64), Arc<dyn Bell>>,
    /// Alarms ever made.
    made: u64,
    /// Until when the thread sleeps if nobody wakes it; nothing while it is awake.
    sleeps_until: Option<Timestamp>,
    closed: bool,
}

/// Rings one bell at one point in time at most. Dropped, it rings no more.
pub(crate) struct Alarm {
    timer: Arc<Timer>,
    bell: Arc<dyn Bell>,
    number: u64,
    set_for: Option<Timestamp>,
}

/// "When woken and no sooner."
const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

static TIMER: OnceLock<Arc<Timer>> = OnceLock::new();

impl Timer {
    /// The timer of this process. Its thread starts with the first call and sleeps while no alarm is set.
    ///
    /// # Panics
    /// The system has no thread left; the load of the model that asks fails by it.
    pub(crate) fn shared() -> Arc<Self> {
        let timer = TIMER.get_or_init(|| {
            let timer = Arc::new(Self::new());
            let ringing = Arc::clone(&timer);
            let spawned = std::thread::Builder::new().name("timer".to_owned()).spawn(move || ringing.run());
            assert!(spawned.is_ok(), "the system has no thread left for the timer: {spawned:?}");
            timer
        });
        Arc::clone(timer)
    }

    /// A timer that rings nothing before somebody calls [`Timer::run`].
    pub(crate) fn new() -> Self {
        let state = State { alarms: BTreeMap::new(), made: 0, sleeps_until: None, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// An alarm, not set yet, that rings `bell`.
    pub(crate) fn alarm(self: &Arc<Self>, bell: Arc<dyn Bell>) -> Alarm {
        let mut state = self.lock();
        state.made += 1;
        Alarm { timer: Arc::clone(self), bell, number: state.made, set_for: None }
    }

    /// Rings what is due, again and again, until the timer is closed.
    pub(crate) fn run(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = sync::now();
            match state.alarms.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let bell = first.remove();
                    drop(state);
                    bell.ring();
                    state = self.lock();
                }
                first => {
                    let until = first.map_or(NEVER, |first| first.key().0);
                    state.sleeps_until = Some(until);
                    state = if until == NEVER {
                        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                    } else {
                        self.changed.wait_timeout(state, until.since(now)).unwrap_or_else(PoisonError::into_inner).0
                    };
                    state.sleeps_until = None;
                }
            }
        }
    }

    /// Ends [`Timer::run`].
    #[cfg(test)]
    #[allow(dead_code, reason = "only the tests of interleavings end a timer")]
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alarm {
    /// Sees to it that the bell rings at `at` or sooner; it rings sooner where it was set before for an earlier time
    /// that has not come. Moments in the past ring at once.
    ///
    /// `now` must have been read after the listener was last woken.
    pub(crate) fn ring_by(&mut self, at: Timestamp, now: Timestamp) {
        if self.set_for.is_some_and(|set_for| now < set_for && set_for <= at) {
            return;
        }
        let mut state = self.timer.lock();
        if let Some(before) = self.set_for.replace(at) {
            state.alarms.remove(&(before, self.number));
        }
        state.alarms.insert((at, self.number), Arc::clone(&self.bell));
        let sleeps_too_long = state.sleeps_until.is_some_and(|until| at < until);
        drop(state);
        if sleeps_too_long {
            self.timer.changed.notify_one();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(set_for) = self.set_for {
            self.timer.lock().alarms.remove(&(set_for, self.number));
        }
    }
}
