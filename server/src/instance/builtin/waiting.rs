//! Waiting that ends at once when nobody waits for the answer any more.

use std::time::Duration;

use crate::clock;
use crate::request::Cancellation;

/// Longest delay that a request may ask for; a longer one is refused. It keeps a forgotten client from
/// holding an instance for good.
pub(super) const MAX_REQUESTED_DELAY: Duration = Duration::from_secs(3600);

/// Waits whatever happens.
pub(super) fn pause(delay: Duration) {
    Cancellation::default().wait(delay);
}

/// Waits, side by side, for each delay whose client stays: as long as the longest of them takes.
pub(super) fn wait_for_longest(delays: Vec<(Cancellation, Duration)>) {
    let start = clock::now();
    for (cancellation, delay) in delays {
        cancellation.wait(delay.saturating_sub(clock::now().since(start)));
    }
}

/// How a pause is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pastime {
    /// The thread sleeps, as one that waits for another device.
    Sleep,
    /// The thread keeps its core busy, as one that computes.
    Spin,
}

/// By how much a thread may wake too late, in the ordinary run of things: so much before the end a precise pause
/// stops sleeping.
const SLEEP_SLACK: Duration = Duration::from_micros(120);

/// Waits whatever happens, and no longer than `delay` but for what the scheduler of the operating system takes.
pub(super) fn pause_exactly(delay: Duration, pastime: Pastime) {
    let end = clock::now().plus(delay);
    if let (Pastime::Sleep, Some(sleep)) = (pastime, delay.checked_sub(SLEEP_SLACK)) {
        std::thread::sleep(sleep);
    }
    while clock::now() < end {
        std::hint::spin_loop();
    }
}
