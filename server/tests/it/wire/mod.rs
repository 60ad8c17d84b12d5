//! The wire: real clients against a real server on a loopback port, over a temporary repository of builtin models.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use server::grpc::{self, FrontEnd, GrpcError, GrpcOptions, Lifecycle};
use server::http;
use server::repository::{ControlMode, Repository, RepositoryOptions};
use server::shared_memory::Regions;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

mod devices;
mod errors;
mod life;
mod rest;
mod shared;
mod streams;
mod timeline;
mod unary;

/// Longest wait for anything that must happen; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with its repository; everything ends with it.
struct Served {
    _disk: TempDir,
    front_end: FrontEnd,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    metrics_address: SocketAddr,
    grpc_task: JoinHandle<Result<(), GrpcError>>,
}

impl Served {
    /// A server of which nothing is loaded yet.
    async fn unloaded(models: &[(&str, &[u64], String)]) -> Self {
        Self::unloaded_sharing(models, Regions::default()).await
    }

    /// The same, with this shared memory.
    async fn unloaded_sharing(models: &[(&str, &[u64], String)], regions: Regions) -> Self {
        let disk = tempfile::tempdir().unwrap();
        for (name, versions, config) in models {
            write_model(disk.path(), name, versions, config);
        }
        let options = RepositoryOptions {
            control_mode: ControlMode::Explicit,
            startup_models: vec!["*".to_owned()],
            ..RepositoryOptions::new(vec![disk.path().to_owned()])
        };
        let front_end = FrontEnd::new(Repository::new(options), Lifecycle::default(), "the server");
        let front_end = FrontEnd { regions, ..front_end };
        let (grpc_listener, grpc_address) = listen().await;
        let (http_listener, http_address) = listen().await;
        let (metrics_listener, metrics_address) = listen().await;
        let grpc_task = tokio::spawn(grpc::serve(front_end.clone(), grpc_listener, GrpcOptions::default()));
        tokio::spawn(http::serve(front_end.clone(), http_listener));
        tokio::spawn(http::serve_metrics(front_end.clone(), metrics_listener));
        Self { _disk: disk, front_end, grpc_address, http_address, metrics_address, grpc_task }
    }

    /// A server whose models are loaded.
    async fn start(models: &[(&str, &[u64], String)]) -> Self {
        let served = Self::unloaded(models).await;
        served.front_end.repository.load_startup().await.unwrap();
        served
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc_address)).unwrap().connect().await.unwrap()
    }

    async fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel().await).max_decoding_message_size(usize::MAX)
    }

    /// Waits until this many inference requests are under way.
    async fn wait_under_way(&self, count: usize) {
        patient(async {
            while self.front_end.lifecycle.under_way() != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn write_model(root: &Path, name: &str, versions: &[u64], config: &str) {
    let directory = root.join(name);
    std::fs::create_dir_all(&directory).unwrap();
    for version in versions {
        std::fs::create_dir_all(directory.join(version.to_string())).unwrap();
    }
    std::fs::write(directory.join("config.pbtxt"), config).unwrap();
    std::fs::write(directory.join("labels.txt"), "zero\none\ntwo\n").unwrap();
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Awaits what must happen.
async fn patient<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it must happen within a minute")
}

/// The configuration of a builtin model; tensors are `(name, type, dims)`.
fn config(kind: &str, inputs: &[(&str, &str, &str)], outputs: &[(&str, &str, &str)], more: &str) -> String {
    let mut text = format!("backend: \"builtin\"\nparameters {{ key: \"model\" value {{ string_value: \"{kind}\" }} }}\n");
    for (side, tensors) in [("input", inputs), ("output", outputs)] {
        for (name, datatype, dims) in tensors {
            text += &format!("{side} [ {{ name: \"{name}\" data_type: TYPE_{datatype} dims: [ {dims} ] }} ]\n");
        }
    }
    text + more
}

fn identity(datatype: &str, more: &str) -> String {
    config("identity", &[("INPUT0", datatype, "-1")], &[("OUTPUT0", datatype, "-1")], more)
}

fn sleep() -> String {
    config("sleep", &[("INPUT0", "FP32", "1")], &[("OUTPUT0", "FP32", "1")], "instance_group [ { count: 1 kind: KIND_CPU } ]")
}

const DECOUPLED: &str = "model_transaction_policy { decoupled: true }";

fn repeat() -> String {
    let inputs = [("IN", "INT32", "-1"), ("DELAY", "UINT32", "-1"), ("WAIT", "UINT32", "1")];
    config("repeat", &inputs, &[("OUT", "INT32", "1"), ("IDX", "UINT32", "1")], DECOUPLED)
}

fn producer() -> String {
    let more = format!("{DECOUPLED} instance_group [ {{ count: 1 kind: KIND_CPU }} ]");
    config("producer", &[("IN", "INT32", "1")], &[("OUT", "FP32", "1")], &more)
}

fn add_sub(more: &str) -> String {
    let inputs = [("INPUT0", "INT32", "4"), ("INPUT1", "INT32", "4")];
    config("add_sub", &inputs, &[("OUTPUT0", "INT32", "4"), ("OUTPUT1", "INT32", "4")], more)
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec(), ..Default::default() }
}

/// A request with raw contents; tensors are `(name, datatype, shape, contents)`.
fn request(model: &str, id: &str, tensors: &[(&str, &str, &[i64], Vec<u8>)]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        id: id.to_owned(),
        inputs: tensors.iter().map(|(name, datatype, shape, _)| input(name, datatype, shape)).collect(),
        raw_input_contents: tensors.iter().map(|(.., contents)| Bytes::from(contents.clone())).collect(),
        ..Default::default()
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn ints(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// One float for a model with INPUT0.
fn one(model: &str, id: &str, value: f32) -> ModelInferRequest {
    request(model, id, &[("INPUT0", "FP32", &[1], floats(&[value]))])
}

fn add_sub_request(model: &str, id: &str) -> ModelInferRequest {
    let values = ints(&[1, 2, 3, 4]);
    request(model, id, &[("INPUT0", "INT32", &[4], values.clone()), ("INPUT1", "INT32", &[4], values)])
}

fn repeat_request(id: &str, values: &[i32]) -> ModelInferRequest {
    let count = i64::try_from(values.len()).unwrap();
    let delays = ints(&vec![0; values.len()]);
    let tensors: [(&str, &str, &[i64], Vec<u8>); 3] =
        [("IN", "INT32", &[count], ints(values)), ("DELAY", "UINT32", &[count], delays), ("WAIT", "UINT32", &[1], ints(&[0]))];
    request("repeat", id, &tensors)
}

fn producer_request(id: &str, count: i32) -> ModelInferRequest {
    request("producer", id, &[("IN", "INT32", &[1], ints(&[count]))])
}

fn with_parameter(mut message: ModelInferRequest, name: &str, value: ParameterChoice) -> ModelInferRequest {
    message.parameters.insert(name.to_owned(), InferParameter { parameter_choice: Some(value) });
    message
}

fn with_output(mut message: ModelInferRequest, name: &str, parameters: &[(&str, ParameterChoice)]) -> ModelInferRequest {
    let parameters: BTreeMap<_, _> = parameters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), InferParameter { parameter_choice: Some(value.clone()) }))
        .collect();
    message.outputs.push(InferRequestedOutputTensor { name: name.to_owned(), parameters });
    message
}

/// What an error must be.
fn assert_refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, text: &str) {
    let status = result.expect_err(text);
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(text), "expected {text:?} in {:?}", status.message());
}

fn flag(response: &ModelInferResponse, name: &str) -> Option<bool> {
    match response.parameters.get(name)?.parameter_choice {
        Some(ParameterChoice::BoolParam(flag)) => Some(flag),
        _ => None,
    }
}
