//! Tests of instances that have several batches under way: what is launched and when, what becomes of failures and panics,
//! how a device that is lost is known, and that nothing is lost or answered twice.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use proptest::prelude::*;

use crate::error::{ExecuteError, LoadError};
use crate::tensor::Tensor;

use super::device::{Devices, SharedDevice};
use super::testing::{Asked, TestModel, int32, served};
use super::{Backend, Execution, InstanceSlot, ModelInstance, Pending, ServedVersion};

const CONFIG: &str = "name: \"m\" backend: \"builtin\" max_batch_size: 8
    input { name: \"A\" data_type: TYPE_INT32 dims: -1 } output { name: \"X\" data_type: TYPE_INT32 dims: -1 }";

/// What the value of a batch's first element makes of it; everything else is answered with the input.
const FAILS_AT_LAUNCH: i32 = -1;
const PANICS_AT_LAUNCH: i32 = -2;
const FAILS_AT_END: i32 = -3;
const PANICS_AT_END: i32 = -4;
const LOSES_DEVICE: i32 = -5;
const RUNS_AT_ONCE: i32 = -6;

/// Most events that wait for a test to read them.
const EVENTS: usize = 256;

/// What happened on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Made,
    Launched(i32),
    Gone,
}

/// A device that computes when the test says so.
struct Device {
    events: Sender<Event>,
    /// One message ends one batch; without it, batches end by themselves.
    ends: Option<Receiver<()>>,
    depth: usize,
    /// Batches that are under way on each instance, and the most that were.
    under_way: Mutex<(Vec<usize>, usize)>,
    made: AtomicUsize,
    name: Option<SharedDevice>,
}

struct Lane {
    device: Arc<Device>,
    ordinal: usize,
}

struct Computes {
    device: Arc<Device>,
    ordinal: usize,
    value: i32,
    output: Tensor,
}

struct Lanes(Arc<Device>);

impl Device {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<usize>, usize)> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Lanes {
    fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        let device = Arc::clone(&self.0);
        let mut under_way = device.lock();
        if under_way.0.len() <= slot.ordinal {
            under_way.0.resize(slot.ordinal + 1, 0);
        }
        assert_eq!(under_way.0[slot.ordinal], 0, "made anew while the old one has something under way");
        drop(under_way);
        device.made.fetch_add(1, Ordering::Relaxed);
        let _ = device.events.send(Event::Made);
        Ok(Box::new(Lane { device, ordinal: slot.ordinal }))
    }

    fn device(&self, _slot: &InstanceSlot) -> Option<SharedDevice> {
        self.0.name.clone()
    }

    fn depth(&self, _slot: &InstanceSlot) -> NonZeroUsize {
        NonZeroUsize::new(self.0.depth).unwrap()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        assert_eq!(self.device.lock().0[self.ordinal], 0, "gone while something is under way");
        let _ = self.device.events.send(Event::Gone);
    }
}

fn lost() -> ExecuteError {
    ExecuteError::DeviceLost { model: "m".to_owned(), reason: "the device 'd' is lost: it fell off".to_owned() }
}

impl ModelInstance for Lane {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        super::run_through(self, execution)
    }

    fn launch(&mut self, execution: &mut Execution) -> Result<Option<Box<dyn Pending>>, ExecuteError> {
        execution.drop_cancelled();
        let output = execution.gathered(0)?.unwrap();
        let value = i32::from_le_bytes(*output.bytes().first_chunk().unwrap());
        let _ = self.device.events.send(Event::Launched(value));
        match value {
            FAILS_AT_LAUNCH => return Err(ExecuteError::Internal { message: "not this one".to_owned() }),
            PANICS_AT_LAUNCH => panic!("as the test wants it"),
            RUNS_AT_ONCE => {
                execution.set_output(0, output);
                return Ok(None);
            }
            _ => {}
        }
        let mut under_way = self.device.lock();
        under_way.0[self.ordinal] += 1;
        assert!(under_way.0[self.ordinal] <= self.device.depth, "more under way than may");
        under_way.1 = under_way.1.max(under_way.0[self.ordinal]);
        drop(under_way);
        Ok(Some(Box::new(Computes { device: Arc::clone(&self.device), ordinal: self.ordinal, value, output })))
    }
}

impl Pending for Computes {
    fn wait(self: Box<Self>, execution: &mut Execution) -> Result<(), ExecuteError> {
        if let Some(ends) = &self.device.ends {
            ends.recv().unwrap();
        }
        match self.value {
            FAILS_AT_END => Err(ExecuteError::Internal { message: "not this one".to_owned() }),
            PANICS_AT_END => panic!("as the test wants it"),
            LOSES_DEVICE => Err(lost()),
            _ => {
                execution.set_output(0, self.output.clone());
                Ok(())
            }
        }
    }
}

impl Drop for Computes {
    fn drop(&mut self) {
        self.device.lock().0[self.ordinal] -= 1;
    }
}

/// A device on which batches end when the test says so, or else at once.
fn device(depth: usize, is_driven: bool, name: Option<&str>) -> (Arc<Device>, Receiver<Event>, Sender<()>) {
    let ((events, happened), (end, ends)) = (bounded(EVENTS), bounded(EVENTS));
    let slot = NonZeroUsize::new(depth).unwrap();
    let device = Device {
        events,
        ends: is_driven.then_some(ends),
        depth,
        under_way: Mutex::default(),
        made: AtomicUsize::new(0),
        name: name.map(|name| SharedDevice { name: name.into(), slots: slot }),
    };
    (Arc::new(device), happened, end)
}

fn version(text: &str) -> Arc<ServedVersion> {
    served(text, 1, Path::new("."))
}

fn load(device: &Arc<Device>, devices: &Arc<Devices>, text: &str) -> TestModel {
    let backend: Arc<dyn Backend> = Arc::new(Lanes(Arc::clone(device)));
    TestModel::over_on(version(text), &backend, devices).unwrap()
}

fn ask(model: &TestModel, value: i32) -> Asked {
    model.ask(model.request().input("A", int32(&[1, 1], &[value])))
}

fn next(events: &Receiver<Event>) -> Event {
    events.recv_timeout(std::time::Duration::from_secs(60)).unwrap()
}

#[test]
fn two_batches_are_under_way_and_the_third_waits_where_it_can_lapse() {
    for name in [None, Some("d")] {
        let (device, events, end) = device(2, true, name);
        let model = load(&device, &Arc::default(), CONFIG);
        assert_eq!((next(&events), model.pool().places()), (Event::Made, 2));
        let asked: Vec<Asked> = (1..=4).map(|value| ask(&model, value)).collect();
        assert_eq!([next(&events), next(&events)], [Event::Launched(1), Event::Launched(2)]);
        assert_eq!((model.pool().waiting(), model.pool().in_flight()), (2, 4));
        asked[2].cancellation.cancel();
        model.pool().sweep(crate::clock::now());
        assert!(asked[2].single().is_err(), "answered while it waits");
        end.send(()).unwrap();
        assert_eq!((asked[0].script(), next(&events)), (vec!["X=[1,1]1*".to_owned()], Event::Launched(4)));
        end.send(()).unwrap();
        end.send(()).unwrap();
        assert_eq!((asked[1].script(), asked[3].script()), (vec!["X=[1,1]2*".to_owned()], vec!["X=[1,1]4*".to_owned()]));
        let counts = model.counts();
        assert_eq!((counts.success.count, counts.execution_count, device.lock().1), (3, 3, 2));
    }
}

#[test]
fn what_needs_no_device_or_fails_before_is_answered_at_once() {
    let (device, events, end) = device(2, true, Some("d"));
    let model = load(&device, &Arc::default(), CONFIG);
    let under_way = ask(&model, 1);
    assert_eq!(ask(&model, RUNS_AT_ONCE).script(), ["X=[1,1]-6*"]);
    assert_eq!(ask(&model, FAILS_AT_LAUNCH).refusal(), "not this one");
    end.send(()).unwrap();
    assert_eq!(under_way.script(), ["X=[1,1]1*"]);
    let failing = ask(&model, FAILS_AT_END);
    end.send(()).unwrap();
    assert_eq!((failing.refusal(), device.made.load(Ordering::Relaxed)), ("not this one".to_owned(), 1));
    drop(events);
}

#[test]
fn after_a_panic_the_instance_is_made_anew_when_nothing_is_under_way() {
    for (panics, before_end) in [(PANICS_AT_LAUNCH, false), (PANICS_AT_END, true)] {
        let (device, events, end) = device(2, true, None);
        let model = load(&device, &Arc::default(), CONFIG);
        assert_eq!(next(&events), Event::Made);
        let (first, second) = (ask(&model, 1), ask(&model, panics));
        assert_eq!([next(&events), next(&events)], [Event::Launched(1), Event::Launched(panics)]);
        end.send(()).unwrap();
        assert_eq!(first.script(), ["X=[1,1]1*"]);
        if before_end {
            end.send(()).unwrap();
        }
        assert_eq!(second.refusal(), "model 'm' panicked while executing: as the test wants it");
        let third = ask(&model, 3);
        assert_eq!([next(&events), next(&events), next(&events)], [Event::Gone, Event::Made, Event::Launched(3)]);
        end.send(()).unwrap();
        assert_eq!(third.script(), ["X=[1,1]3*"]);
        assert!(model.pool().failure().is_none());
    }
}

#[test]
fn unloading_waits_for_what_is_under_way_and_what_waits() {
    let (device, events, end) = device(2, true, None);
    let model = load(&device, &Arc::default(), CONFIG);
    assert_eq!(next(&events), Event::Made);
    let asked: Vec<Asked> = (1..=3).map(|value| ask(&model, value)).collect();
    assert_eq!([next(&events), next(&events)], [Event::Launched(1), Event::Launched(2)]);
    model.unload();
    for _ in 0..3 {
        end.send(()).unwrap();
    }
    for (asked, value) in asked.iter().zip(1..) {
        assert_eq!(asked.script(), [format!("X=[1,1]{value}*")]);
    }
    assert_eq!([next(&events), next(&events)], [Event::Launched(3), Event::Gone]);
}

#[test]
fn a_lost_device_is_lost_to_all_its_models_and_is_asked_for_nothing_more() {
    let devices = Arc::<Devices>::default();
    let (one, events, _end) = device(2, false, Some("d"));
    let (two, other_events, _other_end) = device(2, false, Some("d"));
    let (elsewhere, ..) = device(2, false, Some("e"));
    let [first, second, third] = [&one, &two, &elsewhere].map(|device| load(device, &devices, CONFIG));
    let failures = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&failures);
    second.pool().on_failure(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!((ask(&first, 1).script(), devices.lost()), (vec!["X=[1,1]1*".to_owned()], None));
    let text = "model 'm' cannot run: the device 'd' is lost: it fell off; the server must be restarted";
    assert_eq!(ask(&first, LOSES_DEVICE).refusal(), text);
    assert_eq!(ask(&second, 2).refusal(), text);
    assert_eq!(ask(&first, 3).refusal(), text);
    assert_eq!(failures.load(Ordering::Relaxed), 1);
    let reason = "the device 'd' is lost: it fell off";
    assert_eq!((first.pool().failure().as_deref(), second.pool().failure().as_deref()), (Some(reason), Some(reason)));
    assert_eq!(devices.lost(), Some(("d".into(), reason.into())));
    assert_eq!((ask(&third, 4).script(), third.pool().failure()), (vec!["X=[1,1]4*".to_owned()], None));
    let launched = |events: &Receiver<Event>| events.try_iter().filter(|event| matches!(event, Event::Launched(_))).count();
    assert_eq!((launched(&events), launched(&other_events)), (2, 0), "nothing was launched on it afterwards");
    devices.lose(&SharedDevice { name: "d".into(), slots: NonZeroUsize::MIN }, "again");
    devices.lose(&SharedDevice { name: "e".into(), slots: NonZeroUsize::MIN }, "it is lost, too");
    assert_eq!(ask(&third, 5).refusal(), "model 'm' cannot run: it is lost, too; the server must be restarted");
    // A model that comes later is told at once.
    let late = load(&two, &devices, CONFIG);
    assert_eq!(late.pool().failure().as_deref(), Some(reason));
}

#[test]
fn turns_are_over_when_the_device_is_done() {
    let devices = Arc::<Devices>::default();
    let (one, events, end) = device(2, true, Some("d"));
    let model = load(&one, &devices, CONFIG);
    let asked: Vec<Asked> = (1..=3).map(|value| ask(&model, value)).collect();
    assert_eq!([next(&events), next(&events), next(&events)], [Event::Made, Event::Launched(1), Event::Launched(2)]);
    assert_eq!((devices.usage()[0].slots, devices.usage()[0].executions), (2, 2), "the third has no turn yet");
    (0..3).for_each(|_| end.send(()).unwrap());
    asked.iter().for_each(|asked| assert_eq!(asked.script().len(), 1));
    assert_eq!(devices.usage()[0].executions, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever fails, panics or leaves: every request is answered once, and with what is its own.
    #[test]
    fn nothing_is_lost_or_doubled(
        values in prop::collection::vec(prop_oneof![4 => 1i32..100, 1 => -4i32..=-1, 1 => Just(RUNS_AT_ONCE)], 1..24),
        left in prop::collection::vec(any::<bool>(), 24),
        depth in 1usize..=3,
        count in 1usize..=2,
        shares in any::<bool>(),
    ) {
        let (device, events, _end) = device(depth, false, shares.then_some("d"));
        let model = load(&device, &Arc::default(), &format!("{CONFIG} instance_group {{ count: {count} kind: KIND_CPU }}"));
        let reading = std::thread::spawn(move || events.iter().count());
        let mut asked: Vec<(i32, Asked)> = Vec::new();
        for (value, left) in values.iter().zip(&left) {
            // The queue holds 16 batches; answers make room.
            if let Some((earlier, before)) = asked.len().checked_sub(12).and_then(|at| asked.get(at)) {
                check(*earlier, before);
            }
            let one = ask(&model, *value);
            if *left {
                one.cancellation.cancel();
            }
            asked.push((*value, one));
        }
        let from = asked.len().saturating_sub(12);
        for (value, asked) in &asked[from..] {
            check(*value, asked);
        }
        let counts = model.counts();
        prop_assert_eq!(counts.success.count + counts.failures.iter().sum::<u64>(), u64::try_from(values.len()).unwrap());
        model.unload();
        drop(device);
        prop_assert!(reading.join().unwrap() >= count);
    }
}

/// Each is answered once: with its own value, its own failure, or because its client left.
fn check(value: i32, asked: &Asked) {
    let script = asked.script();
    assert_eq!(script.len(), 1, "{script:?}");
    let was_cancelled = script[0] == "error: *";
    let expected = match value {
        FAILS_AT_LAUNCH | FAILS_AT_END => "error: not this one*".to_owned(),
        PANICS_AT_LAUNCH | PANICS_AT_END => "error: model 'm' panicked while executing: as the test wants it*".to_owned(),
        value => format!("X=[1,1]{value}*"),
    };
    assert!(was_cancelled || script[0] == expected, "{value}: {script:?}");
    assert!(asked.is_silent(), "answered twice");
}
