//! Integration tests of the crate: fixtures against recorded outputs, refusals, hostile files.

//mod fixture;
//mod golden;
//mod hostile;
//mod refusals;
//mod texts;
mod families;
mod images;
