//! What tests ask of the emulated device beyond CUDA.

use crate::driver::abi::{HostBytes, Text, run};
use crate::driver::fault::Injection;
use crate::driver::state::Driver;
use crate::driver::status::Status;

/// Plans failures: see [`Injection::add`].
#[unsafe(no_mangle)]
pub(crate) extern "C" fn emulator_fail(what: Text) -> Status {
    run(|| {
        let mut state = Driver::start().lock();
        state.injection.add(what.read()?).map_err(|reason| {
            eprintln!("emulator: {reason}");
            Status::INVALID_VALUE
        })
    })
}

/// Puts text where there is room for it; its length in any case. Without room for all of it nothing is written.
fn answer(text: &str, target: HostBytes, room: usize) -> usize {
    if room >= text.len() && target.address() != 0 && target.put(text.as_bytes()).is_err() {
        return 0;
    }
    text.len()
}

/// Counters as JSON, without a terminating zero.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn emulator_counters(target: HostBytes, room: usize) -> usize {
    let state = Driver::start().lock();
    let mut live = (0, 0);
    for device in &state.devices {
        let (count, bytes) = device.ledger.live();
        live = (live.0 + count, live.1 + bytes);
    }
    let pinned = (state.pinned.len() as u64, state.pinned.values().map(|pinned| pinned.bytes as u64).sum());
    answer(&state.counters.report(live, pinned).to_string(), target, room)
}

/// Starts counting anew.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn emulator_reset_counters() {
    Driver::start().lock().counters = Default::default();
}

/// Lets streams advance in another order from now on.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn emulator_seed(seed: u64) {
    Driver::start().lock().reseed = Some(seed);
}

/// Errors of discipline so far, one a line, without a terminating zero.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn emulator_findings(target: HostBytes, room: usize) -> usize {
    answer(&Driver::start().lock().findings.join("\n"), target, room)
}

/// Heals devices, and forgets findings and planned failures, as a new process would; memory and streams stay.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn emulator_reset() {
    let mut state = Driver::start().lock();
    for device in &mut state.devices {
        device.poison = None;
    }
    state.findings.clear();
    state.injection = Injection::default();
}
