//! Tests of the crate `proto` through its public face: wire form, text form and JSON form of the messages.

// One line per case: `UPDATE_EXPECT=1` cannot find an expectation that is spread over lines.
#[rustfmt::skip]
mod bad_json;
#[rustfmt::skip]
mod bad_text;
mod corpus;
mod robust;
mod wire;
