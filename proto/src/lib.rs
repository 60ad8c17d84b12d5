//! The protocol of the server: KServe v2 inference and model configuration as Rust types.
//!
//! Owns the `.proto` files (wire-compatible with Triton's), the types generated from them and the two written
//! forms of a model configuration: text ([`pbtxt`]) and JSON ([`json`]). Gives no message a meaning: whether a
//! configuration makes sense is decided by the server. May import prost, prost-reflect and tonic; must never
//! import another crate of the workspace.

#![forbid(unsafe_code)]

pub mod inference;
pub mod json;
pub mod pbtxt;
mod schema;
mod suggest;

/// The compiled descriptors of all our `.proto` files (an encoded `google.protobuf.FileDescriptorSet`), as
/// server reflection serves them.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));
