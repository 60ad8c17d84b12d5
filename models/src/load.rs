//! From a model directory to a runnable model.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use crate::card::{ModelCard, Task};
use crate::classifier::SequenceClassifier;
use crate::error::ModelError;
use crate::sentence::SentenceEncoder;
use crate::signature::Model;
use crate::weights::Weights;

/// Loads the model in the Hugging Face directory `dir` to `device`: a [`SentenceEncoder`] or a [`SequenceClassifier`],
/// whichever its card says.
///
/// # Errors
/// Those of [`ModelCard::read`], [`Weights::open`] and the model's own `load`.
pub fn load_encoder(dir: &Path, device: &Device) -> Result<Arc<dyn Model>, ModelError> {
    load_with_card(&ModelCard::read(dir)?, device)
}

/// As [`load_encoder`], for a card that has been read already.
///
/// # Errors
/// Those of [`Weights::open`] and the model's own `load`.
pub fn load_with_card(card: &ModelCard, device: &Device) -> Result<Arc<dyn Model>, ModelError> {
    let weights = Weights::open(&card.directory)?;
    Ok(match card.task {
        Task::SentenceEmbedding => Arc::new(SentenceEncoder::load(card, &weights, device)?),
        Task::SequenceClassification => Arc::new(SequenceClassifier::load(card, &weights, device)?),
    })
}
