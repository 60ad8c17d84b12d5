//! Tensors between models that batch and models that do not. Contents are shared, never copied.

use std::sync::Arc;

use crate::config::ModelConfig;
use crate::request::{InputTensor, Parameters};
use crate::tensor::{Shape, Tensor, TensorSpec};

/// Response parameters that go from a step to the ensemble's own response, as in Triton.
const SEQUENCE_PARAMETERS: [&str; 3] = ["sequence_id", "sequence_start", "sequence_end"];

/// A tensor on its way through the graph.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) tensor: Tensor,
    /// Its first dimension is the batch dimension of the model that made it.
    pub(super) batched: bool,
    /// What the response that brought it says about its sequence.
    pub(super) sequence: Option<Arc<Parameters>>,
}

/// The parameters that a response hands on with its tensors.
pub(super) fn sequence_parameters(mut parameters: Parameters) -> Option<Arc<Parameters>> {
    parameters.retain(|name, _| SEQUENCE_PARAMETERS.contains(&name.as_str()));
    (!parameters.is_empty()).then(|| Arc::new(parameters))
}

/// An input of the ensemble as its client sent it: what a `reshape` changed is changed back, for
/// composing models are configured against the dimensions that clients see.
pub(super) fn client_input(config: &ModelConfig, spec: &TensorSpec, tensor: Tensor) -> Value {
    let batched = config.max_batch_rows.is_some();
    let tensor = match &spec.reshape {
        None => tensor,
        Some(reshape) => {
            let sizes = tensor.shape().sizes();
            let (rows, inner) = if batched { sizes.split_at(sizes.len().min(1)) } else { sizes.split_at(0) };
            let shape = reshape.carry(inner, &spec.dims).map(|inner| Shape::new([rows, inner.as_slice()].concat()));
            shape.and_then(|shape| tensor.clone().reshaped(shape)).unwrap_or(tensor)
        }
    };
    Value { tensor, batched, sequence: None }
}

/// The shape in which a model takes a tensor (or an ensemble hands it out).
///
/// Between models that both batch, or both do not, it stays. A model that batches gets a leading 1 where the
/// tensor is one row of it; a model that does not loses a leading 1 where it does not take the tensor as a
/// whole. Whatever fits neither way stays, to be refused by the model with its own text.
pub(super) fn shape_for(value: &Value, config: &ModelConfig, spec: &TensorSpec) -> Shape {
    let shape = value.tensor.shape();
    let sizes = shape.sizes();
    match (value.batched, config.max_batch_rows.is_some()) {
        (false, true) if spec.dims.admits(sizes) => Shape::new([&[1], sizes].concat()),
        (true, false) if sizes.first() == Some(&1) && !spec.dims.admits(sizes) => Shape::new(shape.row_sizes()),
        _ => shape.clone(),
    }
}

/// A tensor as the input of a composing model's request.
pub(super) fn step_input(value: Value, config: &ModelConfig, name: &str) -> InputTensor {
    let shape = match config.inputs.iter().find(|spec| &*spec.name == name) {
        Some(spec) => shape_for(&value, config, spec),
        // The model refuses an input that it does not have.
        None => value.tensor.shape().clone(),
    };
    InputTensor {
        name: name.to_owned(),
        datatype: Ok(value.tensor.datatype()),
        shape: shape.sizes().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
        contents: value.tensor.bytes().clone(),
    }
}

/// A tensor as an output of the ensemble.
pub(super) fn ensemble_output(value: Value, config: &ModelConfig, spec: &TensorSpec) -> Tensor {
    let shape = shape_for(&value, config, spec);
    value.tensor.clone().reshaped(shape).unwrap_or(value.tensor)
}
