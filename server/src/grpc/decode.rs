//! From the wire to an [`InferRequest`], in two steps with the lookup of the model between them, so that of
//! several faults the one is reported that clients know: parameters, then the model, then the tensors.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]

use std::collections::BTreeMap;
use std::num::IntErrorKind;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use proto::inference::{InferParameter, InferTensorContents, ModelInferRequest};

use crate::clock::{self, Timestamp};
use crate::error::{InferError, RequestProblem, RequestTag, SharedMemoryError, WireShape};
use crate::request::{InferRequest, InputTensor, Parameter, Parameters, RequestOptions, SequenceId, VersionChoice};
use crate::tensor::DataType;
use crate::timeline::Timeline;

use super::shared::{self, Places};
use super::timeline;

/// Prefix of parameter names that only the protocol may use.
const RESERVED_PREFIX: &str = "triton_";

/// What a request says before its model is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    /// Known parameters.
    pub(crate) options: RequestOptions,
    /// All others.
    pub(crate) parameters: Parameters,
    /// The version it asks for.
    pub(crate) version: VersionChoice,
    /// When its client stops waiting.
    pub(crate) deadline: Option<Timestamp>,
}

/// What a request says once its model is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Body {
    /// The request for the scheduler.
    pub(crate) request: InferRequest,
    /// Outputs that are wanted as classes, and how many; the front end applies it to the response.
    pub(crate) classes: Vec<(String, usize)>,
    /// Tensors in shared memory: the contents of such inputs are still empty.
    pub(crate) places: Places,
}

/// Reads parameters and version. Forwarded headers are added where the request has no parameter of that name.
/// `deadline` is when the client stops waiting.
///
/// # Errors
/// A parameter of the wrong type or with a reserved name, or a version that is no positive integer.
pub(crate) fn head(
    parameters: BTreeMap<String, InferParameter>,
    forwarded: &Parameters,
    version: &str,
    deadline: Option<Timestamp>,
) -> Result<Head, InferError> {
    let mut options = RequestOptions::default();
    let mut custom = Parameters::new();
    for (name, value) in parameters {
        if !read_option(&name, &value, &mut options)? {
            let value = custom_parameter(&name, value)?;
            custom.insert(name, value);
        }
    }
    for (name, value) in forwarded {
        custom.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(Head { options, parameters: custom, version: parse_version(version)?, deadline })
}

/// Reads a parameter that the protocol knows; false where it is none of them.
fn read_option(name: &str, value: &InferParameter, options: &mut RequestOptions) -> Result<bool, InferError> {
    let wrong_type = |expected| InferError::ParameterType { parameter: name.to_owned(), expected };
    let negative = |_| InferError::NegativeParameter { parameter: name.to_owned() };
    let flag = || match value.parameter_choice {
        Some(ParameterChoice::BoolParam(flag)) => Ok(flag),
        _ => Err(wrong_type("bool_param")),
    };
    match name {
        "sequence_id" => {
            options.sequence_id = match &value.parameter_choice {
                Some(ParameterChoice::Int64Param(0)) => SequenceId::None,
                Some(ParameterChoice::Int64Param(number)) => SequenceId::Number(u64::try_from(*number).map_err(negative)?),
                Some(ParameterChoice::StringParam(text)) if text.is_empty() => SequenceId::None,
                Some(ParameterChoice::StringParam(text)) => SequenceId::Text(text.clone()),
                _ => return Err(wrong_type("int64_param or string_param")),
            };
        }
        "sequence_start" => options.sequence_start = flag()?,
        "sequence_end" => options.sequence_end = flag()?,
        "priority" => {
            options.priority = match value.parameter_choice {
                Some(ParameterChoice::Int64Param(level)) => u64::try_from(level).map_err(negative)?,
                Some(ParameterChoice::Uint64Param(level)) => level,
                _ => return Err(wrong_type("int64_param or uint64_param")),
            };
        }
        "timeout" => {
            let Some(ParameterChoice::Int64Param(timeout_us)) = value.parameter_choice else {
                return Err(wrong_type("int64_param"));
            };
            let timeout_us = u64::try_from(timeout_us).map_err(negative)?;
            // 0 asks for the model's own limit, as if the parameter were not there.
            options.timeout = (timeout_us > 0).then(|| Duration::from_micros(timeout_us));
        }
        timeline::PARAMETER => options.timeline = flag()?,
        "triton_enable_empty_final_response" => options.empty_final_response = flag()?,
        reserved if reserved.starts_with(RESERVED_PREFIX) => {
            return Err(InferError::ReservedParameter { parameter: reserved.to_owned() });
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn custom_parameter(name: &str, value: InferParameter) -> Result<Parameter, InferError> {
    match value.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Ok(Parameter::Bool(value)),
        Some(ParameterChoice::Int64Param(value)) => Ok(Parameter::Int64(value)),
        Some(ParameterChoice::StringParam(value)) => Ok(Parameter::String(value)),
        Some(ParameterChoice::DoubleParam(value)) => Ok(Parameter::Double(value)),
        Some(ParameterChoice::Uint64Param(_)) | None => {
            Err(InferError::ParameterType { parameter: name.to_owned(), expected: "int64_param, bool_param, or string_param" })
        }
    }
}

/// Reads a version: empty asks for the latest.
///
/// # Errors
/// The text is no integer, or one below 1.
pub(crate) fn parse_version(text: &str) -> Result<VersionChoice, InferError> {
    if text.is_empty() {
        return Ok(VersionChoice::Latest);
    }
    let number = text.parse::<i64>().map_err(|error| InferError::VersionText {
        text: text.to_owned(),
        details: match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "out of range".to_owned(),
            _ => "not an integer".to_owned(),
        },
    })?;
    match u64::try_from(number) {
        Ok(version) if version > 0 => Ok(VersionChoice::Exact(version)),
        _ => Err(InferError::VersionNotPositive { text: text.to_owned() }),
    }
}

/// Reads inputs and requested outputs. Raw contents stay slices of the received message; typed contents are
/// written out as raw ones, which is the only copy on the way in.
///
/// Parameters of tensors other than those of shared memory and classification have no meaning here, and are
/// passed over as Triton passes over them.
///
/// # Errors
/// Contents that are missing, doubled or of the wrong kind; a place in shared memory that says too little, or beside
/// contents; a bad class count.
pub(crate) fn body(message: ModelInferRequest, head: Head, received_at: Timestamp) -> Result<Body, InferError> {
    let model = message.model_name;
    let mut places = Places::default();
    for (index, input) in message.inputs.iter().enumerate() {
        let place = shared::place(&input.name, &input.parameters)?;
        if place.is_some() && input.contents.is_some() {
            return Err(SharedMemoryError::ContentsToo { input: input.name.clone(), model }.into());
        }
        places.inputs.extend(place.map(|place| (index, place)));
    }
    let tag = RequestTag(message.id.clone());
    let inputs = if message.raw_input_contents.is_empty() {
        let inputs = message.inputs.into_iter().enumerate();
        let tensors = inputs.map(|(index, input)| match places.has_input(index) {
            true => Ok(input_tensor(input, Bytes::new())),
            false => typed_input(&model, &tag, input),
        });
        tensors.collect::<Result<_, _>>()?
    } else {
        raw_inputs(&model, message.inputs, message.raw_input_contents, &places)?
    };
    let mut outputs = Vec::with_capacity(message.outputs.len());
    let mut classes = Vec::new();
    for output in message.outputs {
        if let Some(count) = class_count(&output)? {
            classes.push((output.name.clone(), count));
        }
        places.outputs.extend(shared::place(&output.name, &output.parameters)?.map(|place| (output.name.clone(), place)));
        outputs.push(output.name);
    }
    let Head { options, parameters, deadline, version: _ } = head;
    let timeline = options.timeline.then(|| Box::new(Timeline::begin(received_at, clock::now())));
    let request = InferRequest { id: message.id, options, parameters, inputs, outputs, received_at, deadline, timeline };
    Ok(Body { request, classes, places })
}

/// About how many bytes of tensor contents a request holds in memory, those included that will be copied from shared
/// memory.
pub(crate) fn content_bytes(message: &ModelInferRequest) -> usize {
    fn typed(contents: &InferTensorContents) -> usize {
        let texts = contents.bytes_contents.iter().map(Bytes::len).sum::<usize>();
        texts.saturating_add(
            size_of_val(contents.bool_contents.as_slice())
                + size_of_val(contents.bytes_contents.as_slice())
                + size_of_val(contents.int_contents.as_slice())
                + size_of_val(contents.int64_contents.as_slice())
                + size_of_val(contents.uint_contents.as_slice())
                + size_of_val(contents.uint64_contents.as_slice())
                + size_of_val(contents.fp32_contents.as_slice())
                + size_of_val(contents.fp64_contents.as_slice()),
        )
    }
    let raw = message.raw_input_contents.iter().map(Bytes::len).sum::<usize>();
    let contents = message.inputs.iter().filter_map(|input| input.contents.as_ref()).map(typed);
    let placed = message.inputs.iter().map(|input| shared::byte_size(&input.parameters));
    contents.chain(placed).fold(raw, usize::saturating_add)
}

/// How many classes are wanted of an output; `None` for the output itself.
fn class_count(output: &InferRequestedOutputTensor) -> Result<Option<usize>, InferError> {
    const NAME: &str = "classification";
    let count = match output.parameters.get(NAME).map(|value| &value.parameter_choice) {
        None => 0,
        Some(Some(ParameterChoice::Int64Param(count))) => {
            u64::try_from(*count).map_err(|_| InferError::NegativeParameter { parameter: NAME.to_owned() })?
        }
        Some(_) => return Err(InferError::ParameterType { parameter: NAME.to_owned(), expected: "int64_param" }),
    };
    if count > 0 && output.parameters.contains_key(shared::REGION) {
        return Err(InferError::ClassificationInSharedMemory);
    }
    Ok((count > 0).then(|| usize::try_from(count).unwrap_or(usize::MAX)))
}

/// Raw contents belong to the inputs that do not lie in shared memory, in their order.
fn raw_inputs(
    model: &str,
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
    places: &Places,
) -> Result<Vec<InputTensor>, InferError> {
    if let Some(input) = inputs.iter().find(|input| input.contents.is_some()) {
        return Err(InferError::ContentsAndRaw { input: input.name.clone(), model: model.to_owned() });
    }
    let (expected, got) = (inputs.len().saturating_sub(places.inputs.len()), raw.len());
    let mut raw = raw.into_iter();
    let mut tensors = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.into_iter().enumerate() {
        let contents = if places.has_input(index) { Some(Bytes::new()) } else { raw.next() };
        // Entries are taken in the order of the inputs, so it is the first input without one that has no data.
        let Some(contents) = contents else {
            return Err(InferError::NoContents { input: input.name, model: model.to_owned() });
        };
        tensors.push(input_tensor(input, contents));
    }
    if got > expected {
        return Err(InferError::RawCount { model: model.to_owned(), expected, got });
    }
    Ok(tensors)
}

fn input_tensor(input: InferInputTensor, contents: Bytes) -> InputTensor {
    InputTensor {
        datatype: DataType::parse(&input.datatype).ok_or(input.datatype),
        name: input.name,
        shape: input.shape,
        contents,
    }
}

fn typed_input(model: &str, tag: &RequestTag, mut input: InferInputTensor) -> Result<InputTensor, InferError> {
    let typed = input.contents.take().unwrap_or_default();
    let mut supplied = None;
    for (got, fits) in filled_fields(&typed, &input.datatype) {
        let (name, model) = (input.name.clone(), model.to_owned());
        if supplied.is_some() {
            return Err(InferError::ContentsTwice { input: name, model, got });
        }
        if !fits {
            return Err(InferError::ContentsType { input: name, model, got, expected: input.datatype });
        }
        supplied = Some(got);
    }
    // A tensor without elements has nothing to fill a field with.
    if supplied.is_none() && !input.shape.contains(&0) {
        return Err(InferError::NoContents { input: input.name, model: model.to_owned() });
    }
    let contents = write_raw(&typed, &input.datatype).ok_or_else(|| InferError::Request {
        tag: tag.clone(),
        problem: RequestProblem::ByteOverflow {
            input: input.name.clone(),
            model: model.to_owned(),
            got: WireShape(input.shape.clone()),
        },
    })?;
    Ok(input_tensor(input, contents))
}

/// The fields that hold elements, by the datatype that error texts call them, and whether the input's own
/// datatype is written there.
fn filled_fields(typed: &InferTensorContents, datatype: &str) -> impl Iterator<Item = (&'static str, bool)> + use<> {
    let fields = [
        ("BOOL", !typed.bool_contents.is_empty(), matches!(datatype, "BOOL")),
        ("INT32", !typed.int_contents.is_empty(), matches!(datatype, "INT8" | "INT16" | "INT32")),
        ("INT64", !typed.int64_contents.is_empty(), matches!(datatype, "INT64")),
        ("UINT32", !typed.uint_contents.is_empty(), matches!(datatype, "UINT8" | "UINT16" | "UINT32")),
        ("UINT64", !typed.uint64_contents.is_empty(), matches!(datatype, "UINT64")),
        ("FP32", !typed.fp32_contents.is_empty(), matches!(datatype, "FP32")),
        ("FP64", !typed.fp64_contents.is_empty(), matches!(datatype, "FP64")),
        ("BYTES", !typed.bytes_contents.is_empty(), matches!(datatype, "BYTES")),
    ];
    fields.into_iter().filter(|(_, filled, _)| *filled).map(|(name, _, fits)| (name, fits))
}

/// Typed elements as raw contents; `None` where an element is too long for its length field. Of a narrow
/// integer the low bytes are kept, whatever the range, as Triton keeps them.
fn write_raw(typed: &InferTensorContents, datatype: &str) -> Option<Bytes> {
    fn write<T: Copy, const N: usize>(elements: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Bytes {
        let mut raw = BytesMut::with_capacity(elements.len().saturating_mul(N));
        for element in elements {
            raw.put_slice(&to_bytes(*element));
        }
        raw.freeze()
    }
    fn low<const N: usize, const M: usize>(wide: [u8; M]) -> [u8; N] {
        wide.first_chunk().copied().unwrap_or([0; N])
    }
    Some(match datatype {
        "BOOL" => write(&typed.bool_contents, |element| [u8::from(element)]),
        "INT8" => write(&typed.int_contents, |element| low::<1, 4>(element.to_le_bytes())),
        "INT16" => write(&typed.int_contents, |element| low::<2, 4>(element.to_le_bytes())),
        "INT32" => write(&typed.int_contents, i32::to_le_bytes),
        "INT64" => write(&typed.int64_contents, i64::to_le_bytes),
        "UINT8" => write(&typed.uint_contents, |element| low::<1, 4>(element.to_le_bytes())),
        "UINT16" => write(&typed.uint_contents, |element| low::<2, 4>(element.to_le_bytes())),
        "UINT32" => write(&typed.uint_contents, u32::to_le_bytes),
        "UINT64" => write(&typed.uint64_contents, u64::to_le_bytes),
        "FP32" => write(&typed.fp32_contents, f32::to_le_bytes),
        "FP64" => write(&typed.fp64_contents, f64::to_le_bytes),
        "BYTES" => {
            let lengths = typed.bytes_contents.len().saturating_mul(4);
            let payload: usize = typed.bytes_contents.iter().map(Bytes::len).sum();
            let mut raw = BytesMut::with_capacity(lengths.saturating_add(payload));
            for element in &typed.bytes_contents {
                raw.put_u32_le(u32::try_from(element.len()).ok()?);
                raw.put_slice(element);
            }
            raw.freeze()
        }
        _ => Bytes::new(),
    })
}
