//! Encoder models: tokens or images to vectors and logits, in packed batches.

use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;
use models::plan::Input;
use models::plan::batch::{ATTENTION_MASK, INPUT_IDS, Integers, PIXEL_VALUES, TOKEN_TYPE_IDS, Texts};
use models::plan::cpu::Memory;
use models::{Batch, CpuExecutor, CpuModel, Executor, ModelCard, Output, Weights};

use crate::config::ModelConfig;
use crate::error::{ExecuteError, LoadError};
use crate::request::ValidRequest;
use crate::tensor::{DataType, Shape, Tensor};

use super::super::device::SharedDevice;
use super::super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion};
use super::parameters::{BatchLayout, EncoderParameters};
use super::{check, describe_encoder, failed, refused};

/// A loaded encoder: what its instances share.
///
/// Of texts it takes `input_ids` and optionally `attention_mask` and `token_type_ids`: `[rows, width] INT64`; of images
/// `pixel_values`: `[rows, channels, height, width] FP32`. It gives one tensor: `[rows, size] FP32`, or per token
/// `[rows, width, size] FP32` with zeros where the mask is 0. Requests of one batch may differ in width.
pub(super) struct EncoderModel {
    model: Arc<CpuModel>,
    inputs: Inputs,
    is_per_token: bool,
    parameters: EncoderParameters,
    name: Arc<str>,
}

/// Where the model's inputs are among those of the configuration.
#[derive(Clone, Copy, Debug)]
enum Inputs {
    Tokens { ids: usize, mask: Option<usize>, types: Option<usize> },
    Images { pixels: usize },
}

/// An encoder with threads and buffers of its own.
struct EncoderInstance {
    executor: CpuExecutor,
    inputs: Inputs,
    is_per_token: bool,
    layout: BatchLayout,
}

/// Reads the weights, once for all instances.
pub(super) fn open(served: &ServedVersion) -> Result<Arc<dyn Backend>, LoadError> {
    let config = &served.config;
    let parameters = EncoderParameters::parse(config)?;
    let card = ModelCard::read_as(&served.version_directory, parameters.choice).map_err(|error| failed(&config.name, &error))?;
    check(config, "candle encoder", &describe_encoder(&card))?;
    let model = load(&card, parameters).map_err(|error| failed(&config.name, &error))?;
    let memory = Memory::of(&model, 1);
    tracing::info!(
        model = %config.name,
        task = card.task.name(),
        weights_bytes = memory.weights,
        mapped_bytes = memory.mapped,
        instance_bytes = memory.arena.saturating_add(memory.scratch),
        "an encoder is loaded"
    );
    Ok(Arc::new(EncoderModel {
        model: Arc::new(model),
        inputs: Inputs::of(config, &card),
        is_per_token: card.task.is_per_token(),
        parameters,
        name: Arc::clone(&config.name),
    }))
}

fn load(card: &ModelCard, parameters: EncoderParameters) -> Result<CpuModel, models::ModelError> {
    let weights = Weights::open(&card.directory)?;
    let plan = models::encoder::plan(card, &weights)?;
    CpuModel::load(plan, &weights, parameters.precision)
}

impl Inputs {
    fn of(config: &ModelConfig, card: &ModelCard) -> Self {
        // The required ones have been checked to be there.
        let required = |name: &str| config.input_index(name).unwrap_or_default();
        match card.images() {
            Some(_) => Self::Images { pixels: required(PIXEL_VALUES) },
            None => Self::Tokens {
                ids: required(INPUT_IDS),
                mask: config.input_index(ATTENTION_MASK),
                types: config.input_index(TOKEN_TYPE_IDS),
            },
        }
    }
}

impl Backend for EncoderModel {
    fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        let name = format!("{}#{}", self.name, slot.ordinal);
        let executor = CpuExecutor::new(Arc::clone(&self.model), &name, slot.threads);
        Ok(Box::new(EncoderInstance {
            executor: executor.map_err(|error| failed(&self.name, &error))?,
            inputs: self.inputs,
            is_per_token: self.is_per_token,
            layout: self.parameters.layout,
        }))
    }

    fn device(&self, _slot: &InstanceSlot) -> Option<SharedDevice> {
        Some(SharedDevice::cpu())
    }

    fn turn_slots(&self, _slot: &InstanceSlot, available: NonZeroUsize) -> Result<NonZeroUsize, LoadError> {
        self.parameters.threads_of(&self.name, available)
    }
}

/// What a request gives the model. Its tensors share the bytes of the received message.
struct Given {
    request: usize,
    /// Token ids or pixels.
    main: Tensor,
    mask: Option<Tensor>,
    types: Option<Tensor>,
}

/// A request that is part of the batch.
struct Packed {
    request: usize,
    /// Its texts or images in the batch.
    sequences: Range<usize>,
    /// Tokens of each row, masked ones included.
    width: usize,
}

impl ModelInstance for EncoderInstance {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
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
        let mut batch = Batch::new();
        let mut packed = Vec::with_capacity(given.len());
        for given in &given {
            match self.pack(&mut batch, given) {
                Ok(part) => packed.push(part),
                // It fails alone: the batch is as it was without it.
                Err(error) => execution.fail(given.request, error),
            }
        }
        if packed.is_empty() {
            return Ok(());
        }
        let real = batch.tokens();
        if let (BatchLayout::Padded, Input::Tokens(input)) = (self.layout, self.executor.model().plan().input()) {
            batch.pad(input);
        }
        execution.mark_input_done();
        let output = self.executor.enqueue(&batch).map_err(|error| refused(&error))?;
        execution.mark_infer_done();
        let count = |tokens: usize| u64::try_from(tokens).unwrap_or(u64::MAX);
        execution.report_padding(count(real), count(batch.tokens().saturating_sub(real)));
        let output = output.into_iter().next();
        let output = output.ok_or_else(|| ExecuteError::Internal { message: "the encoder gave no output".to_owned() })?;
        self.answer(execution, &batch, &packed, output)
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

impl EncoderInstance {
    /// Checks a request and adds it to the batch. Token ids are copied once, from the received message to the batch and to 32
    /// bits; pixels are read where they are.
    ///
    /// # Errors
    /// Names input, row, column, value and allowed range; the batch is as it was.
    fn pack<'a>(&self, batch: &mut Batch<'a>, given: &'a Given) -> Result<Packed, ExecuteError> {
        let start = batch.sequences().len();
        let width = match self.executor.model().plan().input() {
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

    /// Gives every request its rows. Rows per text, and those per token where the request had no masked tokens, are not
    /// copied: the answers share the memory into which the model wrote. Others are copied once, to their places among zeros.
    fn answer(
        &self,
        execution: &mut Execution,
        batch: &Batch<'_>,
        packed: &[Packed],
        output: Output,
    ) -> Result<(), ExecuteError> {
        let Output { values, columns } = output;
        let all = Floats(values);
        let spread = |part: &Packed| batch.spread(&all.0, columns, part.sequences.clone(), part.width);
        let is_dense = |part: &Packed| !self.is_per_token || batch.is_dense(part.sequences.clone(), part.width);
        let spread: Vec<Option<Vec<f32>>> = packed.iter().map(|part| (!is_dense(part)).then(|| spread(part))).collect();
        let all = all.into_bytes();
        for (part, spread) in packed.iter().zip(spread) {
            let rows = part.sequences.len();
            let shape = if self.is_per_token { vec![rows, part.width, columns] } else { vec![rows, columns] };
            let contents = match spread {
                Some(spread) => Some(Floats(spread).into_bytes()),
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
            // A model has one output, and the configuration names it.
            execution.set_request_output(part.request, 0, tensor);
        }
        Ok(())
    }
}

/// Numbers whose memory becomes that of answers.
struct Floats<T>(T);

impl<T: Deref<Target = [f32]>> AsRef<[u8]> for Floats<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl<T: Deref<Target = [f32]> + Send + 'static> Floats<T> {
    /// The numbers with the low byte first, which on all processors that we run on is how they are already.
    fn into_bytes(self) -> Bytes {
        if cfg!(target_endian = "little") {
            Bytes::from_owner(self)
        } else {
            self.0.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
        }
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
