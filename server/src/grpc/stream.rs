//! `ModelStreamInfer`: any number of requests on one stream, each with its own responses.
//!
//! One task reads requests and submits them; the transport polls [`InferStream`] for what is to be written. When
//! the client leaves, the transport drops the stream: all its requests are cancelled, the reading task ends, and
//! producers that wait for room go on (see [`super::outbox`] for who may wait, and why nobody waits for himself).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use proto::inference::{ModelInferRequest, ModelStreamInferResponse};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::Stream;
use tonic::{Request, Status, Streaming};

use crate::clock::{self, Timestamp};
use crate::config::ModelConfig;
use crate::error::InferError;
use crate::observe::trace;
use crate::request::{Cancellation, Delivery, InferResponse, Parameters, Responder, ResponseSink, SingleResponse};
use crate::scheduler::ModelHandle;

use super::deadline::Deadline;
use super::encode::{self, Correlation};
use super::front_end::FrontEnd;
use super::lifecycle::{Phase, UnderWay};
use super::outbox::{Limits, Outbox, Producer, Slot};
use super::shared::SharedTensors;
use super::{decode, forward, status};

/// Beyond 1024 requests under way on one stream, or about 256 MiB of them, no more are read, so that the transport
/// holds the client back; beyond 32 responses that wait to be written, decoupled models wait.
const LIMITS: Limits = Limits { requests: 1024, request_bytes: 256 << 10, answers: 32 };

/// With this metadata the first error ends the stream, with its status.
const END_AT_ERROR: &str = "triton_grpc_error";

/// One thing to be written.
enum Outgoing {
    Response {
        ticket: Arc<Ticket>,
        response: Box<InferResponse>,
        last: bool,
    },
    EmptyFinal(Arc<Ticket>),
    Failed {
        correlation: Correlation,
        error: InferError,
        last: bool,
    },
    /// Ends the stream.
    End(Status),
}

/// What must be remembered of a request to write its responses.
struct Ticket {
    correlation: Correlation,
    config: Arc<ModelConfig>,
    classes: Vec<(String, usize)>,
    shared: SharedTensors,
    empty_final: bool,
}

/// The responses of one stream.
pub(super) struct InferStream {
    outbox: Arc<Outbox<Outgoing>>,
    reader: AbortHandle,
    cancellation: Cancellation,
    end_at_error: bool,
    /// A response whose outputs are being written to shared memory by another thread; those behind it wait.
    sharing: Option<JoinHandle<Outgoing>>,
}

/// Begins to read a stream's requests.
pub(super) fn infer(front_end: &FrontEnd, requests: Request<Streaming<ModelInferRequest>>) -> InferStream {
    let end_at_error = requests.metadata().get(END_AT_ERROR).and_then(|value| value.to_str().ok());
    let end_at_error = end_at_error.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let deadline = Deadline::of(&requests);
    let forwarded = front_end.forwarding.parameters(requests.metadata());
    let traceparent = forward::traceparent(requests.metadata());
    let outbox = Outbox::new(LIMITS);
    let cancellation = Cancellation::default();
    let reader = Reader {
        front_end: front_end.clone(),
        outbox: Arc::clone(&outbox),
        cancellation: cancellation.clone(),
        deadline,
        forwarded,
        traceparent,
    };
    let task = tokio::spawn(reader.run(requests.into_inner()));
    InferStream { outbox, reader: task.abort_handle(), cancellation, end_at_error, sharing: None }
}

impl Stream for InferStream {
    type Item = Result<ModelStreamInferResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let outgoing = loop {
            if let Some(sharing) = &mut self.sharing {
                let shared = ready!(Pin::new(sharing).poll(context));
                self.sharing = None;
                break shared.unwrap_or_else(|_| Outgoing::End(status::infer_status("", &InferError::Abandoned)));
            }
            match ready!(self.outbox.poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Outgoing::Response { ticket, response, last }) if ticket.shared.is_slow_for(&response) => {
                    self.sharing = Some(tokio::task::spawn_blocking(move || share(ticket, response, last)));
                }
                Some(Outgoing::Response { ticket, response, last }) => break share(ticket, response, last),
                Some(other) => break other,
            }
        };
        let message = write(outgoing, self.end_at_error);
        if message.is_err() {
            self.leave();
        }
        Poll::Ready(Some(message))
    }
}

impl InferStream {
    /// Cancels what is under way; nothing more is written.
    fn leave(&self) {
        self.reader.abort();
        self.cancellation.cancel();
        self.outbox.close();
    }
}

impl Drop for InferStream {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Writes the outputs of a response that belong into shared memory; gives the response, or why it cannot be sent.
fn share(ticket: Arc<Ticket>, response: Box<InferResponse>, last: bool) -> Outgoing {
    match ticket.shared.write(&response) {
        Ok(()) => Outgoing::Response { ticket, response, last },
        Err(error) => Outgoing::Failed { correlation: ticket.correlation.clone(), error: error.into(), last },
    }
}

/// The message for one thing, or the status that ends the stream. Outputs in shared memory are there already.
fn write(outgoing: Outgoing, end_at_error: bool) -> Result<ModelStreamInferResponse, Status> {
    let (correlation, error, last) = match outgoing {
        Outgoing::Response { ticket, mut response, last } => {
            match encode::apply_classes(&mut response, &ticket.config, &ticket.classes) {
                Ok(()) => return Ok(encode::streamed(*response, &ticket.shared, last)),
                Err(error) => (ticket.correlation.clone(), error, last),
            }
        }
        Outgoing::EmptyFinal(ticket) => return Ok(encode::empty_final(&ticket.correlation)),
        Outgoing::Failed { correlation, error, last } => (correlation, error, last),
        Outgoing::End(status) => return Err(status),
    };
    let status = status::infer_status(&correlation.model, &error);
    if end_at_error { Err(status) } else { Ok(encode::streamed_error(&correlation, &error, &status, last)) }
}

/// Reads the requests of one stream.
struct Reader {
    front_end: FrontEnd,
    outbox: Arc<Outbox<Outgoing>>,
    cancellation: Cancellation,
    /// The client's deadline for the whole stream.
    deadline: Option<Deadline>,
    /// The stream's headers that every request gets as parameters, or why none may have them.
    forwarded: Result<Parameters, InferError>,
    /// Where the client's own trace is found, if requests are traced.
    traceparent: Option<String>,
}

impl Reader {
    /// Reads until the client has sent its last request, the server stops, or the transport fails.
    async fn run(self, mut requests: Streaming<ModelInferRequest>) {
        let mut phases = self.front_end.lifecycle.subscribe();
        loop {
            // The permit comes before the message: what is not read stays with the client.
            let Ok(permit) = self.outbox.permit().await else {
                return;
            };
            let message = tokio::select! {
                // A request that has arrived goes before the news that the server stops.
                biased;
                message = requests.message() => message,
                _ = phases.wait_for(|phase| *phase >= Phase::Stopping) => {
                    return self.outbox.complete(Some(Outgoing::End(status::infer_status("", &InferError::ShuttingDown))));
                }
            };
            match message {
                Ok(Some(message)) => {
                    let Ok(permit) = self.outbox.weigh(permit, decode::content_bytes(&message)).await else {
                        return;
                    };
                    self.take(message, permit).await;
                }
                Ok(None) => return self.outbox.complete(None),
                Err(status) => return self.outbox.abandon(Outgoing::End(status)),
            }
            if self.front_end.lifecycle.is_stopping() {
                return self.outbox.complete(Some(Outgoing::End(status::infer_status("", &InferError::ShuttingDown))));
            }
        }
    }

    /// Submits one request, or answers it with what is wrong with it. The next one is read when its inputs are there.
    async fn take(&self, message: ModelInferRequest, permit: OwnedSemaphorePermit) {
        let received_at = clock::now();
        let mut correlation =
            Correlation { id: message.id.clone(), model: message.model_name.clone(), version: message.model_version.clone() };
        let refuse = |correlation, error| Outgoing::Failed { correlation, error, last: true };
        let (head, handle, under_way, message) = match self.begin(message) {
            Ok(begun) => begun,
            Err(error) => return self.outbox.slot(permit).fill(refuse(correlation, error)),
        };
        correlation.version = handle.version.to_string();
        let way = if handle.config.decoupled {
            Way::Decoupled(self.outbox.producer(permit))
        } else {
            Way::Ordered(self.outbox.slot(permit), SingleResponse::default())
        };
        let empty_final = head.options.empty_final_response;
        match self.read(message, head, received_at).await {
            Ok((body, shared)) => {
                let config = Arc::clone(&handle.config);
                let ticket = Arc::new(Ticket { correlation, config, classes: body.classes, shared, empty_final });
                let sink = StreamSink { way: Some(way), ticket, _under_way: under_way };
                let id = body.request.id.as_str();
                let span = trace::request(&handle.config.name, handle.version, id, self.traceparent.as_deref());
                handle.submit(body.request, Responder::new(Box::new(sink), self.cancellation.clone()).within(span));
            }
            Err(error) => way.refuse(refuse(correlation, error)),
        }
    }

    /// The tensors of a request.
    async fn read(
        &self,
        message: ModelInferRequest,
        head: decode::Head,
        received_at: Timestamp,
    ) -> Result<(decode::Body, SharedTensors), InferError> {
        let mut body = decode::body(message, head, received_at)?;
        let shared = SharedTensors::find(&self.front_end.regions, std::mem::take(&mut body.places))?;
        shared.fetch(&mut body.request).await?;
        Ok((body, shared))
    }

    fn begin(
        &self,
        mut message: ModelInferRequest,
    ) -> Result<(decode::Head, Arc<ModelHandle>, UnderWay, ModelInferRequest), InferError> {
        let under_way = self.front_end.lifecycle.admit()?;
        let forwarded = self.forwarded.as_ref().map_err(Clone::clone)?;
        let head = decode::head(
            std::mem::take(&mut message.parameters),
            forwarded,
            &message.model_version,
            self.deadline.map(Deadline::at),
        )?;
        let handle = self.front_end.resolve(&message.model_name, head.version)?;
        Ok((head, handle, under_way, message))
    }
}

/// How the answers of a request reach the stream.
enum Way {
    /// One answer, in the order of the requests.
    Ordered(Slot<Outgoing>, SingleResponse),
    /// Any number, as they are produced.
    Decoupled(Producer<Outgoing>),
}

impl Way {
    fn refuse(self, refusal: Outgoing) {
        match self {
            Self::Ordered(slot, _) => slot.fill(refusal),
            Self::Decoupled(producer) => producer.finish(Some(refusal)),
        }
    }
}

/// Takes the deliveries of one request of a stream.
struct StreamSink {
    /// `None` after the last delivery.
    way: Option<Way>,
    ticket: Arc<Ticket>,
    _under_way: UnderWay,
}

impl StreamSink {
    fn outgoing(&self, delivery: Delivery) -> Option<Outgoing> {
        let ticket = Arc::clone(&self.ticket);
        match delivery {
            Delivery::Response { response, last } => Some(Outgoing::Response { ticket, response, last }),
            Delivery::Final => ticket.empty_final.then_some(Outgoing::EmptyFinal(ticket)),
            Delivery::Failed { error, last } => Some(Outgoing::Failed { correlation: ticket.correlation.clone(), error, last }),
        }
    }
}

impl ResponseSink for StreamSink {
    /// Waits only with a response that is not the last of a decoupled request, while the client reads slowly.
    fn deliver(&mut self, delivery: Delivery) {
        self.deliver_by(delivery, Producer::push);
    }

    fn deliver_at_once(&mut self, delivery: Delivery) {
        self.deliver_by(delivery, Producer::push_at_once);
    }

    fn wait_for_room(&mut self) {
        if let Some(Way::Decoupled(producer)) = &self.way {
            producer.wait_for_room();
        }
    }
}

impl StreamSink {
    fn deliver_by(&mut self, delivery: Delivery, push: impl FnOnce(&Producer<Outgoing>, Outgoing)) {
        match self.way.take() {
            Some(Way::Ordered(slot, mut collected)) => match collected.take(delivery) {
                None => self.way = Some(Way::Ordered(slot, collected)),
                Some(outcome) => {
                    let delivery = match outcome {
                        Ok(response) => Delivery::Response { response, last: true },
                        Err(error) => Delivery::Failed { error, last: true },
                    };
                    if let Some(outgoing) = self.outgoing(delivery) {
                        slot.fill(outgoing);
                    }
                }
            },
            Some(Way::Decoupled(producer)) if delivery.is_last() => producer.finish(self.outgoing(delivery)),
            Some(Way::Decoupled(producer)) => {
                if let Some(outgoing) = self.outgoing(delivery) {
                    push(&producer, outgoing);
                }
                self.way = Some(Way::Decoupled(producer));
            }
            None => {}
        }
    }
}
