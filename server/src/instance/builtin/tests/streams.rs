//! `repeat`, `square`, `producer` and `mock_llm`.

use crate::error::InferError;
use crate::request::{Delivery, Parameter};
use crate::tensor::{DataType, Tensor};

use super::super::super::testing::{Asked, TestModel, TestRequest, int32, strings, tensor, uint32};
use super::{config, parameter};

const DECOUPLED: &str = "model_transaction_policy { decoupled: true } ";

const REPEAT: &str =
    "input { name: \"IN\" data_type: TYPE_INT32 dims: -1 } input { name: \"DELAY\" data_type: TYPE_UINT32 dims: -1 }
    input { name: \"WAIT\" data_type: TYPE_UINT32 dims: 1 }
    output { name: \"OUT\" data_type: TYPE_INT32 dims: 1 } output { name: \"IDX\" data_type: TYPE_UINT32 dims: 1 }";

const LLM: &str = "input { name: \"PROMPT\" data_type: TYPE_STRING dims: [ 1, 1 ] } input { name: \"STREAM\" data_type: TYPE_BOOL dims: [ 1, 1 ] }
    input { name: \"input_ids\" data_type: TYPE_INT32 dims: [ 1, -1 ] optional: true }
    output { name: \"TEXT\" data_type: TYPE_STRING dims: -1 }";

/// Long enough that a test which waited for it would fail.
const FOREVER_MS: u32 = 3_000_000;

fn load(kind: &str, tensors: &str, more: &str) -> TestModel {
    TestModel::load(&config(kind, tensors, more)).unwrap()
}

fn repeat<'a>(model: &'a TestModel, values: &[i32], delays: &[u32], wait: u32) -> TestRequest<'a> {
    let request = model.request().input("IN", int32(&[values.len()], values));
    request.input("DELAY", uint32(&[delays.len()], delays)).input("WAIT", uint32(&[1], &[wait]))
}

fn counting(kind: &str, out: &str, more: &str) -> TestModel {
    let tensors = format!(
        "input {{ name: \"IN\" data_type: TYPE_INT32 dims: 1 }} output {{ name: \"OUT\" data_type: TYPE_{out} dims: 1 }}"
    );
    load(kind, &tensors, &(DECOUPLED.to_owned() + more))
}

fn count(model: &TestModel, n: i32) -> Asked {
    model.ask(model.request().input("IN", int32(&[1], &[n])))
}

#[track_caller]
fn assert_left(asked: &Asked) {
    let last = asked.all().pop();
    assert!(matches!(last, Some(Delivery::Failed { error: InferError::Cancelled, last: true })), "{last:?}");
}

#[test]
fn repeat_sends_each_element_and_then_the_final_flag() {
    let model = load("repeat", REPEAT, DECOUPLED);
    let script = model.ask(repeat(&model, &[4, 5, 6], &[0, 1, 0], 0)).script();
    assert_eq!(script, ["OUT=[1]4 IDX=[1]0", "OUT=[1]5 IDX=[1]1", "OUT=[1]6 IDX=[1]2", "final*"]);
    let counts = model.counts();
    assert_eq!((counts.execution_count, counts.success.count, counts.fail.count), (1, 1, 0));
    assert_eq!([0, 1, 2].map(|index| counts.responses[&index].success.count), [1, 1, 1]);
    assert_eq!(counts.responses[&3].empty_response.count, 1);
    assert!(counts.responses[&1].compute_infer.nanos >= 1_000_000);
}

#[test]
fn repeat_of_nothing_is_the_final_flag() {
    let model = load("repeat", REPEAT, DECOUPLED);
    assert_eq!(model.ask(repeat(&model, &[], &[], 0)).script(), ["final*"]);
}

#[test]
fn repeat_refuses_what_it_cannot_do() {
    let model = load("repeat", REPEAT, DECOUPLED);
    let refusal = |request: TestRequest<'_>| model.ask(request).refusal();
    assert_eq!(refusal(repeat(&model, &[1], &[0, 0], 0)), "expected IN and DELAY shape to match, got [1] and [2]");
    assert_eq!(refusal(repeat(&model, &[1, 2], &[0, 3_600_001], 0)), "expected DELAY[1] to be at most 3600000 ms, got 3600001");
    assert_eq!(refusal(repeat(&model, &[1], &[0], u32::MAX)), "expected WAIT to be at most 3600000 ms, got 4294967295");
    assert_eq!(model.counts().fail.count, 3);
}

#[test]
fn repeat_without_decoupling_is_the_first_element() {
    let model = load("repeat", REPEAT, "");
    assert_eq!(model.ask(repeat(&model, &[7, 8], &[0, FOREVER_MS], 0)).script(), ["OUT=[1]7 IDX=[1]0*"]);
    let refusal = model.ask(repeat(&model, &[], &[], 0)).refusal();
    assert_eq!(refusal, "expected IN of a model that is not decoupled to have at least one element, got shape [0]");
    let counts = model.counts();
    assert_eq!((counts.success.count, counts.fail.count, counts.responses.len()), (1, 1, 0));
}

#[test]
fn repeat_takes_batches_of_requests_of_one_row() {
    let model = load("repeat", REPEAT, &format!("{DECOUPLED} max_batch_size: 8"));
    let request = |rows: usize, delays: &[u32]| {
        let columns = delays.len() / rows;
        let request = model.request().input("IN", int32(&[rows, 2], &vec![7; rows * 2]));
        request.input("DELAY", uint32(&[rows, columns], delays)).input("WAIT", uint32(&[rows, 1], &vec![0; rows]))
    };
    let asked = model.run(vec![request(1, &[0, 0]), request(1, &[0]), request(2, &[0; 4])]);
    assert_eq!(asked[0].script(), ["OUT=[1,1]7 IDX=[1,1]0", "OUT=[1,1]7 IDX=[1,1]1", "final*"]);
    assert_eq!(asked[1].refusal(), "expected IN and DELAY shape to match, got [1,2] and [1,1]");
    assert_eq!(asked[2].refusal(), "expected a batch of one row, as each row has responses of its own, got 2 rows");
}

#[test]
fn repeat_holds_its_instance_no_longer_than_asked() {
    let model = load("repeat", REPEAT, DECOUPLED);
    // The only instance takes a second request while the first still has a response to come.
    let slow = model.ask(repeat(&model, &[1, 2], &[0, FOREVER_MS], 0));
    assert_eq!(model.ask(repeat(&model, &[3], &[0], 0)).script(), ["OUT=[1]3 IDX=[1]0", "final*"]);
    assert!(matches!(slow.next(), Delivery::Response { last: false, .. }));
    slow.cancellation.cancel();
    assert_left(&slow);
    // Who leaves during WAIT frees the instance.
    let held = model.ask(repeat(&model, &[1], &[0], FOREVER_MS));
    assert_eq!(held.script(), ["OUT=[1]1 IDX=[1]0", "final*"]);
    held.cancellation.cancel();
    assert_eq!(model.ask(repeat(&model, &[3], &[0], 0)).all().len(), 2);
    let counts = model.counts();
    assert_eq!((counts.success.count, counts.fail.count), (3, 1));
    assert_eq!(counts.responses[&1].cancel.count, 1);
}

#[test]
fn a_stream_outlives_the_unloading_of_its_model() {
    let model = load("repeat", REPEAT, DECOUPLED);
    let asked = model.ask(repeat(&model, &[1, 2, 3], &[20, 20, 20], 0));
    model.unload();
    assert_eq!(asked.all().len(), 4);
}

#[test]
fn square_sends_as_many_responses_as_asked() {
    let model = counting("square", "INT32", "");
    assert_eq!(count(&model, 3).script(), ["OUT=[1]3", "OUT=[1]3", "OUT=[1]3*"]);
    assert_eq!(count(&model, 0).script(), ["final*"]);
    assert_eq!(count(&model, -1).refusal(), "expected IN, the number of responses, to be at least 0, got -1");
    let counts = model.counts();
    assert_eq!((counts.success.count, counts.fail.count), (2, 1));
    assert_eq!(counts.responses[&0].empty_response.count, 1);
    assert_eq!(counts.responses[&2].success.count, 1);
}

#[test]
fn square_ends_with_errors_and_empty_responses() {
    let more = parameter("empty_count", "2") + &parameter("fail_count", "1") + &parameter("infer_delay_ns", "1000000");
    let model = counting("square", "INT32", &(more + &parameter("output_delay_ns", "2000000")));
    let script = count(&model, 5).script();
    assert_eq!(script, ["OUT=[1]5", "OUT=[1]5", "error: response 2 fails, as 'fail_count' asks for", "final*"]);
    let counts = model.counts();
    let tallies: Vec<_> = (0..5)
        .map(|index| {
            let tally = counts.responses[&index];
            (tally.success.count, tally.fail.count, tally.empty_response.count, tally.cancel.count)
        })
        .collect();
    assert_eq!(tallies, [(1, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, 0)]);
    for index in 0..5 {
        assert!(counts.responses[&index].compute_infer.nanos >= 1_000_000);
        assert_eq!(counts.responses[&index].compute_output.nanos >= 2_000_000, index < 3);
    }
    // A stream that carried an error is a failed request.
    assert_eq!((counts.success.count, counts.fail.count, counts.execution_count), (0, 1, 1));
    // Where there are fewer responses than empty ones, all are empty.
    assert_eq!(count(&model, 1).script(), ["final*"]);
}

#[test]
fn square_whose_last_response_fails_ends_with_the_error() {
    let model = counting("square", "INT32", &parameter("fail_count", "1"));
    assert_eq!(count(&model, 2).script(), ["OUT=[1]2", "error: response 1 fails, as 'fail_count' asks for*"]);
}

#[test]
fn square_notices_that_its_client_left() {
    let model = counting("square", "INT32", &parameter("cancel_delay_ns", "3000000"));
    let asked = count(&model, i32::MAX);
    for _ in 0..5 {
        assert!(matches!(asked.next(), Delivery::Response { last: false, .. }));
    }
    asked.cancellation.cancel();
    assert_left(&asked);
    let counts = model.counts();
    let cancels: Vec<_> = counts.responses.values().map(|tally| tally.cancel).filter(|cancel| cancel.count > 0).collect();
    assert_eq!(cancels.len(), 1);
    assert!(cancels[0].nanos >= 3_000_000);
}

#[test]
fn producer_holds_its_instance_until_done() {
    let more = parameter("value", "2.5") + &parameter("delay_ms", "1");
    let model = counting("producer", "FP32", &more);
    let (first, second) = (count(&model, 3), count(&model, 1));
    assert_eq!(first.script(), ["OUT=[1]2.5", "OUT=[1]2.5", "OUT=[1]2.5*"]);
    assert_eq!(second.script(), ["OUT=[1]2.5*"]);
    let asked = count(&model, i32::MAX);
    assert!(matches!(asked.next(), Delivery::Response { last: false, .. }));
    asked.cancellation.cancel();
    assert_left(&asked);
    assert_eq!(count(&model, 0).script(), ["final*"]);
    assert!(model.counts().responses[&0].compute_infer.nanos >= 1_000_000);
}

fn prompt<'a>(model: &'a TestModel, text: &str, stream: bool) -> TestRequest<'a> {
    let request = model.request().input("PROMPT", strings(&[1, 1], &[text]));
    request.input("STREAM", flag(stream))
}

fn flag(value: bool) -> Tensor {
    tensor(DataType::Bool, &[1, 1], [[u8::from(value)]])
}

#[test]
fn mock_llm_answers_at_once_or_in_copies() {
    let model = load("mock_llm", LLM, DECOUPLED);
    let three = |request: TestRequest<'_>| -> Vec<String> {
        model.ask(request.parameter("REPETITION", Parameter::Int64(3)).parameter("DELAY", Parameter::Double(0.001))).script()
    };
    assert_eq!(three(prompt(&model, "hello", false)), ["TEXT=[1]hello*"]);
    assert_eq!(three(prompt(&model, "hello", true)), ["TEXT=[1]hello", "TEXT=[1]hello", "TEXT=[1]hello", "final*"]);
    let failing = prompt(&model, "a", true).parameter("FAIL_LAST", Parameter::Bool(true));
    assert_eq!(model.ask(failing).script(), ["TEXT=[1]a", "error: An Error Occurred*"]);
    let empty = prompt(&model, "a", true).parameter("OUTPUT_0_DIM", Parameter::Bool(true));
    assert_eq!(model.ask(empty).script(), ["TEXT=[0]", "final*"]);
    let with_ids = prompt(&model, "a", false).input("input_ids", int32(&[1, 2], &[1, 2]));
    assert_eq!(model.ask(with_ids).script(), ["TEXT=[1]a*"]);
}

#[test]
fn mock_llm_refuses_parameters_of_other_types() {
    let model = load("mock_llm", LLM, DECOUPLED);
    let refusal = |name: &str, value: Parameter| model.ask(prompt(&model, "a", true).parameter(name, value)).refusal();
    let text = |name: &str, expected: &str, got: &str| format!("expected request parameter '{name}' to be {expected}, got {got}");
    let at_least = "an integer of at least 0";
    assert_eq!(refusal("REPETITION", Parameter::Int64(-1)), text("REPETITION", at_least, "-1"));
    assert_eq!(refusal("REPETITION", Parameter::String("2".to_owned())), text("REPETITION", at_least, "a string"));
    let seconds = "a number of seconds between 0 and 3600";
    assert_eq!(refusal("DELAY", Parameter::Double(f64::NAN)), text("DELAY", seconds, "NaN"));
    assert_eq!(refusal("DELAY", Parameter::Bool(true)), text("DELAY", seconds, "true"));
    assert_eq!(refusal("DELAY", Parameter::Int64(3601)), text("DELAY", seconds, "3601"));
    assert_eq!(refusal("FAIL_LAST", Parameter::Int64(1)), text("FAIL_LAST", "a boolean", "1"));
}

#[test]
fn mock_llm_streams_only_where_it_is_decoupled() {
    let model = load("mock_llm", LLM, "");
    assert_eq!(model.ask(prompt(&model, "a", false)).script(), ["TEXT=[1]a*"]);
    let refusal = model.ask(prompt(&model, "a", true)).refusal();
    assert_eq!(refusal, "STREAM is true, but the model is not decoupled; send false, or serve it decoupled");
}

#[test]
fn mock_llm_stops_when_its_client_leaves() {
    let model = load("mock_llm", LLM, DECOUPLED);
    let request = prompt(&model, "a", true).parameter("REPETITION", Parameter::Int64(i64::MAX));
    let asked = model.ask(request);
    assert!(matches!(asked.next(), Delivery::Response { last: false, .. }));
    asked.cancellation.cancel();
    assert_left(&asked);
}
