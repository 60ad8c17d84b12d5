//! The locks that concurrent files take, and the time they read, by way of their folder: a test that includes such a
//! file elsewhere puts others under it, whose scheduler tries the interleavings.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

pub(crate) use tokio::sync::Notify;

pub(crate) use crate::clock::now;
