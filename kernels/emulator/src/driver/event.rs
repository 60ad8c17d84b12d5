//! Events: positions of streams that hosts and other streams wait for.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::clock::VectorClock;
use super::operation::{Action, Point};
use super::state::Call;
use super::status::Status;

/// An event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Event {
    /// Without this flag it also notes the time.
    pub disable_timing: bool,
    /// Its last record.
    pub recorded: Recorded,
}

/// What an event stands for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Recorded {
    /// It was never recorded: it counts as over.
    #[default]
    Never,
    /// A position of a stream.
    At { point: Point, known: VectorClock, time: Arc<OnceLock<Instant>> },
    /// A place in a graph that is or was being captured.
    Captured { capture: u64, known: VectorClock },
}

/// `CU_EVENT_DISABLE_TIMING`.
pub(crate) const DISABLE_TIMING: u32 = 2;

impl Call {
    fn event(&self, handle: u64) -> Result<&Event, Status> {
        self.state.events.get(&handle).ok_or(Status::INVALID_HANDLE)
    }

    /// Records an event on a stream.
    pub(crate) fn record_event(&mut self, handle: u64, stream: u64) -> Result<(), Status> {
        self.event(handle)?;
        self.state.counters.events_recorded += 1;
        let recorded = if let Some(capture) = self.state.capturing(stream)? {
            let known = self.state.captured_point(capture, stream);
            Recorded::Captured { capture, known }
        } else {
            let time = Arc::new(OnceLock::new());
            self.enqueue(stream, "event record", Action::Record(Arc::clone(&time)))?;
            let (point, known) = self.state.tail(stream);
            Recorded::At { point, known, time }
        };
        if let Some(event) = self.state.events.get_mut(&handle) {
            event.recorded = recorded;
        }
        Ok(())
    }

    /// Lets a stream wait for an event.
    pub(crate) fn stream_wait_event(&mut self, stream: u64, handle: u64) -> Result<(), Status> {
        let recorded = self.event(handle)?.recorded.clone();
        self.state.counters.event_waits += 1;
        let capturing = self.state.capturing(stream)?;
        match (recorded, capturing) {
            (Recorded::Never, _) => Ok(()),
            (Recorded::Captured { capture, known }, None) => self.state.join_capture(stream, capture, &known),
            (Recorded::Captured { capture, known }, Some(own)) if capture == own => {
                self.state.join_capture(stream, capture, &known)
            }
            (Recorded::Captured { .. }, Some(own)) => {
                self.state.invalidate(own, "a wait for an event of another capture");
                Err(Status::STREAM_CAPTURE_MERGE)
            }
            (Recorded::At { .. }, Some(own)) => {
                self.state.invalidate(own, "a wait for an event that was recorded outside the capture");
                Err(Status::STREAM_CAPTURE_ISOLATION)
            }
            (Recorded::At { point, known, .. }, None) => {
                self.enqueue_after(stream, "event wait", Action::Nothing, &[point], &known)
            }
        }
    }

    /// Whether an event is over; the host then knows it.
    pub(crate) fn query_event(&mut self, handle: u64) -> Result<(), Status> {
        match self.event(handle)?.recorded.clone() {
            Recorded::Never => Ok(()),
            Recorded::Captured { .. } => Err(Status::CAPTURED_EVENT),
            Recorded::At { point, known, .. } => {
                self.state.counters.synchronization("event query");
                self.poll(point, &known)
            }
        }
    }

    /// Waits for an event.
    pub(crate) fn synchronize_event(mut self, handle: u64) -> Result<Call, Status> {
        match self.event(handle)?.recorded.clone() {
            Recorded::Never => Ok(self),
            Recorded::Captured { .. } => Err(Status::CAPTURED_EVENT),
            Recorded::At { point, known, .. } => {
                self.state.counters.synchronization("event");
                let mut call = self.wait(&[point], &known);
                call.ledger().synchronized();
                call.state.healthy(call.device)?;
                Ok(call)
            }
        }
    }

    /// Milliseconds between two events.
    pub(crate) fn elapsed(&self, start: u64, end: u64) -> Result<f32, Status> {
        let time = |handle: u64| {
            let event = self.event(handle)?;
            match &event.recorded {
                _ if event.disable_timing => Err(Status::INVALID_HANDLE),
                Recorded::At { time, .. } => time.get().copied().ok_or(Status::NOT_READY),
                Recorded::Captured { .. } => Err(Status::CAPTURED_EVENT),
                Recorded::Never => Err(Status::INVALID_HANDLE),
            }
        };
        let (start, end) = (time(start)?, time(end)?);
        let forward = end.checked_duration_since(start).map(|time| time.as_secs_f32() * 1e3);
        Ok(forward.unwrap_or_else(|| -(start.duration_since(end).as_secs_f32() * 1e3)))
    }
}
