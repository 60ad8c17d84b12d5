//! Warmup: sample requests that an instance runs before its model is ready.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::batch::Batch;
use crate::clock;
use crate::config::{ModelConfig, Scheduling, Signal, WarmupInput, WarmupSample, WarmupSource};
use crate::error::{InferError, LoadError};
use crate::request::{
    BatchKey, Cancellation, Delivery, Entry, Parameters, RequestOptions, Responder, ResponseSink, ValidRequest,
};
use crate::tensor::{Shape, Tensor, check_strings};

use super::{Execution, ModelInstance, ServedVersion, split};

/// Runs every sample on an instance, on the instance's own thread, past the scheduler. Nothing of it is counted.
///
/// # Errors
/// A sample whose inputs do not suit the model, or that the model fails.
pub(super) fn run(served: &Arc<ServedVersion>, instance: &mut dyn ModelInstance) -> Result<(), LoadError> {
    for sample in &served.config.warmup {
        if sample.batch_rows == 0 {
            continue;
        }
        let request = request(served, sample)?;
        for _ in 0..sample.runs {
            run_once(served, instance, sample, &request)?;
        }
    }
    Ok(())
}

fn run_once(
    served: &Arc<ServedVersion>,
    instance: &mut dyn ModelInstance,
    sample: &WarmupSample,
    request: &ValidRequest,
) -> Result<(), LoadError> {
    let failed = |reason: String| LoadError::Warmup { sample: sample.name.clone(), reason };
    let batching = served.config.max_batch_rows.is_some();
    let first_error = Arc::new(Mutex::new(None));
    let mut batch = Batch::default();
    for _ in 0..if batching { sample.batch_rows } else { 1 } {
        let sink = Box::new(FirstError(Arc::clone(&first_error)));
        let responder = Responder::new(sink, Cancellation::default());
        batch.push(
            Entry {
                request: request.clone(),
                responder,
                queued_at: clock::now(),
                level: 1,
                deadline: None,
                delayed_from: None,
                stand_in: None,
            },
            1,
        );
    }
    // Statistics of their own, which nobody reads, keep warmup out of the model's counts.
    let uncounted = ServedVersion { statistics: Arc::default(), ..served.as_ref().clone() };
    let mut execution = Execution::start(Arc::new(uncounted), batch);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| super::run_through(instance, &mut execution)));
    let result = caught.map_err(|panic| failed(format!("the model panicked: {}", super::panic_message(panic.as_ref()))))?;
    execution.finish(result);
    let error: Option<InferError> = first_error.lock().unwrap_or_else(PoisonError::into_inner).take();
    error.map_or(Ok(()), |error| Err(failed(error.to_string())))
}

struct FirstError(Arc<Mutex<Option<InferError>>>);

impl ResponseSink for FirstError {
    fn deliver(&mut self, delivery: Delivery) {
        if let Delivery::Failed { error, .. } = delivery {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

/// The request of one row that a sample describes.
fn request(served: &ServedVersion, sample: &WarmupSample) -> Result<ValidRequest, LoadError> {
    let config = &served.config;
    let failed = |reason: String| LoadError::Warmup { sample: sample.name.clone(), reason };
    let mut inputs = vec![None; config.inputs.len()];
    for input in &sample.inputs {
        let index = config.input_index(&input.name).ok_or_else(|| failed(format!("the model has no input '{}'", input.name)))?;
        let spec = &config.inputs[index];
        if spec.datatype != input.datatype || !spec.dims.admits(input.shape.sizes()) {
            return Err(failed(format!(
                "input '{}' is {} {}, but the model expects {} {}",
                input.name, input.datatype, input.shape, spec.datatype, spec.dims
            )));
        }
        let inner = match &spec.reshape {
            Some(reshape) => spec.dims.carry(input.shape.sizes(), reshape).unwrap_or_default(),
            None => input.shape.sizes().to_vec(),
        };
        let sizes: Vec<usize> = config.max_batch_rows.map(|_| 1).into_iter().chain(inner).collect();
        let bytes = contents(served, input).map_err(failed)?;
        let tensor = Tensor::new(input.datatype, Shape::new(sizes), bytes)
            .ok_or_else(|| failed(format!("input '{}' has the wrong number of bytes for shape {}", input.name, input.shape)))?;
        inputs[index] = Some(tensor);
    }
    fill(config, &mut inputs);
    for (spec, input) in config.inputs.iter().zip(&inputs) {
        if input.is_none() && !spec.optional {
            return Err(failed(format!("input '{}' is missing", spec.name)));
        }
    }
    Ok(ValidRequest {
        id: format!("warmup {}", sample.name),
        options: RequestOptions::default(),
        parameters: Parameters::new(),
        inputs,
        outputs: vec![true; config.outputs.len()],
        rows: 1,
        batch_key: BatchKey::default(),
        cost: 1,
        received_at: clock::now(),
        deadline: None,
        timeline: None,
    })
}

/// Fills in what the server gives a model with each request, where the sample does not: it is a sequence of one.
fn fill(config: &ModelConfig, inputs: &mut [Option<Tensor>]) {
    let Scheduling::Sequence(sequence) = &config.scheduling else {
        return;
    };
    let batching = config.max_batch_rows.is_some();
    let one = || Shape::new(if batching { vec![1, 1] } else { vec![1] });
    for control in &sequence.controls {
        let filled = match &control.signal {
            Signal::Start(flag) | Signal::Ready(flag) | Signal::End(flag) => {
                Tensor::new(flag.datatype, one(), flag.values[1].clone())
            }
            Signal::CorrelationId(datatype) => Tensor::zeros(*datatype, one()),
        };
        let slot = &mut inputs[control.input];
        *slot = slot.take().or(filled);
    }
    for state in &sequence.states {
        let slot = &mut inputs[state.input];
        *slot = slot.take().or_else(|| state.first(config.inputs[state.input].datatype, batching));
    }
}

fn contents(served: &ServedVersion, input: &WarmupInput) -> Result<Bytes, String> {
    let count = input.shape.element_count().ok_or_else(|| format!("input '{}' is too large", input.name))?;
    match &input.source {
        WarmupSource::Zero => split::zeros(input.datatype, count).ok_or_else(|| format!("input '{}' is too large", input.name)),
        WarmupSource::Random => random(input, count),
        WarmupSource::File(file) => {
            if !is_plain_path(file) {
                return Err(format!("file '{file}' of input '{}' leaves the model's folder 'warmup'", input.name));
            }
            let path = served.model_directory.join("warmup").join(file);
            let bytes = std::fs::read(&path).map_err(|error| format!("unable to read 'warmup/{file}': {error}"))?;
            if input.datatype.element_bytes().is_none() {
                check_strings(&bytes, count)
                    .map_err(|fault| format!("'warmup/{file}' does not hold {count} strings: {fault:?}"))?;
            }
            Ok(bytes.into())
        }
    }
}

/// Whether a relative path stays below where it starts.
fn is_plain_path(path: &str) -> bool {
    use std::path::{Component, Path};
    !path.is_empty() && Path::new(path).components().all(|component| matches!(component, Component::Normal(_)))
}

/// Numbers that look random and are the same at every load: small and finite in every datatype.
fn random(input: &WarmupInput, count: usize) -> Result<Bytes, String> {
    // A string is its length and one letter.
    let size = input.datatype.element_bytes().unwrap_or(size_of::<u32>() + 1);
    let length = count.checked_mul(size).filter(|length| *length <= split::MAX_MADE_BYTES);
    let length = length.ok_or_else(|| format!("input '{}' is too large", input.name))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    for _ in 0..count {
        // One step of a 64-bit xorshift generator.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let small = (state >> 57) as u8;
        push_element(&mut bytes, input, small).ok_or_else(|| format!("input '{}' has no random data", input.name))?;
    }
    Ok(bytes.into())
}

fn push_element(bytes: &mut Vec<u8>, input: &WarmupInput, small: u8) -> Option<()> {
    use crate::tensor::DataType;
    let fraction = f32::from(small) / 128.0;
    match input.datatype {
        DataType::Bool => bytes.push(small & 1),
        DataType::Fp32 => bytes.extend_from_slice(&fraction.to_le_bytes()),
        DataType::Fp64 => bytes.extend_from_slice(&f64::from(fraction).to_le_bytes()),
        DataType::Fp16 => bytes.extend_from_slice(&half::f16::from_f32(fraction).to_le_bytes()),
        DataType::Bf16 => bytes.extend_from_slice(&half::bf16::from_f32(fraction).to_le_bytes()),
        DataType::Bytes => {
            bytes.extend_from_slice(&1u32.to_le_bytes());
            bytes.push(b'a' + small % 26);
        }
        integer => {
            bytes.push(small & 1);
            bytes.resize(bytes.len() + integer.element_bytes()? - 1, 0);
        }
    }
    Some(())
}
