//! Interleavings of threads over everything that threads share without a task in between, tried by shuttle: at random,
//! by priorities that change at a few random moments, and from the first onwards. Owns the locks that are put under the
//! very files of the server, and one file of tests for each. A thread that waits for a wake-up that is lost fails as a
//! deadlock.

mod cancellation_tests;
mod device_gate_tests;
mod ensemble_gate_tests;
mod flights_tests;
mod look_tests;
mod mailbox_tests;
mod ready_tests;
mod sync;
mod timer_tests;

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../scheduler/ensemble/gate.rs"]
mod ensemble_gate;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../instance/flights.rs"]
mod flights;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../scheduler/look.rs"]
mod look;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../scheduler/mailbox.rs"]
mod mailbox;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../instance/ready.rs"]
mod ready;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../request.rs"]
mod request;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../scheduler/timer.rs"]
mod timer;

/// Schedules tried of each kind.
const SCHEDULES: usize = 1000;

/// Changes of priority among which the schedules of the second kind are spread.
const DEPTH: usize = 3;

/// Tries many schedules of `run`.
fn try_schedules(run: impl Fn() + Send + Sync + Copy + 'static) {
    try_fair_schedules(run);
    shuttle::check_pct(run, SCHEDULES, DEPTH);
    shuttle::check_dfs(run, Some(SCHEDULES));
}

/// Tries schedules in which every thread gets on, for tests that look again and again.
fn try_fair_schedules(run: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(run, SCHEDULES);
}
