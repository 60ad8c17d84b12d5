//! Tokenizer models: texts to the tokens that an encoder takes.

use std::sync::Arc;

use bytes::Bytes;
use models::encoder::{ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS};
use models::{Encoded, ModelCard, Tokenizer};

use crate::error::{ExecuteError, LoadError};
use crate::request::ValidRequest;
use crate::tensor::{DataType, Shape, Tensor};

use super::super::device::SharedDevice;
use super::super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion};
use super::{TEXT, check, describe_tokenizer, failed, parameters, refused};

/// A loaded tokenizer.
///
/// `TEXT: [rows, 1] BYTES`, UTF-8 -> `input_ids`, `attention_mask` and, where the encoder takes them,
/// `token_type_ids`: `[rows, width] INT64`, padded to the longest text of the request. The requests of a
/// batch do not see each other: each has a width of its own.
#[derive(Clone)]
struct TokenizerModel {
    tokenizer: Arc<Tokenizer>,
    text: usize,
    outputs: Vec<Part>,
}

/// What an output holds.
#[derive(Clone, Copy)]
enum Part {
    Ids,
    Mask,
    Types,
}

/// Reads the tokenizer, once for all instances.
pub(super) fn open(served: &ServedVersion, card: &ModelCard) -> Result<Arc<dyn Backend>, LoadError> {
    let config = &served.config;
    parameters::check_tokenizer(config)?;
    check(config, "candle tokenizer", &describe_tokenizer(card))?;
    let parts = [(INPUT_IDS, Part::Ids), (ATTENTION_MASK, Part::Mask), (TOKEN_TYPE_IDS, Part::Types)];
    let part = |name: &str| parts.iter().find(|(known, _)| *known == name).map(|(_, part)| *part);
    // Checked just above to have no other name.
    let outputs = config.outputs.iter().filter_map(|output| part(&output.name)).collect();
    let tokenizer = Tokenizer::load(&card.directory, card.max_length).map_err(|error| failed(&config.name, &error))?;
    let text = config.input_index(TEXT).unwrap_or_default();
    Ok(Arc::new(TokenizerModel { tokenizer: Arc::new(tokenizer), text, outputs }))
}

impl Backend for TokenizerModel {
    fn instantiate(&self, _slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        Ok(Box::new(self.clone()))
    }

    fn device(&self, _slot: &InstanceSlot) -> Option<SharedDevice> {
        Some(SharedDevice::cpu())
    }
}

impl ModelInstance for TokenizerModel {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        execution.mark_input_done();
        for request in 0..execution.len() {
            execution.drop_cancelled();
            if !execution.is_waiting(request) {
                continue;
            }
            match self.encode(execution.request(request)) {
                Ok(tensors) => {
                    for (output, tensor) in tensors {
                        execution.set_request_output(request, output, tensor);
                    }
                }
                Err(error) => execution.fail(request, error),
            }
        }
        Ok(())
    }
}

impl TokenizerModel {
    /// The wanted outputs of one request.
    fn encode(&self, request: &ValidRequest) -> Result<Vec<(usize, Tensor)>, ExecuteError> {
        let text = request.inputs.get(self.text).and_then(Option::as_ref);
        let text = text.ok_or_else(|| ExecuteError::Internal { message: format!("the request came without {TEXT}") })?;
        let mut texts = Vec::new();
        for (row, text) in text.strings().enumerate() {
            texts.push(std::str::from_utf8(text).map_err(|error| ExecuteError::InvalidArgument {
                message: format!("input '{TEXT}', row {row}: expected UTF-8, got a wrong byte at offset {}", error.valid_up_to()),
            })?);
        }
        let encoded = self.tokenizer.encode_batch(&texts).map_err(|error| refused(&error))?;
        let Encoded { ids, mask, type_ids, rows, width } = encoded;
        let mut tensors = Vec::with_capacity(self.outputs.len());
        for (output, part) in self.outputs.iter().enumerate() {
            if !request.outputs.get(output).copied().unwrap_or(false) {
                continue;
            }
            let values = match part {
                Part::Ids => &ids,
                Part::Mask => &mask,
                Part::Types => &type_ids,
            };
            let bytes: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into();
            let tensor = Tensor::new(DataType::Int64, Shape::new([rows, width]), bytes);
            let tensor = tensor.ok_or_else(|| ExecuteError::Internal {
                message: format!("the tokenizer gave {} tokens for a shape of [{rows},{width}]", values.len()),
            })?;
            tensors.push((output, tensor));
        }
        Ok(tensors)
    }
}
