//! Owns the backend `candle`: encoders and the tokenizers before them, from Hugging Face directories. The only user of the
//! crate `models`; may import what `instance` may; must never know an architecture.
//!
//! `parameters["model"]` is `encoder` (the default) or `tokenizer`. Both read the version's directory.
//!
//! Threads: an execution of an encoder keeps `parameters["threads"]` threads busy, which belong to its instance, and its
//! turns on the device take as many slots. All instances of a version share its weights.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use models::plan::batch::{ATTENTION_MASK, INPUT_IDS, PIXEL_VALUES, TOKEN_TYPE_IDS};
use models::tokenizer::TOKENIZER_FILE;
use models::{ModelCard, ModelError, Task};

use crate::config::{AutoModel, AutoTensor, ModelConfig};
use crate::error::{ExecuteError, LoadError};
use crate::tensor::{DataType, Dim, Dims, TensorSpec};

use super::device::Devices;
use super::{Backend, ServedVersion};
use parameters::Role;

pub use doctor::{ModelTimes, time_model};
pub use forecast::{BatchForecast, ForecastOptions, MemoryForecast, forecast_memory};
pub use gpu::{examine_gpu, gpu_machine, gpu_memory, lost_gpus};
pub use models::cuda::doctor::{
    Blas, DeviceFindings, Driver, Machine, OperationFinding, PlanFinding, ProductFinding, Speed, SystemGpu,
    processor_instructions,
};
pub use placement::choose_device;
pub(super) use placement::place;
pub use pool::{default_tokenizer_threads, start_tokenizer_threads};

mod doctor;
mod encoder;
mod forecast;
mod gpu;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod halves;
mod packing;
mod parameters;
mod placement;
mod pool;
mod room;
mod tokenizer;

#[cfg(test)]
mod tests;

/// The input of a tokenizer model: one text per row.
const TEXT: &str = "TEXT";

/// The optional input of a tokenizer model: the text that stands behind the other of its row.
const TEXT_PAIR: &str = "TEXT_PAIR";

/// The output of a tokenizer model that tells where tokens stand in their texts.
const OFFSETS: &str = "OFFSETS";

/// Largest batch that zero configuration asks for. Beyond it the matrices are large enough that a larger
/// batch gains little on any device.
const MAX_BATCH_ROWS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// What a Hugging Face directory turns out to be.
#[derive(Clone, Debug)]
pub struct Described {
    /// What its tokenizer model takes and gives; `None` where there is no tokenizer.
    pub tokenizer: Option<AutoModel>,
    /// What its encoder model takes and gives.
    pub encoder: AutoModel,
    /// Labels of its outputs, empty where it has none.
    pub labels: Vec<String>,
}

/// Whether a directory looks like a Hugging Face model: a description that names an architecture, and weights.
pub fn is_hub_directory(directory: &Path) -> bool {
    ModelCard::is_model_directory(directory)
}

/// Reads what a Hugging Face directory says of itself; `None` where it is not one. Weights are not read.
/// Errors name `model`, which the directory, often a version's, does not tell. `parameters` are those of its configuration:
/// `task` and `tower` choose among what the files leave open.
///
/// # Errors
/// It is one, but its files are broken or its architecture is not known; a parameter is malformed.
pub fn describe(model: &str, directory: &Path, parameters: &BTreeMap<String, String>) -> Result<Option<Described>, LoadError> {
    if !ModelCard::is_model_directory(directory) {
        return Ok(None);
    }
    let choice = parameters::asked(model, parameters)?;
    let card = ModelCard::read_as(directory, choice).map_err(|error| failed(model, &error))?;
    let has_tokenizer = card.tokens().is_some() && card.directory.join(TOKENIZER_FILE).is_file();
    let tokenizer = has_tokenizer.then(|| describe_tokenizer(&card));
    Ok(Some(Described { tokenizer, encoder: describe_encoder(&card), labels: card.labels }))
}

/// Opens the model in the version's directory.
///
/// # Errors
/// A parameter that is unknown or malformed, a device that has no room, files that are missing or broken, tensors of the
/// configuration that are not those of the model.
pub(super) fn open(served: &ServedVersion, devices: &Devices) -> Result<Arc<dyn Backend>, LoadError> {
    match parameters::role(&served.config)? {
        Role::Encoder => encoder::open(served, devices.overcommits_gpus()),
        Role::Tokenizer => tokenizer::open(served),
    }
}

fn describe_encoder(card: &ModelCard) -> AutoModel {
    let inputs = match card.images() {
        Some(images) => {
            let dims = [images.channels, images.height, images.width].map(Dim::Fixed);
            vec![AutoTensor { dims: Dims::new(dims), ..tensor(PIXEL_VALUES, DataType::Fp32, Dim::Variable) }]
        }
        None => token_tensors(card, true),
    };
    let size = Dim::Fixed(card.output_size);
    let dims = if card.task.is_per_token() { Dims::new([Dim::Variable, size]) } else { Dims::new([size]) };
    let output = AutoTensor { dims, ..tensor(card.task.output(), DataType::Fp32, size) };
    let mut parameters = vec![("model".to_owned(), "encoder".to_owned())];
    if card.tokens().is_some() {
        parameters.push(("batch_cost".to_owned(), format!("tokens/{}", card.quadratic_tokens())));
    }
    AutoModel { inputs, outputs: vec![output], max_batch_rows: MAX_BATCH_ROWS, parameters }
}

/// What a tokenizer takes and gives. Pairs are asked for where a text is judged against another, and offsets where tokens
/// are judged; a configuration may ask for both with any tokenizer.
fn describe_tokenizer(card: &ModelCard) -> AutoModel {
    let mut inputs = vec![tensor(TEXT, DataType::Bytes, Dim::Fixed(1))];
    if card.task == Task::Classification {
        inputs.push(text_pair());
    }
    let mut outputs = token_tensors(card, false);
    if card.task == Task::TokenClassification {
        outputs.push(offsets());
    }
    AutoModel { inputs, outputs, max_batch_rows: MAX_BATCH_ROWS, parameters: vec![("model".to_owned(), "tokenizer".to_owned())] }
}

/// The second text of each row.
fn text_pair() -> AutoTensor {
    AutoTensor { optional: true, ..tensor(TEXT_PAIR, DataType::Bytes, Dim::Fixed(1)) }
}

/// Where each token stands in its text.
fn offsets() -> AutoTensor {
    AutoTensor { dims: Dims::new([Dim::Variable, Dim::Fixed(2)]), ..tensor(OFFSETS, DataType::Int64, Dim::Variable) }
}

/// What an encoder takes and its tokenizer gives. As inputs they may be ragged: the encoder packs the rows of all
/// requests, whatever their width. Without a mask every column is a token.
fn token_tensors(card: &ModelCard, as_inputs: bool) -> Vec<AutoTensor> {
    let mask = tensor(ATTENTION_MASK, DataType::Int64, Dim::Variable);
    let mut tensors = vec![tensor(INPUT_IDS, DataType::Int64, Dim::Variable), AutoTensor { optional: as_inputs, ..mask }];
    if card.tokens().is_some_and(|tokens| tokens.token_types > 0) {
        tensors.push(AutoTensor { optional: as_inputs, ..tensor(TOKEN_TYPE_IDS, DataType::Int64, Dim::Variable) });
    }
    tensors.into_iter().map(|tensor| AutoTensor { ragged: as_inputs, ..tensor }).collect()
}

fn tensor(name: &str, datatype: DataType, dim: Dim) -> AutoTensor {
    AutoTensor { name: name.into(), datatype, dims: Dims::new([dim]), optional: false, ragged: false }
}

/// Checks a configuration against what the model's files say.
///
/// # Errors
/// The model does not batch; a tensor of the configuration is not one of the model's, or is another; a
/// required input is not configured or is optional.
fn check(config: &ModelConfig, kind: &'static str, auto: &AutoModel) -> Result<(), LoadError> {
    let unsuited = |expected: String, got: String| LoadError::Signature { model: config.name.to_string(), kind, expected, got };
    if config.max_batch_rows.is_none() {
        return Err(unsuited("'max_batch_size' of at least 1".to_owned(), "0".to_owned()));
    }
    for (side, specs, tensors) in [("input", &config.inputs, &auto.inputs), ("output", &config.outputs, &auto.outputs)] {
        for spec in specs {
            let Some(tensor) = tensors.iter().find(|tensor| tensor.name == spec.name) else {
                let known: Vec<&str> = tensors.iter().map(|tensor| &*tensor.name).collect();
                return Err(unsuited(
                    format!("each {side} to be one of {}", known.join(", ")),
                    format!("{side} '{}'", spec.name),
                ));
            };
            if !agrees(spec, tensor) {
                let expected = format!("{side} '{}' as {} {}", tensor.name, tensor.datatype, tensor.dims);
                return Err(unsuited(expected, format!("{} {}", spec.datatype, model_dims(spec))));
            }
        }
    }
    for tensor in auto.inputs.iter().filter(|tensor| !tensor.optional) {
        let configured = config.inputs.iter().find(|spec| spec.name == tensor.name);
        if configured.is_none_or(|spec| spec.optional) {
            let got = if configured.is_some() { "it as an optional one" } else { "no such input" };
            return Err(unsuited(format!("input '{}', not optional", tensor.name), got.to_owned()));
        }
    }
    Ok(())
}

fn agrees(spec: &TensorSpec, tensor: &AutoTensor) -> bool {
    let (configured, own) = (model_dims(spec).as_slice(), tensor.dims.as_slice());
    let dims_agree = configured.len() == own.len() && configured.iter().zip(own).all(|(configured, own)| configured.agrees(*own));
    spec.datatype == tensor.datatype && dims_agree
}

/// The dimensions that the model sees.
fn model_dims(spec: &TensorSpec) -> &Dims {
    spec.reshape.as_ref().unwrap_or(&spec.dims)
}

/// A model that cannot be loaded.
fn failed(model: &str, error: &ModelError) -> LoadError {
    match error {
        // It names the model by itself.
        ModelError::TooLarge { .. } => LoadError::DeviceMemory { reason: error.to_string() },
        _ => LoadError::Backend { model: model.to_owned(), reason: error.to_string() },
    }
}

/// A batch, or one request of it, that cannot be run.
fn refused(error: &ModelError) -> ExecuteError {
    let message = error.to_string();
    match error {
        ModelError::InvalidInput { .. } | ModelError::Tokenize { .. } => ExecuteError::InvalidArgument { message },
        _ => ExecuteError::Internal { message },
    }
}
