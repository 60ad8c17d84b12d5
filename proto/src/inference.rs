//! The package `inference`: messages, client and server of the inference service, generated from `proto/*.proto`.
//!
//! All `bytes` fields are [`bytes::Bytes`]: a message decoded from `Bytes` shares its payloads with the buffer it
//! was decoded from. All maps are `BTreeMap`.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "the generator decides what this code looks like")]

include!(concat!(env!("OUT_DIR"), "/inference.rs"));
