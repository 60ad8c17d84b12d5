//! Tests of what is called at a cancellation.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::request::{CancelHook, Cancellation};

fn counting(count: &Arc<AtomicUsize>) -> impl FnOnce() + Send + 'static {
    let count = Arc::clone(count);
    move || {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn hooks_are_called_once_and_not_when_forgotten() {
    let (token, count) = (Cancellation::default(), Arc::new(AtomicUsize::new(0)));
    let kept = token.on_cancel(counting(&count));
    drop(token.on_cancel(counting(&count)));
    assert_eq!(count.load(Ordering::Relaxed), 0);
    token.cancel();
    token.cancel();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    let late = token.on_cancel(counting(&count));
    assert_eq!(count.load(Ordering::Relaxed), 2, "it had been cancelled already");
    drop((kept, late));
    assert!(format!("{token:?}").contains("waiting: 0"), "{token:?}");
}

#[test]
fn a_hook_may_use_the_token_and_drop_its_own_guard() {
    let token = Cancellation::default();
    let slot: Arc<Mutex<Option<CancelHook>>> = Arc::default();
    let (inner, held) = (token.clone(), Arc::clone(&slot));
    let hook = token.on_cancel(move || {
        assert!(inner.is_cancelled() && inner.wait(Duration::from_secs(3600)));
        drop(held.lock().map(|mut held| held.take()));
    });
    *slot.lock().unwrap() = Some(hook);
    token.cancel();
    assert!(slot.lock().unwrap().is_none());
}
