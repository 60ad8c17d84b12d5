//! Where a task finds what others have for it: requests, up to a limit, and notes about batches that have ended.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use super::sync::{Mutex, MutexGuard, Notify};
use super::timer::Bell;

/// Room for requests that a mailbox keeps when it is empty.
const KEPT_ROOM: usize = 256;

/// The mailbox of one task. Anybody posts; the task takes all at once and sleeps while there is nothing.
///
/// Every change that the task must see is made before the call that wakes it, and that call is remembered while the
/// task is awake, so it cannot fall between the task's look and its sleep.
pub(crate) struct Mailbox<T, N> {
    state: Mutex<State<T, N>>,
    wake: Notify,
}

struct State<T, N> {
    post: Post<T, N>,
    most_arrivals: usize,
    most_notes: usize,
    /// The task has been woken and has not looked since.
    woken: bool,
}

/// What lies in a mailbox.
#[derive(Debug)]
pub(crate) struct Post<T, N> {
    /// Requests, in the order in which they came.
    pub(crate) arrivals: VecDeque<T>,
    /// Notes, in the order in which they came.
    pub(crate) notes: Vec<N>,
    /// Nobody posts requests any more.
    pub(crate) closed: bool,
    /// Nothing may be held back any more.
    pub(crate) released: bool,
}

impl<T, N> Default for Post<T, N> {
    fn default() -> Self {
        Self { arrivals: VecDeque::new(), notes: Vec::new(), closed: false, released: false }
    }
}

/// Why a mailbox does not take something.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unposted<T> {
    /// As many requests lie in it as may.
    Full(T),
    /// Its task is no more.
    Closed(T),
}

impl<T, N> Mailbox<T, N> {
    /// An empty mailbox for so many requests and notes.
    pub(crate) fn new(most_arrivals: usize, most_notes: usize) -> Arc<Self> {
        let state =
            State { post: Post::default(), most_arrivals: most_arrivals.max(1), most_notes: most_notes.max(1), woken: false };
        Arc::new(Self { state: Mutex::new(state), wake: Notify::new() })
    }

    /// Posts a request.
    ///
    /// # Errors
    /// It comes back where the mailbox is full or closed.
    pub(crate) fn post(&self, arrival: T) -> Result<(), Unposted<T>> {
        let mut state = self.lock();
        if state.post.closed {
            return Err(Unposted::Closed(arrival));
        }
        if state.post.arrivals.len() >= state.most_arrivals {
            return Err(Unposted::Full(arrival));
        }
        state.post.arrivals.push_back(arrival);
        self.wake(state);
        Ok(())
    }

    /// Posts a note; also to a mailbox that is closed, since what runs ends after that.
    ///
    /// # Errors
    /// It comes back where more notes lie there than there can be: a bug of who posts.
    pub(crate) fn note(&self, note: N) -> Result<(), N> {
        let mut state = self.lock();
        if state.post.notes.len() >= state.most_notes {
            return Err(note);
        }
        state.post.notes.push(note);
        self.wake(state);
        Ok(())
    }

    /// No requests are taken any more; those that lie there stay for the task.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.post.closed = true;
        self.wake(state);
    }

    /// Nothing may be held back any more.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        state.post.released = true;
        self.wake(state);
    }

    /// Takes what lies there, but no further requests while `post` holds some that have not been worked off. The
    /// buffers change hands, so that nothing is allocated in the long run.
    pub(crate) fn take(&self, post: &mut Post<T, N>) {
        if post.arrivals.is_empty() && post.arrivals.capacity() > KEPT_ROOM {
            post.arrivals.shrink_to(KEPT_ROOM);
        }
        let mut state = self.lock();
        state.woken = false;
        if post.arrivals.is_empty() {
            std::mem::swap(&mut state.post.arrivals, &mut post.arrivals);
        }
        if post.notes.is_empty() {
            std::mem::swap(&mut state.post.notes, &mut post.notes);
        } else {
            post.notes.append(&mut state.post.notes);
        }
        // The end is told after the last request.
        post.closed = state.post.closed && state.post.arrivals.is_empty();
        post.released = state.post.released;
    }

    /// Sleeps until something has come since the task last took what was there, or a bell rang since it last slept.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State<T, N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the task once for whatever comes until it looks.
    fn wake(&self, mut state: MutexGuard<'_, State<T, N>>) {
        let woken = std::mem::replace(&mut state.woken, true);
        drop(state);
        if !woken {
            self.wake.notify_one();
        }
    }
}

impl<T: Send, N: Send> Bell for Mailbox<T, N> {
    fn ring(&self) {
        self.wake.notify_one();
    }
}
