//! Tests of the way from the command line to input tensors.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use proto::inference::{self as wire, DataType as WireType};

use super::super::npy;
use super::{Given, ModelShape, PayloadError, Value, tensors};
use crate::tensor::{DataType, Shape, Tensor};

fn model(max_batch_size: i32, inputs: &[(&str, WireType, &[i64])]) -> ModelShape {
    let config = wire::ModelConfig {
        name: "m".to_owned(),
        max_batch_size,
        input: inputs
            .iter()
            .map(|(name, data_type, dims)| wire::ModelInput {
                name: (*name).to_owned(),
                data_type: (*data_type).into(),
                dims: dims.to_vec(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    ModelShape::from_wire(&config).unwrap()
}

fn made(shape: &ModelShape, given: &[&str]) -> Result<Vec<(String, Tensor)>, String> {
    let given: Result<Vec<Given>, PayloadError> = given.iter().map(|value| value.parse()).collect();
    given.and_then(|given| tensors(shape, &given)).map_err(|error| error.to_string())
}

fn shapes(shape: &ModelShape, given: &[&str]) -> Vec<Vec<usize>> {
    made(shape, given).unwrap().iter().map(|(_, tensor)| tensor.shape().sizes().to_vec()).collect()
}

#[test]
fn values_are_told_apart() {
    let named = |name: &str, value| Given { name: Some(name.to_owned()), value };
    let cases = [
        ("TEXT=text:a=b", named("TEXT", Value::Text("a=b".to_owned()))),
        ("text:A=b", Given { name: None, value: Value::Text("A=b".to_owned()) }),
        ("IN=@a=b.npy", named("IN", Value::File("a=b.npy".into()))),
        ("@x.json", Given { name: None, value: Value::File("x.json".into()) }),
        ("IN=[1,2]", named("IN", Value::Json("[1,2]".to_owned()))),
        ("[\"a=b\"]", Given { name: None, value: Value::Json("[\"a=b\"]".to_owned()) }),
        ("IN=-5", named("IN", Value::Json("-5".to_owned()))),
    ];
    for (written, expected) in cases {
        assert_eq!(written.parse::<Given>().unwrap(), expected, "{written}");
    }
    for written in ["hello", "IN=hello", "=5", "IN=@", "", "IN=[1"] {
        let error = written.parse::<Given>().unwrap_err().to_string();
        assert!(error.contains(&format!("'{written}' is no input")), "{error}");
    }
}

#[test]
fn texts_make_rows_or_fill_the_variable_dimension() {
    let batching = model(8, &[("TEXT", WireType::TypeString, &[1])]);
    assert_eq!(shapes(&batching, &["text:a"]), [[1, 1]]);
    assert_eq!(shapes(&batching, &["text:a", "text:b", "TEXT=text:c"]), [[3, 1]]);
    let pairs = model(8, &[("TEXT", WireType::TypeString, &[2])]);
    assert_eq!(shapes(&pairs, &["text:a", "text:b", "text:c", "text:d"]), [[2, 2]]);
    assert!(made(&pairs, &["text:a"]).unwrap_err().contains("1 texts do not fill input TEXT BYTES [-1,2]"));
    let list = model(0, &[("TEXT", WireType::TypeString, &[-1])]);
    assert_eq!(shapes(&list, &["text:a", "text:b"]), [[2]]);
    let one = model(0, &[("TEXT", WireType::TypeString, &[1])]);
    assert_eq!(shapes(&one, &["text:a"]), [[1]]);
    assert!(made(&one, &["text:a", "text:b"]).unwrap_err().contains("2 texts do not fill"));
    let made = made(&batching, &["text:h\u{e9}", "text:"]).unwrap();
    assert_eq!(made[0].1.strings().collect::<Vec<_>>(), ["h\u{e9}".as_bytes(), b""]);
}

#[test]
fn the_batch_dimension_is_added_where_it_is_missing() {
    let rows = model(8, &[("IN", WireType::TypeInt32, &[2])]);
    assert_eq!(shapes(&rows, &["IN=[1,2]"]), [[1, 2]]);
    assert_eq!(shapes(&rows, &["IN=[[1,2],[3,4],[5,6]]"]), [[3, 2]]);
    assert_eq!(shapes(&rows, &["IN=[1,2]", "IN=[[3,4],[5,6]]"]), [[3, 2]]);
    let single = model(8, &[("IN", WireType::TypeInt32, &[1])]);
    assert_eq!(shapes(&single, &["5"]), [[1, 1]]);
    let plain = model(0, &[("IN", WireType::TypeInt32, &[-1, 2])]);
    assert_eq!(shapes(&plain, &["[[1,2],[3,4]]"]), [[2, 2]]);
    let error = made(&rows, &["IN=[1,2,3]"]).unwrap_err();
    assert_eq!(
        error,
        "the JSON value has shape [3], but input IN INT32 [-1,2] is expected (the batch dimension in front may be left out)"
    );
    assert!(made(&plain, &["IN=[[1,2]]", "IN=[[1,2]]"]).unwrap_err().contains("has no batch dimension"));
    let variable = model(8, &[("IN", WireType::TypeInt32, &[-1])]);
    assert!(made(&variable, &["IN=[1]", "IN=[1,2]"]).unwrap_err().contains("rows of different shapes: [1,1] and [1,2]"));
}

#[test]
fn inputs_are_found_and_missed() {
    let two = model(0, &[("A", WireType::TypeInt8, &[-1]), ("B", WireType::TypeString, &[-1])]);
    assert_eq!(shapes(&two, &["A=[1]", "text:x"]), [[1], [1]]);
    let all = r#"{"inputs":[{"name":"B","shape":[2],"datatype":"BYTES","data":["x","y"]},{"name":"A","data":[]}]}"#;
    let names: Vec<String> = made(&two, &[all]).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["B", "A"]);
    for (given, text) in [
        (&["A=[1]"][..], "needs a value for B BYTES [-1]; give it with --input B=VALUE"),
        (&["C=[1]"], "has no input 'C'; its inputs are A INT8 [-1], B BYTES [-1]"),
        (&["[1]"], "needs a model with exactly one input"),
        (&["A=text:x"], "input A INT8 [-1] does not take text"),
        (&["A=[300]"], "element 0 is 300, which is no INT8"),
        (&[r#"A={"datatype":"FP32","data":[1]}"#], "holds FP32 elements, but input 'A' takes INT8"),
        (&[r#"A={"inputs":[{"data":[1]},{"data":[2]}]}"#], "it holds 2 inputs"),
    ] {
        let error = made(&two, given).unwrap_err();
        assert!(error.contains(text), "{given:?}: {error}");
    }
    let mut optional = two.clone();
    optional.inputs[1].optional = true;
    assert_eq!(shapes(&optional, &["A=[1]"]), [[1]]);
}

#[test]
fn files_are_read_by_their_kind() {
    let directory = tempfile::tempdir().unwrap();
    let save = |name: &str, contents: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    };
    let floats = Tensor::new(DataType::Fp32, Shape::new([2]), Bytes::from_static(&[0; 8])).unwrap();
    let array = save("a.npy", &npy::write(&floats).unwrap());
    let list = save("a.json", b"[1, 2]");
    let other = save("a.bin", b"\x01\x02");
    let given = |name: &str, path: &Path| format!("{name}@{}", path.display());

    let numbers = model(4, &[("IN", WireType::TypeFp32, &[2])]);
    assert_eq!(shapes(&numbers, &[&given("", &array)]), [[1, 2]]);
    assert_eq!(shapes(&numbers, &[&given("IN=", &list)]), [[1, 2]]);
    assert_eq!(shapes(&numbers, &[&given("IN=", &array), &given("IN=", &list)]), [[2, 2]]);
    assert!(made(&numbers, &[&given("IN=", &other)]).unwrap_err().contains("a numeric input takes .npy, .json, .jpg or .png"));
    assert!(
        made(&numbers, &["IN=@/no/such/file.npy"]).unwrap_err().contains("unable to read '/no/such/file.npy' for input 'IN'")
    );

    let bytes = model(4, &[("IN", WireType::TypeString, &[1])]);
    let made_bytes = made(&bytes, &[&given("", &other), "text:x"]).unwrap();
    assert_eq!(made_bytes[0].1.shape(), &Shape::new([2, 1]));
    assert_eq!(made_bytes[0].1.strings().next(), Some(&[1, 2][..]));
    assert!(made(&bytes, &[&given("IN=", &array)]).unwrap_err().contains("holds FP32 elements, but input 'IN' takes BYTES"));
}
