//! One client call on its way through the server: as decoded, as checked, its answer, and who waits for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracing::Span;

use crate::clock::Timestamp;
use crate::error::{InferError, RequestTag};
use crate::tensor::{DataType, Tensor};
use crate::timeline::Timeline;

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard};

/// Value of a request or response parameter.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Parameter {
    Bool(bool),
    Int64(i64),
    String(String),
    Double(f64),
}

/// Parameters by name.
pub type Parameters = BTreeMap<String, Parameter>;

/// Which version of a model a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionChoice {
    /// The highest version that is ready.
    Latest,
    /// Exactly this one.
    Exact(u64),
}

/// Correlation id of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum SequenceId {
    /// The request belongs to no sequence (written 0 or "").
    #[default]
    None,
    /// A number.
    Number(u64),
    /// A string.
    Text(String),
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("0"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// What a request says besides its tensors and custom parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestOptions {
    /// Correlation id.
    pub sequence_id: SequenceId,
    /// First request of its sequence.
    pub sequence_start: bool,
    /// Last request of its sequence.
    pub sequence_end: bool,
    /// Priority level, 1 the highest; 0 asks for the model's default.
    pub priority: u64,
    /// How long the request may wait in a queue.
    pub timeout: Option<Duration>,
    /// The client asks for the timeline of its request in the response's parameters.
    pub timeline: bool,
    /// On a stream of a decoupled model: the client wants the final flag even when it comes without content.
    pub empty_final_response: bool,
}

/// A request as decoded from the wire: nothing in it has been compared with the model yet.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// The client's id; may be empty.
    pub id: String,
    /// Known parameters.
    pub options: RequestOptions,
    /// All other parameters; models see them.
    pub parameters: Parameters,
    /// Input tensors in request order.
    pub inputs: Vec<InputTensor>,
    /// Names of the requested outputs, in request order; empty asks for all.
    pub outputs: Vec<String>,
    /// When the server had received it.
    pub received_at: Timestamp,
    /// When its client stops waiting: an answer that comes later is worth nothing.
    pub deadline: Option<Timestamp>,
    /// Its way so far, where the client asks for it.
    pub timeline: Option<Box<Timeline>>,
}

/// One input tensor as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct InputTensor {
    /// Name.
    pub name: String,
    /// Datatype, or the client's word for it where there is no such datatype.
    pub datatype: Result<DataType, String>,
    /// Shape as the client wrote it; may hold nonsense.
    pub shape: Vec<i64>,
    /// Raw row-major contents: a slice of the received message, or of another model's output.
    pub contents: Bytes,
}

/// Requests whose keys are equal may share a batch: the sizes of every variable, non-ragged input
/// (behind the batch dimension), and which optional inputs are present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BatchKey(pub Vec<usize>);

/// A request that its model can run: everything about it has been checked.
#[derive(Clone, Debug)]
pub struct ValidRequest {
    /// The client's id.
    pub id: String,
    /// Known parameters.
    pub options: RequestOptions,
    /// Custom parameters.
    pub parameters: Parameters,
    /// One entry per input of the model's configuration, in its order, in the shape the model sees;
    /// `None` only for optional inputs.
    pub inputs: Vec<Option<Tensor>>,
    /// Per output of the model's configuration: whether it is wanted.
    pub outputs: Vec<bool>,
    /// Size of the batch dimension; 1 for a model that does not batch.
    pub rows: usize,
    /// What must be equal for two requests to share a batch.
    pub batch_key: BatchKey,
    /// Work that it makes, in the model's unit: rows, or what its configuration counts. At least 1.
    pub cost: u64,
    /// When the server had received it.
    pub received_at: Timestamp,
    /// When its client stops waiting.
    pub deadline: Option<Timestamp>,
    /// Its way so far, where the client asks for it.
    pub timeline: Option<Box<Timeline>>,
}

#[cfg(test)]
impl ValidRequest {
    /// A request of one row and no tensors, for tests that look at neither.
    pub(crate) fn empty(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            options: RequestOptions::default(),
            parameters: Parameters::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            rows: 1,
            batch_key: BatchKey::default(),
            cost: 1,
            received_at: Timestamp::default(),
            deadline: None,
            timeline: None,
        }
    }
}

/// An output tensor of a response.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputTensor {
    /// Name.
    pub name: Arc<str>,
    /// Contents, in the shape that clients see.
    pub tensor: Tensor,
}

/// How long the parts of an execution took; all requests of a batch carry the batch's own times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComputeTiming {
    /// Gathering the inputs.
    pub input: Duration,
    /// The model itself.
    pub infer: Duration,
    /// Splitting the outputs.
    pub output: Duration,
}

/// One answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct InferResponse {
    /// Model that answered.
    pub model_name: Arc<str>,
    /// Version that answered.
    pub model_version: u64,
    /// The request's id.
    pub id: String,
    /// Parameters that the model set.
    pub parameters: Parameters,
    /// Outputs in the order of the configuration; a model may leave one out.
    pub outputs: Vec<OutputTensor>,
    /// Times of the execution that made it.
    pub timing: ComputeTiming,
    /// The request's way, where the client asks for it and this is the first response.
    pub timeline: Option<Box<Timeline>>,
}

/// What reaches the one who asked.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// An answer; `last` says that none follows.
    Response {
        /// The answer.
        response: Box<InferResponse>,
        /// Whether it is the last one.
        last: bool,
    },
    /// No content: a decoupled model has sent all its answers.
    Final,
    /// The request failed. `last` is false only where a decoupled model goes on after an error.
    Failed {
        /// Why.
        error: InferError,
        /// Whether it is the last delivery.
        last: bool,
    },
}

impl Delivery {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        match self {
            Self::Response { last, .. } | Self::Failed { last, .. } => *last,
            Self::Final => true,
        }
    }
}

/// Puts the deliveries of a model that is not decoupled together: exactly one response is right.
#[derive(Debug, Default)]
pub struct SingleResponse {
    responses: usize,
    first: Option<Box<InferResponse>>,
}

impl SingleResponse {
    /// Takes a delivery; after the last one, the outcome.
    pub fn take(&mut self, delivery: Delivery) -> Option<Result<Box<InferResponse>, InferError>> {
        let is_last = delivery.is_last();
        match delivery {
            Delivery::Response { response, .. } => {
                self.responses = self.responses.saturating_add(1);
                self.first.get_or_insert(response);
            }
            Delivery::Failed { error, .. } => return Some(Err(error)),
            Delivery::Final => {}
        }
        is_last.then(|| match (self.first.take(), self.responses) {
            (Some(response), 1) => Ok(response),
            (_, got) => Err(InferError::ResponseCount { got }),
        })
    }
}

/// Where answers go: a unary call, a slot of a stream, a step of an ensemble.
///
/// `deliver` is called from a model's threads. It must not wait long, except to hold back a
/// decoupled model whose client reads slowly. After a delivery that is the last, none follows.
pub trait ResponseSink: Send {
    /// The request runs from now on: its time in queues is over. Most who wait need not know.
    fn started(&mut self) {}

    /// Takes one delivery.
    fn deliver(&mut self, delivery: Delivery);

    /// Takes one delivery from a thread that others need too, and that a slow client must not hold up. Where the sink
    /// has no way to do that, it is [`ResponseSink::deliver`].
    fn deliver_at_once(&mut self, delivery: Delivery) {
        self.deliver(delivery);
    }

    /// Waits while the client reads slowly: for the thread of a decoupled model whose responses go to the client by way
    /// of other models, which use [`ResponseSink::deliver_at_once`].
    fn wait_for_room(&mut self) {}
}

/// Answers one request: any number of deliveries, exactly one of them the last.
///
/// Dropped without a last delivery, it delivers [`InferError::Abandoned`], so no request is ever lost.
pub struct Responder {
    sink: Option<Box<dyn ResponseSink>>,
    cancellation: Cancellation,
    span: Span,
}

impl Responder {
    /// A responder for `sink`, whose asker leaves through `cancellation`.
    pub fn new(sink: Box<dyn ResponseSink>, cancellation: Cancellation) -> Self {
        Self { sink: Some(sink), cancellation, span: Span::none() }
    }

    /// The same, whose request has this span: it ends with the last delivery.
    #[must_use]
    pub fn within(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// The request's span; disabled where nobody asks for spans.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// A responder that answers nobody.
    pub fn nobody() -> Self {
        Self { sink: None, cancellation: Cancellation::default(), span: Span::none() }
    }

    /// The same asker behind another sink, which answers through what it is given.
    #[must_use]
    pub fn wrap(self, sink: impl FnOnce(Self) -> Box<dyn ResponseSink>) -> Self {
        let cancellation = self.cancellation.clone();
        Self::new(sink(self), cancellation)
    }

    /// The token through which the asker says that it no longer waits.
    pub fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }

    /// Says that the request runs from now on.
    pub fn started(&mut self) {
        if let Some(sink) = self.sink.as_mut() {
            sink.started();
        }
    }

    /// Delivers; whatever comes after the last delivery is dropped.
    pub fn deliver(&mut self, delivery: Delivery) {
        self.deliver_by(delivery, |sink, delivery| sink.deliver(delivery));
    }

    /// As [`Responder::deliver`], from a thread that must not wait for a slow client.
    pub fn deliver_at_once(&mut self, delivery: Delivery) {
        self.deliver_by(delivery, |sink, delivery| sink.deliver_at_once(delivery));
    }

    fn deliver_by(&mut self, delivery: Delivery, deliver: impl FnOnce(&mut dyn ResponseSink, Delivery)) {
        if delivery.is_last() {
            if let Some(mut sink) = self.sink.take() {
                let span = std::mem::replace(&mut self.span, Span::none());
                span.record("outcome", if matches!(delivery, Delivery::Failed { .. }) { "failed" } else { "answered" });
                deliver(sink.as_mut(), delivery);
            }
        } else if let Some(sink) = self.sink.as_mut() {
            deliver(sink.as_mut(), delivery);
        }
    }

    /// Waits while the client reads slowly.
    pub fn wait_for_room(&mut self) {
        if let Some(sink) = self.sink.as_mut() {
            sink.wait_for_room();
        }
    }

    /// Delivers an error that ends the request.
    pub fn fail(&mut self, error: InferError) {
        self.deliver(Delivery::Failed { error, last: true });
    }

    /// Whether the last delivery has been made.
    pub fn is_finished(&self) -> bool {
        self.sink.is_none()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.fail(InferError::Abandoned);
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// One cancellation token from the transport to the model instance. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<CancellationState>);

#[derive(Debug, Default)]
struct CancellationState {
    cancelled: AtomicBool,
    hooks: Mutex<Hooks>,
    changed: Condvar,
}

/// What is called at cancellation, by number.
#[derive(Default)]
struct Hooks {
    next: u64,
    waiting: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// Keeps a hook of [`Cancellation::on_cancel`]; dropped, the hook is forgotten.
#[derive(Debug)]
#[must_use = "the hook is forgotten when this is dropped"]
pub struct CancelHook {
    token: Cancellation,
    number: u64,
}

impl Drop for CancelHook {
    fn drop(&mut self) {
        let hook = self.token.hooks().waiting.remove(&self.number);
        // What a hook holds is dropped when the lock is free.
        drop(hook);
    }
}

impl Cancellation {
    /// Cancels; wakes every [`Cancellation::wait`] and calls every hook, on this thread.
    pub fn cancel(&self) {
        // The store happens under the lock so that a waiter cannot test, miss it and then sleep.
        let mut hooks = self.hooks();
        self.0.cancelled.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut hooks.waiting);
        drop(hooks);
        self.0.changed.notify_all();
        waiting.into_values().for_each(|hook| hook());
    }

    /// Calls `hook` once when it is cancelled, on the thread that cancels: at once where that has been done. The hook
    /// must not wait. Nothing is called any more once what comes back is dropped, but for a call that is under way.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) -> CancelHook {
        let mut hooks = self.hooks();
        let number = hooks.next;
        hooks.next = hooks.next.wrapping_add(1);
        if self.is_cancelled() {
            drop(hooks);
            hook();
        } else {
            hooks.waiting.insert(number, Box::new(hook));
        }
        CancelHook { token: self.clone(), number }
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has been cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Blocks the thread for `delay`, or until cancelled; returns whether it was cancelled.
    pub fn wait(&self, delay: Duration) -> bool {
        let waited = self.0.changed.wait_timeout_while(self.hooks(), delay, |_| !self.is_cancelled());
        drop(waited);
        self.is_cancelled()
    }
}

/// A checked request on its way through queue, batch and instance.
#[derive(Debug)]
pub struct Entry {
    /// What to run.
    pub request: ValidRequest,
    /// Whom to answer.
    pub responder: Responder,
    /// When it entered its model's queue.
    pub queued_at: Timestamp,
    /// Its priority level in that queue, 1 the highest; 1 where the model has no levels.
    pub level: usize,
    /// When it must not be started any more: the earliest of the client's deadline, the request's timeout and the
    /// queue policy's.
    pub deadline: Option<Timestamp>,
    /// Under the timeout action DELAY: when it moves back behind all requests that are in time.
    pub delayed_from: Option<Timestamp>,
    /// What runs in its place where it must not run any more, so that those behind it keep their rows of the batch.
    pub stand_in: Option<Arc<ValidRequest>>,
}

impl Entry {
    /// What fills rows of a batch that belong to nobody: it runs, and is answered to nobody.
    pub fn padding(request: &Arc<ValidRequest>) -> Self {
        Self {
            request: ValidRequest::clone(request),
            responder: Responder::nobody(),
            queued_at: request.received_at,
            level: 1,
            deadline: None,
            delayed_from: None,
            stand_in: None,
        }
    }

    /// Whether nobody waits for its answer.
    pub fn is_padding(&self) -> bool {
        self.responder.is_finished()
    }

    /// The error of this entry where its queue has no room.
    pub fn queue_full(&self) -> InferError {
        InferError::QueueFull { tag: RequestTag(self.request.id.clone()), retry_after: None }
    }

    /// Why this entry must not reach a model any more, if so: its client left, or its time is over.
    pub fn lapsed(&self, now: Timestamp) -> Option<InferError> {
        if self.responder.cancellation().is_cancelled() {
            Some(InferError::Cancelled)
        } else if self.deadline.is_some_and(|deadline| now >= deadline) {
            Some(InferError::Expired)
        } else {
            None
        }
    }
}
