//! Filling in what a configuration leaves out, from what its model says of itself.

use std::num::NonZeroUsize;
use std::sync::Arc;

use proto::inference as wire;

use crate::tensor::{DataType, Dims};

use super::tensors::wire_type;

/// A tensor as a model's own files describe it, without the batch dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoTensor {
    /// Name.
    pub name: Arc<str>,
    /// Datatype.
    pub datatype: DataType,
    /// Dimensions.
    pub dims: Dims,
    /// Inputs only: may be left out.
    pub optional: bool,
    /// Inputs only: rows of different shapes may share a batch.
    pub ragged: bool,
}

/// What a model's own files say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoModel {
    /// Inputs.
    pub inputs: Vec<AutoTensor>,
    /// Outputs.
    pub outputs: Vec<AutoTensor>,
    /// Largest batch that is worth forming.
    pub max_batch_rows: NonZeroUsize,
    /// Settings to add to `parameters` where they are not written.
    pub parameters: Vec<(String, String)>,
}

/// Fills in the holes of `written`: tensors, batch size and dynamic batching are set only where the
/// configuration says nothing of them. What is written stays.
pub fn auto_complete(written: &mut wire::ModelConfig, auto: &AutoModel) {
    if written.input.is_empty() && written.output.is_empty() && written.max_batch_size == 0 {
        written.max_batch_size = i32::try_from(auto.max_batch_rows.get()).unwrap_or(i32::MAX);
        if written.scheduling_choice.is_none() {
            written.scheduling_choice =
                Some(wire::model_config::SchedulingChoice::DynamicBatching(wire::ModelDynamicBatching::default()));
        }
    }
    if written.input.is_empty() {
        written.input = auto.inputs.iter().map(input).collect();
    }
    if written.output.is_empty() {
        written.output = auto.outputs.iter().map(output).collect();
    }
    for (key, value) in &auto.parameters {
        written.parameters.entry(key.clone()).or_insert_with(|| wire::ModelParameter { string_value: value.clone() });
    }
}

fn input(tensor: &AutoTensor) -> wire::ModelInput {
    wire::ModelInput {
        name: tensor.name.to_string(),
        data_type: wire_type(tensor.datatype).into(),
        dims: tensor.dims.to_wire(),
        optional: tensor.optional,
        allow_ragged_batch: tensor.ragged,
        ..Default::default()
    }
}

fn output(tensor: &AutoTensor) -> wire::ModelOutput {
    wire::ModelOutput {
        name: tensor.name.to_string(),
        data_type: wire_type(tensor.datatype).into(),
        dims: tensor.dims.to_wire(),
        ..Default::default()
    }
}
