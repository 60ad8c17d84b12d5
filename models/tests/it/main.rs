//! Integration tests of the crate: fixtures against recorded outputs, refusals, hostile files, independence of batches.

mod configs;
mod families;
mod fixture;
mod golden;
mod hostile;
mod images;
mod mixes;
mod precision;
mod recorded;
mod refusals;
mod texts;
mod towers;
