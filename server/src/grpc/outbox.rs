//! What waits to be written to one stream: answers of ordinary requests in request order, answers of decoupled
//! ones as they are produced, all of it bounded.
//!
//! Every request holds a permit from before it is read until its last answer is taken to be written, so the
//! answers that must not wait (one last delivery for each request) always have a place: **such a delivery never
//! blocks**, and so any thread may make it, those of the async runtime included. Only answers that are not the
//! last of a decoupled request wait for room. They come from the model's own threads alone, which are not needed
//! to make room: that is done by the task that writes the stream, or by closing it when the client leaves.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The limits of one stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most requests that have been read and whose last answer has not been taken.
    pub(super) requests: usize,
    /// A request of more bytes than this counts as several of these requests, up to half of them.
    pub(super) request_bytes: usize,
    /// Most answers of decoupled requests that wait, besides last ones.
    pub(super) answers: usize,
}

/// The answers of one stream on their way out.
pub(super) struct Outbox<T> {
    state: Mutex<State<T>>,
    room: Condvar,
    permits: Arc<Semaphore>,
    limits: Limits,
}

struct State<T> {
    /// What can be written, in this order.
    ready: VecDeque<(T, Hold)>,
    /// How many of `ready` hold producers back.
    answers: usize,
    /// Ordinary requests whose turn has not come, oldest first.
    slots: VecDeque<SlotState<T>>,
    /// The number of the first of `slots`.
    first_slot: u64,
    /// Decoupled requests that have not finished.
    producers: usize,
    /// No request will be added.
    is_complete: bool,
    /// What comes when all else has been written.
    farewell: Option<T>,
    /// Nobody reads any more.
    is_closed: bool,
    waker: Option<Waker>,
}

enum SlotState<T> {
    Waiting,
    /// An answer, or nothing where the request was lost.
    Filled(Option<(T, OwnedSemaphorePermit)>),
}

/// What taking an answer gives free.
enum Hold {
    /// A place among the answers that hold producers back.
    Answer,
    /// The request's permit.
    Request { _permit: OwnedSemaphorePermit },
    /// Nothing.
    Farewell,
}

impl<T> Outbox<T> {
    /// An empty outbox.
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let state = State {
            ready: VecDeque::new(),
            answers: 0,
            slots: VecDeque::new(),
            first_slot: 0,
            producers: 0,
            is_complete: false,
            farewell: None,
            is_closed: false,
            waker: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            room: Condvar::new(),
            permits: Arc::new(Semaphore::new(limits.requests)),
            limits,
        })
    }

    /// Waits until one more request may be read.
    ///
    /// # Errors
    /// The outbox was closed.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.permits).acquire_owned().await
    }

    /// Waits until there is room for a request of this size beside those under way; `permit` is the one with which
    /// it was read. A request never needs more than half of the room, so that long ones beside it do not keep it
    /// out.
    ///
    /// # Errors
    /// The outbox was closed.
    pub(super) async fn weigh(
        &self,
        mut permit: OwnedSemaphorePermit,
        bytes: usize,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        let more = (bytes / self.limits.request_bytes).min(self.limits.requests / 2);
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            permit.merge(Arc::clone(&self.permits).acquire_many_owned(more).await?);
        }
        Ok(permit)
    }

    /// A place for the one answer of an ordinary request, behind those of all ordinary requests before it.
    pub(super) fn slot(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Slot<T> {
        let mut state = self.lock();
        let number = state.first_slot.wrapping_add(u64::try_from(state.slots.len()).unwrap_or(u64::MAX));
        state.slots.push_back(SlotState::Waiting);
        drop(state);
        Slot { outbox: Arc::clone(self), number, permit: Some(permit) }
    }

    /// The way of a decoupled request's answers.
    pub(super) fn producer(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Producer<T> {
        self.lock().producers += 1;
        Producer { outbox: Arc::clone(self), permit: Some(permit) }
    }

    /// No request will be added. When all have been answered the stream ends, after `farewell` if there is one.
    pub(super) fn complete(&self, farewell: Option<T>) {
        self.update(|state| {
            state.is_complete = true;
            state.farewell = farewell;
        });
    }

    /// Throws away what waits; the stream ends after `farewell`.
    pub(super) fn abandon(&self, farewell: T) {
        self.close_with(Some(farewell));
    }

    /// The reader has left: throws away what waits and what still comes, and lets every producer go on.
    pub(super) fn close(&self) {
        self.close_with(None);
    }

    fn close_with(&self, farewell: Option<T>) {
        self.permits.close();
        // Dropped outside the lock: answers may own what takes the lock again.
        let waste = self.update(|state| {
            state.is_closed = true;
            state.farewell = farewell;
            (std::mem::take(&mut state.ready), std::mem::take(&mut state.slots))
        });
        self.room.notify_all();
        drop(waste);
    }

    /// The next answer to write; `None` when the stream ends.
    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
        let ended = state.is_closed || (state.is_complete && state.slots.is_empty() && state.producers == 0);
        let next = match state.ready.pop_front() {
            Some(next) => next,
            None if ended => match state.farewell.take() {
                Some(farewell) => (farewell, Hold::Farewell),
                None => return Poll::Ready(None),
            },
            None => {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        };
        let (answer, hold) = next;
        if matches!(hold, Hold::Answer) {
            state.answers = state.answers.saturating_sub(1);
            self.room.notify_one();
        }
        drop(state);
        drop(hold);
        Poll::Ready(Some(answer))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the task that writes.
    fn update<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    fn fill(&self, number: u64, answer: Option<(T, OwnedSemaphorePermit)>) {
        self.update(|state| {
            if state.is_closed {
                return;
            }
            let index = usize::try_from(number.wrapping_sub(state.first_slot)).unwrap_or(usize::MAX);
            if let Some(slot) = state.slots.get_mut(index) {
                *slot = SlotState::Filled(answer);
            }
            while let Some(SlotState::Filled(_)) = state.slots.front() {
                if let Some(SlotState::Filled(Some((answer, permit)))) = state.slots.pop_front() {
                    state.ready.push_back((answer, Hold::Request { _permit: permit }));
                }
                state.first_slot = state.first_slot.wrapping_add(1);
            }
        });
    }
}

/// The place for one answer. Dropped without one, it lets those behind it pass.
pub(super) struct Slot<T> {
    outbox: Arc<Outbox<T>>,
    number: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl<T> Slot<T> {
    /// Puts the answer. Never waits.
    pub(super) fn fill(mut self, answer: T) {
        if let Some(permit) = self.permit.take() {
            self.outbox.fill(self.number, Some((answer, permit)));
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        if self.permit.take().is_some() {
            self.outbox.fill(self.number, None);
        }
    }
}

/// The answers of one decoupled request. Dropped, it has finished.
pub(super) struct Producer<T> {
    outbox: Arc<Outbox<T>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<T> Producer<T> {
    /// Puts an answer that is not the last. Blocks the thread while too many wait and the reader is there.
    pub(super) fn push(&self, answer: T) {
        let mut state = self.outbox.lock();
        while state.answers >= self.outbox.limits.answers && !state.is_closed {
            state = self.outbox.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_closed {
            return;
        }
        state.answers += 1;
        state.ready.push_back((answer, Hold::Answer));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Puts the last answer, if there is one to be written. Never waits.
    pub(super) fn finish(mut self, answer: Option<T>) {
        self.end(answer);
    }

    fn end(&mut self, answer: Option<T>) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        self.outbox.update(|state| {
            state.producers = state.producers.saturating_sub(1);
            if let (Some(answer), false) = (answer, state.is_closed) {
                state.ready.push_back((answer, Hold::Request { _permit: permit }));
            }
        });
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.end(None);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::thread;

    use super::*;

    const LIMITS: Limits = Limits { requests: 4, request_bytes: 100, answers: 2 };

    async fn next<T>(outbox: &Outbox<T>) -> Option<T> {
        poll_fn(|context| outbox.poll_next(context)).await
    }

    async fn slot(outbox: &Arc<Outbox<u32>>) -> Slot<u32> {
        outbox.slot(outbox.permit().await.expect("the outbox is open"))
    }

    async fn producer(outbox: &Arc<Outbox<u32>>) -> Producer<u32> {
        outbox.producer(outbox.permit().await.expect("the outbox is open"))
    }

    #[tokio::test]
    async fn ordinary_answers_keep_request_order_and_decoupled_ones_do_not_wait() {
        let outbox = Outbox::new(LIMITS);
        let (first, second, third) = (slot(&outbox).await, slot(&outbox).await, slot(&outbox).await);
        let decoupled = producer(&outbox).await;
        third.fill(3);
        second.fill(2);
        decoupled.push(10);
        assert_eq!(next(&outbox).await, Some(10));
        first.fill(1);
        decoupled.finish(Some(11));
        outbox.complete(None);
        for expected in [Some(1), Some(2), Some(3), Some(11), None] {
            assert_eq!(next(&outbox).await, expected);
        }
    }

    #[tokio::test]
    async fn a_request_that_was_lost_lets_others_pass() {
        let outbox = Outbox::new(LIMITS);
        let (first, second) = (slot(&outbox).await, slot(&outbox).await);
        let decoupled = producer(&outbox).await;
        second.fill(2);
        drop((first, decoupled));
        outbox.complete(Some(99));
        for expected in [Some(2), Some(99), None] {
            assert_eq!(next(&outbox).await, expected);
        }
    }

    #[tokio::test]
    async fn requests_are_bounded_until_their_last_answer_is_taken() {
        let outbox = Outbox::new(Limits { requests: 2, ..LIMITS });
        slot(&outbox).await.fill(1);
        producer(&outbox).await.finish(Some(2));
        assert_eq!(outbox.permits.available_permits(), 0);
        assert_eq!(next(&outbox).await, Some(1));
        assert_eq!(outbox.permits.available_permits(), 1);
        producer(&outbox).await.finish(None);
        assert_eq!(outbox.permits.available_permits(), 1, "a request without a last message is over at once");
    }

    #[tokio::test]
    async fn large_requests_count_as_several() {
        let outbox = Outbox::new(LIMITS);
        let weighed = async |bytes| outbox.weigh(outbox.permit().await.expect("it is open"), bytes).await.expect("it is open");
        for (bytes, left) in [(0, 3), (99, 3), (100, 2), (250, 1), (usize::MAX, 1)] {
            let permit = weighed(bytes).await;
            assert_eq!(outbox.permits.available_permits(), left, "{bytes}");
            drop(permit);
            assert_eq!(outbox.permits.available_permits(), LIMITS.requests);
        }
        // The second large one waits until the first has been answered.
        let first = outbox.slot(weighed(1000).await);
        let mut second = std::pin::pin!(weighed(1000));
        assert!(poll_fn(|context| Poll::Ready(second.as_mut().poll(context).is_pending())).await);
        first.fill(1);
        assert_eq!(next(&outbox).await, Some(1));
        drop(second.await);
        assert_eq!(outbox.permits.available_permits(), LIMITS.requests);
    }

    #[tokio::test]
    async fn a_producer_waits_for_room_and_its_last_answer_does_not() {
        let outbox = Outbox::new(LIMITS);
        let decoupled = producer(&outbox).await;
        let thread = thread::spawn(move || {
            (0..10).for_each(|answer| decoupled.push(answer));
            decoupled.finish(Some(10));
        });
        // Not more than the bound is there at any time, however late this task looks.
        for expected in 0..=10 {
            assert!(outbox.lock().answers <= LIMITS.answers);
            assert_eq!(next(&outbox).await, Some(expected));
        }
        thread.join().expect("the producer ends");
        let full = producer(&outbox).await;
        full.push(1);
        full.push(2);
        full.finish(Some(3));
        outbox.complete(None);
        for expected in [Some(1), Some(2), Some(3), None] {
            assert_eq!(next(&outbox).await, expected);
        }
    }

    #[tokio::test]
    async fn closing_releases_a_waiting_producer_and_later_answers() {
        let outbox = Outbox::new(LIMITS);
        let (waiting, decoupled) = (slot(&outbox).await, producer(&outbox).await);
        let thread = thread::spawn(move || {
            (0..10).for_each(|answer| decoupled.push(answer));
            decoupled.finish(Some(10));
        });
        assert_eq!(next(&outbox).await, Some(0));
        outbox.close();
        thread.join().expect("the producer ends");
        waiting.fill(1);
        assert_eq!(next(&outbox).await, None);
        assert!(outbox.permit().await.is_err());
    }

    #[tokio::test]
    async fn abandoning_leaves_the_farewell_alone() {
        let outbox = Outbox::new(LIMITS);
        slot(&outbox).await.fill(1);
        outbox.abandon(7);
        assert_eq!(next(&outbox).await, Some(7));
        assert_eq!(next(&outbox).await, None);
    }
}
