//! The thread beside an instance that has several batches under way: it waits for what was launched, gives the device
//! back and answers, while the instance's own thread launches the next.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::clock;
use crate::error::{ExecuteError, LoadError};

use super::device::DevicePermit;
use super::flights::Flights;
use super::pool::{BatchDone, Shared};
use super::{Execution, Pending, panic_message};

/// A batch that a device computes, with all that its end takes.
pub(super) struct Flight {
    pub(super) execution: Execution,
    pub(super) pending: Box<dyn Pending>,
    /// The turn on the device; it is over when the device is done.
    pub(super) permit: Option<DevicePermit>,
    pub(super) done: BatchDone,
}

/// What an instance's thread has of the thread beside it. Dropped, it waits until all that was launched is answered.
pub(super) struct Landing {
    flights: Arc<Flights<Flight>>,
    thread: Option<JoinHandle<()>>,
}

impl Landing {
    /// Starts the thread beside the instance `ordinal`, which may have so many batches under way.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(shared: &Arc<Shared>, ordinal: usize, depth: NonZeroUsize) -> Result<Self, LoadError> {
        let flights = Arc::new(Flights::new(depth));
        let (shared, ours) = (Arc::clone(shared), Arc::clone(&flights));
        let model = shared.served.config.name.to_string();
        let thread = std::thread::Builder::new()
            .name(format!("{model}#{ordinal}.out"))
            .spawn(move || {
                while let Some(flight) = ours.next() {
                    land(&shared, ordinal, &ours, flight);
                }
            })
            .map_err(|error| LoadError::Thread { model, reason: error.to_string() })?;
        Ok(Self { flights, thread: Some(thread) })
    }

    /// What is under way.
    pub(super) fn flights(&self) -> &Flights<Flight> {
        &self.flights
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.close();
        // The thread contains whatever panics, so that there is nothing to learn from how it ended.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Waits for one batch and ends it.
fn land(shared: &Shared, ordinal: usize, flights: &Flights<Flight>, flight: Flight) {
    let Flight { mut execution, pending, permit, mut done } = flight;
    let (result, is_broken) = contained(shared, || pending.wait(&mut execution));
    note_loss(shared, ordinal, &result);
    // The device has nothing to do with answers: whoever waits for it goes on.
    drop(permit);
    flights.land(is_broken);
    shared.contain("answering a batch", || execution.finish(result));
    done.ended_at = clock::now();
    shared.batch_done(&done);
}

/// Calls the model; a panic is an error like any other, and leaves the instance broken.
pub(super) fn contained<T>(shared: &Shared, call: impl FnOnce() -> Result<T, ExecuteError>) -> (Result<T, ExecuteError>, bool) {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => (result, false),
        Err(panic) => {
            let served = &shared.served;
            let message = panic_message(panic.as_ref());
            tracing::error!(model = %served.config.name, version = served.version, panic = message, "the model panicked while executing");
            (Err(ExecuteError::Panicked { model: served.config.name.to_string(), message }), true)
        }
    }
}

/// Has all models of a device know that it is lost, where that is why a batch failed.
pub(super) fn note_loss<T>(shared: &Shared, ordinal: usize, result: &Result<T, ExecuteError>) {
    if let (Err(error @ ExecuteError::DeviceLost { reason, .. }), Some(health)) = (result, shared.health(ordinal)) {
        if health.lost().is_none() {
            tracing::error!(model = %shared.served.config.name, version = shared.served.version, %error, "a device is lost");
        }
        health.lose(reason);
    }
}
