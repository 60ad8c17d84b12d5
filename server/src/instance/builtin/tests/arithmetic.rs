//! `add_sub` and `sub_add`.

use crate::tensor::{DataType, Shape, Tensor};

use super::super::super::testing::{TestModel, TestRequest, int32, show, strings, tensor};
use super::{config, parameter};

/// Tensors of two inputs and two outputs of these datatypes, as the configuration writes them.
fn tensors(inputs: &str, outputs: [&str; 2], dims: &str) -> String {
    format!(
        "input {{ name: \"INPUT0\" data_type: TYPE_{inputs} dims: {dims} }}
         input {{ name: \"INPUT1\" data_type: TYPE_{inputs} dims: {dims} }}
         output {{ name: \"first\" data_type: TYPE_{} dims: {dims} }}
         output {{ name: \"second\" data_type: TYPE_{} dims: {dims} }}",
        outputs[0], outputs[1]
    )
}

fn load(inputs: &str, outputs: [&str; 2]) -> TestModel {
    TestModel::load(&config("add_sub", &tensors(inputs, outputs, "-1"), "")).unwrap()
}

fn ask<'a>(model: &'a TestModel, a: Tensor, b: Tensor) -> TestRequest<'a> {
    model.request().input("INPUT0", a).input("INPUT1", b)
}

fn wire(datatype: DataType) -> &'static str {
    if datatype == DataType::Bytes { "STRING" } else { datatype.as_str() }
}

/// Small numbers in any datatype.
fn numbers(datatype: DataType, values: &[i8]) -> Tensor {
    let shape = [values.len()];
    let float = |value: &i8| f32::from(*value);
    match datatype {
        DataType::Bool => tensor(datatype, &shape, values.iter().map(|value| [u8::from(*value != 0)])),
        DataType::Fp16 => tensor(datatype, &shape, values.iter().map(|value| half::f16::from_f32(float(value)).to_le_bytes())),
        DataType::Bf16 => tensor(datatype, &shape, values.iter().map(|value| half::bf16::from_f32(float(value)).to_le_bytes())),
        DataType::Fp32 => tensor(datatype, &shape, values.iter().map(|value| float(value).to_le_bytes())),
        DataType::Fp64 => tensor(datatype, &shape, values.iter().map(|value| f64::from(*value).to_le_bytes())),
        DataType::Bytes => {
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            strings(&shape, &texts.iter().map(String::as_str).collect::<Vec<_>>())
        }
        integer => {
            let size = integer.element_bytes().unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|value| i64::from(*value).to_le_bytes()[..size].to_vec()).collect();
            Tensor::new(integer, Shape::new(shape), bytes.into()).unwrap()
        }
    }
}

#[test]
fn every_mix_of_datatypes_gives_the_sum_and_the_difference() {
    for from in DataType::all() {
        for to in DataType::all() {
            let model = load(wire(from), [wire(to), wire(to)]);
            let request = ask(&model, numbers(from, &[9, 1, 5]), numbers(from, &[2, 1, 0]));
            let got: Vec<String> =
                model.ask(request).single().unwrap().outputs.iter().map(|output| show(&output.tensor)).collect();
            let expected = match (from, to) {
                (_, DataType::Bool) if from != DataType::Bool => ["[3]1,1,1", "[3]1,0,1"],
                (DataType::Bool, DataType::Bool) => ["[3]1,1,1", "[3]0,0,1"],
                (DataType::Bool, _) => ["[3]2,2,1", "[3]0,0,1"],
                _ => ["[3]11,2,5", "[3]7,0,5"],
            };
            assert_eq!(got, expected, "{from} to {to}");
        }
    }
}

#[test]
fn integers_wrap_in_their_own_datatype_before_they_are_converted() {
    let model = load("UINT8", ["UINT8", "INT32"]);
    let bytes = |values: [u8; 2]| tensor(DataType::Uint8, &[2], values.map(|value| [value]));
    let request = ask(&model, bytes([250, 0]), bytes([10, 1]));
    assert_eq!(model.ask(request).script(), ["first=[2]4,1 second=[2]240,255*"]);
    let model = load("INT32", ["INT8", "FP32"]);
    let request = ask(&model, int32(&[2], &[300, i32::MIN]), int32(&[2], &[0, 1]));
    assert_eq!(model.ask(request).script(), ["first=[2]44,1 second=[2]300,2147483600*"]);
}

#[test]
fn sub_add_has_the_difference_first() {
    let text = config("sub_add", &tensors("INT32", ["INT32", "INT32"], "-1"), "");
    let model = TestModel::load(&text).unwrap();
    let request = ask(&model, int32(&[1], &[5]), int32(&[1], &[3]));
    assert_eq!(model.ask(request).script(), ["first=[1]2 second=[1]8*"]);
}

#[test]
fn text_that_is_no_number_is_refused() {
    let model = load("STRING", ["STRING", "FP64"]);
    let request = ask(&model, strings(&[2], &["1.5", "-3"]), strings(&[2], &["2", "1e2"]));
    assert_eq!(model.ask(request).script(), ["first=[2]3.5,97 second=[2]-0.5,-103*"]);
    for (text, shown) in [("x\n", "x\\n"), ("", ""), ("9223372036854775808", "9223372036854775808")] {
        let request = ask(&model, strings(&[2], &["1", text]), strings(&[2], &["2", "2"]));
        let expected = format!("expected element 1 of INPUT0 to be a 64-bit integer or a decimal number as text, got '{shown}'");
        assert_eq!(model.ask(request).refusal(), expected);
    }
}

#[test]
fn only_wanted_outputs_are_sent_and_one_may_be_omitted() {
    let text = config("add_sub", &tensors("INT32", ["INT32", "INT32"], "-1"), &parameter("omit_output", "second"));
    let model = TestModel::load(&text).unwrap();
    let request = ask(&model, int32(&[1], &[5]), int32(&[1], &[3]));
    assert_eq!(model.ask(request.clone()).script(), ["first=[1]8*"]);
    assert_eq!(model.ask(request.clone().outputs(&["second"])).script(), ["*"]);
    let model = load("INT32", ["INT32", "INT32"]);
    let request = ask(&model, int32(&[1], &[5]), int32(&[1], &[3]));
    assert_eq!(model.ask(request.outputs(&["second"])).script(), ["second=[1]2*"]);
}

#[test]
fn shapes_that_differ_fail_their_request_alone() {
    let text = config("add_sub", &tensors("INT32", ["INT32", "INT32"], "-1"), "max_batch_size: 8");
    let model = TestModel::load(&text).unwrap();
    let good = ask(&model, int32(&[2, 1], &[1, 2]), int32(&[2, 1], &[3, 4]));
    let bad = ask(&model, int32(&[1, 1], &[1]), int32(&[1, 2], &[1, 2]));
    let asked = model.run(vec![good.clone(), bad, good]);
    assert_eq!(asked[1].refusal(), "expected INPUT0 and INPUT1 shape to match, got [1,1] and [1,2]");
    for fine in [&asked[0], &asked[2]] {
        assert_eq!(fine.script(), ["first=[2,1]4,6 second=[2,1]-2,-2*"]);
    }
}
