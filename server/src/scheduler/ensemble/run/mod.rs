//! Owns the state of one request on its way through an ensemble: which tensors are there, which steps run,
//! what comes next. May import the words and `config`; must never import anything else. Pure: it carries
//! tensors blindly, starts nothing and reads no clock.
//!
//! Everything happens in a *frame*: the request's own, or one for each response of a decoupled step. A frame
//! sees the tensors of those it lies within, so a step behind a decoupled one can read what does not depend
//! on it; frames beside each other never see each other's tensors.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::InferError;

mod plan;
#[cfg(test)]
mod tests;

pub(crate) use plan::{Plan, StepFacts, needed_steps};

use plan::Scope;

/// Most frames of a request that are open: responses of decoupled steps on their way to an answer.
const MAX_OPEN_FRAMES: usize = 4096;

/// The frame of the request itself.
const ROOT: u64 = 0;

/// What is to be done next, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Move<T> {
    /// Run a step.
    Fire(Firing<T>),
    /// Answer the request.
    Answer {
        /// Per requested output: its value, or nothing where a step left it out.
        outputs: Vec<Option<T>>,
        /// Nothing follows.
        last: bool,
    },
    /// Say that no answer follows.
    Finish,
    /// Fail the request; nothing follows.
    Fail(Fault),
}

/// A step that is to run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Firing<T> {
    /// The step, by position.
    pub(crate) step: usize,
    /// Where it runs; its responses must name it.
    pub(crate) frame: u64,
    /// Per mapped input: its value, or nothing for an optional input that is not there.
    pub(crate) inputs: Vec<Option<T>>,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// A step failed.
    Step(InferError),
    /// The request was given up for a reason of its own.
    Aborted(InferError),
    /// A step that is not decoupled answered not exactly once.
    ResponseCount {
        /// How often it answered.
        got: usize,
    },
    /// A step left out what another one cannot do without.
    Deadlock,
    /// A decoupled step answers faster than the steps behind it can follow.
    TooManyFrames,
}

/// A tensor in a frame.
#[derive(Clone, Debug)]
enum Slot<T> {
    /// Not there yet.
    Empty,
    Present(T),
    /// It will never be there: the client or a step left it out.
    Absent,
    /// It was there and nobody needs it any more.
    Spent,
}

#[derive(Clone, Debug)]
enum StepState<T> {
    Idle,
    /// Fired; a step that is not decoupled keeps its one response until it has ended.
    Running {
        responses: usize,
        outputs: Vec<Option<T>>,
    },
    Done,
}

struct Frame<T> {
    parent: u64,
    scope: Scope,
    tensors: Vec<Slot<T>>,
    /// Per tensor: uses left.
    uses: Vec<Option<usize>>,
    steps: Vec<StepState<T>>,
    /// Steps of this frame that have not ended.
    open_steps: usize,
    /// Open frames that lie directly within this one.
    children: usize,
}

/// One request on its way.
pub(crate) struct Run<T> {
    plan: Arc<Plan>,
    frames: BTreeMap<u64, Frame<T>>,
    next_frame: u64,
    /// Steps that were fired and have not ended.
    in_flight: usize,
    /// The answers to come, in the order in which their frames were opened; made ones wait for those before them.
    answers: BTreeMap<u64, Option<Vec<Option<T>>>>,
    fault: Option<Fault>,
    finished: bool,
    moves: Vec<Move<T>>,
}

impl<T: Clone> Run<T> {
    /// Starts with a value for each input of the ensemble, or nothing where the client left it out.
    pub(crate) fn start(plan: Arc<Plan>, inputs: Vec<Option<T>>) -> (Self, Vec<Move<T>>) {
        let mut run = Self {
            plan,
            frames: BTreeMap::new(),
            next_frame: ROOT,
            in_flight: 0,
            answers: BTreeMap::new(),
            fault: None,
            finished: false,
            moves: Vec::new(),
        };
        let root = run.open_frame(ROOT, None);
        let tensors = run.plan.inputs.clone();
        let values = tensors.into_iter().zip(inputs).collect();
        run.write(root, values);
        let moves = run.settle();
        (run, moves)
    }

    /// A step answered; `outputs` holds a value for each mapped output, or nothing where it was left out.
    pub(crate) fn on_response(&mut self, step: usize, frame: u64, outputs: Vec<Option<T>>, last: bool) -> Vec<Move<T>> {
        if self.fault.is_none() && self.is_running(step, frame) {
            if self.plan.steps[step].decoupled {
                self.iterate(step, frame, outputs);
            } else if let Some(StepState::Running { responses, outputs: kept }) = self.state(step, frame) {
                *responses += 1;
                *kept = outputs;
            }
        }
        if last { self.on_end(step, frame) } else { self.settle() }
    }

    /// A step ended.
    pub(crate) fn on_end(&mut self, step: usize, frame: u64) -> Vec<Move<T>> {
        let state = self.state(step, frame).map(|state| std::mem::replace(state, StepState::Done));
        if let Some(StepState::Running { responses, outputs }) = state {
            self.in_flight -= 1;
            if self.fault.is_none() && !self.plan.steps[step].decoupled {
                if responses == 1 {
                    let tensors = self.plan.steps[step].outputs.clone();
                    let values = tensors.into_iter().zip(outputs).filter_map(|(tensor, value)| Some((tensor?, value))).collect();
                    self.write(frame, values);
                } else {
                    self.fault = Some(Fault::ResponseCount { got: responses });
                }
            }
            if let Some(found) = self.frames.get_mut(&frame) {
                found.open_steps = found.open_steps.saturating_sub(1);
            }
            self.close(frame);
        }
        self.settle()
    }

    /// A step failed. The first error is the request's; what still runs is awaited.
    pub(crate) fn on_failed(&mut self, step: usize, frame: u64, error: InferError, last: bool) -> Vec<Move<T>> {
        self.fault.get_or_insert(Fault::Step(error));
        if last { self.on_end(step, frame) } else { self.settle() }
    }

    /// Gives the request up: no step starts any more, what still runs is awaited.
    pub(crate) fn abort(&mut self, error: InferError) -> Vec<Move<T>> {
        if !self.finished {
            self.fault.get_or_insert(Fault::Aborted(error));
        }
        self.settle()
    }

    /// Whether the request has failed, or has its last answer.
    pub(crate) fn is_over(&self) -> bool {
        self.finished || self.fault.is_some()
    }

    /// Answers that are made and wait for those before them.
    pub(crate) fn unordered_answers(&self) -> usize {
        self.answers.values().filter(|answer| answer.is_some()).count()
    }

    fn state(&mut self, step: usize, frame: u64) -> Option<&mut StepState<T>> {
        self.frames.get_mut(&frame)?.steps.get_mut(step)
    }

    fn is_running(&mut self, step: usize, frame: u64) -> bool {
        matches!(self.state(step, frame), Some(StepState::Running { .. }))
    }

    /// Opens a frame for a response of a decoupled step.
    fn iterate(&mut self, step: usize, frame: u64, outputs: Vec<Option<T>>) {
        if self.frames.len() >= MAX_OPEN_FRAMES {
            self.fault = Some(Fault::TooManyFrames);
            return;
        }
        let inner = self.open_frame(frame, Some(step));
        let tensors = self.plan.steps[step].outputs.clone();
        let values = tensors.into_iter().zip(outputs).filter_map(|(tensor, value)| Some((tensor?, value))).collect();
        self.write(inner, values);
    }

    fn open_frame(&mut self, parent: u64, scope: Scope) -> u64 {
        let id = self.next_frame;
        self.next_frame += 1;
        if let Some(parent) = self.frames.get_mut(&parent) {
            parent.children += 1;
        }
        let frame = Frame {
            parent,
            scope,
            tensors: vec![Slot::Empty; self.plan.tensors.len()],
            uses: self.plan.tensors.iter().map(|tensor| tensor.uses).collect(),
            steps: vec![StepState::Idle; self.plan.steps.len()],
            open_steps: self.plan.steps.iter().filter(|step| step.needed && step.scope == scope).count(),
            children: 0,
        };
        self.frames.insert(id, frame);
        if scope == self.plan.scope {
            self.answers.insert(id, None);
        }
        id
    }

    /// Closes a frame in which nothing can happen any more, and those around it.
    fn close(&mut self, mut id: u64) {
        while id != ROOT && !self.answers.contains_key(&id) {
            match self.frames.get(&id) {
                Some(frame) if frame.open_steps == 0 && frame.children == 0 => {}
                _ => return,
            }
            let Some(frame) = self.frames.remove(&id) else { return };
            id = frame.parent;
            if let Some(parent) = self.frames.get_mut(&id) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
    }

    /// Puts tensors into a frame, and does what they make possible.
    fn write(&mut self, id: u64, values: Vec<(usize, Option<T>)>) {
        let Some(frame) = self.frames.get_mut(&id) else { return };
        let mut readers = Vec::new();
        for (tensor, value) in values {
            frame.tensors[tensor] = match value {
                // What nobody needs is not kept.
                Some(_) if frame.uses[tensor] == Some(0) => Slot::Spent,
                Some(value) => Slot::Present(value),
                None => Slot::Absent,
            };
            readers.extend_from_slice(&self.plan.tensors[tensor].readers);
        }
        readers.sort_unstable();
        readers.dedup();
        for step in readers {
            for within in self.frames_within(id, self.plan.steps[step].scope) {
                self.try_fire(step, within);
            }
        }
        for within in self.frames_within(id, self.plan.scope) {
            self.try_answer(within);
        }
    }

    /// The open frames of a scope that are, or lie within, this frame.
    fn frames_within(&self, id: u64, scope: Scope) -> Vec<u64> {
        if self.frames.get(&id).is_some_and(|frame| frame.scope == scope) {
            return vec![id];
        }
        // A frame is younger than the one it lies within.
        let inner = self.frames.range(id..).filter(|(_, frame)| frame.scope == scope);
        inner.map(|(inner, _)| *inner).filter(|inner| self.lies_within(*inner, id)).collect()
    }

    fn lies_within(&self, mut inner: u64, outer: u64) -> bool {
        while inner > outer {
            match self.frames.get(&inner) {
                Some(frame) => inner = frame.parent,
                None => return false,
            }
        }
        inner == outer
    }

    /// The frame of those around `id` (itself included) in which a tensor comes to be.
    fn home(&self, id: u64, tensor: usize) -> Option<u64> {
        let scope = self.plan.tensors[tensor].scope;
        let mut id = id;
        loop {
            let frame = self.frames.get(&id)?;
            if frame.scope == scope {
                return Some(id);
            }
            if id == ROOT {
                return None;
            }
            id = frame.parent;
        }
    }

    fn slot(&self, id: u64, tensor: usize) -> Option<&Slot<T>> {
        self.frames.get(&self.home(id, tensor)?)?.tensors.get(tensor)
    }

    /// Whether a tensor is there (`Some(true)`), will never be (`Some(false)`), or is still to come.
    fn presence(&self, id: u64, tensor: usize) -> Option<bool> {
        match self.slot(id, tensor)? {
            Slot::Empty => None,
            Slot::Absent => Some(false),
            Slot::Present(_) | Slot::Spent => Some(true),
        }
    }

    /// Takes a tensor for one of its uses; at the last one it leaves the frame.
    fn take(&mut self, id: u64, tensor: usize) -> Option<T> {
        let home = self.home(id, tensor)?;
        let frame = self.frames.get_mut(&home)?;
        let is_last = match &mut frame.uses[tensor] {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            None => false,
        };
        let slot = &mut frame.tensors[tensor];
        match slot {
            Slot::Present(_) if is_last => match std::mem::replace(slot, Slot::Spent) {
                Slot::Present(value) => Some(value),
                _ => None,
            },
            Slot::Present(value) => Some(value.clone()),
            _ => None,
        }
    }

    fn try_fire(&mut self, step: usize, id: u64) {
        if self.fault.is_some() || !matches!(self.state(step, id), Some(StepState::Idle)) {
            return;
        }
        let inputs = self.plan.steps[step].inputs.clone();
        let mut is_ready = true;
        for (tensor, optional) in &inputs {
            match self.presence(id, *tensor) {
                Some(true) => {}
                Some(false) if *optional => {}
                // Every planned step leads to a requested output, which now can never be made.
                Some(false) => {
                    self.fault = Some(Fault::Deadlock);
                    return;
                }
                None => is_ready = false,
            }
        }
        if !is_ready {
            return;
        }
        if let Some(state) = self.state(step, id) {
            *state = StepState::Running { responses: 0, outputs: Vec::new() };
        }
        self.in_flight += 1;
        let inputs = self.take_all(id, inputs.into_iter().map(|(tensor, _)| tensor));
        self.moves.push(Move::Fire(Firing { step, frame: id, inputs }));
    }

    /// Takes tensors for one use; one that is named twice counts as used once.
    fn take_all(&mut self, id: u64, tensors: impl Iterator<Item = usize>) -> Vec<Option<T>> {
        let mut taken: Vec<(usize, Option<T>)> = Vec::new();
        for tensor in tensors {
            let known = taken.iter().find(|(other, _)| *other == tensor).map(|(_, value)| value.clone());
            let value = known.unwrap_or_else(|| self.take(id, tensor));
            taken.push((tensor, value));
        }
        taken.into_iter().map(|(_, value)| value).collect()
    }

    fn try_answer(&mut self, id: u64) {
        if self.fault.is_some() || !matches!(self.answers.get(&id), Some(None)) {
            return;
        }
        let outputs = self.plan.outputs.clone();
        if outputs.iter().all(|tensor| self.presence(id, *tensor).is_some()) {
            let values = self.take_all(id, outputs.into_iter());
            self.answers.insert(id, Some(values));
        }
    }

    /// Lets answers out in order, ends the run when nothing runs any more, and gives what is to be done.
    fn settle(&mut self) -> Vec<Move<T>> {
        if self.finished {
            return Vec::new();
        }
        while self.fault.is_none()
            && let Some(entry) = self.answers.first_entry()
            && entry.get().is_some()
        {
            let (id, outputs) = entry.remove_entry();
            self.moves.push(Move::Answer { outputs: outputs.unwrap_or_default(), last: false });
            self.close(id);
        }
        let mut moves = std::mem::take(&mut self.moves);
        if self.fault.is_some() {
            let before = moves.len();
            moves.retain(|next| !matches!(next, Move::Fire(_)));
            self.in_flight -= before - moves.len();
        }
        if self.in_flight > 0 {
            return moves;
        }
        self.finished = true;
        self.frames.clear();
        match self.fault.take() {
            Some(fault) => moves.push(Move::Fail(fault)),
            None if !self.answers.is_empty() => moves.push(Move::Fail(Fault::Deadlock)),
            None => match moves.last_mut() {
                Some(Move::Answer { last, .. }) => *last = true,
                _ => moves.push(Move::Finish),
            },
        }
        moves
    }
}
