//! Integration tests of the crate: fixtures against recorded outputs, refusals, hostile files.

mod families;
mod fixture;
mod golden;
mod hostile;
mod refusals;
mod texts;
