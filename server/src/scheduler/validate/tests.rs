//! Every text of the request checks, as clients match on them.

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::config::{ModelConfig, Scheduling};
use crate::request::{InferRequest, InputTensor, Parameters, RequestOptions};
use crate::tensor::{DataType, Shape, Tensor};

use super::validate;

const BATCHING: &str = r#"
    backend: "builtin" max_batch_size: 4
    input [ { name: "A" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "S" data_type: TYPE_STRING dims: [ -1 ] },
            { name: "O" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [] } optional: true } ]
    output [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]"#;
const PLAIN: &str = r#"
    backend: "builtin"
    input [ { name: "A" data_type: TYPE_FP32 dims: [ -1, 4 ] reshape { shape: [ -1, 2, 2 ] } } ]
    output [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]"#;

fn config(text: &str) -> ModelConfig {
    ModelConfig::parse(proto::pbtxt::parse(text, "config.pbtxt").unwrap(), "m").unwrap()
}

fn input(name: &str, datatype: DataType, shape: &[i64], bytes: usize) -> InputTensor {
    InputTensor { name: name.to_owned(), datatype: Ok(datatype), shape: shape.to_vec(), contents: Bytes::from(vec![0; bytes]) }
}

fn request(inputs: Vec<InputTensor>) -> InferRequest {
    InferRequest {
        id: "7".to_owned(),
        options: RequestOptions::default(),
        parameters: Parameters::new(),
        inputs,
        outputs: Vec::new(),
        received_at: crate::clock::Timestamp::default(),
        deadline: None,
        timeline: None,
    }
}

fn a(shape: &[i64], bytes: usize) -> InputTensor {
    input("A", DataType::Fp32, shape, bytes)
}

fn s(shape: &[i64], contents: &'static [u8]) -> InputTensor {
    InputTensor { contents: Bytes::from_static(contents), ..input("S", DataType::Bytes, shape, 0) }
}

fn refused(text: &str, request: InferRequest, expected: Expect) {
    expected.assert_eq(&validate(request, &config(text)).unwrap_err().to_string());
}

fn with_parameters(parameters: &[(&str, &str)]) -> String {
    let parameter =
        |(key, value): &(&str, &str)| format!("parameters {{ key: \"{key}\" value: {{ string_value: \"{value}\" }} }}");
    let parameters: Vec<String> = parameters.iter().map(parameter).collect();
    format!("{BATCHING} dynamic_batching {{ }} {}", parameters.join(" "))
}

#[test]
fn the_cost_of_a_request_is_what_the_model_counts() {
    let cost = |parameters: &[(&str, &str)]| {
        let inputs = vec![s(&[2, 1], b"\x01\0\0\0x\0\0\0\0"), a(&[2, 2], 16)];
        validate(request(inputs), &config(&with_parameters(parameters))).unwrap().cost
    };
    assert_eq!(cost(&[]), 2);
    assert_eq!(cost(&[("batch_cost", "rows"), ("max_batch_tokens", "7")]), 2);
    assert_eq!(cost(&[("batch_cost", "elements:A")]), 4);
    assert_eq!(cost(&[("batch_cost", "bytes:S")]), 9);
    // An input that was left out costs as much as the rows.
    assert_eq!(cost(&[("batch_cost", "bytes:O")]), 2);
}

/// An encoder on candle with these parameters.
fn encoder(parameters: &[(&str, &str)]) -> String {
    let written: String = parameters
        .iter()
        .map(|(key, value)| format!("parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }} "))
        .collect();
    format!(
        "name: \"m\" backend: \"candle\" max_batch_size: 8 dynamic_batching {{ }} {written}
         input {{ name: \"input_ids\" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true }}
         input {{ name: \"attention_mask\" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true optional: true }}
         output {{ name: \"EMBEDDING\" data_type: TYPE_FP32 dims: 4 }}"
    )
}

#[test]
fn the_cost_of_an_encoder_is_its_work() {
    let cost = |parameters: &[(&str, &str)], mask: Option<&[i64]>| {
        let ids = input("input_ids", DataType::Int64, &[2, 30], 480);
        let bytes = |mask: &[i64]| mask.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mask = mask
            .map(|mask| InputTensor { contents: bytes(mask).into(), ..input("attention_mask", DataType::Int64, &[2, 30], 480) });
        let inputs = [ids].into_iter().chain(mask).collect();
        validate(request(inputs), &config(&encoder(parameters))).unwrap().cost
    };
    // Twenty tokens in the first row, and one in the second.
    let mask: Vec<i64> = (0..60).map(|column| i64::from(column < 20 || column == 30)).collect();
    assert_eq!(cost(&[], Some(&mask)), 21, "linear where the files say nothing");
    assert_eq!(cost(&[("batch_cost", "tokens/10")], Some(&mask)), 20 + 40 + 1);
    assert_eq!(cost(&[("batch_cost", "tokens/10")], None), 2 * (30 + 90), "without a mask every column counts");
    assert_eq!(cost(&[("batch_cost", "tokens")], None), 60);
    assert_eq!(cost(&[("batch_cost", "rows")], Some(&mask)), 2);
    assert_eq!(cost(&[], Some(&[0; 60])), 1, "nothing is free");
}

#[test]
fn requests_of_any_length_share_a_batch_of_an_encoder() {
    let key = |text: &str, width: i64, mask: bool| {
        let bytes = usize::try_from(width).unwrap() * 8;
        let one = |name: &str| input(name, DataType::Int64, &[1, width], bytes);
        let inputs = if mask { vec![one("input_ids"), one("attention_mask")] } else { vec![one("input_ids")] };
        validate(request(inputs), &config(text)).unwrap().batch_key
    };
    let ragged = encoder(&[]);
    for text in [&ragged, &ragged.replace("allow_ragged_batch: true", "")] {
        assert_eq!(key(text, 3, true), key(text, 5, true));
        assert_eq!(key(text, 3, true), key(text, 5, false));
    }
    let builtin = ragged.replace("candle", "builtin").replace("allow_ragged_batch: true", "");
    assert_ne!(key(&builtin, 3, true), key(&builtin, 5, true));
    assert_ne!(key(&builtin, 3, true), key(&builtin, 3, false));
}

#[test]
fn batches_of_encoders_are_limited_by_their_work() {
    let limit = |parameters: &[(&str, &str)]| match &config(&encoder(parameters)).scheduling {
        Scheduling::Dynamic(dynamic) => dynamic.max_cost.map(std::num::NonZeroU64::get),
        _ => panic!("it batches"),
    };
    assert_eq!(limit(&[]), Some(16384));
    assert_eq!(limit(&[("batch_cost", "tokens/10")]), Some(16384));
    assert_eq!(limit(&[("max_batch_tokens", "100")]), Some(100));
    assert_eq!(limit(&[("batch_cost", "rows")]), None);
    assert_eq!(limit(&[("batcher", "compat")]), None, "it limits rows only");
    let written = proto::pbtxt::parse(&encoder(&[("batch_cost", "tokens/0")]), "config.pbtxt").unwrap();
    assert!(ModelConfig::parse(written, "m").unwrap_err().to_string().ends_with("got 'tokens/0' for model 'm'"));
}

#[test]
fn parameters_of_the_batcher_are_checked() {
    let problem = |parameters: &[(&str, &str)]| {
        let written = proto::pbtxt::parse(&with_parameters(parameters), "config.pbtxt").unwrap();
        ModelConfig::parse(written, "m").unwrap_err().to_string()
    };
    expect!["'parameters['batcher']' must be 'default' or 'compat', got 'triton' for model 'm'"]
        .assert_eq(&problem(&[("batcher", "triton")]));
    expect!["'parameters['max_batch_tokens']' must be an integer >= 1, got '0' for model 'm'"]
        .assert_eq(&problem(&[("max_batch_tokens", "0")]));
    expect!["'parameters['batch_cost']' must be 'rows', 'elements:<input>' or 'bytes:<input>' with an input of the model, or, with an input 'input_ids', 'tokens' or 'tokens/<tokens at which attention costs as much as the rest>', got 'bytes:Z' for model 'm'"]
        .assert_eq(&problem(&[("batch_cost", "bytes:Z")]));
    expect!["'parameters['max_batch_tokens']' must be left out where parameters['batcher'] is 'compat', which limits rows only, got 9 for model 'm'"]
        .assert_eq(&problem(&[("batcher", "compat"), ("max_batch_tokens", "9")]));
}

#[test]
fn accepts_and_shapes_inputs() {
    let valid = validate(
        request(vec![s(&[2, 1], b"\x01\0\0\0x\0\0\0\0"), a(&[2, 2], 16), input("O", DataType::Int64, &[2, 1], 16)]),
        &config(BATCHING),
    )
    .unwrap();
    assert_eq!(valid.rows, 2);
    assert_eq!(valid.inputs[2].as_ref().map(Tensor::shape), Some(&Shape::new([2])));
    assert_eq!(valid.outputs, [true, true]);
    assert_eq!(valid.batch_key.0, [1, 1]);
    let valid = validate(request(vec![a(&[0, 4], 0)]), &config(PLAIN)).unwrap();
    assert_eq!(valid.inputs[0].as_ref().map(Tensor::shape), Some(&Shape::new([0, 2, 2])));
}

#[test]
fn refuses_names_and_counts() {
    refused(
        BATCHING,
        request(vec![]),
        expect![
            "[request id: 7] expected number of inputs between 2 and 3 but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['A','S']. Please provide all required input(s)."
        ],
    );
    refused(
        PLAIN,
        request(vec![]),
        expect![
            "[request id: 7] expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['A']. Please provide all required input(s)."
        ],
    );
    refused(
        PLAIN,
        request(vec![input("B", DataType::Fp32, &[1, 4], 16)]),
        expect!["unexpected inference input 'B' for model 'm'"],
    );
    let optional_only = request(vec![a(&[1, 2], 8), input("O", DataType::Int64, &[1, 1], 8)]);
    refused(
        BATCHING,
        optional_only,
        expect![
            "[request id: 7] expected number of inputs between 2 and 3 but got 2 inputs for model 'm'. Got input(s) ['A','O'], but missing required input(s) ['S']. Please provide all required input(s)."
        ],
    );
    refused(
        BATCHING,
        request(vec![a(&[1, 2], 8), a(&[1, 2], 8)]),
        expect!["[request id: 7] input 'A' already exists in request"],
    );
    let outputs =
        |outputs: &[&str]| InferRequest { outputs: outputs.iter().map(|name| (*name).to_owned()).collect(), ..request(vec![]) };
    refused(BATCHING, outputs(&["X", "X"]), expect!["[request id: 7] output 'X' already exists in request"]);
    refused(BATCHING, outputs(&["Z"]), expect!["unexpected inference output 'Z' for model 'm'"]);
    let without_id = InferRequest { id: String::new(), ..request(vec![a(&[1, 2], 8), a(&[1, 2], 8)]) };
    refused(BATCHING, without_id, expect!["[request id: <id_unknown>] input 'A' already exists in request"]);
}

#[test]
fn refuses_batches_and_shapes() {
    let empty = || s(&[1, 0], b"");
    refused(
        BATCHING,
        request(vec![a(&[], 8), empty()]),
        expect!["[request id: 7] input 'A' has no shape but model requires batch dimension for 'm'"],
    );
    refused(
        BATCHING,
        request(vec![a(&[2, 2], 16), empty()]),
        expect!["[request id: 7] input 'S' batch size does not match other inputs for 'm'"],
    );
    refused(
        BATCHING,
        request(vec![a(&[5, 2], 40), s(&[5, 0], b"")]),
        expect!["[request id: 7] inference request batch-size must be <= 4 for 'm'"],
    );
    refused(
        BATCHING,
        request(vec![a(&[1, 3], 12), empty()]),
        expect![
            "[request id: 7] unexpected shape for input 'A' for model 'm'. Expected [-1,2], got [1,3]. NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension in front of the configured dims in every input shape; to let 'dims' describe the whole shape, set max_batch_size to 0."
        ],
    );
    refused(
        PLAIN,
        request(vec![a(&[1, 3], 12)]),
        expect!["[request id: 7] unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [1,3]. "],
    );
    refused(
        PLAIN,
        request(vec![a(&[-1, 4], 12)]),
        expect!["[request id: 7] All input dimensions should be specified for input 'A' for model 'm', got [-1,4]"],
    );
    refused(
        PLAIN,
        request(vec![a(&[-3, 4], 12)]),
        expect![
            "[request id: 7] input 'A' for model 'm' contains an invalid dimension -3 in [-3,4], expected every dimension to be >= 0"
        ],
    );
    refused(
        PLAIN,
        request(vec![a(&[i64::MAX, 4], 12)]),
        expect![
            "[request id: 7] shape [9223372036854775807,4] of input 'A' for model 'm' causes total element count to exceed maximum size of 9223372036854775807"
        ],
    );
    refused(
        PLAIN,
        request(vec![a(&[i64::MAX / 4, 4], 12)]),
        expect!["[request id: 7] byte size overflow for input 'A' for model 'm' with shape [2305843009213693951,4]"],
    );
}

#[test]
fn refuses_types_and_contents() {
    refused(
        PLAIN,
        request(vec![input("A", DataType::Int32, &[1, 4], 16)]),
        expect!["[request id: 7] inference input 'A' data-type is 'INT32', but model 'm' expects 'FP32'"],
    );
    let unknown = InputTensor { datatype: Err("FLOAT".to_owned()), ..a(&[1, 4], 16) };
    refused(
        PLAIN,
        request(vec![unknown]),
        expect!["[request id: 7] inference input 'A' data-type is 'FLOAT', but model 'm' expects 'FP32'"],
    );
    refused(
        PLAIN,
        request(vec![a(&[2, 4], 40)]),
        expect!["[request id: 7] input byte size mismatch for input 'A' for model 'm'. Expected 32, got 40"],
    );
    let strings = |shape: &[i64], contents: &'static [u8]| request(vec![a(&[1, 2], 8), s(shape, contents)]);
    refused(
        BATCHING,
        strings(&[1, 2], b"\0\0\0\0"),
        expect!["[request id: 7] expected 2 string elements for inference input 'S' for model 'm', got 1"],
    );
    refused(
        BATCHING,
        strings(&[1, 1], b"\0\0\0\0\0\0\0\0\0\0\0\0"),
        expect!["[request id: 7] unexpected number of string elements 2 for inference input 'S' for model 'm', expecting 1"],
    );
    refused(
        BATCHING,
        strings(&[1, 1], b"\0\0"),
        expect![
            "[request id: 7] incomplete string length indicator for inference input 'S' for model 'm', expecting 4 bytes but only 2 bytes available. Please make sure the string length indicator is in one contiguous buffer."
        ],
    );
    refused(
        BATCHING,
        strings(&[1, 1], b"\x09\0\0\0a"),
        expect![
            "[request id: 7] incomplete string data for inference input 'S' for model 'm', expecting string of length 9 but only 1 bytes available."
        ],
    );
}

proptest! {
    /// Whatever the shape and contents, the check returns; what it lets through has exactly the bytes of its shape.
    #[test]
    fn any_shape_is_judged(shape in proptest::collection::vec(prop_oneof![any::<i64>(), -2i64..6], 0..5), bytes in 0usize..64, batching in any::<bool>()) {
        let config = config(if batching { BATCHING } else { PLAIN });
        let inputs = if batching { vec![a(&shape, bytes), s(&shape, &[0; 12])] } else { vec![a(&shape, bytes)] };
        if let Ok(valid) = validate(request(inputs), &config) {
            let tensor = valid.inputs[0].as_ref().unwrap();
            prop_assert_eq!(tensor.shape().element_count().map(|count| count * 4), Some(bytes));
        }
    }
}
