//! From an [`InferResponse`] to the wire.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_response::InferOutputTensor;
use proto::inference::{InferParameter, ModelInferResponse, ModelStreamInferResponse};

use crate::classification::classify;
use crate::clock;
use crate::config::ModelConfig;
use crate::error::InferError;
use crate::request::{InferResponse, Parameter};

use super::shared::{self, SharedTensors};
use super::{details, status, timeline};

/// On a stream: whether no response of this request follows.
const FINAL_FLAG: &str = "triton_final_response";

/// On a stream, our addition: the code that a unary call would have ended with.
const STATUS_CODE: &str = "alcedo_status_code";

/// The same: the stable name of what went wrong, as a unary call has it in its details.
const REASON: &str = "alcedo_reason";

/// The same: milliseconds after which it is worth trying again, where it is.
const RETRY_AFTER: &str = "alcedo_retry_after_ms";

/// Replaces the outputs that the client wants as classes.
///
/// # Errors
/// The output cannot be classified.
pub(super) fn apply_classes(
    response: &mut InferResponse,
    config: &ModelConfig,
    classes: &[(String, usize)],
) -> Result<(), InferError> {
    for (name, count) in classes {
        if let Some(output) = response.outputs.iter_mut().find(|output| *output.name == **name) {
            let labels = config.outputs.iter().find(|spec| *spec.name == **name).and_then(|spec| spec.labels.as_deref());
            *output = classify(output, labels, *count, config.max_batch_rows.is_some())?;
        }
    }
    Ok(())
}

/// A response as a message. Contents are always raw and share the tensors' bytes. An output in shared memory has been
/// written there: it has its place as parameters, and empty contents, by which clients keep count of the others.
pub(super) fn response(response: InferResponse, shared: &SharedTensors) -> ModelInferResponse {
    let mut outputs = Vec::with_capacity(response.outputs.len());
    let mut raw_output_contents = Vec::with_capacity(response.outputs.len());
    for output in response.outputs {
        let contents = output.tensor.bytes();
        let (parameters, raw) = match shared.place_of(&output.name) {
            Some(place) => (shared::parameters(place, contents.len()), Bytes::new()),
            None => (BTreeMap::new(), contents.clone()),
        };
        raw_output_contents.push(raw);
        outputs.push(InferOutputTensor {
            name: output.name.to_string(),
            datatype: output.tensor.datatype().as_str().to_owned(),
            shape: output.tensor.shape().sizes().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
            parameters,
            contents: None,
        });
    }
    let mut message = ModelInferResponse {
        model_name: response.model_name.to_string(),
        model_version: response.model_version.to_string(),
        id: response.id,
        parameters: response.parameters.into_iter().map(|(name, value)| (name, parameter(value))).collect(),
        outputs,
        raw_output_contents,
    };
    if let Some(way) = response.timeline {
        let text = timeline::encode(&response.model_name, response.model_version, &way, clock::now());
        message.parameters.insert(timeline::PARAMETER.to_owned(), parameter(Parameter::String(text)));
    }
    message
}

/// A response on a stream, with its final flag.
pub(super) fn streamed(response_of: InferResponse, shared: &SharedTensors, last: bool) -> ModelStreamInferResponse {
    let mut message = response(response_of, shared);
    message.parameters.insert(FINAL_FLAG.to_owned(), parameter(Parameter::Bool(last)));
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(message) }
}

/// By which a client on a stream knows which of its requests a message is about.
#[derive(Clone, Debug)]
pub(super) struct Correlation {
    /// The request's id.
    pub(super) id: String,
    /// Its model.
    pub(super) model: String,
    /// The version that answers, or the text that asked for one.
    pub(super) version: String,
}

/// The final flag alone.
pub(super) fn empty_final(correlation: &Correlation) -> ModelStreamInferResponse {
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(header(correlation, true)) }
}

/// An error on a stream that goes on.
pub(super) fn streamed_error(
    correlation: &Correlation,
    error: &InferError,
    status: &tonic::Status,
    last: bool,
) -> ModelStreamInferResponse {
    let mut message = header(correlation, last);
    let code = status::code_name(status.code());
    let mut put = |name: &str, value| message.parameters.insert(name.to_owned(), parameter(value));
    put(STATUS_CODE, Parameter::String(code.to_owned()));
    put(REASON, Parameter::String(details::reason(error).to_owned()));
    if let Some(wait) = details::retry_after(error) {
        // Rounded up: who comes earlier comes in vain.
        let millis = wait.as_nanos().div_ceil(1_000_000);
        put(RETRY_AFTER, Parameter::Int64(i64::try_from(millis).unwrap_or(i64::MAX)));
    }
    // An empty text would read as "no error"; cancellation has none.
    let text = if status.message().is_empty() { code } else { status.message() };
    ModelStreamInferResponse { error_message: text.to_owned(), infer_response: Some(message) }
}

fn header(correlation: &Correlation, last: bool) -> ModelInferResponse {
    ModelInferResponse {
        model_name: correlation.model.clone(),
        model_version: correlation.version.clone(),
        id: correlation.id.clone(),
        parameters: BTreeMap::from([(FINAL_FLAG.to_owned(), parameter(Parameter::Bool(last)))]),
        ..ModelInferResponse::default()
    }
}

fn parameter(value: Parameter) -> InferParameter {
    InferParameter {
        parameter_choice: Some(match value {
            Parameter::Bool(value) => ParameterChoice::BoolParam(value),
            Parameter::Int64(value) => ParameterChoice::Int64Param(value),
            Parameter::String(value) => ParameterChoice::StringParam(value),
            Parameter::Double(value) => ParameterChoice::DoubleParam(value),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{ComputeTiming, OutputTensor, Parameters};
    use crate::tensor::{DataType, Shape, Tensor};

    fn answered(bytes: Bytes) -> InferResponse {
        let tensor = Tensor::new(DataType::Int32, Shape::new([1, 2]), bytes).expect("two elements of four bytes");
        InferResponse {
            model_name: "m".into(),
            model_version: 7,
            id: "id".to_owned(),
            parameters: Parameters::from([("ratio".to_owned(), Parameter::Double(0.5))]),
            outputs: vec![OutputTensor { name: "OUT".into(), tensor }],
            timing: ComputeTiming::default(),
            timeline: None,
        }
    }

    #[test]
    fn contents_are_raw_and_shared() {
        let bytes = Bytes::from(vec![1, 0, 0, 0, 2, 0, 0, 0]);
        let message = response(answered(bytes.clone()), &SharedTensors::default());
        assert_eq!((message.model_name.as_str(), message.model_version.as_str(), message.id.as_str()), ("m", "7", "id"));
        let output = message.outputs.first().expect("one output");
        assert_eq!((output.name.as_str(), output.datatype.as_str(), output.shape.as_slice()), ("OUT", "INT32", &[1, 2][..]));
        assert_eq!(output.contents, None);
        assert_eq!(message.raw_output_contents.len(), 1);
        assert_eq!(message.raw_output_contents[0].as_ptr(), bytes.as_ptr(), "the bytes were copied");
        assert_eq!(message.parameters["ratio"].parameter_choice, Some(ParameterChoice::DoubleParam(0.5)));
        assert!(!message.parameters.contains_key(FINAL_FLAG), "the final flag belongs to streams");
    }

    #[test]
    fn streams_carry_the_final_flag_and_errors_their_code() {
        let flag = |message: &ModelStreamInferResponse| {
            message.infer_response.as_ref().and_then(|response| response.parameters[FINAL_FLAG].parameter_choice.clone())
        };
        let message = streamed(answered(Bytes::from(vec![0; 8])), &SharedTensors::default(), false);
        assert_eq!(flag(&message), Some(ParameterChoice::BoolParam(false)));
        let correlation = Correlation { id: "id".to_owned(), model: "m".to_owned(), version: "7".to_owned() };
        assert_eq!(flag(&empty_final(&correlation)), Some(ParameterChoice::BoolParam(true)));
        let failed = |error: &InferError| streamed_error(&correlation, error, &status::infer_status("m", error), true);
        let wait = std::time::Duration::from_micros(1500);
        let message = failed(&InferError::Unreachable { retry_after: Some(wait) });
        assert_eq!(message.error_message, "Request timeout expired");
        let parameters = message.infer_response.map(|response| response.parameters).unwrap_or_default();
        let value = |name: &str| parameters[name].parameter_choice.clone();
        assert_eq!(value(STATUS_CODE), Some(ParameterChoice::StringParam("UNAVAILABLE".to_owned())));
        assert_eq!(value(REASON), Some(ParameterChoice::StringParam("DEADLINE_UNREACHABLE".to_owned())));
        assert_eq!(value(RETRY_AFTER), Some(ParameterChoice::Int64Param(2)));
        let cancelled = failed(&InferError::Cancelled);
        assert_eq!(cancelled.error_message, "CANCELLED");
        assert!(!cancelled.infer_response.unwrap_or_default().parameters.contains_key(RETRY_AFTER));
    }
}
