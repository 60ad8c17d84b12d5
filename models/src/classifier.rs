//! Sequence classification: an encoder and a head over the first token's vector.

use candle_core::{DType, Device, Tensor};

use crate::card::{Family, ModelCard};
use crate::encoder::{Encoder, Linear};
use crate::error::{During, ModelError};
use crate::signature::{DataType, Model, Signature, TensorInfo};
use crate::weights::Weights;

/// The output of a sequence classifier.
pub const LOGITS: &str = "LOGITS";

/// An encoder with a classification head.
///
/// Inputs `input_ids`, `attention_mask`, optionally `token_type_ids`: `[rows, width] i64`. The classification token is
/// column 0. Output `LOGITS`: `[rows, labels] f32`.
///
/// The head of every family is a projection of the first token's vector, an activation, and a projection to the labels:
/// BERT's pooler with tanh, RoBERTa's own dense layer with tanh, DistilBERT's own dense layer with ReLU.
#[derive(Debug, Clone)]
pub struct SequenceClassifier {
    encoder: Encoder,
    dense: Linear,
    activation: Activation,
    out: Linear,
    labels: usize,
    signature: Signature,
}

#[derive(Debug, Clone, Copy)]
enum Activation {
    Tanh,
    Relu,
}

impl SequenceClassifier {
    /// Reads the model of `card` from `weights`.
    ///
    /// # Errors
    /// Those of [`Encoder::load`]; the head's tensors are checked against the number of labels.
    pub fn load(card: &ModelCard, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let encoder = Encoder::load(card, weights, device)?;
        let (dense, activation, out) = match card.family {
            Family::Bert => (format!("{}pooler.dense", encoder.prefix()), Activation::Tanh, "classifier"),
            Family::Roberta => ("classifier.dense".to_owned(), Activation::Tanh, "classifier.out_proj"),
            Family::DistilBert => ("pre_classifier".to_owned(), Activation::Relu, "classifier"),
        };
        let labels = card.labels.len();
        let outputs = vec![TensorInfo::required(LOGITS, DataType::F32, &[Some(labels)])];
        Ok(SequenceClassifier {
            dense: Linear::load(weights, &dense, (card.hidden_size, card.hidden_size), device)?,
            activation,
            out: Linear::load(weights, out, (labels, card.hidden_size), device)?,
            labels,
            signature: Signature { inputs: encoder.inputs(), outputs },
            encoder,
        })
    }

    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let dense = self.dense.forward(&first)?;
        let dense = match self.activation {
            Activation::Tanh => dense.tanh()?,
            Activation::Relu => dense.relu()?,
        };
        self.out.forward(&dense)
    }
}

impl Model for SequenceClassifier {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn forward(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, ModelError> {
        let batch = self.encoder.batch(&self.signature, inputs)?;
        let logits = if batch.rows() == 0 {
            Tensor::zeros((0, self.labels), DType::F32, self.encoder.device()).during("making an empty result")?
        } else {
            self.logits(&self.encoder.forward(&batch)?).during("the classification head")?
        };
        Ok(vec![(LOGITS.to_owned(), logits)])
    }
}
