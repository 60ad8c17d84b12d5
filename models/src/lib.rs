//! Models from Hugging Face directories: what they say of themselves, their tokenizers, and plans that compute them.
//!
//! Owns: what a model directory says ([`card`]), weight files ([`weights`]), the description of encoders of all families
//! ([`encoder`]), plans and the executor on the processor ([`plan`]), and [`tokenizer`]. May import: kernels, half,
//! safetensors, tokenizers. Must never import: protocol buffers, batching, tokio, gRPC.
//!
//! # From a directory to an answer
//! ```text
//! directory > ModelCard::read > encoder::plan > CpuModel::load > CpuExecutor::enqueue: Batch -> outputs
//!                  |                                                  |
//!                  + max_length > Tokenizer::load > encode_batch      + Batch::push_texts, push_images: checked input
//! ```
//!
//! # Threads
//! An executor has as many threads as it was made with, and none of them does anything unless `enqueue` runs. Tokenization
//! runs on the calling thread.

#![forbid(unsafe_code)]

pub mod card;
pub mod encoder;
pub mod error;
pub mod plan;
pub mod tokenizer;
pub mod weights;

mod json;

pub use card::{Choice, ModelCard, Task, Tower};
pub use error::ModelError;
pub use kernels::matmul::Precision;
pub use plan::cpu::{CpuExecutor, CpuModel};
pub use plan::{Batch, Executor, Output, Plan, Values, cuda};
pub use tokenizer::{Encoded, Tokenizer, Tokens};
pub use weights::{DataType, Weights};
