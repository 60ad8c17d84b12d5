//! The phases of the server's life, shared by every front end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

use crate::error::InferError;

/// What the server is doing with new work. It only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes work; whether it is ready is the repository's to say.
    Serving,
    /// It takes work but says that it is not ready, so that load balancers turn away.
    Draining,
    /// It finishes what runs and refuses new work.
    Stopping,
    /// The last listeners close.
    Closed,
}

/// The phase of the server and the number of requests under way. Clones share both.
#[derive(Clone, Debug)]
pub struct Lifecycle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    under_way: AtomicUsize,
    /// Told whenever the last request under way has ended.
    idle: Notify,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self(Arc::new(Shared { phase: watch::Sender::new(Phase::Serving), under_way: AtomicUsize::new(0), idle: Notify::new() }))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// A receiver that sees every change of the phase.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Says "not ready" from now on; work is still taken.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Refuses new work from now on. The gRPC server ends when what runs has ended.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// Ends the HTTP servers too; until now they have told probes that the server is exiting.
    pub fn close(&self) {
        self.advance(Phase::Closed);
    }

    fn advance(&self, to: Phase) {
        self.0.phase.send_if_modified(|phase| {
            let forward = to > *phase;
            if forward {
                *phase = to;
            }
            forward
        });
    }

    /// Waits until the phase is `phase` or a later one.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so the wait ends only by reaching the phase.
        let _ = self.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Whether new work is refused.
    pub fn is_stopping(&self) -> bool {
        self.phase() >= Phase::Stopping
    }

    /// Requests that have been taken and not yet answered.
    pub fn under_way(&self) -> usize {
        self.0.under_way.load(Ordering::Acquire)
    }

    /// Takes an inference request on; it counts as under way until the guard is dropped.
    ///
    /// # Errors
    /// [`InferError::ShuttingDown`] once the server is stopping.
    pub fn admit(&self) -> Result<UnderWay, InferError> {
        // Counted before the phase is read: whoever stops the server and then reads the count sees this one.
        let guard = self.hold();
        if self.is_stopping() { Err(InferError::ShuttingDown) } else { Ok(guard) }
    }

    /// Counts a call that is no inference, and that is to be finished all the same, as under way until the guard is
    /// dropped.
    pub fn hold(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(&self.0))
    }

    /// Waits until nothing is under way. Once the server is stopping, nothing comes after that.
    pub async fn idle(&self) {
        loop {
            let mut ended = std::pin::pin!(self.0.idle.notified());
            // Listens before it looks, so that an end between the two is not missed.
            ended.as_mut().enable();
            if self.under_way() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Lets a call pass that is no inference.
    ///
    /// # Errors
    /// [`InferError::ServerExiting`] once the server is stopping.
    pub fn refuse_when_stopping(&self) -> Result<(), InferError> {
        if self.is_stopping() { Err(InferError::ServerExiting) } else { Ok(()) }
    }
}

/// One request under way.
#[derive(Debug)]
pub struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_move_forward() {
        let lifecycle = Lifecycle::default();
        assert_eq!(lifecycle.phase(), Phase::Serving);
        lifecycle.stop();
        lifecycle.drain();
        assert_eq!(lifecycle.phase(), Phase::Stopping);
        assert_eq!(lifecycle.refuse_when_stopping(), Err(InferError::ServerExiting));
    }

    #[test]
    fn a_refused_request_is_not_under_way() {
        let lifecycle = Lifecycle::default();
        let first = lifecycle.admit();
        assert!(first.is_ok());
        lifecycle.drain();
        let second = lifecycle.admit();
        assert!(second.is_ok(), "a draining server still serves");
        assert_eq!(lifecycle.under_way(), 2);
        lifecycle.stop();
        assert_eq!(lifecycle.admit().err(), Some(InferError::ShuttingDown));
        assert_eq!(lifecycle.under_way(), 2);
        drop((first, second));
        assert_eq!(lifecycle.under_way(), 0);
    }

    #[tokio::test]
    async fn idle_waits_for_the_last_request() {
        let lifecycle = Lifecycle::default();
        lifecycle.idle().await;
        let (first, second) = (lifecycle.admit(), lifecycle.hold());
        let waiting = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move { lifecycle.idle().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.expect("the wait ends");
    }
}
