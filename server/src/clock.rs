//! The only reader of the operating system's clocks: monotonic timestamps, and wall time for reports.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in monotonic time, in nanoseconds since the process first asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The timestamp that lies `nanos` nanoseconds after the origin; tests drive pure logic with it.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, or zero where `earlier` is later.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The timestamp `lead` earlier; the origin where there is none.
    pub fn minus(self, lead: Duration) -> Self {
        let nanos = u64::try_from(lead.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// The timestamp `delay` later; it saturates instead of wrapping, so a huge delay means "never".
    pub fn plus(self, delay: Duration) -> Self {
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Reads the monotonic clock.
pub fn now() -> Timestamp {
    let origin = ORIGIN.get_or_init(Instant::now);
    Timestamp(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Reads the wall clock: milliseconds since the Unix epoch, as `last_inference` reports it.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
