//! From requests to one packed batch, and from its results to the answers: the same on every device.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use models::plan::Input;
use models::plan::batch::{ATTENTION_MASK, INPUT_IDS, Integers, PIXEL_VALUES, TOKEN_TYPE_IDS, Texts};
use models::{Batch, ModelCard, Output, Values};

use crate::config::ModelConfig;
use crate::error::ExecuteError;
use crate::request::ValidRequest;
use crate::tensor::{DataType, Shape, Tensor};

use super::super::Execution;
use super::refused;

/// What the tensors of an encoder mean.
///
/// Of texts it takes `input_ids` and optionally `attention_mask` and `token_type_ids`: `[rows, width] INT64`; of images
/// `pixel_values`: `[rows, channels, height, width] FP32`. It gives one tensor: `[rows, size] FP32`, or per token
/// `[rows, width, size] FP32` with zeros where the mask is 0. Requests of one batch may differ in width.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    inputs: Inputs,
    is_per_token: bool,
    /// What tokens and images are checked against.
    input: Arc<Input>,
}

/// Where the model's inputs are among those of the configuration.
#[derive(Clone, Copy, Debug)]
enum Inputs {
    Tokens { ids: usize, mask: Option<usize>, types: Option<usize> },
    Images { pixels: usize },
}

/// What a request gives the model. Its tensors share the bytes of the received message.
#[derive(Clone)]
pub(super) struct Given {
    request: usize,
    /// Token ids or pixels.
    main: Tensor,
    mask: Option<Tensor>,
    types: Option<Tensor>,
}

/// A request that is part of the batch.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    request: usize,
    /// Its texts or images in the batch.
    sequences: Range<usize>,
    /// Tokens of each row, masked ones included.
    width: usize,
}

impl Signature {
    /// That of a model whose tensors have been checked against the configuration.
    pub(super) fn of(config: &ModelConfig, card: &ModelCard, input: &Input) -> Self {
        let required = |name: &str| config.input_index(name).unwrap_or_default();
        let inputs = match card.images() {
            Some(_) => Inputs::Images { pixels: required(PIXEL_VALUES) },
            None => Inputs::Tokens {
                ids: required(INPUT_IDS),
                mask: config.input_index(ATTENTION_MASK),
                types: config.input_index(TOKEN_TYPE_IDS),
            },
        };
        Self { inputs, is_per_token: card.task.is_per_token(), input: Arc::new(input.clone()) }
    }

    /// What tokens and images are checked against.
    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    /// What the requests of an execution give; those that give nothing have failed. Requests whose clients have left are
    /// ended before.
    pub(super) fn given(&self, execution: &mut Execution) -> Vec<Given> {
        execution.drop_cancelled();
        let mut given = Vec::with_capacity(execution.len());
        for request in 0..execution.len() {
            if execution.is_waiting(request) {
                match self.inputs.take(request, execution.request(request)) {
                    Ok(tensors) => given.push(tensors),
                    Err(error) => execution.fail(request, error),
                }
            }
        }
        given
    }

    /// Checks and packs what requests give. One that is refused fails alone: the batch is as it was without it.
    pub(super) fn pack_all<'a>(&self, execution: &mut Execution, given: &'a [Given]) -> (Batch<'a>, Vec<Packed>) {
        let mut batch = Batch::new();
        let mut packed = Vec::with_capacity(given.len());
        for given in given {
            match self.pack(&mut batch, given) {
                Ok(part) => packed.push(part),
                Err(error) => execution.fail(given.request, error),
            }
        }
        (batch, packed)
    }

    /// Checks a request and adds it to the batch. Token ids are copied once, from the received message to the batch and to 32
    /// bits; pixels are read where they are.
    ///
    /// # Errors
    /// Names input, row, column, value and allowed range; the batch is as it was.
    fn pack<'a>(&self, batch: &mut Batch<'a>, given: &'a Given) -> Result<Packed, ExecuteError> {
        let start = batch.sequences().len();
        let width = match &*self.input {
            Input::Tokens(input) => {
                let &[rows, width] = given.main.shape().sizes() else {
                    return Err(misshapen(INPUT_IDS, "[rows,width]", given.main.shape()));
                };
                for (name, tensor) in [(ATTENTION_MASK, &given.mask), (TOKEN_TYPE_IDS, &given.types)] {
                    if let Some(tensor) = tensor.as_ref().filter(|tensor| tensor.shape() != given.main.shape()) {
                        let expected = format!("{}, as {INPUT_IDS} has", given.main.shape());
                        return Err(misshapen(name, &expected, tensor.shape()));
                    }
                }
                let integers = |tensor: &'a Tensor| Integers::new(tensor.bytes());
                let (mask, types) = (given.mask.as_ref().map(integers), given.types.as_ref().map(integers));
                let texts = Texts { rows, width, ids: integers(&given.main), mask, types };
                batch.push_texts(input, &texts).map_err(|error| refused(&error))?;
                width
            }
            Input::Images(input) => {
                batch.push_images(input, given.main.bytes()).map_err(|error| refused(&error))?;
                input.tokens()
            }
        };
        Ok(Packed { request: given.request, sequences: start..batch.sequences().len(), width })
    }

    /// Gives every request its rows of a batch's results. Rows per text, and those per token where the request had no masked
    /// tokens, are not copied: the answers share the memory in which the results lie. Others are copied once, to their
    /// places among zeros.
    ///
    /// # Errors
    /// There are fewer results than the batch has rows.
    pub(super) fn answer(
        &self,
        execution: &mut Execution,
        batch: &Batch<'_>,
        packed: &[Packed],
        outputs: Vec<Output>,
    ) -> Result<(), ExecuteError> {
        // A model has one output, and the configuration names it.
        let Some(Output { values, columns }) = outputs.into_iter().next() else {
            return Err(ExecuteError::Internal { message: "the encoder gave no output".to_owned() });
        };
        let spread = |part: &Packed| batch.spread(&values, columns, part.sequences.clone(), part.width);
        let is_dense = |part: &Packed| !self.is_per_token || batch.is_dense(part.sequences.clone(), part.width);
        let spread: Vec<Option<Vec<f32>>> = packed.iter().map(|part| (!is_dense(part)).then(|| spread(part))).collect();
        let all = into_bytes(values);
        for (part, spread) in packed.iter().zip(spread) {
            let rows = part.sequences.len();
            let shape = if self.is_per_token { vec![rows, part.width, columns] } else { vec![rows, columns] };
            let contents = match spread {
                Some(spread) => Some(into_bytes(spread.into())),
                None => {
                    let first = if self.is_per_token {
                        batch.sequences().get(part.sequences.start).map_or(0, |sequence| sequence.tokens.start)
                    } else {
                        part.sequences.start
                    };
                    let row_bytes = columns * size_of::<f32>();
                    let count = if self.is_per_token { rows * part.width } else { rows };
                    let range = first * row_bytes..(first + count) * row_bytes;
                    (range.end <= all.len()).then(|| all.slice(range))
                }
            };
            let tensor = contents.and_then(|contents| Tensor::new(DataType::Fp32, Shape::new(shape), contents));
            let tensor = tensor.ok_or_else(|| ExecuteError::Internal {
                message: format!("the encoder gave {} bytes, too few for the rows of its batch", all.len()),
            })?;
            execution.set_request_output(part.request, 0, tensor);
        }
        Ok(())
    }
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
impl Given {
    /// Whose it is.
    pub(super) fn request(&self) -> usize {
        self.request
    }
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
impl Packed {
    /// Whose it is.
    pub(super) fn request(&self) -> usize {
        self.request
    }
}

impl Inputs {
    /// The tensors of a request; only handles are copied.
    fn take(self, number: usize, request: &ValidRequest) -> Result<Given, ExecuteError> {
        let given = |index: usize| request.inputs.get(index).cloned().flatten();
        let (main, mask, types) = match self {
            Self::Tokens { ids, mask, types } => (given(ids), mask.and_then(given), types.and_then(given)),
            Self::Images { pixels } => (given(pixels), None, None),
        };
        let missing = || ExecuteError::Internal { message: "the request came without its required input".to_owned() };
        Ok(Given { request: number, main: main.ok_or_else(missing)?, mask, types })
    }
}

/// Numbers whose memory becomes that of answers.
struct Floats(Values);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The numbers with the low byte first, which on all processors that we run on is how they are already.
fn into_bytes(values: Values) -> Bytes {
    if cfg!(target_endian = "little") {
        Bytes::from_owner(Floats(values))
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

fn misshapen(input: &str, expected: &str, got: &Shape) -> ExecuteError {
    refused(&models::ModelError::InvalidInput {
        input: input.to_owned(),
        at: models::error::Position::Whole,
        got: format!("shape {got}"),
        expected: format!("shape {expected}"),
    })
}
