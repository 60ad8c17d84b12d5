//! Tokenizer models: texts to the tokens that an encoder takes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use models::plan::batch::{ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS};
use models::tokenizer::Part;
use models::{ModelCard, ModelError, Tokenizer, Tokens, Tower};

use crate::error::{ExecuteError, LoadError};
use crate::request::ValidRequest;
use crate::tensor::{DataType, Shape, Tensor};

use super::super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion};
use super::pool::{self, Row};
use super::{OFFSETS, TEXT, TEXT_PAIR, check, describe_tokenizer, failed, offsets, parameters, refused, text_pair};

/// A loaded tokenizer.
///
/// `TEXT` and optionally `TEXT_PAIR: [rows, 1] BYTES`, UTF-8 -> `input_ids`, `attention_mask` and, where the encoder takes
/// them, `token_type_ids`: `[rows, width] INT64`, and `OFFSETS: [rows, width, 2] INT64`, padded to the longest text of the
/// request. The requests of a batch do not see each other: each has a width of its own.
///
/// It shares no device: its texts are encoded on the threads that all tokenizers of the server share.
#[derive(Clone)]
struct TokenizerModel {
    tokenizer: Arc<Tokenizer>,
    text: usize,
    pair: Option<usize>,
    outputs: Vec<Part>,
}

/// Reads the tokenizer, once for all instances.
pub(super) fn open(served: &ServedVersion) -> Result<Arc<dyn Backend>, LoadError> {
    let config = &served.config;
    let mut choice = parameters::tokenizer(config)?;
    if choice.tower == Some(Tower::Vision) {
        choice.tower = None;
    }
    let card = ModelCard::read_as(&served.version_directory, choice).map_err(|error| failed(&config.name, &error))?;
    let mut known = describe_tokenizer(&card);
    if !known.inputs.iter().any(|input| &*input.name == TEXT_PAIR) {
        known.inputs.push(text_pair());
    }
    if !known.outputs.iter().any(|output| &*output.name == OFFSETS) {
        known.outputs.push(offsets());
    }
    check(config, "candle tokenizer", &known)?;
    let parts = [(INPUT_IDS, Part::Ids), (ATTENTION_MASK, Part::Mask), (TOKEN_TYPE_IDS, Part::Types), (OFFSETS, Part::Offsets)];
    let part = |name: &str| parts.iter().find(|(known, _)| *known == name).map(|(_, part)| *part);
    // Checked just above to have no other name.
    let outputs = config.outputs.iter().filter_map(|output| part(&output.name)).collect();
    let tokenizer = Tokenizer::load(&card.directory, card.max_length).map_err(|error| failed(&config.name, &error))?;
    let tokenizer = tokenizer.padded_to(card.pads_to);
    let text = config.input_index(TEXT).unwrap_or_default();
    let pair = config.input_index(TEXT_PAIR);
    Ok(Arc::new(TokenizerModel { tokenizer: Arc::new(tokenizer), text, pair, outputs }))
}

impl Backend for TokenizerModel {
    fn instantiate(&self, _slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        Ok(Box::new(self.clone()))
    }
}

impl ModelInstance for TokenizerModel {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        execution.drop_cancelled();
        // Handles of the texts; their bytes stay in the received messages.
        let mut asked: Vec<(usize, Asked)> = Vec::with_capacity(execution.len());
        for request in 0..execution.len() {
            if execution.is_waiting(request) {
                match self.read(execution.request(request)) {
                    Ok(texts) => asked.push((request, texts)),
                    Err(error) => execution.fail(request, error),
                }
            }
        }
        let mut rows = Vec::new();
        let mut good = Vec::with_capacity(asked.len());
        for (request, asked) in &asked {
            let start = rows.len();
            match asked.rows(&mut rows) {
                Ok(()) => good.push((*request, asked, start..rows.len())),
                Err(error) => {
                    rows.truncate(start);
                    execution.fail(*request, error);
                }
            }
        }
        execution.mark_input_done();
        let encoded = pool::encode(&self.tokenizer, &rows);
        execution.mark_infer_done();
        for (request, asked, range) in good {
            match self.tensors(&encoded, range, &asked.wanted) {
                Ok(tensors) => {
                    tensors.into_iter().for_each(|(output, tensor)| execution.set_request_output(request, output, tensor));
                }
                Err(error) => execution.fail(request, error),
            }
        }
        Ok(())
    }
}

/// What a request asks for.
struct Asked {
    text: Tensor,
    pair: Option<Tensor>,
    /// Per output.
    wanted: Vec<bool>,
    offsets: bool,
}

impl Asked {
    /// Adds its texts.
    ///
    /// # Errors
    /// A text is no UTF-8, or there is not a second text for each first.
    fn rows<'a>(&'a self, rows: &mut Vec<Row<'a>>) -> Result<(), ExecuteError> {
        let mut pairs = self.pair.as_ref().map(Tensor::strings);
        for (row, text) in self.text.strings().enumerate() {
            let pair = match &mut pairs {
                None => None,
                Some(pairs) => {
                    let pair = pairs.next().ok_or_else(|| ExecuteError::InvalidArgument {
                        message: format!("input '{TEXT_PAIR}': got {row} texts; expected as many as {TEXT} has"),
                    })?;
                    Some(utf8(TEXT_PAIR, row, pair)?)
                }
            };
            rows.push(Row { text: utf8(TEXT, row, text)?, pair, offsets: self.offsets });
        }
        Ok(())
    }
}

fn utf8<'a>(input: &str, row: usize, text: &'a [u8]) -> Result<&'a str, ExecuteError> {
    std::str::from_utf8(text).map_err(|error| ExecuteError::InvalidArgument {
        message: format!("input '{input}', row {row}: expected UTF-8, got a wrong byte at offset {}", error.valid_up_to()),
    })
}

impl TokenizerModel {
    fn read(&self, request: &ValidRequest) -> Result<Asked, ExecuteError> {
        let input = |index: usize| request.inputs.get(index).cloned().flatten();
        let text = input(self.text);
        let text = text.ok_or_else(|| ExecuteError::Internal { message: format!("the request came without {TEXT}") })?;
        let wanted: Vec<bool> =
            (0..self.outputs.len()).map(|output| request.outputs.get(output).copied().unwrap_or(false)).collect();
        let offsets = self.outputs.iter().zip(&wanted).any(|(part, wanted)| *wanted && *part == Part::Offsets);
        Ok(Asked { text, pair: self.pair.and_then(input), wanted, offsets })
    }

    /// The wanted outputs of the request whose rows are these; tokens are copied once, into the tensors.
    fn tensors(
        &self,
        encoded: &[Result<Tokens, String>],
        range: Range<usize>,
        wanted: &[bool],
    ) -> Result<Vec<(usize, Tensor)>, ExecuteError> {
        let mut rows = Vec::with_capacity(range.len());
        for (row, tokens) in encoded.get(range).unwrap_or_default().iter().enumerate() {
            rows.push(tokens.as_ref().map_err(|reason| refused(&ModelError::Tokenize { row, reason: reason.clone() }))?);
        }
        let width = Tokenizer::width(&rows);
        let wanted = self.outputs.iter().enumerate().filter(|(output, _)| wanted.get(*output).copied().unwrap_or(false));
        wanted
            .map(|(output, part)| {
                let values = self.tokenizer.padded(&rows, width, *part);
                let mut shape = vec![rows.len(), width];
                shape.extend((*part == Part::Offsets).then_some(2));
                let count = values.len();
                let tensor = Tensor::new(DataType::Int64, Shape::new(shape), Integers(values).into_bytes());
                let tensor = tensor.ok_or_else(|| ExecuteError::Internal {
                    message: format!("the tokenizer gave {count} numbers for {} texts of {width} tokens", rows.len()),
                })?;
                Ok((output, tensor))
            })
            .collect()
    }
}

/// Numbers whose memory becomes that of a tensor.
struct Integers(Vec<i64>);

impl AsRef<[u8]> for Integers {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Integers {
    /// The numbers with the low byte first, which on all processors that we run on is how they are already.
    fn into_bytes(self) -> Bytes {
        if cfg!(target_endian = "little") {
            Bytes::from_owner(self)
        } else {
            self.0.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
        }
    }
}
