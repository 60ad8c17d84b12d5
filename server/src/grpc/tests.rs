//! Decoding: what is read, what is refused, and that no request whatever makes it panic.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use proto::inference::{InferParameter, InferTensorContents, ModelInferRequest};

use super::decode::{self, Body};
use crate::clock::Timestamp;
use crate::config::ModelConfig;
use crate::error::InferError;
use crate::request::{Parameter, Parameters, SequenceId, VersionChoice};
use crate::scheduler::validate::validate;
use crate::shared_memory::Place;
use crate::tensor::DataType;

fn parameters(entries: &[(&str, ParameterChoice)]) -> BTreeMap<String, InferParameter> {
    entries.iter().map(|(name, choice)| ((*name).to_owned(), InferParameter { parameter_choice: Some(choice.clone()) })).collect()
}

fn text(value: &str) -> ParameterChoice {
    ParameterChoice::StringParam(value.to_owned())
}

fn head(entries: &[(&str, ParameterChoice)]) -> Result<decode::Head, InferError> {
    decode::head(parameters(entries), &Parameters::new(), "", None)
}

fn input(name: &str, datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        parameters: BTreeMap::new(),
        contents,
    }
}

fn request(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> ModelInferRequest {
    ModelInferRequest { model_name: "m".to_owned(), inputs, raw_input_contents: raw, ..ModelInferRequest::default() }
}

fn body(mut message: ModelInferRequest) -> Result<Body, InferError> {
    let parameters = std::mem::take(&mut message.parameters);
    let head = decode::head(parameters, &Parameters::new(), &message.model_version, None)?;
    decode::body(message, head, Timestamp::default())
}

/// The raw contents of a single input with typed contents.
fn written(datatype: &str, shape: &[i64], contents: InferTensorContents) -> Result<Vec<u8>, InferError> {
    let body = body(request(vec![input("x", datatype, shape, Some(contents))], Vec::new()))?;
    Ok(body.request.inputs[0].contents.to_vec())
}

#[test]
fn known_parameters_become_options_and_others_stay() {
    let head = head(&[
        ("sequence_id", ParameterChoice::Int64Param(5)),
        ("sequence_start", ParameterChoice::BoolParam(true)),
        ("priority", ParameterChoice::Uint64Param(2)),
        ("timeout", ParameterChoice::Int64Param(1500)),
        ("triton_enable_empty_final_response", ParameterChoice::BoolParam(true)),
        ("ratio", ParameterChoice::DoubleParam(0.5)),
        ("name", text("value")),
    ])
    .unwrap();
    assert_eq!(head.options.sequence_id, SequenceId::Number(5));
    assert!(head.options.sequence_start && !head.options.sequence_end && head.options.empty_final_response);
    assert_eq!(head.options.priority, 2);
    assert_eq!(head.options.timeout, Some(Duration::from_micros(1500)));
    assert_eq!(head.version, VersionChoice::Latest);
    let custom = [("name", Parameter::String("value".to_owned())), ("ratio", Parameter::Double(0.5))];
    assert!(head.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).eq(custom));
}

#[test]
fn zero_and_empty_mean_not_given() {
    let options = |entries: &[_]| head(entries).unwrap().options;
    assert_eq!(options(&[("sequence_id", ParameterChoice::Int64Param(0))]).sequence_id, SequenceId::None);
    assert_eq!(options(&[("sequence_id", text(""))]).sequence_id, SequenceId::None);
    assert_eq!(options(&[("sequence_id", text("a"))]).sequence_id, SequenceId::Text("a".to_owned()));
    assert_eq!(options(&[("timeout", ParameterChoice::Int64Param(0))]).timeout, None);
}

#[test]
fn parameters_of_the_wrong_kind_are_refused() {
    let refusal = |name, choice| head(&[(name, choice)]).unwrap_err().to_string();
    let wrong = |name: &str, expected: &str| format!("invalid value type for '{name}' parameter, expected {expected}.");
    let flag = ParameterChoice::BoolParam(true);
    assert_eq!(refusal("sequence_id", flag.clone()), wrong("sequence_id", "int64_param or string_param"));
    assert_eq!(refusal("sequence_start", text("x")), wrong("sequence_start", "bool_param"));
    assert_eq!(refusal("sequence_end", text("x")), wrong("sequence_end", "bool_param"));
    assert_eq!(refusal("priority", flag.clone()), wrong("priority", "int64_param or uint64_param"));
    assert_eq!(refusal("timeout", ParameterChoice::Uint64Param(1)), wrong("timeout", "int64_param"));
    let mine = wrong("mine", "int64_param, bool_param, or string_param");
    assert_eq!(refusal("mine", ParameterChoice::Uint64Param(1)), mine);
    let unset = BTreeMap::from([("mine".to_owned(), InferParameter::default())]);
    assert_eq!(decode::head(unset, &Parameters::new(), "", None).unwrap_err().to_string(), mine);
    assert_eq!(
        refusal("triton_final_response", flag),
        "parameter keys starting with 'triton_' are reserved for Triton usage: 'triton_final_response'"
    );
    for name in ["sequence_id", "priority", "timeout"] {
        let expected = format!("invalid value for '{name}' parameter, expected >= 0");
        assert_eq!(refusal(name, ParameterChoice::Int64Param(-1)), expected);
    }
}

#[test]
fn versions_are_positive_integers() {
    let version = |text: &str| decode::parse_version(text);
    assert_eq!(version(""), Ok(VersionChoice::Latest));
    assert_eq!(version("12"), Ok(VersionChoice::Exact(12)));
    for text in ["0", "-1"] {
        assert_eq!(version(text), Err(InferError::VersionNotPositive { text: text.to_owned() }));
    }
    for text in ["x", "1x", "1.0", " ", "99999999999999999999"] {
        let refusal = version(text).unwrap_err().to_string();
        let start = format!("failed to get model version from specified version string '{text}' (details: ");
        assert!(refusal.starts_with(&start), "{refusal}");
    }
}

#[test]
fn the_clients_deadline_travels_beside_the_timeout() {
    let given = [("timeout", ParameterChoice::Int64Param(5000))];
    let deadline = Some(crate::clock::Timestamp::from_nanos(7));
    let head = decode::head(parameters(&given), &Parameters::new(), "", deadline).unwrap();
    assert_eq!((head.options.timeout, head.deadline), (Some(Duration::from_millis(5)), deadline));
    let message = request(Vec::new(), Vec::new());
    let body = decode::body(message, head, crate::clock::Timestamp::default()).unwrap();
    assert_eq!(body.request.deadline, deadline);
}

#[test]
fn raw_contents_stay_slices_of_the_message() {
    let sent = request(vec![input("x", "INT32", &[2], None)], vec![Bytes::from(vec![7; 8])]);
    let wire = Bytes::from(sent.encode_to_vec());
    let body = body(ModelInferRequest::decode(wire.clone()).unwrap()).unwrap();
    let contents = &body.request.inputs[0].contents;
    assert_eq!(contents.len(), 8);
    assert!(wire.as_ptr_range().contains(&contents.as_ptr()), "the contents were copied");
    assert_eq!(body.request.inputs[0].datatype, Ok(DataType::Int32));
}

#[test]
fn typed_contents_are_written_little_endian() {
    let ints = || InferTensorContents { int_contents: vec![-1, 0x0102_0304], ..Default::default() };
    assert_eq!(written("INT32", &[2], ints()).unwrap(), [255, 255, 255, 255, 4, 3, 2, 1]);
    assert_eq!(written("INT16", &[2], ints()).unwrap(), [255, 255, 4, 3]);
    assert_eq!(written("INT8", &[2], ints()).unwrap(), [255, 4]);
    let uints = || InferTensorContents { uint_contents: vec![0xff00_0001], ..Default::default() };
    assert_eq!(written("UINT32", &[1], uints()).unwrap(), [1, 0, 0, 255]);
    assert_eq!(written("UINT16", &[1], uints()).unwrap(), [1, 0]);
    assert_eq!(written("UINT8", &[1], uints()).unwrap(), [1]);
    let bools = InferTensorContents { bool_contents: vec![true, false], ..Default::default() };
    assert_eq!(written("BOOL", &[2], bools).unwrap(), [1, 0]);
    let longs = InferTensorContents { int64_contents: vec![-2], ..Default::default() };
    assert_eq!(written("INT64", &[1], longs).unwrap(), (-2i64).to_le_bytes());
    let longs = InferTensorContents { uint64_contents: vec![u64::MAX], ..Default::default() };
    assert_eq!(written("UINT64", &[1], longs).unwrap(), [255; 8]);
    let floats = InferTensorContents { fp32_contents: vec![1.5], ..Default::default() };
    assert_eq!(written("FP32", &[1], floats).unwrap(), 1.5f32.to_le_bytes());
    let doubles = InferTensorContents { fp64_contents: vec![1.5], ..Default::default() };
    assert_eq!(written("FP64", &[1], doubles).unwrap(), 1.5f64.to_le_bytes());
    let strings = vec![Bytes::from_static(b"a\0b"), Bytes::new()];
    let strings = InferTensorContents { bytes_contents: strings, ..Default::default() };
    assert_eq!(written("BYTES", &[2], strings).unwrap(), b"\x03\0\0\0a\0b\0\0\0\0");
}

#[test]
fn contents_that_do_not_fit_are_refused() {
    let floats = || InferTensorContents { fp32_contents: vec![1.0], ..Default::default() };
    let refusal = |datatype, contents| written(datatype, &[1], contents).unwrap_err().to_string();
    let unexpected = "unexpected explicit tensor data for input tensor 'x' for model 'm' of type";
    assert_eq!(refusal("INT32", floats()), format!("{unexpected} 'FP32', expected datatype 'INT32'"));
    assert_eq!(refusal("FP16", floats()), format!("{unexpected} 'FP32', expected datatype 'FP16'"));
    assert_eq!(refusal("FLOAT", floats()), format!("{unexpected} 'FP32', expected datatype 'FLOAT'"));
    let both = InferTensorContents { bytes_contents: vec![Bytes::new()], ..floats() };
    assert_eq!(refusal("FP32", both), format!("{unexpected} 'BYTES', binary data was already supplied."));
    let nothing = "unable to find data for input tensor 'x' for model 'm' in request.";
    assert_eq!(refusal("FP32", InferTensorContents::default()), nothing);
    let absent = body(request(vec![input("x", "FP32", &[1], None)], Vec::new()));
    assert_eq!(absent.unwrap_err().to_string(), nothing);
    // Without elements there is nothing to fill a field with.
    assert_eq!(written("FP32", &[3, 0], InferTensorContents::default()), Ok(Vec::new()));
}

#[test]
fn raw_and_typed_contents_exclude_each_other() {
    let typed = input("x", "FP32", &[1], Some(InferTensorContents { fp32_contents: vec![1.0], ..Default::default() }));
    let mixed = body(request(vec![typed], vec![Bytes::from(vec![0; 4])]));
    assert_eq!(mixed, Err(InferError::ContentsAndRaw { input: "x".to_owned(), model: "m".to_owned() }));
}

#[test]
fn contents_are_weighed_in_either_form() {
    let typed = InferTensorContents {
        bytes_contents: vec![Bytes::from_static(b"abc")],
        fp64_contents: vec![0.0; 2],
        ..Default::default()
    };
    let inputs = vec![input("x", "FP32", &[1], None), input("y", "BYTES", &[1], Some(typed))];
    let weight = decode::content_bytes(&request(inputs, vec![Bytes::from(vec![0; 100]), Bytes::from(vec![0; 10])]));
    assert_eq!(weight, 110 + 3 + size_of::<Bytes>() + 16);
}

#[test]
fn every_input_has_one_raw_entry() {
    let inputs = || vec![input("x", "FP32", &[1], None), input("y", "FP32", &[1], None)];
    let short = body(request(inputs(), vec![Bytes::new()]));
    assert_eq!(short, Err(InferError::NoContents { input: "y".to_owned(), model: "m".to_owned() }));
    let long = body(request(inputs(), vec![Bytes::new(); 3]));
    assert_eq!(long, Err(InferError::RawCount { model: "m".to_owned(), expected: 2, got: 3 }));
}

fn output(entries: &[(&str, ParameterChoice)]) -> Result<Vec<(String, usize)>, InferError> {
    let wanted = InferRequestedOutputTensor { name: "y".to_owned(), parameters: parameters(entries) };
    let mut message = request(vec![input("x", "FP32", &[0], None)], vec![Bytes::new()]);
    message.outputs.push(wanted);
    let body = body(message)?;
    assert_eq!(body.request.outputs, ["y"]);
    Ok(body.classes)
}

#[test]
fn classes_are_counted_and_lie_in_no_shared_memory() {
    let count = |count| ("classification", ParameterChoice::Int64Param(count));
    assert_eq!(output(&[]), Ok(Vec::new()));
    assert_eq!(output(&[count(0)]), Ok(Vec::new()));
    assert_eq!(output(&[count(3)]), Ok(vec![("y".to_owned(), 3)]));
    assert_eq!(output(&[count(-1)]), Err(InferError::NegativeParameter { parameter: "classification".to_owned() }));
    let wrong = InferError::ParameterType { parameter: "classification".to_owned(), expected: "int64_param" };
    assert_eq!(output(&[("classification", text("two"))]), Err(wrong));
    let region = ("shared_memory_region", text("r"));
    assert_eq!(output(&[count(1), region]), Err(InferError::ClassificationInSharedMemory));
}

/// An input with these parameters.
fn placed(entries: &[(&str, ParameterChoice)]) -> InferInputTensor {
    InferInputTensor { parameters: parameters(entries), ..input("x", "FP32", &[1], None) }
}

fn number(value: i64) -> ParameterChoice {
    ParameterChoice::Int64Param(value)
}

#[test]
fn places_in_shared_memory_are_read() {
    let (region, size, offset) = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset");
    let plain = || input("y", "FP32", &[1], None);
    let whole = [(region, text("r")), (size, number(4)), (offset, number(8))];
    let place = Place { region: "r".to_owned(), offset: 8, byte_size: 4 };
    let raw = Bytes::from_static(b"raw.");
    let mut message = request(vec![plain(), placed(&whole), plain()], vec![raw.clone(), raw.clone()]);
    assert_eq!(decode::content_bytes(&message), 12, "what will be copied counts");
    message.outputs.push(InferRequestedOutputTensor { name: "z".to_owned(), parameters: parameters(&whole[..2]) });
    let read = body(message).unwrap();
    assert_eq!(read.places.inputs, [(1, place)]);
    assert_eq!(read.places.outputs, [("z".to_owned(), Place { region: "r".to_owned(), offset: 0, byte_size: 4 })]);
    let contents: Vec<&[u8]> = read.request.inputs.iter().map(|input| input.contents.as_ref()).collect();
    assert_eq!(contents, [b"raw.".as_slice(), b"", b"raw."], "raw contents belong to the inputs that are not placed");
    let negative = body(request(vec![placed(&[(region, text("r")), (size, number(-1))])], Vec::new())).unwrap();
    assert_eq!(negative.places.inputs[0].1.byte_size, u64::MAX);
}

#[test]
fn places_in_shared_memory_are_whole() {
    let (region, size, offset) = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset");
    let refusal =
        |entries: &[(&str, ParameterChoice)], raw: Vec<Bytes>| body(request(vec![placed(entries)], raw)).unwrap_err().to_string();
    let of = |entries: &[(&str, ParameterChoice)]| refusal(entries, Vec::new());
    let without =
        |parameter: &str| format!("'{parameter}' can not be specified without 'shared_memory_region' parameter for tensor 'x'");
    assert_eq!(of(&[(offset, number(0))]), without(offset));
    assert_eq!(of(&[(size, number(0))]), without(size));
    let no_size = "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'x'";
    assert_eq!(of(&[(region, text("r"))]), no_size);
    let wrong = |parameter: &str, expected: &str| {
        format!("invalid value type for '{parameter}' parameter for tensor 'x', expected {expected}.")
    };
    assert_eq!(of(&[(region, number(1)), (size, number(4))]), wrong(region, "string_param"));
    assert_eq!(of(&[(region, text("r")), (size, text("4"))]), wrong(size, "int64_param"));
    assert_eq!(of(&[(region, text("r")), (size, number(4)), (offset, text("4"))]), wrong(offset, "int64_param"));
    let whole = [(region, text("r")), (size, number(4))];
    let raw = "expected 0 entries in raw_input_contents for the inputs of model 'm', got 1";
    assert_eq!(refusal(&whole, vec![Bytes::from_static(b"raw.")]), raw);
    let mut both = placed(&whole);
    both.contents = Some(InferTensorContents::default());
    let expected = "unexpected 'content' provided when using shared memory for input tensor 'x' for model 'm'";
    assert_eq!(body(request(vec![both], Vec::new())).unwrap_err().to_string(), expected);
}

/// A model with every kind of input that requests can get wrong.
fn model() -> ModelConfig {
    let written = proto::pbtxt::parse(
        r#"
        name: "m" backend: "builtin" max_batch_size: 8
        input [ { name: "FLOATS" data_type: TYPE_FP32 dims: [ -1, 2 ] },
                { name: "TEXTS" data_type: TYPE_STRING dims: [ -1 ] },
                { name: "MAYBE" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } optional: true } ]
        output [ { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] } ]
        parameters { key: "model" value: { string_value: "identity" } }
        "#,
        "config.pbtxt",
    );
    ModelConfig::parse(written.unwrap(), "m").unwrap()
}

/// A request that fits, with raw or typed contents.
fn fitting(raw: bool) -> ModelInferRequest {
    let floats = InferTensorContents { fp32_contents: vec![1.0; 12], ..Default::default() };
    let texts = vec![Bytes::from_static(b"ab"); 2];
    let texts = InferTensorContents { bytes_contents: texts, ..Default::default() };
    let maybe = InferTensorContents { int64_contents: vec![1, 2], ..Default::default() };
    let typed = |contents| (!raw).then_some(contents);
    let inputs = vec![
        input("FLOATS", "FP32", &[2, 3, 2], typed(floats)),
        input("TEXTS", "BYTES", &[2, 1], typed(texts)),
        input("MAYBE", "INT64", &[2, 1], typed(maybe)),
    ];
    let contents = vec![Bytes::from(vec![0; 48]), Bytes::from_static(b"\x02\0\0\0ab\x02\0\0\0ab"), Bytes::from(vec![0; 16])];
    ModelInferRequest {
        id: "id".to_owned(),
        outputs: vec![InferRequestedOutputTensor { name: "OUT".to_owned(), parameters: BTreeMap::new() }],
        parameters: parameters(&[("mine", ParameterChoice::DoubleParam(1.0)), ("priority", ParameterChoice::Int64Param(1))]),
        ..request(inputs, if raw { contents } else { Vec::new() })
    }
}

/// Decodes and checks a message as the server does; what comes through must hold together.
fn run(message: ModelInferRequest, config: &ModelConfig) -> Result<(), InferError> {
    let valid = validate(body(message)?.request, config)?;
    assert!((1..=8).contains(&valid.rows));
    for (spec, tensor) in config.inputs.iter().zip(&valid.inputs) {
        let Some(tensor) = tensor else {
            assert!(spec.optional);
            continue;
        };
        let elements = tensor.shape().element_count().unwrap();
        match tensor.datatype().element_bytes() {
            Some(size) => assert_eq!(tensor.bytes().len(), elements * size),
            None => assert_eq!(tensor.strings().count(), elements),
        }
    }
    Ok(())
}

#[test]
fn fitting_requests_pass() {
    let config = model();
    assert_eq!(run(fitting(true), &config), Ok(()));
    assert_eq!(run(fitting(false), &config), Ok(()));
}

/// One thing done to the bytes of a message.
#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => any::<usize>().prop_map(Mutation::Cut),
        2 => (any::<usize>(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        2 => (any::<usize>(), 1usize..12).prop_map(|(at, count)| Mutation::Remove(at, count)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: Mutation) {
    let place = |at: usize, length: usize| at.checked_rem(length).unwrap_or(0);
    let length = bytes.len();
    match mutation {
        Mutation::Set(at, byte) => {
            if let Some(target) = bytes.get_mut(place(at, length)) {
                *target = byte;
            }
        }
        Mutation::Cut(at) => bytes.truncate(place(at, length)),
        Mutation::Insert(at, more) => {
            let at = place(at, length);
            bytes.splice(at..at, more);
        }
        Mutation::Remove(at, count) => {
            let at = place(at, length);
            bytes.drain(at..(at + count).min(length));
        }
    }
}

/// Sizes that break arithmetic.
fn hostile_size() -> impl Strategy<Value = i64> {
    let sizes = vec![i64::MIN, -2, -1, 0, 1, 2, 3, 8, 9, 1 << 31, 1 << 32, 1 << 61, i64::MAX];
    prop::sample::select(sizes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_bytes_never_panic(raw: bool, mutations in prop::collection::vec(mutation(), 1..6)) {
        let config = model();
        let mut bytes = fitting(raw).encode_to_vec();
        mutations.into_iter().for_each(|mutation| mutate(&mut bytes, mutation));
        if let Ok(message) = ModelInferRequest::decode(Bytes::from(bytes))
            && let Err(error) = run(message, &config)
        {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn hostile_shapes_never_panic(
        raw: bool,
        which in 0usize..3,
        shape in prop::collection::vec(hostile_size(), 0..6),
        length in 0usize..64,
    ) {
        let config = model();
        let mut message = fitting(raw);
        message.inputs[which].shape = shape;
        if raw {
            message.raw_input_contents[which] = Bytes::from(vec![1; length]);
        }
        if let Err(error) = run(message, &config) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
