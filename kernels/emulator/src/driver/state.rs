//! The one driver of this process: everything its calls share, behind one lock, and the conditions its threads wait on.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::capture::{Capture, Executable, Graph};
use super::clock::VectorClock;
use super::counters::Counters;
use super::event::Event;
use super::fault::Injection;
use super::ledger::Ledger;
use super::module::{Function, Module};
use super::names::Names;
use super::pinned::{Pin, Pinned};
use super::settings::Settings;
use super::status::Status;
use super::stream::Stream;
use super::world::Region;

/// One emulated device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Its memory.
    pub ledger: Ledger,
    /// The pool that allocations without a pool come from; the current one may be another.
    pub default_pool: u64,
    /// The pool `cuDeviceSetMemPool` chose.
    pub pool: u64,
    /// The primary context and how often it was retained.
    pub primary: (u64, u32),
    /// Why nothing works any more.
    pub poison: Option<Status>,
    /// The stream that frees run on, each on behalf of the host.
    pub host_stream: u64,
    /// The null stream.
    pub legacy: u64,
}

/// What the executor is told before it runs what comes after.
#[derive(Debug)]
pub(crate) enum Message {
    /// Memory of a device.
    Device(u32, Region),
    /// Pinned memory.
    Pinned(Region),
    /// Makes an allocation's memory a file that other processes can map; the answer is its descriptor.
    Share(u32, u64, std::sync::mpsc::SyncSender<Option<i32>>),
}

/// Everything behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub devices: Vec<Device>,
    /// Contexts and their devices.
    pub contexts: HashMap<u64, u32>,
    pub streams: BTreeMap<u64, Stream>,
    /// Streams of threads, by thread and device.
    pub thread_streams: HashMap<(u64, u32), u64>,
    pub events: HashMap<u64, Event>,
    pub modules: HashMap<u64, Module>,
    pub functions: HashMap<u64, Arc<Function>>,
    pub captures: HashMap<u64, Capture>,
    pub graphs: HashMap<u64, Arc<Graph>>,
    pub executables: HashMap<u64, Executable>,
    /// What the host knows to be over. One clock stands for all its threads: how they hand work to each other is not seen here,
    /// and what one has waited for another may rely on.
    pub host: VectorClock,
    pub pinned: BTreeMap<usize, Pinned>,
    pub pins: Vec<Pin>,
    pub counters: Counters,
    pub findings: Vec<String>,
    pub injection: Injection,
    pub inbox: Vec<Message>,
    /// Threads that wait for streams to advance.
    pub waiting: usize,
    /// A host call asked how far something is: the executor must not hold work back for ever.
    pub nudged: bool,
    /// A new order for streams to advance in, for the executor to take up.
    pub reseed: Option<u64>,
    next_handle: u64,
    next_component: u16,
    free_components: Vec<(u16, u32)>,
}

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub settings: Settings,
    pub names: Arc<Names>,
    state: Mutex<State>,
    /// Told when streams advance.
    pub advanced: Condvar,
    /// Told when there may be something to run.
    pub work: Condvar,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

thread_local! {
    /// The calling thread's context.
    pub(crate) static CURRENT: Cell<u64> = const { Cell::new(0) };
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread's number.
pub(crate) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    THREAD.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

impl Driver {
    /// Starts the driver, once.
    pub(crate) fn start() -> &'static Driver {
        DRIVER.get_or_init(|| {
            let driver = Driver::new(Settings::from_environment());
            std::thread::Builder::new()
                .name("emulated-device".to_owned())
                .spawn(super::executor::run)
                .expect("a thread for the emulated device");
            driver
        })
    }

    /// The driver, once started.
    pub(crate) fn started() -> Result<&'static Driver, Status> {
        DRIVER.get().ok_or(Status::NOT_INITIALIZED)
    }

    fn new(settings: Settings) -> Driver {
        let names = Arc::new(Names::default());
        let mut state = State {
            devices: Vec::new(),
            contexts: HashMap::new(),
            streams: BTreeMap::new(),
            thread_streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            host: VectorClock::default(),
            pinned: BTreeMap::new(),
            pins: Vec::new(),
            counters: Counters::default(),
            findings: Vec::new(),
            injection: Injection::default(),
            inbox: Vec::new(),
            waiting: 0,
            nudged: false,
            reseed: None,
            next_handle: 0x10_0000,
            next_component: 0,
            free_components: Vec::new(),
        };
        for number in 0..settings.devices {
            let mut ledger = Ledger::new(number, settings.memory_bytes);
            let pool = state.handle();
            ledger.add_pool(pool);
            let host_stream = state.add_stream(&names, number, "the host", true, 0);
            let legacy = state.add_stream(&names, number, "the null stream", false, 0);
            let primary = state.handle();
            state.contexts.insert(primary, number);
            state.devices.push(Device {
                ledger,
                default_pool: pool,
                pool,
                primary: (primary, 0),
                poison: None,
                host_stream,
                legacy,
            });
        }
        if let Some(what) = &settings.fail {
            state.injection.add(what).unwrap_or_else(|reason| panic!("ALCEDO_EMULATOR_FAIL: {reason}"));
        }
        Driver { settings, names, state: Mutex::new(state), advanced: Condvar::new(), work: Condvar::new() }
    }

    /// The state.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call inside a context that works.
pub(crate) struct Call {
    pub driver: &'static Driver,
    pub state: MutexGuard<'static, State>,
    /// The context's device.
    pub device: u32,
}

impl Call {
    /// Begins a call that needs a context.
    ///
    /// # Errors
    /// No driver, no context, or a device whose earlier failure every call reports.
    pub(crate) fn enter() -> Result<Call, Status> {
        let call = Call::enter_poisoned()?;
        match call.device().poison {
            Some(status) => Err(status),
            None => Ok(call),
        }
    }

    /// Begins a call that works after a failure too.
    pub(crate) fn enter_poisoned() -> Result<Call, Status> {
        let driver = Driver::started()?;
        let state = driver.lock();
        let device = *state.contexts.get(&CURRENT.get()).ok_or(Status::INVALID_CONTEXT)?;
        Ok(Call { driver, state, device })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        &self.state.devices[self.device as usize]
    }

    /// The device's memory.
    pub(crate) fn ledger(&mut self) -> &mut Ledger {
        &mut self.state.devices[self.device as usize].ledger
    }

    /// The stream a handle stands for.
    pub(crate) fn stream(&mut self, handle: u64) -> Result<u64, Status> {
        match handle {
            0 | 1 => Ok(self.device().legacy),
            2 => {
                let key = (thread_number(), self.device);
                if let Some(stream) = self.state.thread_streams.get(&key) {
                    return Ok(*stream);
                }
                let name = format!("the stream of thread {}", key.0);
                let stream = self.state.add_stream(&self.driver.names, self.device, &name, false, 0);
                self.state.thread_streams.insert(key, stream);
                Ok(stream)
            }
            handle => match self.state.streams.get(&handle) {
                Some(stream) if !stream.destroyed => Ok(handle),
                _ => Err(Status::INVALID_HANDLE),
            },
        }
    }

    /// Refuses a call that must not happen while the calling thread captures.
    pub(crate) fn outside_capture(&mut self, what: &str) -> Result<(), Status> {
        self.state.outside_capture(what)
    }

    /// Releases the lock until a position is reached, and notes that the host knows it.
    pub(crate) fn wait(self, points: &[super::operation::Point], known: &VectorClock) -> Call {
        let Call { driver, mut state, device } = self;
        state.waiting += 1;
        driver.work.notify_all();
        while points.iter().any(|point| !state.is_over(*point)) {
            state = driver.advanced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state.host_learns(known);
        Call { driver, state, device }
    }
}

impl State {
    /// A number no other object has.
    pub(crate) fn handle(&mut self) -> u64 {
        self.next_handle += 0x10;
        self.next_handle
    }

    /// A component for a new stream or branch, and the clock it continues from.
    pub(crate) fn component(&mut self) -> (u16, u32) {
        if let Some(component) = self.free_components.pop() {
            return component;
        }
        self.next_component = self.next_component.checked_add(1).expect("fewer than 65,536 streams at once");
        (self.next_component, 0)
    }

    /// Gives a component back: only where the host knows that all of it is over.
    pub(crate) fn retire_component(&mut self, component: u16, clock: u32) {
        if self.host.covers(super::clock::Stamp { component, clock }) {
            self.free_components.push((component, clock));
        }
    }

    /// Adds a stream.
    pub(crate) fn add_stream(&mut self, names: &Names, device: u32, name: &str, non_blocking: bool, priority: i32) -> u64 {
        let handle = self.handle();
        let (component, clock) = self.component();
        names.component(component, name);
        self.streams.insert(handle, Stream::new(device, component, clock, non_blocking, priority));
        handle
    }

    /// The host has waited for all that `known` covers.
    pub(crate) fn host_learns(&mut self, known: &VectorClock) {
        self.host.join(known);
        let (host, mut ended) = (self.host.clone(), Vec::new());
        self.pins.retain(|pin| {
            let over = host.covers(pin.stamp);
            if over {
                ended.push(pin.clone());
            }
            !over
        });
        for pin in &ended {
            if let Some(pinned) = self.pinned.get(&pin.allocation) {
                pinned.unpin(pin, &self.pins);
            }
        }
    }

    /// The pinned allocation that holds bytes of the host, and where in it they start.
    pub(crate) fn find_pinned(&self, address: usize, bytes: usize) -> Option<(usize, usize)> {
        let (start, pinned) = self.pinned.range(..=address).next_back()?;
        let offset = address - start;
        (offset < pinned.bytes.max(1) && bytes <= pinned.bytes - offset).then_some((*start, offset))
    }

    /// Notes an error of the application's, on standard error too.
    pub(crate) fn find(&mut self, text: String) {
        const REMEMBERED: usize = 1000;
        eprintln!("emulator: {text}");
        self.counters.faults += 1;
        if self.findings.len() < REMEMBERED {
            self.findings.push(text);
        }
    }

    /// Notes an error that the device does not recover from.
    pub(crate) fn poison(&mut self, device: u32, status: Status, text: String) {
        self.find(text);
        self.devices[device as usize].poison.get_or_insert(status);
    }
}

impl Call {
    /// Waits until some stream advances.
    pub(crate) fn let_advance(self) -> Call {
        let Call { driver, mut state, device } = self;
        state.waiting += 1;
        driver.work.notify_all();
        let mut state = driver.advanced.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        Call { driver, state, device }
    }

    /// What the end of the last use of a primary context does: all its memory goes, once all work is over.
    pub(crate) fn leave(self, context: u64) -> Result<(), Status> {
        let (poison, device) = (self.device().poison, self.device);
        let mut call = match self.synchronize_device() {
            Ok(call) => call,
            Err(status) if Some(status) == poison => return Ok(()),
            Err(status) => return Err(status),
        };
        let stream = call.device().host_stream;
        for address in call.ledger().addresses() {
            if call.ledger().start_free(address).is_ok() {
                let action = super::operation::Action::Free { address, pinned: false };
                call.state.push(&call.driver.names, stream, "end of the context", action, &[], &VectorClock::default());
            }
        }
        let handles: Vec<u64> = call.state.modules.keys().copied().collect();
        if call.state.devices.len() == 1 {
            for handle in handles {
                call.state.modules.remove(&handle);
            }
        }
        let (point, known) = call.state.tail(stream);
        let mut call = call.wait(&[point], &known);
        let pool = call.state.devices[device as usize].default_pool;
        call.ledger().trim(pool, 0)?;
        if CURRENT.get() == context {
            CURRENT.set(0);
        }
        Ok(())
    }
}
