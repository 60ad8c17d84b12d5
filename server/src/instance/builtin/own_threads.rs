//! The threads on which a model goes on answering a request while its instance takes the next one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

/// Most threads of one instance beside its own.
///
/// At the limit a request is answered on the instance's thread: the instance takes no other before that is
/// done, so requests wait in the model's bounded queue and are refused when it is full.
const MAX_THREADS: usize = 128;

/// Starts threads for one instance and counts them. A thread holds nothing of the instance but this count:
/// it may outlive the instance, and the model's unloading, until it has answered its request.
pub(super) struct OwnThreads {
    name: String,
    running: Arc<AtomicUsize>,
}

impl OwnThreads {
    /// No threads yet; those to come are called `name`.
    pub(super) fn new(name: String) -> Self {
        Self { name, running: Arc::default() }
    }

    /// Runs `task` on a thread of its own, or on this one where no other may or can be started.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) {
        let Some(place) = Place::take(&self.running) else {
            return task();
        };
        // The task is handed over through a slot, so that it is still here if there is no thread for it.
        let slot = Arc::new(Mutex::new(Some(task)));
        let theirs = Arc::clone(&slot);
        let spawned = Builder::new().name(self.name.clone()).spawn(move || {
            let _place = place;
            let task = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(task) = task {
                task();
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(thread = self.name, %error, "no thread could be started; the instance answers the request itself");
            let task = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(task) = task {
                task();
            }
        }
    }

    /// Threads that run now.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }
}

/// One of the threads that may run; given back when dropped, a panic included.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(running: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |count: usize| (count < MAX_THREADS).then_some(count + 1);
        running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Self(Arc::clone(running)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn beyond_the_limit_a_task_runs_on_the_calling_thread() {
        let threads = OwnThreads::new("test".to_owned());
        let (started_sender, started) = mpsc::channel();
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        for _ in 0..MAX_THREADS {
            let (started_sender, gate) = (started_sender.clone(), Arc::clone(&gate));
            threads.run(move || {
                started_sender.send(std::thread::current().id()).unwrap();
                drop(gate.lock());
            });
        }
        for _ in 0..MAX_THREADS {
            assert_ne!(started.recv_timeout(PATIENCE).unwrap(), std::thread::current().id());
        }
        assert_eq!(threads.running(), MAX_THREADS);
        threads.run(move || started_sender.send(std::thread::current().id()).unwrap());
        assert_eq!(started.recv_timeout(PATIENCE).unwrap(), std::thread::current().id());
        assert_eq!(threads.running(), MAX_THREADS);
        drop(closed);
    }

    #[test]
    fn a_panic_gives_the_place_back() {
        let threads = OwnThreads::new("test".to_owned());
        let (sender, receiver) = mpsc::channel::<()>();
        threads.run(move || {
            let _until_the_panic = sender;
            panic!("as the test wants it");
        });
        // The channel closes while the thread unwinds; a second task then finds the place free, or soon will.
        assert!(receiver.recv_timeout(PATIENCE).is_err());
        let (sender, receiver) = mpsc::channel();
        threads.run(move || sender.send(1).unwrap());
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(1));
    }
}
