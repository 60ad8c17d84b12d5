//! Tests of the rendering of answers.

use std::path::Path;

use bytes::Bytes;
use expect_test::expect;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_response::InferOutputTensor;
use proto::inference::{InferParameter, ModelInferResponse};

use super::{Answer, RenderError, base64};

fn response(outputs: &[(&str, &str, &[i64], Vec<u8>)]) -> ModelInferResponse {
    ModelInferResponse {
        model_name: "m".to_owned(),
        model_version: "3".to_owned(),
        id: "7".to_owned(),
        outputs: outputs
            .iter()
            .map(|(name, datatype, shape, _)| InferOutputTensor {
                name: (*name).to_owned(),
                datatype: (*datatype).to_owned(),
                shape: shape.to_vec(),
                ..Default::default()
            })
            .collect(),
        raw_output_contents: outputs.iter().map(|(_, _, _, contents)| Bytes::from(contents.clone())).collect(),
        ..Default::default()
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn strings(values: &[&[u8]]) -> Vec<u8> {
    values.iter().flat_map(|value| [&(value.len() as u32).to_le_bytes()[..], value].concat()).collect()
}

#[test]
fn text_shows_the_beginning_of_each_row() {
    let wide: Vec<f32> = (0..20).map(|value| value as f32 / 4.0).collect();
    let mut message = response(&[
        ("WIDE", "FP32", &[1, 2, 10], floats(&wide)),
        ("NAMES", "BYTES", &[2], strings(&[b"a\n\"b\"", b"\xff\0"])),
        ("NONE", "INT64", &[0, 4], vec![]),
        ("SCALAR", "UINT8", &[], vec![9]),
        ("LONG", "BOOL", &[17, 1], vec![1; 17]),
    ]);
    message.parameters.insert("k".to_owned(), InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) });
    let answer = Answer::decode(message).unwrap();
    expect![[r#"
        m version 3, id 7, k = true
        WIDE FP32 [1,2,10]
          [0,0] 0 0.25 0.5 0.75 1 1.25 1.5 1.75 ... 2 more
          [0,1] 2.5 2.75 3 3.25 3.5 3.75 4 4.25 ... 2 more
        NAMES BYTES [2]
          "a\n\"b\"" b"\xff\x00"
        NONE INT64 [0,4]
        SCALAR UINT8 []
          9
        LONG BOOL [17,1]
          [0] true
          [1] true
          [2] true
          [3] true
          [4] true
          [5] true
          [6] true
          [7] true
          [8] true
          [9] true
          [10] true
          [11] true
          [12] true
          [13] true
          [14] true
          [15] true
          ... 1 more rows
    "#]]
    .assert_eq(&answer.text(false));
    assert!(answer.text(true).contains("4.5 4.75\n"));
    assert!(answer.text(true).contains("[16] true"));
}

#[test]
fn json_keeps_every_element() {
    let answer = Answer::decode(response(&[
        ("F", "FP32", &[4], floats(&[0.1, f32::NAN, f32::NEG_INFINITY, -0.5])),
        ("H", "FP16", &[1], half::f16::from_f32(1.5).to_le_bytes().to_vec()),
        ("B", "BYTES", &[1, 2], strings(&["h\u{e9}".as_bytes(), b"\xff\xfe"])),
        ("U", "UINT64", &[1], u64::MAX.to_le_bytes().to_vec()),
    ]))
    .unwrap();
    expect![[r#"{"model_name":"m","model_version":"3","id":"7","outputs":[{"name":"F","datatype":"FP32","shape":[4],"data":[0.1,"NaN","-Infinity",-0.5]},{"name":"H","datatype":"FP16","shape":[1],"data":[1.5]},{"name":"B","datatype":"BYTES","shape":[1,2],"data":["hé",{"base64":"//4="}]},{"name":"U","datatype":"UINT64","shape":[1],"data":[18446744073709551615]}]}"#]]
    .assert_eq(&answer.json().to_string());
}

#[test]
fn base64_has_the_known_forms() {
    for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foob", "Zm9vYg==")] {
        assert_eq!(base64(bytes), text);
    }
}

#[test]
fn files_are_named_after_outputs() {
    let answer = Answer::decode(response(&[("OUT", "INT8", &[2], vec![1, 2])])).unwrap();
    let files = answer.files(Path::new("dir"), None).unwrap();
    assert_eq!(files[0].0, Path::new("dir/OUT.npy"));
    assert_eq!(answer.files(Path::new("dir"), Some(4)).unwrap()[0].0, Path::new("dir/OUT.4.npy"));
    let escaping = Answer::decode(response(&[("../OUT", "INT8", &[2], vec![1, 2])])).unwrap();
    assert_eq!(escaping.files(Path::new("dir"), None), Err(RenderError::FileName { output: "../OUT".to_owned() }));
}

#[test]
fn an_answer_that_contradicts_itself_is_refused() {
    for (outputs, text) in [
        (response(&[("O", "FP32", &[2], vec![0; 7])]), "which its 7 bytes do not fill"),
        (response(&[("O", "FP32", &[-1], vec![])]), "has shape [-1]"),
        (response(&[("O", "BYTES", &[2], strings(&[b"one"]))]), "do not fill"),
        (response(&[("O", "FLOAT", &[1], vec![0; 4])]), "unknown datatype 'FLOAT'"),
    ] {
        let error = Answer::decode(outputs).unwrap_err().to_string();
        assert!(error.contains(text), "{text}: {error}");
    }
    let mut missing = response(&[("O", "INT8", &[1], vec![0])]);
    missing.raw_output_contents.clear();
    assert_eq!(Answer::decode(missing), Err(RenderError::ContentCount { expected: 1, got: 0 }));
}
