//! Streams: queues of operations, and the order they promise.

use std::collections::VecDeque;

use super::clock::{Stamp, VectorClock};
use super::names::Names;
use super::operation::{Action, HostSource, Operation, Point};
use super::pinned::Pin;
use super::state::{Call, State};
use super::status::Status;

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Its device.
    pub device: u32,
    /// Its component of clocks.
    pub component: u16,
    /// Its last operation's place.
    pub clock: u32,
    /// What is over once all of it is.
    pub known: VectorClock,
    /// Whether it keeps apart from the null stream.
    pub non_blocking: bool,
    /// Its priority, which changes nothing here.
    pub priority: i32,
    /// Operations that have not begun.
    pub queue: VecDeque<Operation>,
    /// Operations ever enqueued.
    pub enqueued: u64,
    /// Operations that are over.
    pub completed: u64,
    /// The capture it is part of.
    pub capture: Option<u64>,
    /// Whether the application gave it up; what it holds still runs.
    pub destroyed: bool,
}

impl Stream {
    pub(crate) fn new(device: u32, component: u16, clock: u32, non_blocking: bool, priority: i32) -> Self {
        Stream {
            device,
            component,
            clock,
            known: VectorClock::default(),
            non_blocking,
            priority,
            queue: VecDeque::new(),
            enqueued: 0,
            completed: 0,
            capture: None,
            destroyed: false,
        }
    }

    /// The next operation's place.
    pub(crate) fn advance(&mut self) -> Stamp {
        self.clock += 1;
        Stamp { component: self.component, clock: self.clock }
    }
}

impl State {
    /// Whether a position is reached; a stream that is gone has reached all of its own.
    pub(crate) fn is_over(&self, point: Point) -> bool {
        self.streams.get(&point.stream).is_none_or(|stream| stream.completed >= point.position)
    }

    /// The end of a stream as it is now.
    pub(crate) fn tail(&self, stream: u64) -> (Point, VectorClock) {
        let found = self.streams.get(&stream);
        let position = found.map_or(0, |stream| stream.enqueued);
        (Point { stream, position }, found.map_or_else(VectorClock::default, |stream| stream.known.clone()))
    }

    /// The device's failure, if it has failed.
    pub(crate) fn healthy(&self, device: u32) -> Result<(), Status> {
        self.devices[device as usize].poison.map_or(Ok(()), Err)
    }

    /// What the null stream's rule adds: it waits for all blocking streams of its device, and they for it.
    fn implicit(&self, stream: u64) -> Vec<(Point, VectorClock)> {
        let Some(own) = self.streams.get(&stream) else { return Vec::new() };
        let legacy = self.devices[own.device as usize].legacy;
        if stream == legacy {
            let others =
                self.streams.iter().filter(|(key, other)| **key != stream && !other.non_blocking && other.device == own.device);
            return others.map(|(key, _)| self.tail(*key)).collect();
        }
        if own.non_blocking { Vec::new() } else { vec![self.tail(legacy)] }
    }

    /// Puts an operation at the end of a stream that is not capturing.
    pub(crate) fn push(
        &mut self,
        names: &Names,
        stream: u64,
        name: &str,
        action: Action,
        after: &[Point],
        known: &VectorClock,
    ) -> Stamp {
        let implicit = self.implicit(stream);
        let host = self.host.clone();
        let Some(own) = self.streams.get_mut(&stream) else { return Stamp::default() };
        own.known.join(&host);
        own.known.join(known);
        let mut points = after.to_vec();
        for (point, known) in &implicit {
            own.known.join(known);
            points.push(*point);
        }
        let stamp = own.advance();
        names.operation(stamp, name);
        own.known.add(stamp);
        own.queue.push_back(Operation { action, stamp, known: own.known.clone(), after: points });
        own.enqueued += 1;
        stamp
    }

    /// Keeps pinned memory from the host while a copy uses it.
    pub(crate) fn protect(&mut self, operation: &Action, stamp: Stamp, name: &str) {
        let (address, bytes, writes) = match operation {
            Action::CopyIn { source: HostSource::Pinned(address), bytes, .. } => (*address as usize, *bytes, false),
            Action::CopyOut { target, bytes, pinned: true, .. } => (*target as usize, *bytes, true),
            _ => return,
        };
        let Some((start, offset)) = self.find_pinned(address, bytes) else { return };
        if let Some(pinned) = self.pinned.get(&start) {
            pinned.pin(&mut self.pins, Pin::new(start, offset..offset + bytes, writes, stamp), name);
        }
    }
}

impl Call {
    /// Puts an operation at the end of a stream, or into the graph the stream is captured into.
    pub(crate) fn enqueue(&mut self, stream: u64, name: &str, action: Action) -> Result<(), Status> {
        self.enqueue_after(stream, name, action, &[], &VectorClock::default())
    }

    /// The same, after further positions.
    pub(crate) fn enqueue_after(
        &mut self,
        stream: u64,
        name: &str,
        action: Action,
        after: &[Point],
        known: &VectorClock,
    ) -> Result<(), Status> {
        if let Some(capture) = self.state.capturing(stream)? {
            return self.state.append(capture, stream, name, action);
        }
        self.state.refuse_implicit(stream)?;
        let counted = action.clone();
        let stamp = self.state.push(&self.driver.names, stream, name, action, after, known);
        if self.driver.settings.protect_pinned {
            self.state.protect(&counted, stamp, name);
        }
        self.state.count(&counted);
        self.driver.work.notify_one();
        Ok(())
    }

    /// Waits for all that a stream holds.
    pub(crate) fn synchronize_stream(mut self, stream: u64) -> Result<Call, Status> {
        if self.state.streams.get(&stream).is_some_and(|stream| stream.capture.is_some()) {
            self.state.invalidate_of(stream, "a synchronization of a stream that captures");
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        self.state.counters.synchronization("stream");
        let mut waits = vec![self.state.tail(stream)];
        // The null stream stands for all that it would wait for.
        waits.extend(self.state.implicit_of_null(stream));
        self.wait_all(waits)
    }

    /// Waits for all that the device was given.
    pub(crate) fn synchronize_device(mut self) -> Result<Call, Status> {
        self.outside_capture("a synchronization of the context")?;
        self.state.counters.synchronization("context");
        let device = self.device;
        let streams: Vec<u64> = self.state.streams.iter().filter(|(_, s)| s.device == device).map(|(key, _)| *key).collect();
        let waits = streams.into_iter().map(|stream| self.state.tail(stream)).collect();
        self.wait_all(waits)
    }

    fn wait_all(self, waits: Vec<(Point, VectorClock)>) -> Result<Call, Status> {
        let mut known = VectorClock::default();
        for (_, other) in &waits {
            known.join(other);
        }
        let points: Vec<Point> = waits.iter().map(|(point, _)| *point).collect();
        let mut call = self.wait(&points, &known);
        call.ledger().synchronized();
        call.state.healthy(call.device)?;
        Ok(call)
    }

    /// Whether a position is reached; the host then knows it.
    pub(crate) fn poll(&mut self, point: Point, known: &VectorClock) -> Result<(), Status> {
        self.state.healthy(self.device)?;
        if self.state.is_over(point) {
            self.state.host_learns(known);
            return Ok(());
        }
        self.state.nudged = true;
        self.driver.work.notify_one();
        Err(Status::NOT_READY)
    }

    /// Gives a stream up; what it holds still runs.
    pub(crate) fn destroy_stream(&mut self, stream: u64) -> Result<(), Status> {
        let found = self.state.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        found.destroyed = true;
        let is_empty = found.completed == found.enqueued;
        if found.capture.is_some() {
            self.state.invalidate_of(stream, "the destruction of a stream that captures");
        }
        if is_empty {
            self.state.drop_stream(stream);
        }
        Ok(())
    }
}

impl State {
    fn implicit_of_null(&self, stream: u64) -> Vec<(Point, VectorClock)> {
        let is_null = self.streams.get(&stream).is_some_and(|own| self.devices[own.device as usize].legacy == stream);
        if is_null { self.implicit(stream) } else { Vec::new() }
    }

    /// Removes a stream that was given up and is over.
    pub(crate) fn drop_stream(&mut self, stream: u64) {
        if let Some(stream) = self.streams.remove(&stream) {
            self.retire_component(stream.component, stream.clock);
        }
    }

    /// Counts an operation.
    pub(crate) fn count(&mut self, action: &Action) {
        let counters = &mut self.counters;
        match action {
            Action::CopyIn { bytes, .. } => counters.copies_in.add(*bytes),
            Action::CopyOut { bytes, .. } => counters.copies_out.add(*bytes),
            Action::CopyWithin { bytes, .. } => counters.copies_within.add(*bytes),
            Action::Fill { width, count, .. } => counters.fills.add(width * count),
            Action::Kernel(call) => *counters.launches.entry(call.function.name.clone()).or_default() += 1,
            Action::Product(product) => *counters.products.entry(product.describe()).or_default() += 1,
            Action::Graph(nodes) => {
                counters.graph_launches.add(nodes.iter().filter(|node| !matches!(node.action, Action::Nothing)).count());
                for node in nodes.iter() {
                    self.count(&node.action);
                }
            }
            Action::Nothing
            | Action::Record(_)
            | Action::Allocate { .. }
            | Action::Free { .. }
            | Action::Call(_)
            | Action::Fail => {}
        }
    }
}
