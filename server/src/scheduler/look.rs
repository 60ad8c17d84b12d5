//! When a watch next looks at what others bring, and how they ask it to look sooner.

use std::sync::atomic::Ordering;

use crate::clock::Timestamp;

use super::sync::{AtomicBool, AtomicU64, Notify};
use super::timer::Bell;

/// When the watch next looks, unless somebody asks for an earlier look.
///
/// The watch first says that it will not look at all, then looks, then says when it will look again. Whoever brings
/// something reads that after he has brought it: either the watch has seen what he brought, or he reads a time that is
/// too late, and asks.
pub(crate) struct NextLook {
    at_nanos: AtomicU64,
    closed: AtomicBool,
    asked: Notify,
}

const NEVER: u64 = u64::MAX;

impl NextLook {
    /// No look is planned.
    pub(crate) fn new() -> Self {
        Self { at_nanos: AtomicU64::new(NEVER), closed: AtomicBool::new(false), asked: Notify::new() }
    }

    /// Asks for a look at `at`, or sooner. To be called after whatever is to be looked at is in its place.
    pub(crate) fn look_by(&self, at: Timestamp) {
        if self.at_nanos.load(Ordering::SeqCst) > at.as_nanos() {
            self.asked.notify_one();
        }
    }

    /// Nothing comes any more: the watch ends with what waits.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.asked.notify_one();
    }

    /// A look begins.
    pub(crate) fn begin(&self) {
        self.at_nanos.store(NEVER, Ordering::SeqCst);
    }

    /// The look is over, and the next is at `next`.
    pub(crate) fn plan(&self, next: Option<Timestamp>) {
        self.at_nanos.store(next.map_or(NEVER, Timestamp::as_nanos), Ordering::SeqCst);
    }

    /// Sleeps until somebody asks, or the alarm rings.
    pub(crate) async fn wait(&self) {
        self.asked.notified().await;
    }

    /// Whether nothing comes any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Bell for NextLook {
    fn ring(&self) {
        self.asked.notify_one();
    }
}
