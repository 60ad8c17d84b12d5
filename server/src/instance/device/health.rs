//! Whether a device still works. What has lost its context never works again in this process: every model on it must say
//! so, whichever of them met the fault.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// One who must know when a device is lost.
pub trait Dependent: Send + Sync {
    /// The device is lost, and why. Called once; must not block.
    fn lost(&self, reason: &str);
}

/// Whether a device still works, and who depends on that.
#[derive(Default)]
pub struct DeviceHealth {
    lost: OnceLock<Arc<str>>,
    dependents: Mutex<Vec<Weak<dyn Dependent>>>,
}

impl DeviceHealth {
    /// Why the device is lost, if it is.
    pub fn lost(&self) -> Option<&Arc<str>> {
        self.lost.get()
    }

    /// Has somebody told when the device is lost, at once if it is already.
    pub fn tell(&self, dependent: &Arc<impl Dependent + 'static>) {
        let mut dependents = self.lock();
        dependents.retain(|known| known.strong_count() > 0);
        let weak: Weak<dyn Dependent> = Arc::downgrade(dependent) as Weak<dyn Dependent>;
        dependents.push(weak);
        // Under the lock, so that whoever marks the device finds the new one, or is found by it.
        let lost = self.lost.get().cloned();
        drop(dependents);
        if let Some(reason) = lost {
            dependent.lost(&reason);
        }
    }

    /// Marks the device as lost for good and tells all who depend on it. Only the first reason counts.
    pub fn lose(&self, reason: &str) {
        let dependents = {
            let dependents = self.lock();
            if self.lost.set(reason.into()).is_err() {
                return;
            }
            dependents.clone()
        };
        dependents.iter().filter_map(Weak::upgrade).for_each(|dependent| dependent.lost(reason));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn Dependent>>> {
        self.dependents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Dependent for Counter {
        fn lost(&self, reason: &str) {
            assert_eq!(reason, "fell off");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn everybody_is_told_once_whenever_they_came() {
        let health = DeviceHealth::default();
        let (early, gone, late) = (Arc::<Counter>::default(), Arc::<Counter>::default(), Arc::<Counter>::default());
        health.tell(&early);
        health.tell(&gone);
        drop(gone);
        assert!(health.lost().is_none());
        health.lose("fell off");
        health.lose("something else");
        health.tell(&late);
        assert_eq!(health.lost().map(|reason| &**reason), Some("fell off"));
        assert_eq!((early.0.load(Ordering::Relaxed), late.0.load(Ordering::Relaxed)), (1, 1));
    }
}
