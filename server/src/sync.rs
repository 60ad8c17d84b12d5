//! The locks that concurrent files take, by way of their folder: a test that includes such a file elsewhere
//! puts others under it, whose scheduler tries the interleavings.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

pub(crate) use tokio::sync::Notify;
