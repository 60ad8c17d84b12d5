//! One batch while it runs: what a model reads from, and what it puts its outputs into.

use std::ops::Range;
use std::sync::Arc;

use tracing::Span;

use crate::batch::{Batch, Member, Origin};
use crate::clock::{self, Timestamp};
use crate::config::ModelConfig;
use crate::error::{ExecuteError, InferError};
use crate::observe::statistics::{ExecutedBatch, Formed, RequestTiming, Stage};
use crate::observe::trace;
use crate::request::{Cancellation, ComputeTiming, Delivery, Entry, Parameter, Parameters, Responder, ValidRequest};
use crate::tensor::Tensor;
use crate::timeline::{BatchTimes, DeviceTurn};

use super::stream::ResponseStream;
use super::{ServedVersion, gather, split};

/// A batch that is being executed.
///
/// Requests are named by their position in the batch, inputs and outputs by their position in the
/// configuration. Tensors have the shapes that the model sees; in a batching model the first dimension
/// is the batch.
pub struct Execution {
    served: Arc<ServedVersion>,
    requests: Vec<Running>,
    rows: usize,
    /// Rows that belong to no request.
    empty_rows: usize,
    /// Requests, without the padding of sequences.
    askers: usize,
    outputs: Vec<Option<Tensor>>,
    pub(super) marks: Marks,
    recorded: bool,
    origin: Origin,
    seat: Option<Seat>,
    device: Option<DeviceTurn>,
    /// Rows of requests whose clients left before the model ran for them.
    left_rows: usize,
    span: Span,
    /// Elements that the model was asked for, and those that it added to them.
    real: u64,
    padding: u64,
}

/// Where a batch runs. Dropped, it says that the instance has nothing to do any more.
struct Seat {
    served: Arc<ServedVersion>,
    instance: usize,
    idle_since: Timestamp,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(busy) = self.served.statistics.busy(self.instance) {
            busy.end(clock::now());
        }
    }
}

/// One request of the batch.
pub(super) struct Running {
    pub(super) request: ValidRequest,
    /// `None` once a stream has taken it over.
    responder: Option<Responder>,
    rows: Range<usize>,
    queued_at: Timestamp,
    outputs: Vec<Option<Tensor>>,
    parameters: Parameters,
    error: Option<Arc<ExecuteError>>,
}

/// The moments that divide an execution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub(super) start: Timestamp,
    input_done: Option<Timestamp>,
    infer_done: Option<Timestamp>,
}

impl Marks {
    /// The parts of the execution, if it ended at `end`. A part whose mark was not set counts to the model.
    pub(super) fn timing(&self, end: Timestamp) -> ComputeTiming {
        let input_done = self.input_done.unwrap_or(self.start);
        let infer_done = self.infer_done.unwrap_or(end);
        ComputeTiming { input: input_done.since(self.start), infer: infer_done.since(input_done), output: end.since(infer_done) }
    }
}

impl Execution {
    /// Starts the execution of a batch.
    pub(super) fn start(served: Arc<ServedVersion>, batch: Batch<Entry>) -> Self {
        let start = clock::now();
        let (rows, origin) = (batch.rows(), origin(&served, &batch));
        let outputs = served.config.outputs.len();
        let spans = batch.members().iter().map(|member| member.item.responder.span());
        let span = trace::batch(&served.config.name, served.version, &origin, rows, spans);
        let empty = || batch.members().iter().filter(|member| member.item.is_padding());
        let (askers, empty_rows) = (batch.len() - empty().count(), empty().map(|member| member.rows.len()).sum());
        let mut requests: Vec<Running> = batch
            .into_iter()
            .map(|Member { item: entry, rows }| {
                let mut request = entry.request;
                if let Some(timeline) = &mut request.timeline {
                    (timeline.queued_at, timeline.level) = (Some(entry.queued_at), entry.level);
                }
                Running {
                    queued_at: entry.queued_at,
                    request,
                    // Padding is answered to nobody; it is as if a stream had taken it over.
                    responder: Some(entry.responder).filter(|responder| !responder.is_finished()),
                    rows,
                    outputs: vec![None; outputs],
                    parameters: Parameters::new(),
                    error: None,
                }
            })
            .collect();
        requests.iter_mut().filter_map(|running| running.responder.as_mut()).for_each(Responder::started);
        let marks = Marks { start, input_done: None, infer_done: None };
        let outputs = vec![None; outputs];
        Self {
            served,
            requests,
            rows,
            askers,
            empty_rows,
            outputs,
            marks,
            recorded: false,
            origin,
            seat: None,
            device: None,
            left_rows: 0,
            span,
            real: 0,
            padding: 0,
        }
    }

    /// Says which instance runs it, by its number; the instance counts as busy until the execution ends.
    /// `device` is its turn on the device that it shares with others, if it does.
    pub(super) fn on(mut self, instance: usize, device: Option<DeviceTurn>) -> Self {
        self.device = device;
        if let Some(busy) = self.served.statistics.busy(instance) {
            let idle_since = busy.begin(self.marks.start);
            self.span.record("instance", instance);
            self.seat = Some(Seat { served: Arc::clone(&self.served), instance, idle_since });
        }
        self
    }

    /// The batch as the timelines of its requests tell of it.
    fn batch_times(&self) -> BatchTimes {
        BatchTimes {
            origin: self.origin,
            rows: self.rows,
            requests: self.askers,
            instance: self.seat.as_ref().map(|seat| seat.instance),
            idle_since: self.seat.as_ref().map_or(Timestamp::default(), |seat| seat.idle_since),
            device: self.device,
            started_at: self.marks.start,
            inputs_at: self.marks.input_done,
            executed_at: self.marks.infer_done,
        }
    }

    /// The batch as the statistics count it: the rows for which the model ran. A request that failed by itself was
    /// computed with the others; one whose client had left before was not.
    fn executed(&self, timing: ComputeTiming) -> ExecutedBatch {
        let formed = Formed {
            trigger: self.origin.trigger,
            cost: self.origin.cost,
            assembly: self.marks.start.since(self.origin.formed_at),
            empty_rows: self.empty_rows,
            padding: self.padding,
            real: self.real,
        };
        ExecutedBatch { rows: self.rows.saturating_sub(self.left_rows), timing, formed: Some(formed) }
    }

    /// The model's configuration.
    pub fn config(&self) -> &Arc<ModelConfig> {
        &self.served.config
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether the batch holds no request; it never does.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Rows of all requests together.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A request of the batch.
    pub fn request(&self, request: usize) -> &ValidRequest {
        &self.requests[request].request
    }

    /// The rows of the batch that belong to a request.
    pub fn request_rows(&self, request: usize) -> Range<usize> {
        self.requests[request].rows.clone()
    }

    /// The token through which a request's client leaves.
    pub fn cancellation(&self, request: usize) -> Cancellation {
        self.requests[request].responder.as_ref().map_or_else(Cancellation::default, |responder| responder.cancellation().clone())
    }

    /// Whether a request still waits for the model: it has not failed, and no stream has taken it over.
    pub fn is_waiting(&self, request: usize) -> bool {
        self.requests.get(request).is_some_and(|running| running.responder.is_some() && running.error.is_none())
    }

    /// Ends every request that still waits and whose client has left. It counts as canceled, and not as
    /// executed: what is left of the batch is counted when the batch ends.
    pub fn drop_cancelled(&mut self) {
        let now = clock::now();
        for running in self.requests.iter_mut().filter(|running| running.error.is_none()) {
            let left = running.responder.take_if(|responder| responder.cancellation().is_cancelled());
            if let Some(mut responder) = left {
                let total = now.since(running.request.received_at);
                self.served.statistics.record_failure(Stage::Execution, &InferError::Cancelled, total);
                responder.fail(InferError::Cancelled);
                self.left_rows = self.left_rows.saturating_add(running.rows.len());
            }
        }
    }

    /// Whether any request wants this output.
    pub fn is_wanted(&self, output: usize) -> bool {
        self.requests.iter().any(|running| running.request.outputs.get(output).copied().unwrap_or(false))
    }

    /// One tensor of the whole batch for an input; `None` where the requests leave the input out.
    ///
    /// # Errors
    /// Requests differ in the shape of this input (only where the input may be ragged).
    pub fn gathered(&self, input: usize) -> Result<Option<Tensor>, ExecuteError> {
        let parts: Vec<&Tensor> =
            self.requests.iter().filter_map(|running| running.request.inputs.get(input)?.as_ref()).collect();
        if parts.is_empty() {
            return Ok(None);
        }
        gather::gather(&self.served.config.inputs[input].name, &parts).map(Some)
    }

    /// Puts an output of the whole batch; each request gets its rows.
    pub fn set_output(&mut self, output: usize, tensor: Tensor) {
        self.outputs[output] = Some(tensor);
    }

    /// Puts an output of one request; it goes before one of the whole batch.
    pub fn set_request_output(&mut self, request: usize, output: usize, tensor: Tensor) {
        self.requests[request].outputs[output] = Some(tensor);
    }

    /// Sets a parameter of one request's response.
    pub fn set_parameter(&mut self, request: usize, name: impl Into<String>, value: Parameter) {
        self.requests[request].parameters.insert(name.into(), value);
    }

    /// Fails one request; the others go on.
    pub fn fail(&mut self, request: usize, error: ExecuteError) {
        self.requests[request].error.get_or_insert_with(|| Arc::new(error));
    }

    /// Marks that the inputs are where the model needs them.
    pub fn mark_input_done(&mut self) {
        self.marks.input_done = Some(clock::now());
    }

    /// Marks that the model has run and only outputs are left to be taken.
    pub fn mark_infer_done(&mut self) {
        self.marks.infer_done = Some(clock::now());
    }

    /// Reports what the model computed: elements that were asked for (such as tokens), and those that it added only to make
    /// rows equally long. Reports add up.
    pub fn report_padding(&mut self, real: u64, padding: u64) {
        self.real = self.real.saturating_add(real);
        self.padding = self.padding.saturating_add(padding);
    }

    /// Reports that the batch, or a part of it, was cut in two because the device was short of memory.
    pub fn report_split(&mut self) {
        self.served.statistics.record_split();
    }

    /// Takes a request out of the batch, to be answered by any number of responses, on any thread.
    /// `None` where it has been taken already or has failed.
    ///
    /// The execution is counted at the first call, so that the counts are complete when the first answer arrives.
    pub fn stream(&mut self, request: usize) -> Option<ResponseStream> {
        let times = self.batch_times();
        let running = self.requests.get_mut(request)?;
        if running.error.is_some() {
            return None;
        }
        let responder = running.responder.take()?;
        if let Some(timeline) = &mut running.request.timeline {
            timeline.batch = Some(times);
        }
        let queue = self.marks.start.since(running.queued_at);
        let stream = ResponseStream::new(Arc::clone(&self.served), running.request.clone(), responder, queue, self.marks);
        if !self.recorded {
            self.recorded = true;
            self.served.statistics.record_batch(&self.executed(self.marks.timing(clock::now())), &[]);
        }
        Some(stream)
    }

    /// Ends the execution: splits outputs, counts, and answers every request that still waits.
    pub(super) fn finish(mut self, result: Result<(), ExecuteError>) {
        if let Err(error) = result {
            let error = Arc::new(error);
            for running in &mut self.requests {
                running.error.get_or_insert_with(|| Arc::clone(&error));
            }
        }
        self.marks.infer_done.get_or_insert_with(clock::now);
        let times = self.batch_times();
        let config = Arc::clone(&self.served.config);
        let mut answers = Vec::with_capacity(self.requests.len());
        for mut running in std::mem::take(&mut self.requests) {
            let Some(responder) = running.responder.take() else {
                continue;
            };
            let answer = match running.error.take() {
                Some(error) => Err(error),
                None => self.answer(&config, &mut running).map_err(Arc::new),
            };
            answers.push((running, responder, answer));
        }
        self.count_and_deliver(&times, answers);
    }

    fn answer(&self, config: &ModelConfig, running: &mut Running) -> Result<crate::request::InferResponse, ExecuteError> {
        let mut outputs = std::mem::take(&mut running.outputs);
        for (index, slot) in outputs.iter_mut().enumerate() {
            if let (None, Some(whole)) = (&slot, &self.outputs[index]) {
                *slot = Some(match config.max_batch_rows {
                    Some(_) => split::take_rows(config, &config.outputs[index], whole, &running.rows)?,
                    None => whole.clone(),
                });
            }
        }
        let parameters = std::mem::take(&mut running.parameters);
        split::respond(&self.served, &running.request, outputs, parameters, ComputeTiming::default())
    }

    fn count_and_deliver(
        &self,
        times: &BatchTimes,
        answers: Vec<(Running, Responder, Result<crate::request::InferResponse, Arc<ExecuteError>>)>,
    ) {
        let end = clock::now();
        let timing = self.marks.timing(end);
        trace::executed(&self.span, timing);
        let statistics = &self.served.statistics;
        let answered: Vec<RequestTiming> = answers
            .iter()
            .filter(|(_, _, answer)| answer.is_ok())
            .map(|(running, ..)| RequestTiming {
                total: end.since(running.request.received_at),
                queue: self.marks.start.since(running.queued_at),
            })
            .collect();
        if !answered.is_empty() {
            if self.recorded {
                answered.iter().for_each(|request| statistics.record_success(*request, timing));
            } else {
                statistics.record_batch(&self.executed(timing), &answered);
            }
            answered.iter().for_each(|request| statistics.record_first_response(request.total));
        }
        for (mut running, mut responder, answer) in answers {
            match answer {
                Ok(mut response) => {
                    response.timing = timing;
                    response.timeline = running.request.timeline.take();
                    if let Some(timeline) = &mut response.timeline {
                        (timeline.batch, timeline.answered_at) = (Some(*times), Some(end));
                    }
                    responder.deliver(Delivery::Response { response: Box::new(response), last: true });
                }
                Err(error) => {
                    let error = InferError::Execute(error);
                    statistics.record_failure(Stage::Execution, &error, end.since(running.request.received_at));
                    responder.fail(error);
                }
            }
        }
    }
}

/// How a batch came about. A request that no batcher put into one was its own batch from the moment it was queued.
fn origin(served: &ServedVersion, batch: &Batch<Entry>) -> Origin {
    let mut origin = batch.origin;
    if origin.id == 0 {
        origin.id = served.statistics.next_batch();
    }
    if let (true, Some(member)) = (origin.formed_at == Timestamp::default(), batch.members().first()) {
        origin.formed_at = member.item.queued_at;
    }
    origin.cost = origin.cost.max(batch.members().iter().map(|member| member.item.request.cost).fold(0, u64::saturating_add));
    origin
}
