//! Sentence embeddings: an encoder, pooling over the tokens, optional normalization.

use candle_core::{DType, Device, Tensor};
use kernels::pool::{PoolSpec, pool};

use crate::card::ModelCard;
use crate::encoder::Encoder;
use crate::error::{During, ModelError};
use crate::signature::{DataType, Model, Signature, TensorInfo};
use crate::weights::Weights;

/// The output of a sentence encoder.
pub const EMBEDDING: &str = "EMBEDDING";

/// An encoder whose token vectors are pooled into one vector per row.
///
/// Inputs `input_ids`, `attention_mask`, optionally `token_type_ids`: `[rows, width] i64`.
/// Output `EMBEDDING`: `[rows, embedding_size] f32`.
#[derive(Debug, Clone)]
pub struct SentenceEncoder {
    encoder: Encoder,
    pooling: PoolSpec,
    signature: Signature,
}

impl SentenceEncoder {
    /// Reads the model of `card` from `weights`.
    ///
    /// # Errors
    /// Those of [`Encoder::load`].
    pub fn load(card: &ModelCard, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let encoder = Encoder::load(card, weights, device)?;
        let outputs = vec![TensorInfo::required(EMBEDDING, DataType::F32, &[Some(card.embedding_size())])];
        let signature = Signature { inputs: encoder.inputs(), outputs };
        Ok(SentenceEncoder { encoder, pooling: PoolSpec { modes: card.pooling.clone(), normalize: card.normalize }, signature })
    }

    /// The encoder under the pooling.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}

impl Model for SentenceEncoder {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn forward(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, ModelError> {
        let batch = self.encoder.batch(&self.signature, inputs)?;
        let embedding = if batch.rows() == 0 {
            let size = self.encoder.hidden_size() * self.pooling.modes.len();
            Tensor::zeros((0, size), DType::F32, self.encoder.device()).during("making an empty result")?
        } else {
            pool(&self.encoder.forward(&batch)?, batch.mask(), &self.pooling)?
        };
        Ok(vec![(EMBEDDING.to_owned(), embedding)])
    }
}
