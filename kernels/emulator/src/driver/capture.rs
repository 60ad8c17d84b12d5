//! Streams captured into graphs, and graphs run again.

use std::collections::HashMap;
use std::sync::Arc;

use super::clock::{Stamp, VectorClock};
use super::operation::{Action, Operation, Point};
use super::state::{Call, State, thread_number};
use super::status::Status;

/// How strictly a capture forbids calls that would disturb it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Such calls of all threads.
    Global,
    /// Such calls of the capturing thread.
    ThreadLocal,
    /// None.
    Relaxed,
}

/// A capture under way.
#[derive(Debug)]
pub(crate) struct Capture {
    origin: u64,
    mode: Mode,
    thread: u64,
    /// The branch each stream is.
    branches: HashMap<u64, u16>,
    /// By branch: its length and what it comes after, in places of branches.
    ends: Vec<(u32, VectorClock)>,
    nodes: Vec<Node>,
    /// What made it worthless.
    invalid: Option<String>,
}

/// One node.
#[derive(Debug, Clone)]
struct Node {
    branch: u16,
    /// What it comes after, in places of branches; its own place is the highest of its branch.
    known: VectorClock,
    action: Action,
    name: String,
}

/// What a capture gave.
#[derive(Debug)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    branches: u16,
}

impl Graph {
    /// Nodes that do something.
    pub(crate) fn len(&self) -> usize {
        self.nodes.iter().filter(|node| !matches!(node.action, Action::Nothing)).count()
    }
}

/// A graph ready to run.
#[derive(Debug)]
pub(crate) struct Executable {
    graph: Arc<Graph>,
    /// Components of its branches, with their clocks; the first is whichever stream it is launched on.
    components: Vec<(u16, u32)>,
    /// The end of its last run: runs of one graph never overlap.
    last: Option<(Point, VectorClock)>,
}

impl State {
    /// The capture a stream is part of.
    ///
    /// # Errors
    /// The capture has become worthless.
    pub(crate) fn capturing(&self, stream: u64) -> Result<Option<u64>, Status> {
        let Some(capture) = self.streams.get(&stream).and_then(|stream| stream.capture) else { return Ok(None) };
        match self.captures.get(&capture) {
            Some(found) if found.invalid.is_some() => Err(Status::STREAM_CAPTURE_INVALIDATED),
            _ => Ok(Some(capture)),
        }
    }

    /// Makes a capture worthless.
    pub(crate) fn invalidate(&mut self, capture: u64, why: &str) {
        if let Some(capture) = self.captures.get_mut(&capture)
            && capture.invalid.is_none()
        {
            eprintln!("emulator: the capture is invalidated by {why}");
            capture.invalid = Some(why.to_owned());
        }
    }

    /// Makes the capture of a stream worthless.
    pub(crate) fn invalidate_of(&mut self, stream: u64, why: &str) {
        if let Some(capture) = self.streams.get(&stream).and_then(|stream| stream.capture) {
            self.invalidate(capture, why);
        }
    }

    /// Refuses a call that must not happen during a capture.
    pub(crate) fn outside_capture(&mut self, what: &str) -> Result<(), Status> {
        let thread = thread_number();
        let disturbed: Vec<u64> = self
            .captures
            .iter()
            .filter(|(_, capture)| capture.mode == Mode::Global || capture.mode == Mode::ThreadLocal && capture.thread == thread)
            .map(|(key, _)| *key)
            .collect();
        for capture in &disturbed {
            self.invalidate(*capture, what);
        }
        if disturbed.is_empty() { Ok(()) } else { Err(Status::STREAM_CAPTURE_UNSUPPORTED) }
    }

    /// Refuses work on the null stream while a blocking stream captures.
    pub(crate) fn refuse_implicit(&mut self, stream: u64) -> Result<(), Status> {
        let Some(own) = self.streams.get(&stream) else { return Ok(()) };
        if self.devices[own.device as usize].legacy != stream {
            return Ok(());
        }
        let device = own.device;
        let blocked =
            self.streams.values().find(|other| other.device == device && !other.non_blocking && other.capture.is_some());
        let Some(capture) = blocked.and_then(|stream| stream.capture) else { return Ok(()) };
        self.invalidate(capture, "work on the null stream");
        Err(Status::STREAM_CAPTURE_IMPLICIT)
    }

    /// Adds a node.
    pub(crate) fn append(&mut self, capture: u64, stream: u64, name: &str, action: Action) -> Result<(), Status> {
        let refused = match action {
            Action::Allocate { .. } => Some("an allocation: this emulator's graphs hold none"),
            Action::Free { .. } => Some("a free: this emulator's graphs hold none"),
            _ => None,
        };
        if let Some(what) = refused {
            self.invalidate(capture, what);
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let capture = self.captures.get_mut(&capture).ok_or(Status::STREAM_CAPTURE_INVALIDATED)?;
        let branch = *capture.branches.get(&stream).ok_or(Status::STREAM_CAPTURE_INVALIDATED)?;
        capture.add(branch, &VectorClock::default(), name, action);
        Ok(())
    }

    /// What an event recorded now stands for.
    pub(crate) fn captured_point(&self, capture: u64, stream: u64) -> VectorClock {
        let end = self.captures.get(&capture).and_then(|capture| {
            let branch = *capture.branches.get(&stream)?;
            Some(capture.ends[usize::from(branch)].1.clone())
        });
        end.unwrap_or_default()
    }

    /// Lets a stream wait for a place of a capture, which makes it part of it.
    pub(crate) fn join_capture(&mut self, stream: u64, number: u64, known: &VectorClock) -> Result<(), Status> {
        let capture = self.captures.get_mut(&number).ok_or(Status::STREAM_CAPTURE_ISOLATION)?;
        let next = capture.ends.len() as u16;
        let branch = *capture.branches.entry(stream).or_insert(next);
        if branch == next {
            capture.ends.push((0, VectorClock::default()));
        }
        capture.add(branch, known, "event wait", Action::Nothing);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = Some(number);
        }
        Ok(())
    }
}

impl Capture {
    fn add(&mut self, branch: u16, after: &VectorClock, name: &str, action: Action) {
        let (length, known) = &mut self.ends[usize::from(branch)];
        *length += 1;
        known.join(after);
        known.add(Stamp { component: branch, clock: *length });
        self.nodes.push(Node { branch, known: known.clone(), action, name: name.to_owned() });
    }

    fn is_joined(&self) -> bool {
        let origin = &self.ends[0].1;
        self.ends
            .iter()
            .enumerate()
            .all(|(branch, (length, _))| origin.covers(Stamp { component: branch as u16, clock: *length }))
    }
}

impl Call {
    /// Begins a capture.
    pub(crate) fn begin_capture(&mut self, stream: u64, mode: Mode) -> Result<(), Status> {
        if stream == self.device().legacy {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let number = self.state.handle();
        let found = self.state.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        if found.capture.is_some() {
            return Err(Status::ILLEGAL_STATE);
        }
        found.capture = Some(number);
        let capture = Capture {
            origin: stream,
            mode,
            thread: thread_number(),
            branches: HashMap::from([(stream, 0)]),
            ends: vec![(0, VectorClock::default())],
            nodes: Vec::new(),
            invalid: None,
        };
        self.state.captures.insert(number, capture);
        Ok(())
    }

    /// Ends a capture; gives the graph's handle.
    pub(crate) fn end_capture(&mut self, stream: u64) -> Result<u64, Status> {
        let number = self.state.streams.get(&stream).and_then(|stream| stream.capture).ok_or(Status::ILLEGAL_STATE)?;
        let capture = self.state.captures.get(&number).ok_or(Status::ILLEGAL_STATE)?;
        if capture.mode != Mode::Relaxed && capture.thread != thread_number() {
            self.state.invalidate(number, "its end in another thread");
            return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.origin != stream {
            self.state.invalidate(number, "its end in another stream than it began in");
            return Err(Status::STREAM_CAPTURE_UNMATCHED);
        }
        let capture = self.state.captures.remove(&number).ok_or(Status::ILLEGAL_STATE)?;
        for stream in capture.branches.keys() {
            if let Some(stream) = self.state.streams.get_mut(stream) {
                stream.capture = None;
            }
        }
        if capture.invalid.is_some() {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        if !capture.is_joined() {
            return Err(Status::STREAM_CAPTURE_UNJOINED);
        }
        let handle = self.state.handle();
        let graph = Graph { nodes: capture.nodes, branches: capture.ends.len() as u16 };
        self.state.graphs.insert(handle, Arc::new(graph));
        Ok(handle)
    }

    /// 0: none, 1: active, 2: worthless; and the capture's number.
    pub(crate) fn capture_status(&self, stream: u64) -> (u32, u64) {
        match (self.state.capturing(stream), self.state.streams.get(&stream).and_then(|stream| stream.capture)) {
            (Err(_), capture) => (2, capture.unwrap_or(0)),
            (Ok(None), _) => (0, 0),
            (Ok(Some(capture)), _) => (1, capture),
        }
    }

    /// Makes a graph ready to run.
    pub(crate) fn instantiate(&mut self, graph: u64) -> Result<u64, Status> {
        let graph = Arc::clone(self.state.graphs.get(&graph).ok_or(Status::INVALID_VALUE)?);
        let mut components = Vec::new();
        for branch in 1..graph.branches {
            let component = self.state.component();
            self.driver.names.component(component.0, &format!("branch {branch} of a graph"));
            components.push(component);
        }
        let handle = self.state.handle();
        self.state.executables.insert(handle, Executable { graph, components, last: None });
        Ok(handle)
    }

    /// Runs a graph on a stream.
    pub(crate) fn launch_graph(&mut self, executable: u64, stream: u64) -> Result<(), Status> {
        if self.state.capturing(stream)?.is_some() {
            self.state.invalidate_of(stream, "a launch of a graph: this emulator's graphs hold no graphs");
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let found = self.state.executables.get(&executable).ok_or(Status::INVALID_VALUE)?;
        let (graph, last) = (Arc::clone(&found.graph), found.last.clone());
        self.state.refuse_implicit(stream)?;
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        // The launch itself is an operation: what comes before the first node and after the last.
        let (points, known) = last.map_or_else(Default::default, |(point, known)| (vec![point], known));
        let start = self.state.push(&self.driver.names, stream, "graph launch", Action::Nothing, &points, &known);
        let mut knowledge = self.place_nodes(executable, stream, &graph, &mut nodes)?;
        for (node, name) in nodes.iter().zip(graph.nodes.iter().map(|node| &node.name)) {
            if self.driver.settings.protect_pinned {
                self.state.protect(&node.action, node.stamp, name);
            }
        }
        knowledge.add(start);
        let action = Action::Graph(Arc::new(nodes));
        self.state.count(&action);
        self.state.push(&self.driver.names, stream, "graph", action, &[], &knowledge);
        let tail = self.state.tail(stream);
        if let Some(executable) = self.state.executables.get_mut(&executable) {
            executable.last = Some(tail);
        }
        self.driver.work.notify_one();
        Ok(())
    }

    /// Gives each node its place and what it knows; returns what is over after the last.
    fn place_nodes(
        &mut self,
        executable: u64,
        stream: u64,
        graph: &Graph,
        nodes: &mut Vec<Operation>,
    ) -> Result<VectorClock, Status> {
        let State { executables, streams, .. } = &mut *self.state;
        let executable = executables.get_mut(&executable).ok_or(Status::INVALID_VALUE)?;
        let stream = streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        let before = stream.known.clone();
        // By branch: what is over after each of its places.
        let mut places: Vec<Vec<VectorClock>> = vec![Vec::new(); usize::from(graph.branches)];
        let mut all = before.clone();
        for node in &graph.nodes {
            let mut known = before.clone();
            for (branch, done) in places.iter().enumerate() {
                let covered = (1..=done.len())
                    .rev()
                    .find(|place| node.known.covers(Stamp { component: branch as u16, clock: *place as u32 }));
                if let Some(place) = covered {
                    known.join(&done[place - 1]);
                }
            }
            let stamp = if node.branch == 0 {
                stream.advance()
            } else {
                let (component, clock) = &mut executable.components[usize::from(node.branch) - 1];
                *clock += 1;
                Stamp { component: *component, clock: *clock }
            };
            self.driver.names.operation(stamp, &node.name);
            known.add(stamp);
            all.join(&known);
            places[usize::from(node.branch)].push(known.clone());
            nodes.push(Operation { action: node.action.clone(), stamp, known, after: Vec::new() });
        }
        Ok(all)
    }

    /// Gives up a graph that is ready to run; a run under way goes on.
    pub(crate) fn destroy_executable(&mut self, executable: u64) -> Result<(), Status> {
        let executable = self.state.executables.remove(&executable).ok_or(Status::INVALID_VALUE)?;
        for (component, clock) in executable.components {
            self.state.retire_component(component, clock);
        }
        Ok(())
    }
}
