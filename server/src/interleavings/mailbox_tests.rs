//! Threads around a task's mailbox.

use shuttle::thread;

use super::mailbox::{Mailbox, Post};
use super::timer::Bell as _;
use super::try_schedules;

#[test]
fn the_task_sees_whatever_is_posted() {
    try_schedules(|| {
        let mailbox = Mailbox::<u32, u32>::new(8, 8);
        let requests = std::sync::Arc::clone(&mailbox);
        let notes = std::sync::Arc::clone(&mailbox);
        let posters = [
            thread::spawn(move || {
                requests.post(1).unwrap();
                requests.post(2).unwrap();
            }),
            thread::spawn(move || {
                notes.release();
                notes.note(3).unwrap();
            }),
        ];
        let reader = thread::spawn(move || {
            shuttle::future::block_on(async move {
                let (mut post, mut seen) = (Post::default(), Vec::new());
                loop {
                    mailbox.take(&mut post);
                    // One at a time, as a task that does not finish all in one turn.
                    seen.extend(post.arrivals.pop_front());
                    seen.append(&mut post.notes);
                    if seen.len() == 3 && post.released {
                        return seen;
                    }
                    if post.arrivals.is_empty() {
                        mailbox.wait().await;
                    }
                }
            })
        });
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        let seen = reader.join().unwrap();
        assert_eq!(seen.iter().sum::<u32>(), 6);
        assert_eq!(seen.iter().filter(|letter| **letter < 3).copied().collect::<Vec<_>>(), [1, 2]);
    });
}

#[test]
fn the_end_is_told_after_the_last_request() {
    try_schedules(|| {
        let mailbox = Mailbox::<u32, u32>::new(8, 8);
        let posting = std::sync::Arc::clone(&mailbox);
        let poster = thread::spawn(move || {
            let posted = (0..3).filter(|letter| posting.post(*letter).is_ok()).count();
            posting.close();
            assert!(posting.post(9).is_err());
            posted
        });
        let seen = shuttle::future::block_on(async {
            let (mut post, mut seen) = (Post::default(), 0);
            loop {
                mailbox.take(&mut post);
                seen += usize::from(post.arrivals.pop_front().is_some());
                if post.closed && post.arrivals.is_empty() {
                    return seen;
                }
                if post.arrivals.is_empty() {
                    mailbox.wait().await;
                }
            }
        });
        assert_eq!(seen, poster.join().unwrap());
    });
}

#[test]
fn a_bell_wakes_a_task_that_is_about_to_sleep() {
    try_schedules(|| {
        let mailbox = Mailbox::<u32, u32>::new(1, 1);
        let bell = std::sync::Arc::clone(&mailbox);
        let ringer = thread::spawn(move || bell.ring());
        shuttle::future::block_on(mailbox.wait());
        ringer.join().unwrap();
    });
}
