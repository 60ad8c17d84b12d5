//! The device itself: one thread that runs whatever streams allow, in an order nobody should rely on.
//!
//! Each step takes the first operation of a stream chosen by a seeded generator. Sometimes the thread holds back although there
//! is work, until the host waits for something: then nothing that a call gave to the device has happened when it returns.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::clock::VectorClock;
use super::ledger::Ledger;
use super::operation::{Action, HostSource, Operation};
use super::state::{Driver, Message, State};
use super::status::Status;
use super::world::{Refusal, Running, World};
use crate::execute::{AccessKind, GlobalMemory};

/// All memory, by device, and pinned memory.
struct Memory {
    devices: Vec<World>,
    pinned: World,
}

/// What went wrong with an operation, and what it does to the device.
struct Failure {
    status: Status,
    text: String,
}

/// A generator of the order (splitmix64).
struct Order(u64);

impl Order {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

/// The longest the device holds work back while nobody waits.
const HOLD: Duration = Duration::from_micros(200);

/// Runs for as long as the process.
pub(crate) fn run() {
    let driver = loop {
        // The thread is made while the driver is; it appears a moment later.
        match Driver::started() {
            Ok(driver) => break driver,
            Err(_) => std::thread::yield_now(),
        }
    };
    let worlds = (0..driver.settings.devices).map(|_| World::new(driver.names.clone())).collect();
    let mut memory = Memory { devices: worlds, pinned: World::new(driver.names.clone()) };
    let mut order = Order(driver.settings.seed);
    let mut held = false;
    loop {
        let mut state = driver.lock();
        for message in std::mem::take(&mut state.inbox) {
            memory.receive(message);
        }
        if let Some(seed) = state.reseed.take() {
            order = Order(seed);
        }
        let ready = ready(&state);
        if ready.is_empty() {
            drop(driver.work.wait(state).unwrap_or_else(PoisonError::into_inner));
            held = false;
            continue;
        }
        if state.waiting == 0 && !state.nudged && !held && order.next(4) == 0 {
            drop(driver.work.wait_timeout(state, HOLD).unwrap_or_else(PoisonError::into_inner));
            held = true;
            continue;
        }
        held = false;
        state.nudged = false;
        let stream = ready[order.next(ready.len())];
        let Some((operation, device)) = take(&mut state, stream) else { continue };
        let healthy = state.healthy(device).is_ok() || matches!(operation.action, Action::Free { .. });
        drop(state);
        let failures = if healthy { memory.execute(driver, device, &operation) } else { Vec::new() };
        finish(driver, stream, device, &operation, failures);
    }
}

/// Streams whose first operation may run.
fn ready(state: &State) -> Vec<u64> {
    let is_ready = |operation: &Operation| operation.after.iter().all(|point| state.is_over(*point));
    state.streams.iter().filter(|(_, stream)| stream.queue.front().is_some_and(is_ready)).map(|(key, _)| *key).collect()
}

fn take(state: &mut State, stream: u64) -> Option<(Operation, u32)> {
    let stream = state.streams.get_mut(&stream)?;
    Some((stream.queue.pop_front()?, stream.device))
}

fn finish(driver: &Driver, stream: u64, device: u32, operation: &Operation, failures: Vec<Failure>) {
    let mut state = driver.lock();
    for failure in failures {
        if driver.settings.strict || failure.status == Status::ILLEGAL_ADDRESS {
            state.poison(device, failure.status, failure.text);
        } else {
            state.find(failure.text);
        }
    }
    if let Action::Free { address, pinned: false } = operation.action
        && let Some(owner) = Ledger::device_of(address)
        && let Some(owner) = state.devices.get_mut(owner as usize)
    {
        owner.ledger.finish_free(address);
    }
    if let Some(found) = state.streams.get_mut(&stream) {
        found.completed += 1;
        if found.destroyed && found.completed == found.enqueued {
            state.drop_stream(stream);
        }
    }
    drop(state);
    driver.advanced.notify_all();
}

impl Memory {
    fn receive(&mut self, message: Message) {
        match message {
            Message::Device(device, region) => self.devices[device as usize].insert(region),
            Message::Pinned(region) => self.pinned.insert(region),
            Message::Share(device, address, answer) => {
                let region = self.devices[device as usize].region_mut(address);
                let file = region.and_then(|region| {
                    region.fill_rest();
                    region.mapping.share().ok()
                });
                // Who asked may have gone; then nobody needs the file.
                let _ = answer.try_send(file);
            }
        }
    }

    fn execute(&mut self, driver: &Driver, device: u32, operation: &Operation) -> Vec<Failure> {
        let mut failures = Vec::new();
        if let Action::Graph(nodes) = &operation.action {
            for node in nodes.iter() {
                failures.extend(self.execute(driver, device, node));
                if !failures.is_empty() && driver.settings.strict {
                    break;
                }
            }
            return failures;
        }
        let mut access = Access {
            memory: self,
            device,
            running: (operation.stamp, &operation.known),
            is_strict: driver.settings.strict,
            written: None,
            failures: &mut failures,
        };
        match &operation.action {
            Action::Nothing | Action::Graph(_) => {}
            Action::Record(time) => {
                let _ = time.set(Instant::now());
            }
            Action::CopyIn { source, target, bytes } => access.copy_in(source, *target, *bytes),
            Action::CopyOut { source, target, bytes, pinned } => access.copy_out(*source, *target, *bytes, *pinned),
            Action::CopyWithin { source, target, bytes } => access.copy_within(*source, *target, *bytes),
            Action::Fill { target, pattern, width, count } => access.fill(*target, *pattern, *width, *count),
            Action::Kernel(call) => access.kernel(driver, call),
            Action::Product(product) => access.product(product),
            Action::Allocate { address } => {
                let running = Running { stamp: operation.stamp, known: &operation.known };
                if let Some(refusal) = access.world(*address).begin(*address, running) {
                    access.note(refusal);
                }
            }
            Action::Free { address, pinned } => access.free(*address, *pinned),
            Action::Call(call) => (call.function)(call.argument as *mut libc::c_void),
            Action::Fail => access.fail(Status::LAUNCH_FAILED, "an injected failure of a launch".to_owned()),
        }
        failures
    }
}

/// One operation's view of memory.
struct Access<'a> {
    memory: &'a mut Memory,
    device: u32,
    running: (super::clock::Stamp, &'a VectorClock),
    /// Whether an access out of order ends a kernel.
    is_strict: bool,
    /// The last byte that a kernel was given to write.
    written: Option<*mut u8>,
    failures: &'a mut Vec<Failure>,
}

impl Access<'_> {
    fn fail(&mut self, status: Status, text: String) {
        self.failures.push(Failure { status, text });
    }

    fn world(&mut self, address: u64) -> &mut World {
        let device = Ledger::device_of(address).filter(|device| (*device as usize) < self.memory.devices.len());
        let device = device.unwrap_or(self.device);
        &mut self.memory.devices[device as usize]
    }

    fn note(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Outside(text) => self.fail(Status::ILLEGAL_ADDRESS, text),
            Refusal::Unordered(text) => self.fail(Status::LAUNCH_FAILED, text),
        }
    }

    /// Device memory for this operation; none if there is none, which is noted.
    fn touch(&mut self, address: u64, bytes: usize, writes: bool) -> Option<*mut u8> {
        let running = Running { stamp: self.running.0, known: self.running.1 };
        let result = self.world(address).touch(address, bytes, running, writes);
        result.map_or_else(
            |(refusal, place)| {
                self.note(refusal);
                place
            },
            Some,
        )
    }

    /// Pinned memory, through the device's own mapping.
    fn touch_pinned(&mut self, address: u64, bytes: usize, writes: bool) -> Option<*mut u8> {
        let running = Running { stamp: self.running.0, known: self.running.1 };
        let result = self.memory.pinned.touch(address, bytes, running, writes);
        result.map_or_else(
            |(refusal, place)| {
                self.note(refusal);
                place
            },
            Some,
        )
    }

    fn copy(source: *const u8, target: *mut u8, bytes: usize) {
        // SAFETY: both ranges were found to be `bytes` long: inside a live region, inside staged bytes, or as the application
        // promised for memory of its own; copy allows overlap.
        unsafe { std::ptr::copy(source, target, bytes) };
    }

    fn copy_in(&mut self, source: &HostSource, target: u64, bytes: usize) {
        let source = match source {
            HostSource::Staged(staged) => Some(staged.as_ptr()),
            HostSource::Pinned(address) => self.touch_pinned(*address, bytes, false).map(<*mut u8>::cast_const),
            HostSource::Pageable(address) => Some(*address as *const u8),
        };
        if let (Some(source), Some(target)) = (source, self.touch(target, bytes, true)) {
            Self::copy(source, target, bytes);
        }
    }

    fn copy_out(&mut self, source: u64, target: u64, bytes: usize, pinned: bool) {
        let target = if pinned { self.touch_pinned(target, bytes, true) } else { Some(target as *mut u8) };
        if let (Some(source), Some(target)) = (self.touch(source, bytes, false), target) {
            Self::copy(source, target, bytes);
        }
    }

    fn copy_within(&mut self, source: u64, target: u64, bytes: usize) {
        if let (Some(source), Some(target)) = (self.touch(source, bytes, false), self.touch(target, bytes, true)) {
            Self::copy(source, target, bytes);
        }
    }

    fn fill(&mut self, target: u64, pattern: u32, width: usize, count: usize) {
        let bytes = width * count;
        let Some(place) = self.touch(target, bytes, true) else { return };
        let pattern = &pattern.to_le_bytes()[..width];
        // SAFETY: `place` is `bytes` long, in a live region that only this thread writes.
        let target = unsafe { std::slice::from_raw_parts_mut(place, bytes) };
        for chunk in target.chunks_exact_mut(width) {
            chunk.copy_from_slice(pattern);
        }
    }

    fn free(&mut self, address: u64, pinned: bool) {
        let running = Running { stamp: self.running.0, known: self.running.1 };
        let world = if pinned { &mut self.memory.pinned } else { self.world(address) };
        let (_region, refusal) = world.remove(address, running);
        if let Some(refusal) = refusal {
            self.note(refusal);
        }
    }

    fn kernel(&mut self, driver: &Driver, call: &super::module::Call) {
        let result = call.run(driver.settings.seed, self);
        if let Some(last) = self.written.take().filter(|_| call.is_wrong && result.is_ok()) {
            // SAFETY: a byte of a live region: none is freed while a kernel runs, and only this thread writes there.
            unsafe { *last ^= 0x40 };
        }
        match result {
            Ok(counts) => driver.lock().counters.instructions += counts.instructions,
            Err(fault) => {
                // The access that failed has noted itself, more exactly than the fault does.
                let text = fault.to_string();
                let status = match () {
                    () if fault.reason.contains("aligned") => Status::MISALIGNED_ADDRESS,
                    () if fault.reason.contains("budget") => Status::LAUNCH_TIMEOUT,
                    () => Status::LAUNCH_FAILED,
                };
                match self.failures.last_mut() {
                    Some(failure) => failure.text = text,
                    None => self.fail(status, text),
                }
            }
        }
    }

    fn product(&mut self, product: &crate::blas::Product) {
        let places: Vec<Option<*mut u8>> =
            product.ranges().into_iter().map(|range| self.touch(range.address, range.bytes, range.writes)).collect();
        if let Some(places) = places.into_iter().collect::<Option<Vec<_>>>() {
            product.run(&places);
        }
    }
}

impl GlobalMemory for Access<'_> {
    #[inline]
    fn access(&mut self, address: u64, bytes: usize, kind: AccessKind) -> Result<*mut u8, String> {
        let running = Running { stamp: self.running.0, known: self.running.1 };
        let device = self.device as usize;
        let writes = kind != AccessKind::Read;
        match self.memory.devices[device].touch(address, bytes, running, writes) {
            Ok(place) => {
                if writes && bytes > 0 {
                    self.written = Some(place.wrapping_add(bytes - 1));
                }
                Ok(place)
            }
            Err((refusal @ Refusal::Unordered(_), Some(place))) if !self.is_strict => {
                self.note(refusal);
                Ok(place)
            }
            Err((refusal, _)) => {
                let text = match &refusal {
                    Refusal::Outside(text) | Refusal::Unordered(text) => text.clone(),
                };
                self.note(refusal);
                Err(text)
            }
        }
    }
}
