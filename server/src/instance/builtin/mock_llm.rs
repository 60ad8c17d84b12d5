//! `mock_llm`: answers a prompt with itself, at once or in a stream, for tests of generation clients.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::error::{ExecuteError, LoadError};
use crate::request::{Parameter, Parameters, ValidRequest};
use crate::tensor::{DataType, Dim, Shape, Tensor, TensorSpec};

use super::super::{Execution, ResponseStream, StreamedResponse};
use super::own_threads::OwnThreads;
use super::setup::{Needed, Setup, model_dims};
use super::waiting::MAX_REQUESTED_DELAY;
use super::{Kind, values};

/// `PROMPT: [1, 1] BYTES`, `STREAM: [1, 1] BOOL`, optionally `input_ids: [1, n] INT32` (not read) ->
/// `TEXT: BYTES`, the prompt, in the configured shape with 1 for each variable dimension.
///
/// `STREAM` false: one response, which is the last. True (the model must be decoupled): copies from a thread
/// of their own, then the final flag. Request parameters, for the stream: `REPETITION` copies (default 1),
/// `DELAY` seconds before each, `FAIL_LAST` for an error at the end; for both: `OUTPUT_0_DIM` for a text
/// of shape `[0]`. A model that batches takes requests of one row each.
struct MockLlm {
    prompt: usize,
    stream: usize,
    text: usize,
}

/// The matrix of one element.
const ONE_BY_ONE: &[Dim] = &[Dim::Fixed(1), Dim::Fixed(1)];
/// A matrix of one row.
const ONE_BY_ANY: &[Dim] = &[Dim::Fixed(1), Dim::Variable];

/// Opens the kind `mock_llm`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    setup.no_others(&["PROMPT", "STREAM", "input_ids"], &["TEXT"])?;
    setup.optional_input(&Needed { name: "input_ids", datatype: DataType::Int32, dims: ONE_BY_ANY })?;
    let text = setup.config.output_index("TEXT");
    let suits =
        |spec: &TensorSpec| spec.datatype == DataType::Bytes && Shape::new(model_dims(spec).filled(1)).element_count() == Some(1);
    let text = text.filter(|text| suits(&setup.config.outputs[*text]));
    Ok(Arc::new(MockLlm {
        prompt: setup.input(&Needed { name: "PROMPT", datatype: DataType::Bytes, dims: ONE_BY_ONE })?,
        stream: setup.input(&Needed { name: "STREAM", datatype: DataType::Bool, dims: ONE_BY_ONE })?,
        text: text.ok_or_else(|| setup.unsuited("output 'TEXT' of BYTES that can hold one element", "none"))?,
    }))
}

/// What one request asks for.
struct Plan {
    stream: bool,
    text: Tensor,
    copies: u64,
    delay: Duration,
    fail_last: bool,
}

impl Kind for MockLlm {
    fn execute(&self, execution: &mut Execution, threads: &OwnThreads) -> Result<(), ExecuteError> {
        for request in 0..execution.len() {
            match self.plan(execution, request) {
                Ok(plan) if !plan.stream => execution.set_request_output(request, self.text, plan.text),
                Ok(plan) => {
                    if let Some(stream) = execution.stream(request) {
                        let text = self.text;
                        threads.run(move || plan.run(stream, text));
                    }
                }
                Err(error) => execution.fail(request, error),
            }
        }
        Ok(())
    }
}

impl MockLlm {
    fn plan(&self, execution: &Execution, request: usize) -> Result<Plan, ExecuteError> {
        values::single_row(&execution.request_rows(request))?;
        let config = execution.config();
        let batch = values::has_batch(execution).then_some(1);
        let request = execution.request(request);
        let [stream] = values::first::<1>("STREAM", values::required(request, self.stream)?)?;
        if stream != 0 && !config.decoupled {
            return Err(ExecuteError::InvalidArgument {
                message: "STREAM is true, but the model is not decoupled; send false, or serve it decoupled".to_owned(),
            });
        }
        let parameters = &request.parameters;
        let text = if boolean(parameters, "OUTPUT_0_DIM")? {
            let shape = Shape::new(batch.into_iter().chain([0]).collect::<Vec<_>>());
            Tensor::from_strings(shape, [])
        } else {
            let dims = model_dims(&config.outputs[self.text]).filled(1);
            let shape = Shape::new(batch.into_iter().chain(dims).collect::<Vec<_>>());
            Tensor::from_strings(shape, [self.read_prompt(request)?])
        };
        Ok(Plan {
            stream: stream != 0,
            text: text.ok_or_else(|| ExecuteError::Internal { message: "the prompt does not fit TEXT".to_owned() })?,
            copies: copies(parameters)?,
            delay: delay(parameters)?,
            fail_last: boolean(parameters, "FAIL_LAST")?,
        })
    }

    fn read_prompt<'a>(&self, request: &'a ValidRequest) -> Result<&'a [u8], ExecuteError> {
        let prompt = values::required(request, self.prompt)?;
        prompt.strings().next().ok_or_else(|| ExecuteError::InvalidArgument {
            message: format!("expected PROMPT to hold one text, got shape {}", prompt.shape()),
        })
    }
}

impl Plan {
    fn run(self, mut stream: ResponseStream, text: usize) {
        for _ in 0..self.copies {
            let start = clock::now();
            if stream.cancellation().wait(self.delay) {
                return stream.abort();
            }
            let compute_infer = clock::now().since(start);
            let outputs = vec![(text, self.text.clone())];
            if let Err(error) = stream.send(StreamedResponse { outputs, compute_infer, ..Default::default() }) {
                return stream.fail(error);
            }
        }
        if self.fail_last {
            stream.fail(ExecuteError::Internal { message: "An Error Occurred".to_owned() });
        } else {
            stream.finish();
        }
    }
}

fn wrong(name: &str, expected: &str, got: &Parameter) -> ExecuteError {
    // A client's text may have any length; the message says only that it is one.
    let got = match got {
        Parameter::Bool(value) => value.to_string(),
        Parameter::Int64(value) => value.to_string(),
        Parameter::Double(value) => format!("{value:?}"),
        Parameter::String(_) => "a string".to_owned(),
    };
    ExecuteError::InvalidArgument { message: format!("expected request parameter '{name}' to be {expected}, got {got}") }
}

fn boolean(parameters: &Parameters, name: &str) -> Result<bool, ExecuteError> {
    match parameters.get(name) {
        None => Ok(false),
        Some(Parameter::Bool(value)) => Ok(*value),
        Some(other) => Err(wrong(name, "a boolean", other)),
    }
}

fn copies(parameters: &Parameters) -> Result<u64, ExecuteError> {
    let name = "REPETITION";
    match parameters.get(name) {
        None => Ok(1),
        Some(given @ Parameter::Int64(value)) => {
            u64::try_from(*value).map_err(|_| wrong(name, "an integer of at least 0", given))
        }
        Some(other) => Err(wrong(name, "an integer of at least 0", other)),
    }
}

fn delay(parameters: &Parameters) -> Result<Duration, ExecuteError> {
    let seconds = match parameters.get("DELAY") {
        None => 0.0,
        Some(Parameter::Double(value)) => *value,
        Some(Parameter::Int64(value)) => *value as f64,
        Some(_) => f64::NAN,
    };
    match (0.0..=MAX_REQUESTED_DELAY.as_secs_f64()).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => {
            let expected = format!("a number of seconds between 0 and {}", MAX_REQUESTED_DELAY.as_secs());
            let given = parameters.get("DELAY").unwrap_or(&Parameter::Int64(0));
            Err(wrong("DELAY", &expected, given))
        }
    }
}
