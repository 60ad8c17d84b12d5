//! One request of an ensemble under way: it carries out what its run says.
//!
//! Whoever brings a step's response changes the run under the lock, then starts steps and answers the client
//! without it. Steps are started by one thread at a time, from a queue: a step that is answered while it is
//! submitted (a refusal) only adds to the queue, so neither lock nor stack is in its way. The client is
//! answered by one thread at a time as well, so that its answers keep their order.
//!
//! A client that reads slowly blocks the thread of the decoupled step whose responses it does not read, and no
//! other: models that come behind that step serve other clients too, so they answer at once. Nor may a thread of the
//! async runtime wait, so answers that others follow are only ever made by threads that brought a response (see
//! [`ResponseSink::deliver`]); those that merely refuse a step make last answers, which never block.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tracing::Span;

use crate::clock::{self, Timestamp};
use crate::error::{InferError, RequestProblem, RequestTag};
use crate::observe::statistics::{ExecutedBatch, RequestTiming, Stage};
use crate::observe::trace;
use crate::request::{
    Cancellation, ComputeTiming, Delivery, Entry, InferRequest, InferResponse, OutputTensor, Parameters, RequestOptions,
    Responder, ResponseSink,
};
use crate::timeline::{StepTimeline, Timeline};

use super::convert::{self, Value};
use super::gate::{Admission, LONGEST_WAIT, LOOK_AROUND};
use super::run::{Fault, Firing, Move, Plan, Run, StepFacts};
use super::{Handles, Permit, ServedEnsemble};

/// Answers that may wait for the client, or for those before them, until decoupled steps are held back.
pub(super) const MAX_WAITING_ANSWERS: usize = 32;

/// One request of an ensemble.
pub(super) struct Call {
    served: Arc<ServedEnsemble>,
    handles: Handles,
    plan: Arc<Plan>,
    id: String,
    options: RequestOptions,
    parameters: Parameters,
    /// Of the ensemble's outputs, those that are requested.
    requested: Vec<usize>,
    rows: usize,
    received_at: Timestamp,
    /// When its client stops waiting.
    client_deadline: Option<Timestamp>,
    /// When no step must be started any more.
    deadline: Option<Timestamp>,
    queue: Duration,
    cancellation: Cancellation,
    span: Span,
    state: Mutex<State>,
    /// The run is over, whatever still is under way; read without the lock.
    is_over: AtomicBool,
    /// Something happened that a decoupled step may wait for.
    changed: Condvar,
}

struct State {
    run: Run<Value>,
    firings: VecDeque<Firing<Value>>,
    /// A thread is starting steps.
    is_firing: bool,
    answers: VecDeque<Delivery>,
    /// The client has had an answer.
    has_answered: bool,
    /// The thread that answers the client.
    answering: Option<ThreadId>,
    responder: Option<Responder>,
    permit: Option<Permit>,
    /// Times of the steps, all in all and since the last answer.
    total: ComputeTiming,
    recent: ComputeTiming,
    /// What the steps did so far, until the first answer carries it.
    timeline: Option<Box<Timeline>>,
    /// Per step: places taken at the gate.
    places: Vec<usize>,
}

impl State {
    fn add(&mut self, timing: ComputeTiming) {
        for sum in [&mut self.total, &mut self.recent] {
            sum.input = sum.input.saturating_add(timing.input);
            sum.infer = sum.infer.saturating_add(timing.infer);
            sum.output = sum.output.saturating_add(timing.output);
        }
    }

    /// Keeps the timeline of a step.
    fn add_step(&mut self, response: &mut InferResponse) {
        if let (Some(timeline), Some(step)) = (&mut self.timeline, response.timeline.take()) {
            let (model, version) = (Arc::clone(&response.model_name), response.model_version);
            timeline.add_step(StepTimeline { model, version, timeline: *step });
        }
    }

    /// The request's timeline, for its first answer.
    fn take_timeline(&mut self) -> Option<Box<Timeline>> {
        let mut timeline = self.timeline.take()?;
        timeline.answered_at = Some(clock::now());
        Some(timeline)
    }
}

impl Call {
    /// Starts a request that may be under way.
    pub(super) fn start(permit: Permit, handles: Handles, facts: &[Option<StepFacts>], entry: Entry, now: Timestamp) {
        let served = Arc::clone(&permit.served);
        let Entry { mut request, responder, queued_at, deadline, .. } = entry;
        let mut timeline = request.timeline.take();
        if let Some(timeline) = &mut timeline {
            timeline.queued_at = Some(queued_at);
        }
        let plan = Arc::new(Plan::new(&served.graph, &request.outputs, facts));
        let specs = served.config.inputs.iter();
        let inputs = specs
            .zip(request.inputs)
            .map(|(spec, tensor)| tensor.map(|tensor| convert::client_input(&served.config, spec, tensor)))
            .collect();
        let (cancellation, span) = (responder.cancellation().clone(), responder.span().clone());
        let (run, moves) = Run::start(Arc::clone(&plan), inputs);
        let state = State {
            run,
            firings: VecDeque::new(),
            is_firing: false,
            answers: VecDeque::new(),
            has_answered: false,
            answering: None,
            permit: Some(permit),
            total: ComputeTiming::default(),
            recent: ComputeTiming::default(),
            timeline,
            places: vec![0; served.graph.steps.len()],
            responder: Some(responder),
        };
        let call = Arc::new(Self {
            handles,
            plan,
            id: request.id,
            options: request.options,
            parameters: request.parameters,
            requested: request.outputs.iter().enumerate().filter(|(_, wanted)| **wanted).map(|(index, _)| index).collect(),
            rows: request.rows,
            received_at: request.received_at,
            client_deadline: request.deadline,
            deadline,
            queue: now.since(queued_at),
            cancellation,
            span,
            state: Mutex::new(state),
            is_over: AtomicBool::new(false),
            changed: Condvar::new(),
            served,
        });
        call.accept(&mut call.lock(), moves);
        call.proceed(Brings::NoResponse);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a step delivers and goes on with the graph.
    fn on_delivery(self: &Arc<Self>, step: usize, frame: u64, delivery: Delivery) {
        let is_last = delivery.is_last();
        let is_producer = matches!(delivery, Delivery::Response { .. }) && self.is_decoupled(step);
        let brings = match delivery {
            Delivery::Failed { .. } => Brings::NoResponse,
            _ if is_producer && !is_last => Brings::OneOfMany,
            _ => Brings::Response,
        };
        let taken = if is_producer { self.pass_gate(step) } else { Vec::new() };
        let mut state = self.lock();
        taken.iter().for_each(|step| state.places[*step] += 1);
        if self.cancellation.is_cancelled() {
            let moves = state.run.abort(InferError::Cancelled);
            self.accept(&mut state, moves);
        }
        let moves = match delivery {
            Delivery::Response { mut response, last } => {
                state.add(response.timing);
                state.add_step(&mut response);
                let outputs = self.values(step, *response);
                state.run.on_response(step, frame, outputs, last)
            }
            Delivery::Final => state.run.on_end(step, frame),
            Delivery::Failed { error, last } => state.run.on_failed(step, frame, error, last),
        };
        self.accept(&mut state, moves);
        if is_last {
            self.leave_gate(&mut state, step);
        }
        let ends_now = state.run.is_over() && !self.is_over.swap(true, Ordering::AcqRel);
        drop(state);
        self.changed.notify_all();
        if let (true, Some(gate)) = (ends_now, &self.served.gate) {
            gate.wake();
        }
        self.proceed(brings);
        if is_producer && !is_last {
            self.hold_back();
        }
    }

    fn is_decoupled(&self, step: usize) -> bool {
        self.handles[step].as_ref().is_some_and(|handle| handle.config.decoupled)
    }

    /// The response's outputs in the order of the step's mapped ones.
    fn values(&self, step: usize, response: InferResponse) -> Vec<Option<Value>> {
        let batched = self.handles[step].as_ref().is_some_and(|handle| handle.config.max_batch_rows.is_some());
        let sequence = convert::sequence_parameters(response.parameters);
        let mut outputs = response.outputs;
        let take = |mapped: &crate::config::StepTensor| {
            let index = outputs.iter().position(|output| output.name == mapped.name)?;
            let tensor = outputs.swap_remove(index).tensor;
            Some(Value { tensor, batched, sequence: sequence.clone() })
        };
        self.served.graph.steps[step].outputs.iter().map(take).collect()
    }

    /// Puts what is to be done into the queues.
    fn accept(&self, state: &mut State, moves: Vec<Move<Value>>) {
        for next in moves {
            match next {
                Move::Fire(firing) => {
                    self.count_at_gate(state, firing.step);
                    state.firings.push_back(firing);
                }
                Move::Answer { outputs, last } => {
                    let mut response = Box::new(self.response(outputs, std::mem::take(&mut state.recent)));
                    response.timeline = state.take_timeline();
                    state.answers.push_back(Delivery::Response { response, last });
                }
                Move::Finish => state.answers.push_back(Delivery::Final),
                Move::Fail(fault) => {
                    state.answers.push_back(Delivery::Failed { error: self.error(fault), last: true });
                }
            }
        }
    }

    fn response(&self, values: Vec<Option<Value>>, timing: ComputeTiming) -> InferResponse {
        let config = &self.served.config;
        let mut parameters = Parameters::new();
        let mut outputs = Vec::with_capacity(values.len());
        for (index, value) in self.requested.iter().zip(values) {
            let spec = &config.outputs[*index];
            let Some(value) = value else {
                tracing::debug!(ensemble = %config.name, tensor = %spec.name, "composing models did not output a tensor");
                continue;
            };
            if let Some(sequence) = &value.sequence {
                parameters.extend(sequence.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            outputs.push(OutputTensor { name: Arc::clone(&spec.name), tensor: convert::ensemble_output(value, config, spec) });
        }
        InferResponse {
            model_name: Arc::clone(&config.name),
            model_version: self.served.version,
            id: self.id.clone(),
            parameters,
            outputs,
            timing,
            timeline: None,
        }
    }

    fn error(&self, fault: Fault) -> InferError {
        let tag = || RequestTag(self.id.clone());
        self.served.inside(match fault {
            Fault::Aborted(error) => return error,
            Fault::Step(error) => error,
            Fault::ResponseCount { got } => InferError::ResponseCount { got },
            Fault::Deadlock => InferError::Request { tag: tag(), problem: RequestProblem::Deadlock },
            Fault::TooManyFrames => InferError::QueueFull { tag: tag(), retry_after: None },
        })
    }

    fn proceed(self: &Arc<Self>, brings: Brings) {
        self.fire();
        self.answer(brings);
    }

    /// Starts the steps that are to run, unless another thread (or this one, further up) is at it.
    fn fire(self: &Arc<Self>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.is_firing, true) {
            return;
        }
        while let Some(firing) = state.firings.pop_front() {
            drop(state);
            self.submit(firing);
            state = self.lock();
        }
        state.is_firing = false;
    }

    fn submit(self: &Arc<Self>, firing: Firing<Value>) {
        let Firing { step, frame, inputs } = firing;
        // Only steps that the plan needs are fired, and those were resolved.
        let Some(handle) = &self.handles[step] else { return };
        let mapped = &self.served.graph.steps[step];
        let outputs = &mapped.outputs;
        let is_used = self.plan.used_outputs(step);
        let inputs = mapped.inputs.iter().zip(inputs);
        let now = clock::now();
        // What is left of the request's time is all that a step may wait.
        let timeout = self.deadline.map(|deadline| deadline.since(now));
        let request = InferRequest {
            id: self.id.clone(),
            options: RequestOptions { timeout, ..self.options.clone() },
            parameters: self.parameters.clone(),
            inputs: inputs.filter_map(|(input, value)| Some(convert::step_input(value?, &handle.config, &input.name))).collect(),
            outputs: outputs.iter().zip(is_used).filter(|(_, used)| *used).map(|(output, _)| output.name.to_string()).collect(),
            received_at: now,
            deadline: self.client_deadline,
            timeline: self.options.timeline.then(|| Box::new(Timeline::begin(now, now))),
        };
        let sink = StepSink { call: Arc::clone(self), step, frame };
        let span = trace::step(&self.span, &handle.config.name, handle.version, &self.id);
        handle.submit(request, Responder::new(Box::new(sink), self.cancellation.clone()).within(span));
    }

    /// Answers the client, unless another thread (or this one, further up) is at it.
    fn answer(&self, brings: Brings) {
        let mut state = self.lock();
        if state.answering.is_some() {
            return;
        }
        // Whoever put an answer that others follow brought a response, and comes to deliver it.
        let may_deliver = |state: &State| match (brings, state.answers.front()) {
            (Brings::Response | Brings::OneOfMany, Some(_)) => true,
            (Brings::NoResponse, Some(delivery)) => delivery.is_last(),
            (_, None) => false,
        };
        while may_deliver(&state)
            && let Some(delivery) = state.answers.pop_front()
            && let Some(mut responder) = state.responder.take()
        {
            state.answering = Some(thread::current().id());
            let ended = delivery.is_last().then(|| self.end(&mut state));
            let total = state.total;
            let is_first = !std::mem::replace(&mut state.has_answered, true);
            drop(state);
            if is_first && !matches!(delivery, Delivery::Failed { .. }) {
                self.served.statistics.record_first_response(clock::now().since(self.received_at));
            }
            if let Some(permit) = ended {
                self.count(&delivery, total);
                drop(permit);
            }
            match brings {
                Brings::OneOfMany => responder.deliver(delivery),
                Brings::Response | Brings::NoResponse => responder.deliver_at_once(delivery),
            }
            state = self.lock();
            state.responder = Some(responder);
            state.answering = None;
            self.changed.notify_all();
        }
    }

    /// Gives back what the request holds of limits.
    fn end(&self, state: &mut State) -> Option<Permit> {
        if let Some(gate) = &self.served.gate {
            for (step, places) in state.places.iter_mut().enumerate().filter(|(_, places)| **places > 0) {
                gate.give_back(step, std::mem::take(places));
            }
        }
        state.permit.take()
    }

    /// Counts the request, before its client knows that it has ended.
    fn count(&self, last: &Delivery, timing: ComputeTiming) {
        let total = clock::now().since(self.received_at);
        let statistics = &self.served.statistics;
        match last {
            Delivery::Failed { error, .. } => statistics.record_failure(Stage::Ensemble, error, total),
            Delivery::Response { .. } | Delivery::Final => {
                let execution = ExecutedBatch { rows: self.rows, timing, formed: None };
                statistics.record_batch(&execution, &[RequestTiming { total, queue: self.queue }]);
            }
        }
    }

    /// Keeps a decoupled step from answering faster than the client reads, or than the steps behind it
    /// follow. The client ends the wait by reading or leaving; a step that does not come to its end for too
    /// long (it may need the very thread that waits) does not hold its producer for ever.
    fn hold_back(&self) {
        self.wait_for_client();
        let deadline = clock::now().plus(LONGEST_WAIT);
        let this = thread::current().id();
        let mut state = self.lock();
        loop {
            let delivering = state.answering.is_some_and(|other| other != this);
            let unread = if delivering { state.answers.len() } else { 0 };
            let is_over = state.run.is_over() || self.cancellation.is_cancelled() || clock::now() >= deadline;
            if unread + state.run.unordered_answers() < MAX_WAITING_ANSWERS || (unread == 0 && is_over) {
                return;
            }
            state = self.changed.wait_timeout(state, LOOK_AROUND).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits while the client reads slowly, in place of the threads that answer it.
    fn wait_for_client(&self) {
        let mut state = self.lock();
        // Whoever answers it now waits himself, if he may.
        if state.answering.is_some() {
            return;
        }
        let Some(mut responder) = state.responder.take() else { return };
        state.answering = Some(thread::current().id());
        drop(state);
        responder.wait_for_room();
        let mut state = self.lock();
        state.responder = Some(responder);
        state.answering = None;
        drop(state);
        self.changed.notify_all();
        // What came meanwhile.
        self.answer(Brings::OneOfMany);
    }

    /// Waits until what is behind a decoupled step can take one more response; the places taken.
    fn pass_gate(&self, producer: usize) -> Vec<usize> {
        let Some(gate) = &self.served.gate else { return Vec::new() };
        let watched: Vec<usize> = self.plan.behind(producer).collect();
        let taken: Vec<usize> = watched.iter().copied().filter(|step| self.plan.feeder(*step) == Some(producer)).collect();
        let is_over = || self.cancellation.is_cancelled() || self.is_over.load(Ordering::Acquire);
        match gate.admit(&watched, &taken, is_over) {
            Admission::Admitted => taken,
            Admission::GivenUp => Vec::new(),
            Admission::Forced => {
                tracing::error!(
                    ensemble = %self.served.config.name,
                    step = %self.served.graph.steps[producer].model,
                    "steps behind a decoupled step stayed at max_inflight_requests for too long; letting one more through"
                );
                taken
            }
        }
    }

    /// Counts a step that is fired; where its producer waited for its place, that is done.
    fn count_at_gate(&self, state: &mut State, step: usize) {
        if let (Some(gate), true, None) = (&self.served.gate, self.plan.is_iterated(step), self.plan.feeder(step)) {
            gate.take(step);
            state.places[step] += 1;
        }
    }

    fn leave_gate(&self, state: &mut State, step: usize) {
        if let (Some(gate), true) = (&self.served.gate, state.places[step] > 0) {
            state.places[step] -= 1;
            gate.give_back(step, 1);
        }
    }
}

/// What the thread at work brought of a step, and so whether it may answer the client, and may wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brings {
    /// One of several of a decoupled step, on a thread that may wait for the client.
    OneOfMany,
    Response,
    NoResponse,
}

/// Takes what one step delivers.
struct StepSink {
    call: Arc<Call>,
    step: usize,
    frame: u64,
}

impl ResponseSink for StepSink {
    fn deliver(&mut self, delivery: Delivery) {
        self.call.on_delivery(self.step, self.frame, delivery);
    }
}
