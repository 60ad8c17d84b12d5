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
//! Nothing here starts a thread of its own. On the CPU candle multiplies matrices on rayon's global pool, with at most
//! `RAYON_NUM_THREADS` threads (default: the number of physical cores); softmax and layer normalization use the same
//! pool. That pool is one per process and shared by all models; a process that runs several model instances bounds the
//! total by setting `RAYON_NUM_THREADS` before the first use. Tokenization runs on the calling thread alone.

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
