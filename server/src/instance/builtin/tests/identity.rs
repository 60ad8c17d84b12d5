//! `identity`, `sleep` and `parameter_echo`.

use crate::error::InferError;
use crate::request::{Delivery, Parameter};
use crate::tensor::{DataType, Shape, Tensor};

use super::super::super::testing::{TestModel, fp32, int32, show, strings, tensor};
use super::{config, parameter};

const ONE_TENSOR: &str = "input { name: \"A\" data_type: TYPE_INT32 dims: -1 allow_ragged_batch: true }
    output { name: \"X\" data_type: TYPE_INT32 dims: -1 }";

const OPTIONAL: &str = "input { name: \"A\" data_type: TYPE_INT32 dims: 2 }
    input { name: \"B\" data_type: TYPE_STRING dims: [ -1, 2 ] optional: true }
    output { name: \"X\" data_type: TYPE_INT32 dims: 2 }
    output { name: \"Y\" data_type: TYPE_STRING dims: [ -1, 2 ] }";

const SLEEP: &str = "input { name: \"INPUT0\" data_type: TYPE_FP32 dims: -1 }
    output { name: \"OUTPUT0\" data_type: TYPE_FP32 dims: -1 }";

fn identity(tensors: &str, more: &str) -> TestModel {
    TestModel::load(&config("identity", tensors, more)).unwrap()
}

#[test]
fn every_datatype_comes_back_as_it_was() {
    for datatype in DataType::all() {
        let wire = if datatype == DataType::Bytes { "STRING" } else { datatype.as_str() };
        let tensors = format!(
            "input {{ name: \"A\" data_type: TYPE_{wire} dims: [ -1, 2 ] }} output {{ name: \"X\" data_type: TYPE_{wire} dims: [ -1, 2 ] }}"
        );
        let model = identity(&tensors, "");
        let contents = match datatype.element_bytes() {
            Some(size) => (0..4 * size).map(|byte| byte as u8 ^ 0xa5).collect::<Vec<u8>>(),
            None => strings(&[2, 2], &["", "a\0b", "ö", "d"]).bytes().to_vec(),
        };
        for (rows, contents) in [(2, contents), (0, Vec::new())] {
            let given = Tensor::new(datatype, Shape::new([rows, 2]), contents.into()).unwrap();
            let answer = model.ask(model.request().input("A", given.clone())).single().unwrap();
            assert_eq!(answer.outputs[0].tensor, given);
        }
    }
}

#[test]
fn bytes_are_shared_and_not_copied() {
    let model = identity(ONE_TENSOR, "");
    let given = int32(&[3], &[1, 2, 3]);
    let answer = model.ask(model.request().input("A", given.clone())).single().unwrap();
    assert_eq!(answer.outputs[0].tensor.bytes().as_ptr(), given.bytes().as_ptr());
}

#[test]
fn requests_of_one_batch_may_differ_in_shape() {
    let model = identity(ONE_TENSOR, "max_batch_size: 8");
    let request = |shape: &[usize], elements: &[i32]| model.request().input("A", int32(shape, elements));
    let asked = model.run(vec![request(&[1, 3], &[1, 2, 3]), request(&[2, 1], &[4, 5]), request(&[1, 0], &[])]);
    let scripts: Vec<_> = asked.iter().map(|asked| asked.script()).collect();
    assert_eq!(scripts, [["X=[1,3]1,2,3*"], ["X=[2,1]4,5*"], ["X=[1,0]*"]]);
    let counts = model.counts();
    assert_eq!((counts.execution_count, counts.inference_count, counts.success.count), (1, 4, 3));
    assert!(counts.batches.contains_key(&4));
}

#[test]
fn a_missing_optional_input_gives_zeros_or_nothing() {
    let model = identity(OPTIONAL, "max_batch_size: 4");
    let request = model.request().input("A", int32(&[2, 2], &[1, 2, 3, 4]));
    assert_eq!(model.ask(request).script(), ["X=[2,2]1,2,3,4 Y=[2,1,2],,,*"]);
    let model = identity(OPTIONAL, &("max_batch_size: 4 ".to_owned() + &parameter("missing", "omit")));
    let request = model.request().input("A", int32(&[1, 2], &[1, 2]));
    assert_eq!(model.ask(request.clone()).script(), ["X=[1,2]1,2*"]);
    let request = request.input("B", strings(&[1, 1, 2], &["a", "b"]));
    assert_eq!(model.ask(request.outputs(&["Y"])).script(), ["Y=[1,1,2]a,b*"]);
}

#[test]
fn reshapes_are_applied_on_the_way_out() {
    let tensors = "input { name: \"A\" data_type: TYPE_INT32 dims: [ 2, 2 ] reshape { shape: [ 4 ] } }
        output { name: \"X\" data_type: TYPE_INT32 dims: [ 1, 4 ] reshape { shape: [ 4 ] } }";
    let model = identity(tensors, "max_batch_size: 2");
    let request = model.request().input("A", int32(&[1, 4], &[1, 2, 3, 4]));
    assert_eq!(model.ask(request).script(), ["X=[1,1,4]1,2,3,4*"]);
}

#[test]
fn example_parameters_of_every_type_are_set() {
    let model = identity(ONE_TENSOR, "");
    let answer = model.ask(model.request().input("A", int32(&[1], &[1]))).single().unwrap();
    let parameters: Vec<_> = answer.parameters.into_iter().collect();
    let expected = [
        ("param0", Parameter::String("an example string parameter".to_owned())),
        ("param1", Parameter::Int64(42)),
        ("param2", Parameter::Bool(false)),
        ("param3", Parameter::Double(123.123)),
    ];
    assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn sleeping_takes_numbers_of_seconds_and_refuses_others_alone() {
    let model = TestModel::load(&config("sleep", SLEEP, "max_batch_size: 8")).unwrap();
    let request = |seconds: f32| model.request().input("INPUT0", fp32(&[1, 1], &[seconds]));
    let refused = [-1.0, f32::NAN, f32::INFINITY, 4000.0];
    let asked = model.run(refused.iter().copied().chain([0.02]).map(request).collect());
    let texts: Vec<_> = asked[..4].iter().map(|asked| asked.refusal()).collect();
    let expected = ["-1", "NaN", "inf", "4000"];
    for (text, got) in texts.iter().zip(expected) {
        assert_eq!(*text, format!("expected INPUT0[0], the seconds to sleep, to be between 0 and 3600, got {got}"));
    }
    assert_eq!(asked[4].script(), ["OUTPUT0=[1,1]0.02*"]);
    let nothing = model.ask(model.request().input("INPUT0", fp32(&[1, 0], &[])));
    assert_eq!(nothing.refusal(), "expected INPUT0 to begin with the seconds to sleep, got shape [1,0]");
    let counts = model.counts();
    assert_eq!((counts.success.count, counts.fail.count), (1, 5));
    assert!(counts.compute_infer.nanos >= 20_000_000, "{counts:?}");
}

#[test]
fn who_leaves_ends_the_sleep_of_its_request_alone() {
    let model = TestModel::load(&config("sleep", SLEEP, "max_batch_size: 8")).unwrap();
    let request = |seconds: f32| model.request().input("INPUT0", fp32(&[1, 1], &[seconds]));
    let asked = model.run(vec![request(3000.0), request(0.0), request(3000.0)]);
    asked[0].cancellation.cancel();
    asked[2].cancellation.cancel();
    assert_eq!(asked[1].script(), ["OUTPUT0=[1,1]0*"]);
    for left in [&asked[0], &asked[2]] {
        assert!(matches!(left.next(), Delivery::Failed { error: InferError::Cancelled, last: true }));
    }
    let counts = model.counts();
    assert_eq!((counts.success.count, counts.fail.count, counts.execution_count), (1, 2, 1));
}

#[test]
fn who_leaves_ends_the_delay_of_its_batch() {
    let more = parameter("execute_delay_ms", "3000000");
    let model = TestModel::load(&config("identity", ONE_TENSOR, &more)).unwrap();
    let asked = model.ask(model.request().input("A", int32(&[1], &[1])));
    asked.cancellation.cancel();
    assert_eq!(asked.single(), Err(Box::new(InferError::Cancelled)));
}

#[test]
fn seconds_may_be_of_any_numeric_datatype() {
    let tensors = SLEEP.replace("FP32", "INT8");
    let model = TestModel::load(&config("sleep", &tensors, "")).unwrap();
    let request = |seconds: i8| model.request().input("INPUT0", tensor(DataType::Int8, &[1], [seconds.to_le_bytes()]));
    assert_eq!(model.ask(request(0)).script(), ["OUTPUT0=[1]0*"]);
    assert!(model.ask(request(-1)).refusal().ends_with("got -1"));
}

#[test]
fn parameters_are_echoed_as_text() {
    let tensors = "input { name: \"any\" data_type: TYPE_INT32 dims: -1 }
        output { name: \"key\" data_type: TYPE_STRING dims: -1 } output { name: \"value\" data_type: TYPE_STRING dims: -1 }";
    let given = [
        ("t", Parameter::Bool(true)),
        ("f", Parameter::Bool(false)),
        ("i", Parameter::Int64(-7)),
        ("s", Parameter::String("two words".to_owned())),
        ("d", Parameter::Double(123.123)),
        ("one", Parameter::Double(1.0)),
    ];
    let model = TestModel::load(&config("parameter_echo", tensors, "")).unwrap();
    let request = model.request().input("any", int32(&[0], &[]));
    assert_eq!(model.ask(request.clone()).script(), ["key=[0] value=[0]*"]);
    let full = given.iter().fold(request, |request, (name, value)| request.parameter(name, value.clone()));
    assert_eq!(model.ask(full).script(), ["key=[6]d,f,i,one,s,t value=[6]123.123,False,-7,1.0,two words,True*"]);

    let model = TestModel::load(&config("parameter_echo", tensors, "max_batch_size: 4")).unwrap();
    let request = model.request().input("any", int32(&[2, 1], &[0, 0])).parameter("a", Parameter::Int64(1));
    let answer = model.ask(request).single().unwrap();
    assert_eq!(show(&answer.outputs[1].tensor), "[2,1]1,1");
}
