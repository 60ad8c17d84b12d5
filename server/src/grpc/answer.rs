//! Who waits for a request: the one response of an ordinary model, and the way to tell it that nobody waits.

use tokio::sync::oneshot;

use crate::error::InferError;
use crate::request::{Cancellation, Delivery, InferResponse, ResponseSink, SingleResponse};

/// Answers a unary call.
pub(super) struct UnarySink {
    collected: SingleResponse,
    answer: Option<oneshot::Sender<Result<Box<InferResponse>, InferError>>>,
}

impl UnarySink {
    /// A sink, and where its answer arrives.
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<Box<InferResponse>, InferError>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { collected: SingleResponse::default(), answer: Some(answer) }, receiver)
    }
}

impl ResponseSink for UnarySink {
    /// Never waits.
    fn deliver(&mut self, delivery: Delivery) {
        let Some(outcome) = self.collected.take(delivery) else {
            return;
        };
        if let Some(answer) = self.answer.take() {
            // Whoever no longer listens has left, and the request is cancelled already.
            let _ = answer.send(outcome);
        }
    }
}

/// Cancels the request when it is dropped before the answer came: the transport drops a call whose client
/// cancelled it, ran into its deadline or lost its connection.
pub(super) struct CancelOnDrop(Option<Cancellation>);

impl CancelOnDrop {
    /// Guards a request.
    pub(super) fn new(cancellation: Cancellation) -> Self {
        Self(Some(cancellation))
    }

    /// Lets go: the answer is there.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancellation) = self.0.take() {
            cancellation.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{ComputeTiming, Parameters, Responder};

    fn response() -> Box<InferResponse> {
        Box::new(InferResponse {
            model_name: "m".into(),
            model_version: 1,
            id: String::new(),
            parameters: Parameters::new(),
            outputs: Vec::new(),
            timing: ComputeTiming::default(),
            timeline: None,
        })
    }

    fn outcome(deliveries: Vec<Delivery>) -> Result<(), InferError> {
        let (sink, mut receiver) = UnarySink::new();
        let mut responder = Responder::new(Box::new(sink), Cancellation::default());
        deliveries.into_iter().for_each(|delivery| responder.deliver(delivery));
        drop(responder);
        receiver.try_recv().expect("a dropped responder has answered").map(|_| ())
    }

    #[test]
    fn one_response_is_right() {
        assert_eq!(outcome(vec![Delivery::Response { response: response(), last: true }]), Ok(()));
        assert_eq!(outcome(vec![Delivery::Response { response: response(), last: false }, Delivery::Final]), Ok(()));
    }

    #[test]
    fn any_other_number_is_the_models_fault() {
        let one = |last| Delivery::Response { response: response(), last };
        assert_eq!(outcome(vec![Delivery::Final]), Err(InferError::ResponseCount { got: 0 }));
        assert_eq!(outcome(vec![one(false), one(true)]), Err(InferError::ResponseCount { got: 2 }));
        assert_eq!(outcome(vec![one(false), one(false), Delivery::Final]), Err(InferError::ResponseCount { got: 2 }));
    }

    #[test]
    fn an_error_is_the_answer_and_a_lost_request_too() {
        let failed = Delivery::Failed { error: InferError::Expired, last: true };
        assert_eq!(outcome(vec![failed]), Err(InferError::Expired));
        assert_eq!(outcome(Vec::new()), Err(InferError::Abandoned));
    }

    #[test]
    fn only_a_guard_that_was_not_disarmed_cancels() {
        let (kept, dropped) = (Cancellation::default(), Cancellation::default());
        CancelOnDrop::new(kept.clone()).disarm();
        drop(CancelOnDrop::new(dropped.clone()));
        assert!(!kept.is_cancelled());
        assert!(dropped.is_cancelled());
    }
}
