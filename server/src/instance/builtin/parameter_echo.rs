//! `parameter_echo`: what a model sees of a request's parameters.

use std::sync::Arc;

use crate::error::{ExecuteError, LoadError};
use crate::request::{Parameter, Parameters};
use crate::tensor::{DataType, Shape, Tensor};

use super::super::Execution;
use super::own_threads::OwnThreads;
use super::setup::{ANY, Needed, Setup};
use super::{Kind, values};

/// The n request parameters, sorted by key -> `key: [n] BYTES`, `value: [n] BYTES`. Booleans are `True` and
/// `False`; a double has its shortest form and a point or an exponent, so that it is told from an integer.
/// Inputs may be any and are not read. Where the model batches, each row holds the same.
struct ParameterEcho {
    key: usize,
    value: usize,
}

/// Opens the kind `parameter_echo`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    let inputs: Vec<&str> = setup.config.inputs.iter().map(|input| &*input.name).collect();
    setup.no_others(&inputs, &["key", "value"])?;
    Ok(Arc::new(ParameterEcho {
        key: setup.output(&Needed { name: "key", datatype: DataType::Bytes, dims: ANY })?,
        value: setup.output(&Needed { name: "value", datatype: DataType::Bytes, dims: ANY })?,
    }))
}

impl Kind for ParameterEcho {
    fn execute(&self, execution: &mut Execution, _threads: &OwnThreads) -> Result<(), ExecuteError> {
        for request in 0..execution.len() {
            let rows = values::has_batch(execution).then_some(execution.request_rows(request).len());
            let parameters = &execution.request(request).parameters;
            let texts: Vec<String> = parameters.values().map(text).collect();
            let keys = tensor(rows, parameters, parameters.keys().map(String::as_str));
            let values = tensor(rows, parameters, texts.iter().map(String::as_str));
            match (keys, values) {
                (Some(keys), Some(values)) => {
                    execution.set_request_output(request, self.key, keys);
                    execution.set_request_output(request, self.value, values);
                }
                _ => {
                    execution.fail(request, ExecuteError::Internal { message: "a parameter is too long for a tensor".to_owned() })
                }
            }
        }
        Ok(())
    }
}

fn tensor<'a>(rows: Option<usize>, parameters: &Parameters, texts: impl Iterator<Item = &'a str> + Clone) -> Option<Tensor> {
    let shape = Shape::new(rows.into_iter().chain([parameters.len()]).collect::<Vec<_>>());
    let repeated = (0..rows.unwrap_or(1)).flat_map(|_| texts.clone());
    Tensor::from_strings(shape, repeated.map(str::as_bytes))
}

fn text(parameter: &Parameter) -> String {
    match parameter {
        Parameter::Bool(true) => "True".to_owned(),
        Parameter::Bool(false) => "False".to_owned(),
        Parameter::Int64(value) => value.to_string(),
        Parameter::String(value) => value.clone(),
        Parameter::Double(value) => format!("{value:?}"),
    }
}
