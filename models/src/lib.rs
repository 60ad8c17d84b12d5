//! Model architectures on candle, loaded from Hugging Face directories, and their tokenizers.
//!
//! Owns: [`trait Model`](Model), what a model directory says ([`card`]), weight files ([`weights`]), one folder per
//! architecture ([`encoder`]) and [`tokenizer`]. May import: kernels, candle, safetensors, tokenizers. Must never import:
//! protocol buffers, batching, tokio, gRPC.
//!
//! # From a directory to an answer
//! ```text
//! directory > ModelCard::read > load_encoder > Model::forward: token ids -> EMBEDDING or LOGITS
//!                  |
//!                  + max_length > Tokenizer::load > encode_batch: texts -> token ids
//! ```
//!
//! # Threads
//! Nothing here starts a thread of its own. On the CPU candle multiplies matrices with the `gemm` crate on rayon's global
//! pool, asking for `RAYON_NUM_THREADS` threads per product (default: the physical cores), and takes softmax to the same
//! pool; with `RAYON_NUM_THREADS=1` products run on the calling thread. The pool is one per process, is built at its
//! first use with `RAYON_NUM_THREADS` threads (default: the logical cores) and is shared by all models, so that variable
//! bounds the computing threads of a process beside those that call [`Model::forward`]. There is no bound per model.
//! Embedding sums, GELU, normalization, pooling and tokenization run on the calling thread alone.

#![forbid(unsafe_code)]

pub mod card;
pub mod classifier;
pub mod encoder;
pub mod error;
pub mod load;
pub mod sentence;
pub mod signature;
pub mod tokenizer;
pub mod weights;

mod json;

pub use card::{ModelCard, Task};
pub use classifier::SequenceClassifier;
pub use encoder::Encoder;
pub use error::ModelError;
pub use load::load_encoder;
pub use sentence::SentenceEncoder;
pub use signature::{DataType, Model, Signature, TensorInfo};
pub use tokenizer::{Encoded, Tokenizer};
