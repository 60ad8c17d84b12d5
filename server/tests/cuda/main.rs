//! The server on a GPU, real or emulated, as a process: answers, memory, faults, and what is said of devices.

mod doctor;
mod served;

use std::collections::BTreeMap;

use proto::inference::{ModelInferRequest, RepositoryModelUnloadRequest, model_infer_request::InferInputTensor};
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::Code;

use served::{Served, fail, fixture, repository};

/// Largest difference in f32 from what the original framework gave.
const TOLERANCE: f32 = 1e-4;

/// Requests that are sent at once.
const REQUESTS: usize = 96;

/// An encoder with `more` in its configuration.
fn encoder(more: &str) -> String {
    format!(
        "backend: \"candle\" max_batch_size: 16
        input {{ name: \"input_ids\" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true }}
        input {{ name: \"attention_mask\" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true }}
        output {{ name: \"EMBEDDING\" data_type: TYPE_FP32 dims: -1 }}
        {more}"
    )
}

fn parameter(name: &str, value: &str) -> String {
    format!("parameters {{ key: \"{name}\" value {{ string_value: \"{value}\" }} }} ")
}

/// What the original framework gave: tokens and the vector of each text.
fn golden() -> Vec<(Vec<i64>, Vec<f32>)> {
    let text = std::fs::read_to_string(fixture().join("expected.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let row = |index: usize| {
        let integers = |name: &str| -> Vec<i64> {
            all[name][index].as_array().unwrap().iter().map(|value| value.as_i64().unwrap()).collect()
        };
        let length = integers("attention_mask").iter().filter(|mask| **mask == 1).count();
        let vector = all["embedding"][index].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
        (integers("input_ids")[..length].to_vec(), vector)
    };
    (0..all["texts"].as_array().unwrap().len()).map(row).collect()
}

fn request(ids: &[i64]) -> ModelInferRequest {
    let tensor = |name: &str| InferInputTensor {
        name: name.to_owned(),
        datatype: "INT64".to_owned(),
        shape: vec![1, i64::try_from(ids.len()).unwrap()],
        ..Default::default()
    };
    let bytes = |values: &mut dyn Iterator<Item = i64>| values.flat_map(i64::to_le_bytes).collect::<Vec<u8>>().into();
    ModelInferRequest {
        model_name: "m".to_owned(),
        inputs: vec![tensor("input_ids"), tensor("attention_mask")],
        raw_input_contents: vec![bytes(&mut ids.iter().copied()), bytes(&mut ids.iter().map(|_| 1))],
        ..Default::default()
    }
}

#[track_caller]
fn assert_close(bytes: &[u8], expected: &[f32]) {
    let got: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(got.len(), expected.len());
    let difference = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f32::max);
    assert!(difference <= TOLERANCE, "differs by {difference}");
}

/// Values of the samples on the metrics page whose lines begin so, by the rest of their names.
fn samples(page: &str, family: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(family)?.rsplit_once(' '));
    lines.map(|(labels, value)| (labels.to_owned(), value.parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_answer_as_the_original_does_and_give_their_memory_back() {
    let more = "dynamic_batching { } instance_group { kind: KIND_GPU count: 2 gpus: 0 }";
    let root = repository(&encoder(&format!("{more} {}", parameter("dtype", "f32"))));
    let mut server = Served::start(root.path(), &["--model-control-mode=explicit", "--load-model=m"], &[]);
    let golden = golden();
    let client = server.client().await;
    let mut asked = JoinSet::new();
    for index in 0..REQUESTS {
        let (mut client, (ids, expected)) = (client.clone(), golden[index % golden.len()].clone());
        asked.spawn(async move {
            let answer = client.model_infer(request(&ids)).await.unwrap().into_inner();
            assert_close(&answer.raw_output_contents[0], &expected);
        });
    }
    while let Some(answered) = asked.join_next().await {
        answered.unwrap();
    }
    let page = server.metrics();
    let of_model = ",model=\"m\",version=\"1\"}";
    for kind in ["arena", "pinned", "weights", "workspace"] {
        let name = format!("{{device=\"cuda:0\",kind=\"{kind}\"{of_model}");
        assert!(samples(&page, "alcedo_gpu_memory_bytes")[&name] > 0.0, "{name}");
    }
    let batches: f64 = samples(&page, "nv_inference_exec_count").values().sum();
    assert_eq!(samples(&page, "alcedo_device_executions_total")["{device=\"cuda:0\"}"], batches, "a turn for each batch");
    assert_eq!(samples(&page, "nv_inference_request_success").values().sum::<f64>(), REQUESTS as f64);
    let unload = RepositoryModelUnloadRequest { model_name: "m".to_owned(), ..Default::default() };
    client.clone().repository_model_unload(unload).await.unwrap();
    server.wait_for("unloaded");
    assert_eq!(samples(&server.metrics(), "alcedo_gpu_memory_bytes"), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_when_the_server_ends_is_answered() {
    let root = repository(&encoder(&parameter("dtype", "f32")));
    let server = Served::start(root.path(), &["--device=cuda:0", "--drain-delay-secs=0"], &[]);
    let golden = golden();
    let client = server.client().await;
    let mut asked = JoinSet::new();
    for index in 0..REQUESTS {
        let (mut client, (ids, expected)) = (client.clone(), golden[index % golden.len()].clone());
        asked.spawn(async move {
            match client.model_infer(request(&ids)).await {
                Ok(answer) => assert_close(&answer.into_inner().raw_output_contents[0], &expected),
                // What was not sent yet is canceled here when the connection closes.
                Err(refused) => assert!(matches!(refused.code(), Code::Unavailable | Code::Cancelled), "{refused}"),
            }
        });
        if index == REQUESTS / 2 {
            server.signal("TERM");
        }
    }
    while let Some(answered) = asked.join_next().await {
        answered.unwrap();
    }
    drop(client);
    let (code, log) = tokio::task::spawn_blocking(move || server.end()).await.unwrap();
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_lost_ends_the_readiness_of_the_server() {
    // Replayed launches are not counted.
    let root = repository(&encoder(&format!("{}{}", parameter("dtype", "f32"), parameter("graphs", "off"))));
    let mut server = Served::start(root.path(), &["--device=cuda:0"], &[("ALCEDO_EMULATOR_FAIL", "launch:30")]);
    if !server.is_emulated() {
        return;
    }
    assert!(server.http_status("/v2/health/ready").contains("200"));
    let (mut client, golden) = (server.client().await, golden());
    let mut refusals = Vec::new();
    // Each batch takes several launches, so that the thirtieth comes soon.
    for (ids, expected) in golden.iter().cycle().take(40) {
        match client.model_infer(request(ids)).await {
            Ok(answer) if refusals.is_empty() => assert_close(&answer.into_inner().raw_output_contents[0], expected),
            Ok(_) => panic!("answered by a lost device"),
            Err(status) => refusals.push(status),
        }
    }
    assert!(!refusals.is_empty(), "the fault came");
    for status in refusals {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("the device 'cuda:0' is lost"), "{status}");
    }
    server.wait_for("a device is lost");
    for path in ["/v2/health/ready", "/v2/models/m/ready"] {
        assert!(server.http_status(path).contains("400"), "{path}");
    }
    assert!(server.http_status("/v2/health/live").contains("200"));
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_numbers() {
    let root = repository(&encoder("instance_group { kind: KIND_GPU }"));
    let (code, log) = fail(root.path(), &["--device=cuda:0"], &[("ALCEDO_EMULATOR_MEMORY", "20000000")]);
    if !log.contains("Emulated device") {
        return;
    }
    assert_eq!(code, Some(1), "{log}");
    for part in ["model 'm' needs ", "weights ", "workspace 32.0 MiB", " are free", "not even one item"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn a_device_that_is_not_there_is_known_before_anything_listens() {
    let root = repository(&encoder(""));
    let (code, log) = fail(root.path(), &["--device=cuda:63"], &[]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("there is no GPU 63, only GPU") && !log.contains("listens"), "{log}");
}

#[test]
fn what_does_not_suit_the_device_is_refused_by_name() {
    let gpu = "instance_group { kind: KIND_GPU }";
    let cases = [
        (gpu.to_owned(), "cpu", "asks for KIND_GPU, but the server was started with --device cpu"),
        ("instance_group { kind: KIND_GPU gpus: [ 0, 63 ] }".to_owned(), "auto", "there is no GPU 63"),
        (format!("{gpu} {}", parameter("threads", "1")), "auto", "parameter 'threads' of model 'm' is for instances on the CPU"),
        (parameter("batch_layout", "padded"), "cuda:0", "parameter 'batch_layout' of model 'm' is for instances on the CPU"),
        (parameter("graphs", "off"), "cpu", "parameter 'graphs' of model 'm' is for instances on GPUs"),
        (parameter("dtype", "f16"), "cpu", "must be 'f32', 'bf16' or 'int8' for instances on the CPU, got 'f16'"),
        (parameter("dtype", "int8"), "cuda:0", "must be 'f32', 'f16' or 'bf16' for instances on GPUs, got 'int8'"),
    ];
    for (more, device, expected) in cases {
        let root = repository(&encoder(&more));
        let (code, log) = fail(root.path(), &[&format!("--device={device}")], &[]);
        assert!(code == Some(1) && log.contains(expected), "{more} on {device}: {log}");
    }
}
