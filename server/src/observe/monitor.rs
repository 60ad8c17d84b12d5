//! A thread that looks at something every so often, until it is dropped.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The thread. Dropped, it ends before its next look.
pub struct Monitor(Arc<Stop>);

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Monitor {
    /// Looks at once, and then every `interval`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(interval: Duration, mut look: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let shared = Arc::clone(&stop);
        std::thread::Builder::new().name("alcedo-monitor".to_owned()).spawn(move || {
            let mut stopped = shared.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                drop(stopped);
                look();
                let lock = shared.stopped.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = shared.changed.wait_timeout_while(lock, interval, |stopped| !*stopped);
                stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        })?;
        Ok(Self(stop))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        *self.0.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn it_looks_until_it_is_dropped() {
        let (sender, looks) = bounded(0);
        let monitor = Monitor::start(Duration::from_millis(1), move || _ = sender.send(())).unwrap();
        for _ in 0..3 {
            looks.recv().unwrap();
        }
        drop(monitor);
        // The look that is under way ends, and with the thread its sender.
        while looks.recv().is_ok() {}
    }
}
