//! Integration tests of the crate: fixtures against recorded outputs, refusals, hostile files.

mod families;
mod fixture;
mod golden;
mod hostile;
mod images;
mod refusals;
mod texts;
mod towers;
