//! Looks after requests that wait for an instance where no task of their own does: refuses each as soon as its time is
//! over, although all instances are busy, and lets go of those whose clients have left.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Timestamp};
use crate::instance::WaitingBatches;

use super::look::NextLook;
use super::timer::{Alarm, Timer};

/// How often everything that waits is looked through for those whose clients have left.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Handle on a watch; dropped, it lets the watch end when nothing waits any more.
pub(crate) struct Watch(Arc<NextLook>);

impl Watch {
    /// Starts a watch over what waits in a pool, as a task on the current tokio runtime. It does not keep the pool's
    /// instances from ending.
    pub(crate) fn start(waiting: WaitingBatches) -> Self {
        let next_look = Arc::new(NextLook::new());
        let alarm = Timer::shared().alarm(Arc::clone(&next_look) as _);
        tokio::spawn(watch(waiting, Arc::clone(&next_look), alarm));
        Self(next_look)
    }

    /// A request waits that must be looked at by `deadline`, if it has one. It costs nothing where a look is planned
    /// by then.
    pub(crate) fn look_after(&self, deadline: Option<Timestamp>, now: Timestamp) {
        let sweep = now.plus(SWEEP_INTERVAL);
        self.0.look_by(deadline.map_or(sweep, |deadline| deadline.min(sweep)));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn watch(waiting: WaitingBatches, next_look: Arc<NextLook>, mut alarm: Alarm) {
    let mut sweep_at = Timestamp::default();
    loop {
        next_look.begin();
        let now = clock::now();
        let is_closed = next_look.is_closed();
        if now >= sweep_at {
            waiting.sweep(now);
            sweep_at = now.plus(SWEEP_INTERVAL);
        } else {
            waiting.expire(now);
        }
        let next = (!waiting.is_empty()).then(|| waiting.next_lapse().map_or(sweep_at, |lapse| lapse.min(sweep_at)));
        if is_closed && next.is_none() {
            return;
        }
        next_look.plan(next);
        if let Some(next) = next {
            alarm.ring_by(next, now);
        }
        next_look.wait().await;
    }
}
