//! Simulation: the real batcher among virtual clients and virtual instances, on a virtual clock.
//!
//! `SIM_SEED=7 cargo test -p server sim` replays one seed of [`safety`] and writes down all that happens.
//!
//! Bugs that were planted in the batcher, one at a time, and how [`safety`] finds them; each shows within ten seeds.
//! [`tampering`] keeps watch that the checker goes on finding such things.
//!
//! | bug | finding |
//! |---|---|
//! | a lost entry: dropped where the third member joins | the batch's cost is not that of its members; a request never ends |
//! | an off-by-one in the row range | a request of 1 row has 2 |
//! | a missed wake-up: none for an idle instance | an instance is idle, somebody waits, and the wake-up is too late |
//! | a missed wake-up: none for deadlines | a request's time is over before the wake-up |
//! | clients that have left are not looked at | a request is dead and in a batch |
//! | levels the wrong way round | the most urgent request is not in the batch |

mod fairness;
mod goodput;
mod recovery;
mod safety;
mod tampering;
mod window;
