//! Ensembles over composing models that do what a test tells them to. Owns the fakes; imports what
//! `ensemble` may.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::Bytes;

use crate::clock;
use crate::config::ModelConfig;
use crate::error::InferError;
use crate::observe::statistics::{Counts, FailureReason, ModelStatistics};
use crate::request::{
    Cancellation, ComputeTiming, Delivery, Entry, InferRequest, InferResponse, InputTensor, OutputTensor, Parameter, Parameters,
    RequestOptions, Responder, ResponseSink, SequenceId, VersionChoice,
};
use crate::scheduler::{ComposingModels, ModelHandle, Scheduler};
use crate::tensor::{DataType, Shape, Tensor};

use super::EnsembleScheduler;

mod plain;
mod streams;

/// Longest wait for something that must happen; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A value that threads wait for.
#[derive(Default)]
struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// Waits until `take` finds what it looks for.
    fn wait<R>(&self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut value = self.value.lock().unwrap();
        let deadline = clock::now().plus(PATIENCE);
        loop {
            if let Some(result) = take(&mut value) {
                return result;
            }
            assert!(clock::now() < deadline, "nothing happened for too long");
            value = self.changed.wait_timeout(value, PATIENCE).unwrap().0;
        }
    }
}

/// What a composing model does with an entry.
type Behavior = Arc<dyn Fn(Entry) + Send + Sync>;

struct Fake(Behavior);

impl Scheduler for Fake {
    fn enqueue(&self, group: Vec<Entry>) {
        group.into_iter().for_each(|entry| (self.0)(entry));
    }
}

/// Entries that a test answers by hand.
#[derive(Clone, Default)]
struct Held(Arc<Watched<Vec<Entry>>>);

impl Held {
    fn behavior(&self) -> Behavior {
        let held = Arc::clone(&self.0);
        Arc::new(move |entry| held.change(|entries| entries.push(entry)))
    }

    fn next(&self) -> Entry {
        self.0.wait(|entries| (!entries.is_empty()).then(|| entries.remove(0)))
    }

    fn len(&self) -> usize {
        self.0.change(|entries| entries.len())
    }
}

/// Models by name.
#[derive(Default)]
struct Models(Mutex<BTreeMap<String, Arc<ModelHandle>>>);

impl ComposingModels for Models {
    fn resolve(&self, model: &str, _version: VersionChoice) -> Result<Arc<ModelHandle>, InferError> {
        self.0.lock().unwrap().get(model).cloned().ok_or_else(|| InferError::UnknownModel { model: model.to_owned() })
    }
}

impl Models {
    fn add(&self, name: &str, config: ModelConfig, scheduler: Arc<dyn Scheduler>) -> Arc<ModelStatistics> {
        let statistics = Arc::<ModelStatistics>::default();
        let handle = ModelHandle::new(Arc::new(config), 3, Arc::clone(&statistics), scheduler);
        self.0.lock().unwrap().insert(name.to_owned(), Arc::new(handle));
        statistics
    }

    fn fake(&self, name: &str, text: &str, behavior: Behavior) {
        self.add(name, config(name, text), Arc::new(Fake(behavior)));
    }

    fn ensemble(self: &Arc<Self>, name: &str, text: &str) -> Arc<ModelStatistics> {
        let mut parsed = config(name, &format!("platform: \"ensemble\" {text}"));
        let crate::config::Scheduling::Ensemble(graph) = &parsed.scheduling else { panic!("not an ensemble") };
        let resolve = |model: &str, version| {
            self.resolve(model, version).map(|handle| crate::config::Composing { config: Arc::clone(&handle.config) })
        };
        // As the repository does; graphs that do not fit their models at load time are for the other tests.
        parsed.decoupled = graph.check(&parsed, &resolve).is_ok_and(|checked| checked.decoupled);
        let statistics = Arc::<ModelStatistics>::default();
        let models: Arc<dyn ComposingModels> = Arc::<Self>::clone(self);
        let config = Arc::new(parsed);
        let scheduler = EnsembleScheduler::new(Arc::clone(&config), 5, Arc::clone(&statistics), models).unwrap();
        let handle = ModelHandle::new(config, 5, Arc::clone(&statistics), scheduler);
        self.0.lock().unwrap().insert(name.to_owned(), Arc::new(handle));
        statistics
    }

    fn submit(&self, model: &str, request: InferRequest) -> Client {
        let client = Client::default();
        let sink = ClientSink(client.clone());
        let handle = self.resolve(model, VersionChoice::Latest).unwrap();
        handle.submit(request, Responder::new(Box::new(sink), client.cancellation.clone()));
        client
    }
}

fn config(name: &str, text: &str) -> ModelConfig {
    ModelConfig::parse(proto::pbtxt::parse(text, "config.pbtxt").unwrap(), name).unwrap()
}

/// INT32 tensors of these names and dims.
fn tensors(side: &str, names: &[&str], dims: &str) -> String {
    names.iter().map(|name| format!("{side} {{ name: \"{name}\" data_type: TYPE_INT32 dims: {dims} }} ")).collect()
}

/// A model of INT32 tensors.
fn model(inputs: &[&str], outputs: &[&str], dims: &str, max_batch_size: usize) -> String {
    format!(
        "backend: \"builtin\" max_batch_size: {max_batch_size} {} {}",
        tensors("input", inputs, dims),
        tensors("output", outputs, dims)
    )
}

/// The tensors of an ensemble and its steps, written as `model X=A > Y=B`.
fn graph(inputs: &[&str], outputs: &[&str], dims: &str, max_batch_size: usize, steps: &[&str]) -> String {
    let map = |field: &str, text: &str| -> String {
        let pairs = text.trim().split(',').map(|pair| pair.trim().split_once('=').unwrap());
        pairs.map(|(key, value)| format!("{field} {{ key: \"{key}\" value: \"{value}\" }} ")).collect()
    };
    let steps: String = steps
        .iter()
        .map(|step| {
            let (left, outputs) = step.split_once('>').unwrap();
            let (name, inputs) = left.split_once(' ').unwrap();
            format!("step {{ model_name: \"{name}\" {}{}}} ", map("input_map", inputs), map("output_map", outputs))
        })
        .collect();
    format!(
        "max_batch_size: {max_batch_size} {} {} ensemble_scheduling {{ {steps} }}",
        tensors("input", inputs, dims),
        tensors("output", outputs, dims)
    )
}

fn numbers(shape: &[usize], values: &[i32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(DataType::Int32, Shape::new(shape), Bytes::from(bytes)).unwrap()
}

fn values(tensor: &Tensor) -> Vec<i32> {
    tensor.bytes().chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn request(inputs: &[(&str, Tensor)]) -> InferRequest {
    let inputs = inputs
        .iter()
        .map(|(name, tensor)| InputTensor {
            name: (*name).to_owned(),
            datatype: Ok(tensor.datatype()),
            shape: tensor.shape().sizes().iter().map(|size| i64::try_from(*size).unwrap()).collect(),
            contents: tensor.bytes().clone(),
        })
        .collect();
    InferRequest {
        id: "7".to_owned(),
        options: RequestOptions::default(),
        parameters: Parameters::new(),
        inputs,
        outputs: Vec::new(),
        received_at: clock::now(),
        deadline: None,
        timeline: None,
    }
}

/// Who asked, and what came back.
#[derive(Clone, Default)]
struct Client {
    deliveries: Arc<Watched<Vec<(Delivery, ThreadId)>>>,
    cancellation: Cancellation,
}

struct ClientSink(Client);

impl ResponseSink for ClientSink {
    fn deliver(&mut self, delivery: Delivery) {
        self.0.deliveries.change(|all| all.push((delivery, thread::current().id())));
    }
}

impl Client {
    /// Everything that came, once the last of it has.
    fn all(&self) -> Vec<(Delivery, ThreadId)> {
        self.deliveries.wait(|all| all.last().is_some_and(|(last, _)| last.is_last()).then(|| all.clone()))
    }

    /// The one response.
    fn response(&self) -> InferResponse {
        match self.all().remove(0).0 {
            Delivery::Response { response, last: true } => *response,
            other => panic!("not one response: {other:?}"),
        }
    }

    /// The error that ended the request.
    fn error(&self) -> InferError {
        match self.all().pop() {
            Some((Delivery::Failed { error, last: true }, _)) => error,
            other => panic!("not an error: {other:?}"),
        }
    }

    fn is_waiting(&self) -> bool {
        self.deliveries.change(|all| all.is_empty())
    }
}

/// Outputs by name, as text.
fn shown(response: &InferResponse) -> Vec<String> {
    let show = |output: &OutputTensor| format!("{}{}={:?}", output.name, output.tensor.shape(), values(&output.tensor));
    response.outputs.iter().map(show).collect()
}

const TIMING: ComputeTiming =
    ComputeTiming { input: Duration::from_nanos(100), infer: Duration::from_nanos(10), output: Duration::from_nanos(1) };

fn response(outputs: Vec<(&str, Tensor)>) -> Box<InferResponse> {
    let outputs = outputs.into_iter().map(|(name, tensor)| OutputTensor { name: name.into(), tensor }).collect();
    Box::new(InferResponse {
        model_name: "fake".into(),
        model_version: 3,
        id: String::new(),
        parameters: Parameters::new(),
        outputs,
        timing: TIMING,
        timeline: None,
    })
}

fn answer(mut entry: Entry, outputs: Vec<(&str, Tensor)>) {
    entry.responder.deliver(Delivery::Response { response: response(outputs), last: true });
}

/// Answers `Y` = the sum of all inputs, in the shape of the first.
fn sum(entry: Entry) {
    let inputs: Vec<&Tensor> = entry.request.inputs.iter().flatten().collect();
    let mut total = values(inputs[0]);
    for other in &inputs[1..] {
        total.iter_mut().zip(values(other)).for_each(|(total, value)| *total += value);
    }
    let tensor = numbers(inputs[0].shape().sizes(), &total);
    answer(entry, vec![("Y", tensor)]);
}

fn at_once(behavior: fn(Entry)) -> Behavior {
    Arc::new(behavior)
}

/// Does it on a thread of its own.
fn on_thread(behavior: fn(Entry)) -> Behavior {
    Arc::new(move |entry| {
        thread::spawn(move || behavior(entry));
    })
}

fn failures(counts: &Counts, reason: FailureReason) -> u64 {
    counts.failures[FailureReason::ALL.iter().position(|known| *known == reason).unwrap()]
}
