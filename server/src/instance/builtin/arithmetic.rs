//! `add_sub` and `sub_add`: the sum and the difference of two inputs, element by element.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::ModelConfig;
use crate::error::{ExecuteError, LoadError};
use crate::request::ValidRequest;
use crate::tensor::{DataType, Tensor};

use super::super::Execution;
use super::number::{Number, Wide, with_number};
use super::own_threads::OwnThreads;
use super::setup::{Setup, model_dims};
use super::{Kind, values};

/// The inputs, by name.
const INPUTS: [&str; 2] = ["INPUT0", "INPUT1"];

/// `INPUT0` and `INPUT1` of one datatype and shape; the sum and the difference in that datatype, each
/// converted to the datatype of its output (see `number`). `BYTES` elements are numbers as decimal text: integers
/// of 64 bits, or numbers with a point or exponent, which are computed in double precision.
struct Arithmetic {
    /// Positions of `INPUT0` and `INPUT1`.
    inputs: [usize; 2],
    /// What each output holds; `None` for the one that is never produced.
    outputs: [Option<Operation>; 2],
}

#[derive(Clone, Copy)]
enum Operation {
    Sum,
    Difference,
}

/// Opens the kinds `add_sub` and `sub_add`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    let config = setup.config;
    let index = |name: &str| {
        let index = config.input_index(name).filter(|index| !config.inputs[*index].optional);
        index.ok_or_else(|| setup.unsuited(format!("input '{name}', not optional"), "no such input"))
    };
    let inputs = [index(INPUTS[0])?, index(INPUTS[1])?];
    if config.inputs.len() != 2 || config.outputs.len() != 2 {
        let got = format!("{} inputs and {} outputs", config.inputs.len(), config.outputs.len());
        return Err(setup.unsuited("two inputs and two outputs", got));
    }
    let [first, second] = inputs.map(|index| &config.inputs[index]);
    if first.datatype != second.datatype {
        let got = format!("{} and {}", first.datatype, second.datatype);
        return Err(setup.unsuited("inputs of one datatype", got));
    }
    for spec in std::iter::once(second).chain(&config.outputs) {
        let (expected, dims) = (model_dims(first), model_dims(spec));
        let agree = expected.as_slice().len() == dims.as_slice().len()
            && expected.as_slice().iter().zip(dims.as_slice()).all(|(expected, dim)| expected.agrees(*dim));
        if !agree {
            return Err(
                setup.unsuited(format!("tensors of one shape, as 'INPUT0' of {expected}"), format!("'{}' of {dims}", spec.name))
            );
        }
    }
    let order = match setup.kind {
        "sub_add" => [Operation::Difference, Operation::Sum],
        _ => [Operation::Sum, Operation::Difference],
    };
    let omitted = match setup.text("omit_output") {
        None => None,
        Some(name) => {
            let omitted = config.output_index(name);
            Some(omitted.ok_or_else(|| setup.bad_parameter("omit_output", "the name of an output"))?)
        }
    };
    let outputs = [0, 1].map(|output| (omitted != Some(output)).then_some(order[output]));
    Ok(Arc::new(Arithmetic { inputs, outputs }))
}

impl Kind for Arithmetic {
    fn execute(&self, execution: &mut Execution, _threads: &OwnThreads) -> Result<(), ExecuteError> {
        let config = Arc::clone(execution.config());
        for request in 0..execution.len() {
            if !execution.is_waiting(request) {
                continue;
            }
            match self.answer(&config, execution.request(request)) {
                Ok(outputs) => {
                    for (output, tensor) in outputs {
                        execution.set_request_output(request, output, tensor);
                    }
                }
                Err(error) => execution.fail(request, error),
            }
        }
        Ok(())
    }
}

impl Arithmetic {
    /// The wanted outputs of one request.
    fn answer(&self, config: &ModelConfig, request: &ValidRequest) -> Result<Vec<(usize, Tensor)>, ExecuteError> {
        let a = values::required(request, self.inputs[0])?;
        let b = values::required(request, self.inputs[1])?;
        if a.shape() != b.shape() {
            return Err(ExecuteError::InvalidArgument {
                message: format!("expected INPUT0 and INPUT1 shape to match, got {} and {}", a.shape(), b.shape()),
            });
        }
        let mut answers = Vec::with_capacity(2);
        for (output, operation) in self.outputs.iter().enumerate() {
            let (Some(operation), Some(true)) = (operation, request.outputs.get(output)) else {
                continue;
            };
            let to = config.outputs[output].datatype;
            let bytes = match with_number!(a.datatype(), N => combine::<N>(a.bytes(), b.bytes(), *operation, to)) {
                Some(bytes) => bytes?,
                None => combine_text(a, b, *operation, to)?,
            };
            let tensor = Tensor::new(to, a.shape().clone(), Bytes::from(bytes));
            let tensor = tensor.ok_or_else(|| ExecuteError::Internal {
                message: format!("output '{}' of {to} {} is too large", config.outputs[output].name, a.shape()),
            })?;
            answers.push((output, tensor));
        }
        Ok(answers)
    }
}

/// Sums or differences of two arrays of numbers, in datatype `to`.
fn combine<N: Number>(a: &[u8], b: &[u8], operation: Operation, to: DataType) -> Result<Vec<u8>, ExecuteError> {
    let pairs = a.chunks_exact(N::SIZE).zip(b.chunks_exact(N::SIZE)).map(|(a, b)| (N::read(a), N::read(b)));
    let results = pairs.map(|(a, b)| match operation {
        Operation::Sum => a.plus(b),
        Operation::Difference => a.minus(b),
    });
    let count = a.len() / N::SIZE;
    if to == N::DATATYPE {
        return Ok(write_all(count, results));
    }
    write_as(count, results.map(N::widen), to)
}

/// Sums or differences of numbers that are text, in datatype `to`.
fn combine_text(a: &Tensor, b: &Tensor, operation: Operation, to: DataType) -> Result<Vec<u8>, ExecuteError> {
    let mut results = Vec::new();
    for (index, (a, b)) in a.strings().zip(b.strings()).enumerate() {
        let (a, b) = (parse(INPUTS[0], index, a)?, parse(INPUTS[1], index, b)?);
        results.push(match operation {
            Operation::Sum => a.plus(b),
            Operation::Difference => a.minus(b),
        });
    }
    write_as(results.len(), results.into_iter(), to)
}

fn parse(input: &str, index: usize, text: &[u8]) -> Result<Wide, ExecuteError> {
    // A client's text may have any length; the message shows the beginning.
    const SHOWN: usize = 64;
    Wide::parse(text).ok_or_else(|| ExecuteError::InvalidArgument {
        message: format!(
            "expected element {index} of {input} to be a 64-bit integer or a decimal number as text, got '{}'",
            text.get(..SHOWN).unwrap_or(text).escape_ascii()
        ),
    })
}

/// The bytes of numbers in their own datatype.
fn write_all<N: Number>(count: usize, numbers: impl Iterator<Item = N>) -> Vec<u8> {
    let mut bytes = vec![0; count * N::SIZE];
    for (slot, number) in bytes.chunks_exact_mut(N::SIZE).zip(numbers) {
        number.write(slot);
    }
    bytes
}

/// The bytes of numbers in datatype `to`.
fn write_as(count: usize, numbers: impl Iterator<Item = Wide> + Clone, to: DataType) -> Result<Vec<u8>, ExecuteError> {
    if let Some(bytes) = with_number!(to, N => write_all(count, numbers.clone().map(N::narrow))) {
        return Ok(bytes);
    }
    let mut bytes = Vec::new();
    let mut text = String::new();
    for number in numbers {
        text.clear();
        number.write_text(&mut text);
        let length = u32::try_from(text.len()).map_err(|_| ExecuteError::Internal { message: "a number of 4 GiB".to_owned() })?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(bytes)
}
