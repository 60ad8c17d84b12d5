//! The timeline that a request may ask for.

use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::{ModelInferRequest, ModelInferResponse};
use serde_json::Value;

use super::*;

fn asking(message: ModelInferRequest) -> ModelInferRequest {
    with_parameter(message, "alcedo_timeline", ParameterChoice::BoolParam(true))
}

fn timeline(response: &ModelInferResponse) -> Option<Value> {
    match response.parameters.get("alcedo_timeline")?.parameter_choice.as_ref()? {
        ParameterChoice::StringParam(text) => Some(serde_json::from_str(text).unwrap()),
        other => panic!("the timeline is a text, got {other:?}"),
    }
}

fn micros(timeline: &Value, key: &str) -> f64 {
    timeline[key].as_f64().unwrap_or_else(|| panic!("{key} in {timeline}"))
}

/// The moments stand in the order of the request's way, and what it waited for adds up to its wait.
fn check(timeline: &Value) {
    let keys = ["received_us", "decoded_us", "queued_us", "formed_us", "started_us", "inputs_us", "executed_us", "outputs_us"];
    let moments: Vec<f64> = keys.iter().filter_map(|key| timeline[key].as_f64()).collect();
    assert!(moments.is_sorted(), "{timeline}");
    let waited: f64 = ["instance", "window", "device", "handover"].iter().map(|part| micros(&timeline["waited_us"], part)).sum();
    let wait = micros(timeline, "started_us") - micros(timeline, "queued_us");
    assert!((waited - wait).abs() < 0.01, "{waited} and {wait} in {timeline}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_asks_gets_its_timeline() {
    let batching = "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 1000 }";
    let served = Served::start(&[("batching", &[1], identity("FP32", batching)), ("alone", &[3], identity("FP32", ""))]).await;
    let mut client = served.client().await;
    let silent = client.model_infer(one("alone", "", 1.0)).await.unwrap().into_inner();
    assert_eq!(timeline(&silent), None, "only who asks gets it");
    let alone = timeline(&client.model_infer(asking(one("alone", "", 1.0))).await.unwrap().into_inner()).unwrap();
    check(&alone);
    assert_eq!(
        (alone["model"].as_str(), alone["version"].as_u64(), alone["source"].as_str()),
        (Some("alone"), Some(3), Some("execution"))
    );
    assert_eq!((alone["batch"]["trigger"].as_str(), alone["batch"]["mates"].as_u64()), (Some("alone"), Some(0)));
    assert_eq!(alone["instance"].as_str(), Some("alone#0"));
    assert!(micros(&alone, "outputs_us") <= micros(&alone, "encoded_us"), "{alone}");
    let rows = request("batching", "", &[("INPUT0", "FP32", &[3, 1], floats(&[1.0, 2.0, 3.0]))]);
    let batched = timeline(&client.model_infer(asking(rows)).await.unwrap().into_inner()).unwrap();
    check(&batched);
    assert_eq!((batched["batch"]["rows"].as_u64(), batched["batch"]["mates"].as_u64()), (Some(3), Some(0)));
    assert_eq!(batched["batch"]["cost"].as_u64(), Some(3), "rows are the cost of a model that declares none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_first_response_of_a_stream_carries_it() {
    let served = Served::start(&[("repeat", &[1], repeat())]).await;
    let mut client = served.client().await;
    let sent = tokio_stream::iter([asking(repeat_request("a", &[1, 2, 3]))]);
    let mut answers = client.model_stream_infer(sent).await.unwrap().into_inner();
    let mut timelines = Vec::new();
    while let Some(message) = patient(answers.message()).await.unwrap() {
        timelines.push(timeline(&message.infer_response.unwrap()));
    }
    assert_eq!(timelines.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    check(timelines[0].as_ref().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_tells_of_its_steps() {
    let ensemble = "platform: \"ensemble\"
        input [ { name: \"IN\" data_type: TYPE_FP32 dims: [ -1 ] } ] output [ { name: \"OUT\" data_type: TYPE_FP32 dims: [ -1 ] } ]
        ensemble_scheduling {
          step { model_name: \"one\" model_version: -1 input_map { key: \"INPUT0\" value: \"IN\" } output_map { key: \"OUTPUT0\" value: \"between\" } }
          step { model_name: \"two\" model_version: -1 input_map { key: \"INPUT0\" value: \"between\" } output_map { key: \"OUTPUT0\" value: \"OUT\" } }
        }";
    let served = Served::start(&[
        ("one", &[1], identity("FP32", "")),
        ("two", &[2], identity("FP32", "")),
        ("chain", &[1], ensemble.to_owned()),
    ])
    .await;
    let message = asking(request("chain", "", &[("IN", "FP32", &[1], floats(&[1.0]))]));
    let whole = timeline(&served.client().await.model_infer(message).await.unwrap().into_inner()).unwrap();
    let steps = whole["steps"].as_array().unwrap();
    let named: Vec<_> = steps.iter().map(|step| (step["model"].as_str().unwrap(), step["version"].as_u64().unwrap())).collect();
    assert_eq!(named, [("one", 1), ("two", 2)]);
    steps.iter().for_each(check);
    let moments = [
        micros(&whole, "queued_us"),
        micros(&steps[0], "received_us"),
        micros(&steps[0], "outputs_us"),
        micros(&steps[1], "received_us"),
        micros(&steps[1], "outputs_us"),
        micros(&whole, "outputs_us"),
        micros(&whole, "encoded_us"),
    ];
    assert!(moments.is_sorted(), "{whole}");
}
