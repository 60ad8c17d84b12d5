//! `identity`: the i-th output is the i-th input.

use std::sync::Arc;

use crate::error::{ExecuteError, LoadError};
use crate::request::Parameter;
use crate::tensor::{Shape, Tensor};

use super::super::{Execution, split};
use super::own_threads::OwnThreads;
use super::setup::{Setup, model_dims};
use super::{Kind, values};

/// Each output is the input at its position, as the model sees it: the same bytes, not a copy. Batches need
/// not be gathered, so requests of one batch may differ in shape.
pub(super) struct Identity {
    /// What becomes of the output whose optional input is missing.
    missing: Missing,
}

#[derive(Clone, Copy)]
enum Missing {
    /// Zeros in the configured shape, one element for each variable dimension.
    Zeros,
    /// The output is left out.
    Omit,
}

/// Opens the kind `identity`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    Identity::open(setup).map(|identity| -> Arc<dyn Kind> { Arc::new(identity) })
}

impl Identity {
    /// Checks that there is an input for each output and that their datatypes and dimensions agree.
    pub(super) fn open(setup: &Setup<'_>) -> Result<Self, LoadError> {
        let missing = match setup.text("missing") {
            None | Some("zeros") => Missing::Zeros,
            Some("omit") => Missing::Omit,
            Some(_) => return Err(setup.bad_parameter("missing", "'zeros' or 'omit'")),
        };
        let (inputs, outputs) = (&setup.config.inputs, &setup.config.outputs);
        if outputs.len() > inputs.len() {
            let got = format!("{} inputs and {} outputs", inputs.len(), outputs.len());
            return Err(setup.unsuited("at least as many inputs as outputs", got));
        }
        for (input, output) in inputs.iter().zip(outputs) {
            let (from, to) = (model_dims(input), model_dims(output));
            let agree = from.as_slice().len() == to.as_slice().len()
                && from.as_slice().iter().zip(to.as_slice()).all(|(from, to)| from.agrees(*to));
            if !agree || input.datatype != output.datatype {
                return Err(setup.unsuited(
                    format!("output '{}' to agree with input '{}' ({} {from})", output.name, input.name, input.datatype),
                    format!("{} {to}", output.datatype),
                ));
            }
        }
        Ok(Self { missing })
    }

    /// Answers every request of the batch, with the example parameters.
    pub(super) fn answer(&self, execution: &mut Execution) -> Result<(), ExecuteError> {
        self.pass(execution)?;
        for request in 0..execution.len() {
            set_example_parameters(execution, request);
        }
        Ok(())
    }

    /// Makes the outputs of every request of the batch.
    pub(super) fn pass(&self, execution: &mut Execution) -> Result<(), ExecuteError> {
        let config = Arc::clone(execution.config());
        for request in 0..execution.len() {
            for (output, spec) in config.outputs.iter().enumerate() {
                let given = execution.request(request).inputs.get(output).cloned().flatten();
                let tensor = match (given, self.missing) {
                    (Some(tensor), _) => tensor,
                    (None, Missing::Omit) => continue,
                    (None, Missing::Zeros) => {
                        let batch = values::has_batch(execution).then_some(execution.request_rows(request).len());
                        let shape = Shape::new(batch.into_iter().chain(model_dims(spec).filled(1)).collect::<Vec<_>>());
                        let zeros = shape.element_count().and_then(|count| split::zeros(spec.datatype, count));
                        let tensor = zeros.and_then(|bytes| Tensor::new(spec.datatype, shape.clone(), bytes));
                        tensor.ok_or_else(|| ExecuteError::Internal {
                            message: format!("output '{}' of shape {shape} is too large to be filled with zeros", spec.name),
                        })?
                    }
                };
                execution.set_request_output(request, output, tensor);
            }
        }
        Ok(())
    }
}

impl Kind for Identity {
    fn execute(&self, execution: &mut Execution, _threads: &OwnThreads) -> Result<(), ExecuteError> {
        self.answer(execution)
    }
}

/// One response parameter of each type, for tests of clients.
fn set_example_parameters(execution: &mut Execution, request: usize) {
    execution.set_parameter(request, "param0", Parameter::String("an example string parameter".to_owned()));
    execution.set_parameter(request, "param1", Parameter::Int64(42));
    execution.set_parameter(request, "param2", Parameter::Bool(false));
    execution.set_parameter(request, "param3", Parameter::Double(123.123));
}
