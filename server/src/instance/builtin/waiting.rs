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
