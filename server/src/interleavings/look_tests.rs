//! Threads that bring something to look at, and the watch that looks.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use crate::clock::Timestamp;

use super::look::NextLook;
use super::try_schedules;

#[test]
fn whatever_is_brought_is_looked_at_in_time() {
    try_schedules(|| {
        let look = Arc::new(NextLook::new());
        let brought = Arc::new(Mutex::new(Vec::<u64>::new()));
        let bringers: Vec<_> = [7u64, 4]
            .into_iter()
            .map(|due| {
                let (look, brought) = (Arc::clone(&look), Arc::clone(&brought));
                thread::spawn(move || {
                    brought.lock().unwrap().push(due);
                    look.look_by(Timestamp::from_nanos(due));
                })
            })
            .collect();
        // It ends when it has planned a look for the earlier of the two; where it sleeps before that, it is a deadlock.
        shuttle::future::block_on(async {
            loop {
                look.begin();
                let earliest = brought.lock().unwrap().iter().copied().min();
                look.plan(earliest.map(Timestamp::from_nanos));
                if earliest == Some(4) {
                    return;
                }
                look.wait().await;
            }
        });
        bringers.into_iter().for_each(|bringer| bringer.join().unwrap());
    });
}

#[test]
fn what_is_brought_during_a_look_is_not_missed() {
    try_schedules(|| {
        let look = Arc::new(NextLook::new());
        // The look that was planned begins now, and what it was planned for is gone.
        look.plan(Some(Timestamp::from_nanos(4)));
        let brought = Arc::new(Mutex::new(Vec::<u64>::new()));
        let (asking, bringing) = (Arc::clone(&look), Arc::clone(&brought));
        let bringer = thread::spawn(move || {
            bringing.lock().unwrap().push(7);
            asking.look_by(Timestamp::from_nanos(7));
        });
        shuttle::future::block_on(async {
            loop {
                look.begin();
                let earliest = brought.lock().unwrap().iter().copied().min();
                look.plan(earliest.map(Timestamp::from_nanos));
                if earliest.is_some() {
                    return;
                }
                look.wait().await;
            }
        });
        bringer.join().unwrap();
    });
}
