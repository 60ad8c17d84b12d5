//! The loop of the task that drives a batcher: takes what has come, has the driver say what to do, does it, sees to it
//! that it is woken in time, and sleeps. What it acts on is a trait, so that a test can stand all around it.

use std::sync::Arc;

use crate::clock::Timestamp;

use super::batcher::Ran;
use super::driver::{Action, Driver};
use super::mailbox::{Mailbox, Post};
use super::queue::Waiting;
use super::timer::Bell;

/// Requests given to the batcher at a time, so that a flood of arrivals does not keep batches from starting.
pub(crate) const ARRIVALS_PER_TURN: usize = 256;

/// What the task is told besides requests.
#[derive(Debug)]
pub(crate) enum Note<P> {
    /// A batch has ended; `ran` is nothing where none of it ran.
    Done {
        /// Its number.
        batch: u64,
        /// What it did.
        ran: Option<Ran>,
    },
    /// The device is there.
    Seat(P),
}

/// What is around the task.
pub(crate) trait Surroundings {
    /// A request.
    type Item: Send;

    /// The right to use the device once.
    type Permit: Send;

    /// The time.
    fn now(&mut self) -> Timestamp;

    /// A request as the batcher sees it, and its priority.
    fn waiting(&self, item: Self::Item) -> (u64, Waiting<Self::Item>);

    /// Whether nobody waits for a request any more.
    fn is_gone(item: &Self::Item) -> bool;

    /// Does what the driver says. Where it is a batch that no instance takes, it is answered, and its number comes back.
    fn perform(&mut self, action: Action<Self::Item>, now: Timestamp) -> Option<u64>;

    /// Keeps the permit for the next batch.
    fn seat(&mut self, permit: Self::Permit);

    /// Refuses what lapsed while it waited for an instance.
    fn expire(&mut self, now: Timestamp);

    /// When something next lapses that waits for an instance.
    fn next_lapse(&self) -> Option<Timestamp>;

    /// Sees to it that the mailbox's bell rings by then.
    fn wake_by(&mut self, at: Timestamp, now: Timestamp);

    /// The task is about to sleep; for those who watch it.
    fn before_sleep(&mut self, _driver: &Driver<Self::Item>) {}
}

/// A driver, what lies before it, and what is around it. It is the only owner of the batcher, so there is no lock.
pub(crate) struct Task<S: Surroundings> {
    /// The driver.
    pub(crate) driver: Driver<S::Item>,
    /// Where others post.
    pub(crate) mailbox: Arc<Mailbox<S::Item, Note<S::Permit>>>,
    /// What was taken from the mailbox and not worked off.
    pub(crate) post: Post<S::Item, Note<S::Permit>>,
    /// What is around.
    pub(crate) surroundings: S,
}

impl<S: Surroundings> Task<S> {
    /// A task that has nothing to do yet.
    pub(crate) fn new(driver: Driver<S::Item>, mailbox: Arc<Mailbox<S::Item, Note<S::Permit>>>, surroundings: S) -> Self {
        Self { driver, mailbox, post: Post::default(), surroundings }
    }

    /// Runs until nobody comes any more, nothing waits and nothing runs.
    pub(crate) async fn run(&mut self) {
        let mut actions = Vec::new();
        loop {
            self.mailbox.take(&mut self.post);
            let now = self.turn(&mut actions);
            if !self.post.arrivals.is_empty() {
                // More came than one turn takes. Others on this thread go first.
                tokio::task::yield_now().await;
                continue;
            }
            if self.driver.is_finished() {
                return;
            }
            let wakeup = self.driver.next_wakeup(now).into_iter().chain(self.surroundings.next_lapse()).min();
            if let Some(wakeup) = wakeup {
                self.surroundings.wake_by(wakeup, now);
            }
            self.surroundings.before_sleep(&self.driver);
            self.mailbox.wait().await;
        }
    }

    /// Works off what has come, or as much of it as one turn takes, and does what can be done. Returns the time that
    /// it went by.
    fn turn(&mut self, actions: &mut Vec<Action<S::Item>>) -> Timestamp {
        // Read after the task was woken: whatever was to happen by the alarm's time is due by it.
        let now = self.surroundings.now();
        for note in self.post.notes.drain(..) {
            match note {
                Note::Done { batch, ran } => self.driver.on_done(now, batch, ran),
                Note::Seat(permit) => {
                    // One that comes after the question was taken back is given back.
                    if self.driver.on_seat() {
                        self.surroundings.seat(permit);
                    }
                }
            }
        }
        let arrivals = self.post.arrivals.len().min(ARRIVALS_PER_TURN);
        for item in self.post.arrivals.drain(..arrivals) {
            let (priority, waiting) = self.surroundings.waiting(item);
            self.driver.on_arrival(now, priority, waiting, S::is_gone, actions);
        }
        if self.post.released {
            self.driver.on_release();
        }
        if self.post.closed && self.post.arrivals.is_empty() {
            self.driver.on_close();
        }
        self.surroundings.expire(now);
        self.driver.step(now, S::is_gone, actions);
        for action in actions.drain(..) {
            if let Some(batch) = self.surroundings.perform(action, now) {
                self.driver.on_done(now, batch, None);
                // Its place is free for others, which only another turn can give them.
                self.mailbox.ring();
            }
        }
        now
    }
}
