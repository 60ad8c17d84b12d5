//! Answering one request by any number of responses.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::error::{ExecuteError, InferError};
use crate::observe::statistics::{RequestTiming, ResponseOutcome, Stage};
use crate::request::{Cancellation, ComputeTiming, Delivery, Parameters, Responder, ValidRequest};
use crate::tensor::Tensor;

use super::execute::Marks;
use super::{ServedVersion, split};

/// One response of a stream, before it is shaped for the client.
#[derive(Clone, Debug, Default)]
pub struct StreamedResponse {
    /// Outputs by their position in the configuration; those left out are absent.
    pub outputs: Vec<(usize, Tensor)>,
    /// Response parameters.
    pub parameters: Parameters,
    /// Time that the model spent on this response.
    pub compute_infer: Duration,
    /// Time that its outputs took.
    pub compute_output: Duration,
}

/// Answers one request of a decoupled model. Dropped before [`ResponseStream::finish`] or a last
/// response, it answers with an error, so the client never waits in vain.
pub struct ResponseStream {
    served: Arc<ServedVersion>,
    request: ValidRequest,
    responder: Responder,
    queue: Duration,
    marks: Marks,
    index: u64,
    /// The first error that did not end the stream.
    failure: Option<InferError>,
}

impl ResponseStream {
    pub(super) fn new(
        served: Arc<ServedVersion>,
        request: ValidRequest,
        responder: Responder,
        queue: Duration,
        marks: Marks,
    ) -> Self {
        Self { served, request, responder, queue, marks, index: 0, failure: None }
    }

    /// The request.
    pub fn request(&self) -> &ValidRequest {
        &self.request
    }

    /// The token through which the client leaves.
    pub fn cancellation(&self) -> &Cancellation {
        self.responder.cancellation()
    }

    /// Sends a response that is not the last. It waits while a slow client holds the stream back.
    ///
    /// # Errors
    /// The response does not fit the configuration; nothing was sent.
    pub fn send(&mut self, response: StreamedResponse) -> Result<(), ExecuteError> {
        self.send_response(response, false)
    }

    /// Sends a response that is the last, and counts the request as answered.
    ///
    /// # Errors
    /// The response does not fit the configuration; the request has been failed with that error.
    pub fn send_last(mut self, response: StreamedResponse) -> Result<(), ExecuteError> {
        self.send_response(response, true)
    }

    fn send_response(&mut self, streamed: StreamedResponse, last: bool) -> Result<(), ExecuteError> {
        let mut outputs = vec![None; self.served.config.outputs.len()];
        for (index, tensor) in streamed.outputs {
            outputs[index] = Some(tensor);
        }
        let timing = ComputeTiming { infer: streamed.compute_infer, output: streamed.compute_output, ..Default::default() };
        let mut response = match split::respond(&self.served, &self.request, outputs, streamed.parameters, timing) {
            Ok(response) => response,
            Err(error) => {
                if last {
                    self.fail_last(error.clone(), streamed.compute_infer, streamed.compute_output);
                }
                return Err(error);
            }
        };
        response.timeline = self.request.timeline.take();
        if let Some(timeline) = &mut response.timeline {
            timeline.answered_at = Some(clock::now());
        }
        self.record(ResponseOutcome::Success, streamed.compute_infer, streamed.compute_output);
        if last {
            self.count_answered();
        }
        self.responder.deliver(Delivery::Response { response: Box::new(response), last });
        Ok(())
    }

    /// Sends an error that does not end the stream. The request counts as failed when it ends.
    pub fn send_error(&mut self, error: ExecuteError, compute_infer: Duration, compute_output: Duration) {
        self.record(ResponseOutcome::Fail, compute_infer, compute_output);
        let error = InferError::Execute(Arc::new(error));
        self.failure.get_or_insert_with(|| error.clone());
        self.responder.deliver(Delivery::Failed { error, last: false });
    }

    /// Ends the stream with the final flag alone.
    pub fn finish(self) {
        self.finish_after(Duration::ZERO);
    }

    /// As [`ResponseStream::finish`], where the model spent `compute_infer` before it knew that nothing follows.
    pub fn finish_after(mut self, compute_infer: Duration) {
        self.record(ResponseOutcome::Empty, compute_infer, Duration::ZERO);
        self.count_answered();
        self.responder.deliver(Delivery::Final);
    }

    /// Ends the stream with an error.
    pub fn fail(self, error: ExecuteError) {
        self.fail_after(error, Duration::ZERO, Duration::ZERO);
    }

    /// As [`ResponseStream::fail`], with the times that the model spent on this response.
    pub fn fail_after(mut self, error: ExecuteError, compute_infer: Duration, compute_output: Duration) {
        self.fail_last(error, compute_infer, compute_output);
    }

    /// Ends the stream because the client has left.
    pub fn abort(self) {
        self.abort_after(Duration::ZERO);
    }

    /// As [`ResponseStream::abort`], where the model took `waited` to end.
    pub fn abort_after(mut self, waited: Duration) {
        self.record(ResponseOutcome::Cancel, waited, Duration::ZERO);
        let total = clock::now().since(self.request.received_at);
        self.served.statistics.record_failure(Stage::Execution, &InferError::Cancelled, total);
        self.responder.fail(InferError::Cancelled);
    }

    /// Counts an empty response that is not the last, or one that was not made; nothing is sent.
    pub fn record_unsent(&mut self, outcome: ResponseOutcome, compute_infer: Duration, compute_output: Duration) {
        self.record(outcome, compute_infer, compute_output);
    }

    fn fail_last(&mut self, error: ExecuteError, compute_infer: Duration, compute_output: Duration) {
        self.record(ResponseOutcome::Fail, compute_infer, compute_output);
        let total = clock::now().since(self.request.received_at);
        let error = InferError::Execute(Arc::new(error));
        self.served.statistics.record_failure(Stage::Execution, &error, total);
        self.responder.fail(error);
    }

    fn record(&mut self, outcome: ResponseOutcome, infer: Duration, output: Duration) {
        if self.index == 0 {
            self.served.statistics.record_first_response(clock::now().since(self.request.received_at));
        }
        if self.served.config.decoupled {
            self.served.statistics.record_response(self.index, outcome, infer, output);
        }
        self.index += 1;
    }

    fn count_answered(&self) {
        let end = clock::now();
        let total = end.since(self.request.received_at);
        match &self.failure {
            Some(error) => self.served.statistics.record_failure(Stage::Execution, error, total),
            None => self.served.statistics.record_success(RequestTiming { total, queue: self.queue }, self.marks.timing(end)),
        }
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        if !self.responder.is_finished() {
            let message = format!("model '{}' ended without a last response", self.served.config.name);
            self.fail_last(ExecuteError::Internal { message }, Duration::ZERO, Duration::ZERO);
        }
    }
}
