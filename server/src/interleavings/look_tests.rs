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
