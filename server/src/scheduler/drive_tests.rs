//! Every order of events around the task of a small model: requests that come, lapse and leave, instances that start
//! and finish, the alarm, the device, the end. The loop is the real one, its future polled by hand; what it acts on is
//! a world that also lets others act between any two of its steps.
//!
//! States that have been met before are not looked at again, so all orders are covered by a few thousand of them.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{DynamicBatching, WindowPolicy};
use crate::request::BatchKey;

use super::batcher::{DynamicBatcher, Ran};
use super::drive::{Note, Surroundings, Task};
use super::driver::{Action, Driver};
use super::mailbox::Mailbox;
use super::queue::Waiting;
use super::timer::Bell as _;

/// Time does not go on for ever: what waits for an instance that never starts is looked after again and again.
const HORIZON_MS: u64 = 20;

/// Longest way through a world; one that is longer goes round in circles.
const MAX_STEPS: usize = 200;

/// More than happens between two sleeps of the task: so far back its state is not needed.
const STEPS_BETWEEN_SLEEPS: usize = 14;

/// Most ways that one exploration may take; a change that makes it larger must choose a smaller world.
const MAX_PATHS: usize = 20_000;

type Letters = Mailbox<usize, Note<()>>;

/// A small model and who asks it.
#[derive(Clone)]
struct Scenario {
    instances: usize,
    window_ms: u64,
    held_until: usize,
    shares_device: bool,
    preserve_ordering: bool,
    /// Milliseconds after which each request must not be started any more; none for never.
    deadlines: &'static [Option<u64>],
    /// Requests whose clients may leave.
    may_leave: &'static [usize],
    /// How often, on one way, others act between the steps of the task and not only while it sleeps.
    interferences: usize,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Away,
    Waiting,
    Ran,
    Refused,
}

#[derive(Clone, Debug)]
struct Submitted {
    id: u64,
    members: Vec<usize>,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The task runs until it sleeps.
    Run,
    /// The next request comes.
    Arrive,
    /// A client leaves.
    Leave(usize),
    /// Time goes on to the next moment at which anything could happen.
    Tick,
    /// The alarm rings, whose time has come.
    Ring,
    /// An instance takes a batch.
    Start(usize),
    /// An instance is done.
    Finish(usize),
    /// The device is there.
    Grant,
    /// The server stops: nothing is held back.
    Release,
    /// The last handle is dropped.
    Close,
}

/// All around the task. Its text, together with the driver's, says all that matters for what comes.
#[derive(Debug)]
struct World {
    now_ms: u64,
    phases: Vec<Phase>,
    left: Vec<bool>,
    ready: VecDeque<Submitted>,
    running: Vec<Option<(Submitted, u64)>>,
    alarm: Option<Timestamp>,
    asked: bool,
    released: bool,
    closed: bool,
    ended: bool,
    interferences: usize,
    /// What has been posted since the task last slept.
    posted: Vec<String>,
    driver: String,
}

/// The choices that lead through one way, and how many there were each time.
#[derive(Default)]
struct Way {
    choices: Vec<(usize, usize)>,
    made: usize,
}

impl Way {
    fn choose(&mut self, among: usize) -> usize {
        assert!(among > 0 && self.made < MAX_STEPS, "a way without end");
        if self.made == self.choices.len() {
            self.choices.push((0, among));
        }
        let (choice, known) = self.choices[self.made];
        assert_eq!(known, among, "the same choices must lead to the same state");
        self.made += 1;
        choice
    }

    /// Whether the task sleeps for the last time before choices that have not been made before.
    fn is_near_new_ground(&self) -> bool {
        self.made + STEPS_BETWEEN_SLEEPS >= self.choices.len()
    }

    /// The next way that has not been taken, if any.
    fn next(mut self) -> Option<Self> {
        self.choices.truncate(self.made);
        while let Some((choice, among)) = self.choices.pop() {
            if choice + 1 < among {
                self.choices.push((choice + 1, among));
                return Some(Self { choices: self.choices, made: 0 });
            }
        }
        None
    }
}

/// What the task and the test share.
struct Stage {
    scenario: Scenario,
    mailbox: Arc<Letters>,
    world: RefCell<World>,
    way: RefCell<Way>,
}

struct Around(Rc<Stage>);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        Self {
            now_ms: 0,
            phases: vec![Phase::Away; scenario.deadlines.len()],
            left: vec![false; scenario.deadlines.len()],
            ready: VecDeque::new(),
            running: vec![None; scenario.instances],
            alarm: None,
            asked: false,
            released: false,
            closed: false,
            ended: false,
            interferences: scenario.interferences,
            posted: Vec::new(),
            driver: String::new(),
        }
    }

    fn answer(&mut self, request: usize, phase: Phase) {
        assert_eq!(self.phases[request], Phase::Waiting, "request {request} is answered twice");
        self.phases[request] = phase;
    }

    /// Times at which something can happen by itself, the alarm's among them.
    fn next_moment(&self, scenario: &Scenario) -> Option<u64> {
        let alarm = self.alarm.map(|alarm| alarm.as_nanos().div_ceil(1_000_000));
        let waiting = (0..self.phases.len()).filter(|request| self.phases[*request] == Phase::Waiting);
        let deadlines = waiting.filter_map(|request| scenario.deadlines[request]);
        deadlines.chain(alarm).filter(|moment| *moment > self.now_ms && *moment <= HORIZON_MS).min()
    }
}

impl Stage {
    fn post(&self, note: Note<()>) {
        self.world.borrow_mut().posted.push(format!("{note:?}"));
        self.mailbox.note(note).unwrap();
    }

    fn is_lapsed(&self, request: usize) -> bool {
        let world = self.world.borrow();
        world.left[request] || self.scenario.deadlines[request].is_some_and(|deadline| world.now_ms >= deadline)
    }

    /// What others than the task can do now.
    fn events(&self) -> Vec<Event> {
        let world = self.world.borrow();
        let mut events = Vec::new();
        if world.phases.contains(&Phase::Away) && !world.closed {
            events.push(Event::Arrive);
        }
        let waiting = |request: &&usize| world.phases[**request] == Phase::Waiting && !world.left[**request];
        events.extend(self.scenario.may_leave.iter().filter(waiting).map(|request| Event::Leave(*request)));
        if world.next_moment(&self.scenario).is_some() {
            events.push(Event::Tick);
        }
        if world.alarm.is_some_and(|alarm| alarm <= at(world.now_ms)) {
            events.push(Event::Ring);
        }
        let idle = world.running.iter().position(Option::is_none);
        events.extend(idle.filter(|_| !world.ready.is_empty()).map(Event::Start));
        events.extend((0..world.running.len()).filter(|instance| world.running[*instance].is_some()).map(Event::Finish));
        if world.asked && idle.is_some() && world.ready.is_empty() {
            events.push(Event::Grant);
        }
        if self.scenario.held_until > 0 && !world.released {
            events.push(Event::Release);
        }
        if !world.closed {
            events.push(Event::Close);
        }
        events
    }

    fn happen(&self, event: Event) {
        match event {
            Event::Run => {}
            Event::Arrive => {
                let request = self.world.borrow().phases.iter().position(|phase| *phase == Phase::Away).unwrap();
                self.world.borrow_mut().phases[request] = Phase::Waiting;
                self.world.borrow_mut().posted.push(format!("arrival {request}"));
                self.mailbox.post(request).unwrap();
            }
            Event::Leave(request) => self.world.borrow_mut().left[request] = true,
            Event::Tick => {
                let moment = self.world.borrow().next_moment(&self.scenario).unwrap();
                self.world.borrow_mut().now_ms = moment;
            }
            Event::Ring => {
                self.world.borrow_mut().alarm = None;
                self.mailbox.ring();
            }
            Event::Start(instance) => {
                let mut batch = self.world.borrow_mut().ready.pop_front().unwrap();
                let (lapsed, live): (Vec<_>, Vec<_>) = batch.members.into_iter().partition(|request| self.is_lapsed(*request));
                lapsed.into_iter().for_each(|request| self.world.borrow_mut().answer(request, Phase::Refused));
                batch.members = live;
                if batch.members.is_empty() {
                    self.post(Note::Done { batch: batch.id, ran: None });
                } else {
                    let mut world = self.world.borrow_mut();
                    let now_ms = world.now_ms;
                    world.running[instance] = Some((batch, now_ms));
                }
            }
            Event::Finish(instance) => {
                let (batch, started_ms) = self.world.borrow_mut().running[instance].take().unwrap();
                let rows = batch.members.len();
                batch.members.into_iter().for_each(|request| self.world.borrow_mut().answer(request, Phase::Ran));
                let took = Duration::from_millis(self.world.borrow().now_ms - started_ms);
                self.post(Note::Done { batch: batch.id, ran: Some(Ran { rows, cost: rows as u64, took }) });
            }
            Event::Grant => {
                self.world.borrow_mut().asked = false;
                self.post(Note::Seat(()));
            }
            Event::Release => {
                self.world.borrow_mut().released = true;
                self.mailbox.release();
            }
            Event::Close => {
                self.world.borrow_mut().closed = true;
                self.mailbox.close();
            }
        }
    }

    /// Lets others act, or not, between two steps of the task.
    fn interfere(&self) {
        let events = self.events();
        if self.world.borrow().interferences == 0 || events.is_empty() {
            return;
        }
        let choice = self.way.borrow_mut().choose(events.len() + 1);
        if choice > 0 {
            self.world.borrow_mut().interferences -= 1;
            self.happen(events[choice - 1]);
        }
    }

    /// What must hold while the task sleeps and nothing goes on that will wake it.
    fn check_rest(&self) {
        let world = self.world.borrow();
        let goes_on = !world.ready.is_empty() || world.running.iter().any(Option::is_some) || world.asked;
        let waiting: Vec<usize> = (0..world.phases.len()).filter(|request| world.phases[*request] == Phase::Waiting).collect();
        if world.ended {
            assert!(waiting.is_empty(), "the task has ended, and requests {waiting:?} have no answer: {world:?}");
        }
        if waiting.is_empty() {
            return;
        }
        let is_held = self.scenario.held_until > waiting.len() && !world.released && !world.closed;
        let alarm = world.alarm;
        // To be looked through for leavers, which is far off, starts nothing.
        let will_wake = alarm.is_some_and(|alarm| alarm <= at(HORIZON_MS));
        assert!(goes_on || will_wake || is_held, "requests {waiting:?} wait and nothing will wake the task: {world:?}");
        for request in waiting {
            let deadline = self.scenario.deadlines[request].map(at);
            let is_running = world.running.iter().flatten().any(|(batch, _)| batch.members.contains(&request));
            if let Some(deadline) = deadline.filter(|_| !is_running) {
                assert!(alarm.is_some_and(|alarm| alarm <= deadline), "request {request} lapses and nobody looks: {world:?}");
            }
        }
    }
}

impl Surroundings for Around {
    type Item = usize;
    type Permit = ();

    fn now(&mut self) -> Timestamp {
        self.0.interfere();
        at(self.0.world.borrow().now_ms)
    }

    fn waiting(&self, request: usize) -> (u64, Waiting<usize>) {
        let waiting = Waiting {
            item: request,
            rows: 1,
            cost: 1,
            key: BatchKey::default(),
            queued_at: at(self.0.world.borrow().now_ms),
            start_by: self.0.scenario.deadlines[request].map(at),
            finish_by: None,
            delayed_from: None,
        };
        (0, waiting)
    }

    fn is_gone(_: &usize) -> bool {
        // Leaving is looked at where the stage is at hand: when a batch starts, and while it waits for an instance.
        false
    }

    fn perform(&mut self, action: Action<usize>, _now: Timestamp) -> Option<u64> {
        let mut world = self.0.world.borrow_mut();
        match action {
            Action::Submit(batch) => {
                let running = world.running.iter().flatten().count() + world.ready.len();
                assert!(running < 2 * self.0.scenario.instances, "more than may be under way");
                assert!(!self.0.scenario.preserve_ordering || running == 0, "two batches at a time");
                let id = batch.origin.id;
                let members = batch.into_iter().map(|member| member.item).collect();
                world.ready.push_back(Submitted { id, members });
            }
            Action::Refuse(request, _) => world.answer(request, Phase::Refused),
            Action::Ask => world.asked = true,
            Action::Leave => world.asked = false,
        }
        None
    }

    fn seat(&mut self, (): ()) {}

    fn expire(&mut self, _now: Timestamp) {
        self.0.interfere();
        let ready = std::mem::take(&mut self.0.world.borrow_mut().ready);
        for mut batch in ready {
            let (lapsed, live): (Vec<_>, Vec<_>) = batch.members.into_iter().partition(|request| self.0.is_lapsed(*request));
            lapsed.into_iter().for_each(|request| self.0.world.borrow_mut().answer(request, Phase::Refused));
            batch.members = live;
            if batch.members.is_empty() {
                self.0.post(Note::Done { batch: batch.id, ran: None });
            } else {
                self.0.world.borrow_mut().ready.push_back(batch);
            }
        }
    }

    fn next_lapse(&self) -> Option<Timestamp> {
        self.0.interfere();
        let world = self.0.world.borrow();
        let members = world.ready.iter().flat_map(|batch| &batch.members);
        members.filter_map(|request| self.0.scenario.deadlines[*request].map(at)).min()
    }

    fn wake_by(&mut self, when: Timestamp, _now: Timestamp) {
        let mut world = self.0.world.borrow_mut();
        world.alarm = Some(world.alarm.map_or(when, |alarm| alarm.min(when)));
    }

    fn before_sleep(&mut self, driver: &Driver<usize>) {
        {
            let mut world = self.0.world.borrow_mut();
            world.posted.clear();
            world.driver.clear();
            if self.0.way.borrow().is_near_new_ground() {
                write!(world.driver, "{driver:?}").unwrap();
            }
        }
        self.0.interfere();
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Goes one way to its end, or to a state that has been met before.
fn go(stage: &Rc<Stage>, met: &mut HashSet<u128>) {
    let scenario = &stage.scenario;
    let one = |value: usize| NonZeroUsize::new(value).unwrap();
    let mut policy = DynamicBatching::plain(one(2), one(8));
    policy.window = WindowPolicy::Fixed(Duration::from_millis(scenario.window_ms));
    policy.preserve_ordering = scenario.preserve_ordering;
    let batcher = DynamicBatcher::new(policy.clone(), scenario.instances).held_until(scenario.held_until);
    let driver = Driver::new(batcher, &policy, scenario.instances, scenario.shares_device);
    let mut task = Task::new(driver, Arc::clone(&stage.mailbox), Around(Rc::clone(stage)));
    let mut future = pin!(task.run());
    let woken = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        let is_woken = woken.0.load(Ordering::Acquire) && !stage.world.borrow().ended;
        if !is_woken {
            stage.check_rest();
        }
        let state = format!("{:?} {is_woken}", stage.world.borrow());
        if stage.way.borrow().made == stage.way.borrow().choices.len()
            && !met.insert(xxhash_rust::xxh3::xxh3_128(state.as_bytes()))
        {
            return;
        }
        let mut events = stage.events();
        if is_woken {
            events.insert(0, Event::Run);
        }
        if events.is_empty() {
            let world = stage.world.borrow();
            assert!(world.ended, "nothing can happen any more, and the task has not ended: {world:?}");
            return;
        }
        let choice = stage.way.borrow_mut().choose(events.len());
        match events[choice] {
            Event::Run => {
                woken.0.store(false, Ordering::Release);
                if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    stage.world.borrow_mut().ended = true;
                }
            }
            event => stage.happen(event),
        }
    }
}

/// Goes every way through a scenario, and says how many ways and states there were.
fn explore(name: &str, scenario: Scenario) {
    let (mut met, mut paths) = (HashSet::new(), 0);
    let mut next = Some(Way::default());
    while let Some(way) = next {
        paths += 1;
        assert!(paths <= MAX_PATHS, "{name}: more ways than a test can go");
        let world = RefCell::new(World::new(&scenario));
        let mailbox = Mailbox::new(scenario.deadlines.len(), 2 * scenario.instances + 2);
        let stage = Rc::new(Stage { scenario: scenario.clone(), mailbox, world, way: RefCell::new(way) });
        go(&stage, &mut met);
        let stage = Rc::into_inner(stage).unwrap();
        next = stage.way.into_inner().next();
    }
    println!("{name}: {paths} ways, {} states", met.len());
}

const SMALL: Scenario = Scenario {
    instances: 1,
    window_ms: 0,
    held_until: 0,
    shares_device: false,
    preserve_ordering: false,
    deadlines: &[None, None],
    may_leave: &[],
    interferences: 0,
};

#[test]
fn every_order_of_two_requests_and_whatever_comes_between() {
    explore("two", Scenario { interferences: 1, ..SMALL });
}

#[test]
fn every_order_with_deadlines() {
    explore("deadlines", Scenario { deadlines: &[Some(3), None], ..SMALL });
}

#[test]
fn every_order_with_a_window() {
    explore("window", Scenario { window_ms: 5, deadlines: &[None, Some(3)], ..SMALL });
}

#[test]
fn every_order_with_clients_that_leave() {
    explore("leaving", Scenario { may_leave: &[0, 1], ..SMALL });
}

#[test]
fn every_order_with_two_instances() {
    explore("two instances", Scenario { instances: 2, ..SMALL });
}

#[test]
fn every_order_on_a_shared_device() {
    explore("device", Scenario { shares_device: true, ..SMALL });
    explore("device, a deadline", Scenario { shares_device: true, deadlines: &[Some(4)], interferences: 1, ..SMALL });
}

#[test]
fn every_order_of_a_batcher_that_is_held() {
    explore("held", Scenario { held_until: 2, deadlines: &[None], interferences: 1, ..SMALL });
    explore("held, in order", Scenario { held_until: 3, preserve_ordering: true, ..SMALL });
}
