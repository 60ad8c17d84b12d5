//! Encoder models: tokens to embeddings or logits.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use candle_core::Device;
use models::encoder::{ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS};
use models::load::load_with_card;
use models::{Model, ModelCard};

use crate::error::{ExecuteError, LoadError};
use crate::tensor::{DataType, Shape, Tensor};

use super::super::device::SharedDevice;
use super::super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion};
use super::parameters::EncoderParameters;
use super::tokens::{self, Padded, RequestTokens, TokenInputs, TokenLimits};
use super::{check, describe_encoder, failed, refused};

/// A loaded encoder.
///
/// `input_ids`, `attention_mask`, optionally `token_type_ids`: `[rows, width] INT64` -> `EMBEDDING`:
/// `[rows, size] FP32` or `LOGITS`: `[rows, labels] FP32`. Requests of one batch may differ in width.
#[derive(Clone)]
pub(super) struct EncoderModel {
    model: Arc<dyn Model>,
    limits: TokenLimits,
    inputs: TokenInputs,
    parameters: EncoderParameters,
    name: Arc<str>,
}

/// An encoder with threads of its own: candle computes on the pool from which it is called.
struct EncoderInstance {
    model: EncoderModel,
    threads: rayon::ThreadPool,
}

/// Reads the weights, once for all instances.
pub(super) fn open(served: &ServedVersion, card: &ModelCard) -> Result<Arc<dyn Backend>, LoadError> {
    EncoderModel::open(served, card).map(|model| -> Arc<dyn Backend> { Arc::new(model) })
}

impl EncoderModel {
    pub(super) fn open(served: &ServedVersion, card: &ModelCard) -> Result<Self, LoadError> {
        let config = &served.config;
        let parameters = EncoderParameters::parse(config, card.task)?;
        check(config, "candle encoder", &describe_encoder(card))?;
        let inputs = TokenInputs {
            // Checked just above to be there.
            ids: config.input_index(INPUT_IDS).unwrap_or_default(),
            mask: config.input_index(ATTENTION_MASK).unwrap_or_default(),
            types: config.input_index(TOKEN_TYPE_IDS),
        };
        let model = load_with_card(card, &Device::Cpu).map_err(|error| failed(&config.name, &error))?;
        Ok(Self { model, limits: TokenLimits::of(card), inputs, parameters, name: Arc::clone(&config.name) })
    }
}

#[cfg(test)]
impl EncoderModel {
    /// The same model, with passes of at most so many elements.
    pub(super) fn with_max_elements(self, max_elements: usize) -> Self {
        Self { limits: self.limits.with_max_elements(max_elements), ..self }
    }
}

impl Backend for EncoderModel {
    fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        let name = format!("{}#{}", self.name, slot.ordinal);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(slot.threads.get())
            .thread_name(move |thread| format!("{name}-{thread}"))
            .build()
            .map_err(|error| LoadError::Thread { model: self.name.to_string(), reason: error.to_string() })?;
        Ok(Box::new(EncoderInstance { model: self.clone(), threads }))
    }

    fn device(&self, _slot: &InstanceSlot) -> Option<SharedDevice> {
        Some(SharedDevice::cpu())
    }

    fn turn_slots(&self, _slot: &InstanceSlot, available: NonZeroUsize) -> Result<NonZeroUsize, LoadError> {
        self.parameters.threads_of(&self.name, available)
    }
}

impl ModelInstance for EncoderInstance {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        let model = &self.model;
        self.threads.install(|| model.execute(execution))
    }
}

impl EncoderModel {
    fn execute(&self, execution: &mut Execution) -> Result<(), ExecuteError> {
        execution.drop_cancelled();
        let mut requests = Vec::with_capacity(execution.len());
        for request in 0..execution.len() {
            if execution.is_waiting(request) {
                match RequestTokens::parse(execution.request(request), self.inputs, &self.limits) {
                    Ok(tokens) => requests.push((request, tokens)),
                    Err(error) => execution.fail(request, error),
                }
            }
        }
        let passes = tokens::pad(&requests.iter().map(|(_, tokens)| tokens).collect::<Vec<_>>(), &self.limits);
        execution.mark_input_done();
        let (mut values, mut size) = (Vec::new(), 0);
        for pass in passes {
            let real = pass.real_tokens();
            let all = pass.rows.saturating_mul(pass.width);
            let count = |tokens: usize| u64::try_from(tokens).unwrap_or(u64::MAX);
            execution.report_padding(count(real), count(all.saturating_sub(real)));
            size = self.run(execution, pass, &mut values)?;
        }
        execution.mark_infer_done();
        let bytes: Bytes = values.iter().flat_map(|value: &f32| value.to_le_bytes()).collect::<Vec<u8>>().into();
        let mut start = 0;
        for (request, tokens) in &requests {
            let end = start + tokens.rows() * size * size_of::<f32>();
            let part = (end <= bytes.len()).then(|| bytes.slice(start..end));
            let tensor = part.and_then(|part| Tensor::new(DataType::Fp32, Shape::new([tokens.rows(), size]), part));
            let tensor = tensor.ok_or_else(|| ExecuteError::Internal {
                message: format!("the encoder gave {} bytes, too few for the rows of its batch", bytes.len()),
            })?;
            // A model has one output, and the configuration names it.
            execution.set_request_output(*request, 0, tensor);
            start = end;
        }
        Ok(())
    }
}

impl EncoderModel {
    /// Runs one pass and appends its output, row after row; returns the size of a row.
    fn run(&self, execution: &Execution, pass: Padded, values: &mut Vec<f32>) -> Result<usize, ExecuteError> {
        let shape = (pass.rows, pass.width);
        let tensor =
            |values: Vec<i64>| candle_core::Tensor::from_vec(values, shape, &Device::Cpu).map_err(|error| internal(&error));
        let mut inputs = vec![(INPUT_IDS, tensor(pass.ids)?), (ATTENTION_MASK, tensor(pass.mask)?)];
        if let Some(types) = pass.types {
            inputs.push((TOKEN_TYPE_IDS, tensor(types)?));
        }
        let outputs = self.model.forward(&inputs).map_err(|error| refused(&error))?;
        let wanted = &execution.config().outputs[0].name;
        let (_, output) = outputs
            .iter()
            .find(|(name, _)| **name == **wanted)
            .ok_or_else(|| ExecuteError::Internal { message: format!("the encoder gave no output '{wanted}'") })?;
        let (rows, size) = output.dims2().map_err(|error| internal(&error))?;
        if rows != shape.0 {
            return Err(ExecuteError::Internal { message: format!("the encoder gave {rows} rows for {}", shape.0) });
        }
        values.extend(output.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(|error| internal(&error))?);
        Ok(size)
    }
}

fn internal(error: &candle_core::Error) -> ExecuteError {
    // Candle adds a backtrace where the environment asks for one; clients get the first line.
    let text = error.to_string();
    ExecuteError::Internal { message: text.lines().next().unwrap_or_default().to_owned() }
}
