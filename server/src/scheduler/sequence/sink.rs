//! What comes back from the instances: answers on their way to the clients, and the reports that go to the task.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::error::{InferError, SequenceFault};
use crate::instance::BatchDone;
use crate::request::{Delivery, Responder, ResponseSink};
use crate::tensor::Tensor;

use super::super::timer::Bell;
use super::sequences::{Key, Outcome};
use super::tensors::Tensors;

/// What the task is told.
#[derive(Debug)]
pub(super) enum Report {
    /// A request that ran is over.
    Over {
        /// Its sequence.
        key: Key,
        /// How it came out.
        outcome: Outcome,
        /// States that the model set, by number.
        states: Vec<(usize, Tensor)>,
    },
    /// An instance is done with a batch.
    Done(BatchDone),
    /// The server stops: nothing is to wait for further sequences.
    Hurry,
}

/// Reports on their way to the task. There is one for each request and each batch that runs, and one when the server
/// stops. At most one request of a sequence and two batches of an instance run, which bounds the list.
#[derive(Debug, Default)]
pub(super) struct Reports {
    list: Mutex<Vec<Report>>,
    arrived: Notify,
}

impl Reports {
    /// Adds a report.
    pub(super) fn add(&self, report: Report) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        self.arrived.notify_one();
    }

    /// Takes all reports, in the order in which they came.
    pub(super) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there may be a report that was not taken.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Bell for Reports {
    fn ring(&self) {
        self.arrived.notify_one();
    }
}

/// Stands between a model and the client of one request: it keeps the states back, and reports when the request is
/// over. It reports after the answer has left, so that the next request of the sequence is answered later.
pub(super) struct SequenceSink {
    key: Key,
    responder: Responder,
    tensors: Arc<Tensors>,
    reports: Arc<Reports>,
    states: Vec<(usize, Tensor)>,
    reported: bool,
}

impl SequenceSink {
    /// A responder for the model in place of `responder`.
    pub(super) fn wrap(responder: Responder, key: Key, tensors: &Arc<Tensors>, reports: &Arc<Reports>) -> Responder {
        let (tensors, reports) = (Arc::clone(tensors), Arc::clone(reports));
        responder.wrap(|responder| Box::new(Self { key, responder, tensors, reports, states: Vec::new(), reported: false }))
    }

    fn pass(&mut self, mut delivery: Delivery, deliver: impl FnOnce(&mut Responder, Delivery)) {
        let is_last = delivery.is_last();
        let outcome = match &mut delivery {
            Delivery::Response { response, .. } => {
                let states = self.tensors.take_states(response);
                if !states.is_empty() {
                    self.states = states;
                }
                Outcome::Answered
            }
            Delivery::Final => Outcome::Answered,
            Delivery::Failed { error, .. } => {
                // What a request that failed left behind is no state.
                self.states.clear();
                outcome_of(error)
            }
        };
        deliver(&mut self.responder, delivery);
        if is_last {
            self.report(outcome);
        }
    }

    fn report(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.reported, true) {
            self.reports.add(Report::Over { key: self.key, outcome, states: std::mem::take(&mut self.states) });
        }
    }
}

/// What an error says about the sequence: one of the model leaves it as it was, any other a gap.
fn outcome_of(error: &InferError) -> Outcome {
    match error {
        InferError::Execute(_) => Outcome::Answered,
        InferError::Expired | InferError::Unreachable { .. } | InferError::Sequence(SequenceFault::Expired) => Outcome::Expired,
        _ => Outcome::Canceled,
    }
}

impl ResponseSink for SequenceSink {
    fn deliver(&mut self, delivery: Delivery) {
        self.pass(delivery, Responder::deliver);
    }

    fn deliver_at_once(&mut self, delivery: Delivery) {
        self.pass(delivery, Responder::deliver_at_once);
    }

    fn wait_for_room(&mut self) {
        self.responder.wait_for_room();
    }
}

impl Drop for SequenceSink {
    /// A panic on the way to the client must not hold up the sequence.
    fn drop(&mut self) {
        self.report(Outcome::Canceled);
    }
}
