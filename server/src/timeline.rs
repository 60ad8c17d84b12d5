//! The timeline of one request, for clients that ask for it: when each part of its way was over, and why it waited.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Origin, Trigger};
use crate::clock::Timestamp;

/// Most steps of an ensemble that a timeline lists; a decoupled step may have any number of others behind it.
pub const MAX_STEPS: usize = 256;

/// When the parts of a request's way were over. It travels with the request, and then with its first response.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// The server had the whole message.
    pub received_at: Timestamp,
    /// The message was a request for a model.
    pub decoded_at: Timestamp,
    /// It had been checked, and entered its model's queue.
    pub queued_at: Option<Timestamp>,
    /// Its priority level in that queue.
    pub level: usize,
    /// Where the answer came from.
    pub source: Source,
    /// The batch in which it ran; `None` for ensembles and for answers that no execution of its own made.
    pub batch: Option<BatchTimes>,
    /// The steps that an ensemble ran for it, in the order in which they answered.
    pub steps: Vec<StepTimeline>,
    /// Steps beyond [`MAX_STEPS`], which are not listed.
    pub steps_left_out: usize,
    /// The answer was made.
    pub answered_at: Option<Timestamp>,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The model, or the steps of an ensemble, ran for it.
    #[default]
    Execution,
    /// The response cache.
    Cache,
    /// The execution of an identical request that was under way.
    SingleFlight,
}

impl Source {
    /// The word for it on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Execution => "execution",
            Self::Cache => "cache",
            Self::SingleFlight => "single_flight",
        }
    }
}

/// The batch of a request, and when its parts were over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTimes {
    /// How it came about.
    pub origin: Origin,
    /// Rows of all its requests.
    pub rows: usize,
    /// Its requests.
    pub requests: usize,
    /// The instance that ran it, by its number within the model version; `None` where none was left to run it.
    pub instance: Option<usize>,
    /// Since when that instance had had nothing to do; the origin of time where it had never run a batch.
    pub idle_since: Timestamp,
    /// Its turn on a device that models share, where it needed one.
    pub device: Option<DeviceTurn>,
    /// Its execution began.
    pub started_at: Timestamp,
    /// Its inputs were where the model needs them, where the model says so.
    pub inputs_at: Option<Timestamp>,
    /// The model had run, where it says so.
    pub executed_at: Option<Timestamp>,
}

/// A turn on a device that models share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTurn {
    /// When it was asked for.
    pub claimed_at: Timestamp,
    /// When it came.
    pub granted_at: Timestamp,
}

/// One step of an ensemble.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTimeline {
    /// The composing model.
    pub model: Arc<str>,
    /// Its version.
    pub version: u64,
    /// Its part of the way.
    pub timeline: Timeline,
}

/// What a request waited for between its queue and its execution; the parts add up to the whole wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// For the instance that ran it, which was busy with other batches.
    pub instance: Duration,
    /// For other requests to share its batch, while that instance was idle.
    pub window: Duration,
    /// For the device that the model shares with others.
    pub device: Duration,
    /// For threads to wake up and hand the batch over.
    pub handover: Duration,
}

impl Timeline {
    /// The timeline of a request that has been received and decoded.
    pub const fn begin(received_at: Timestamp, decoded_at: Timestamp) -> Self {
        Self {
            received_at,
            decoded_at,
            queued_at: None,
            level: 1,
            source: Source::Execution,
            batch: None,
            steps: Vec::new(),
            steps_left_out: 0,
            answered_at: None,
        }
    }

    /// Adds a step of an ensemble, if there is room.
    pub fn add_step(&mut self, step: StepTimeline) {
        if self.steps.len() < MAX_STEPS {
            self.steps.push(step);
        } else {
            self.steps_left_out = self.steps_left_out.saturating_add(1);
        }
    }

    /// What the request waited for, where it ran in a batch.
    pub fn waits(&self) -> Option<Waits> {
        Some(self.batch?.waits(self.queued_at?))
    }
}

impl BatchTimes {
    /// What a request waited for that was queued at `queued_at`.
    ///
    /// Nobody writes down what a request waits for while it waits. It follows from when the instance that ran it became
    /// idle: until then it waited for the instance, from then until its batch was formed for others to join.
    pub fn waits(&self, queued_at: Timestamp) -> Waits {
        let total = self.started_at.since(queued_at);
        let instance = self.idle_since.min(self.started_at).since(queued_at);
        let rest = total.saturating_sub(instance);
        let waiting_since = queued_at.max(self.idle_since);
        let device = self.device.map_or(Duration::ZERO, |turn| turn.granted_at.since(turn.claimed_at.max(waiting_since)));
        let device = device.min(rest);
        let rest = rest.saturating_sub(device);
        let window = match self.origin.trigger {
            Trigger::Alone => Duration::ZERO,
            // A batch that waits for a device is formed when it has it, so that wait lies before as well.
            _ => self.origin.formed_at.since(waiting_since).saturating_sub(device).min(rest),
        };
        Waits { instance, window, device, handover: rest.saturating_sub(window) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(micros * 1000)
    }

    const NO_TURN: (u64, u64) = (0, 0);

    /// Queued at 100; the waits in microseconds: instance, window, device, handover.
    fn waits(trigger: Trigger, idle_since: u64, formed_at: u64, device: (u64, u64), started_at: u64) -> [u128; 4] {
        let batch = BatchTimes {
            origin: Origin { id: 1, formed_at: at(formed_at), trigger, cost: 1 },
            rows: 1,
            requests: 1,
            instance: Some(0),
            idle_since: at(idle_since),
            device: (device != NO_TURN).then(|| DeviceTurn { claimed_at: at(device.0), granted_at: at(device.1) }),
            started_at: at(started_at),
            inputs_at: None,
            executed_at: None,
        };
        let waits = batch.waits(at(100));
        [waits.instance, waits.window, waits.device, waits.handover].map(|wait| wait.as_micros())
    }

    #[test]
    fn waits_are_divided_and_add_up() {
        // The instance was idle all along: the window, then the hand-over.
        assert_eq!(waits(Trigger::Window, 50, 180, NO_TURN, 200), [0, 80, 0, 20]);
        // It became idle on the way.
        assert_eq!(waits(Trigger::Idle, 150, 160, NO_TURN, 170), [50, 10, 0, 10]);
        // The batch was formed while the instance ran.
        assert_eq!(waits(Trigger::Full, 190, 120, NO_TURN, 200), [90, 0, 0, 10]);
        // The device was granted when the batch was formed.
        assert_eq!(waits(Trigger::Idle, 50, 180, (120, 180), 200), [0, 20, 60, 20]);
        // The turn was asked for before the request came, or while the instance ran.
        assert_eq!(waits(Trigger::Idle, 150, 180, (60, 180), 190), [50, 0, 30, 10]);
        // A model that does not batch has no window.
        assert_eq!(waits(Trigger::Alone, 50, 0, (100, 130), 200), [0, 0, 30, 70]);
        // Nonsense from clocks never makes more than the whole.
        assert_eq!(waits(Trigger::Window, 900, 900, (100, 900), 200), [100, 0, 0, 0]);
        assert_eq!(waits(Trigger::Window, 0, 900, (100, 900), 200), [0, 0, 100, 0]);
    }

    #[test]
    fn steps_are_bounded() {
        let mut timeline = Timeline::begin(at(0), at(1));
        for _ in 0..MAX_STEPS + 3 {
            timeline.add_step(StepTimeline { model: "m".into(), version: 1, timeline: Timeline::begin(at(1), at(1)) });
        }
        assert_eq!((timeline.steps.len(), timeline.steps_left_out), (MAX_STEPS, 3));
    }
}
