//! A harness for tests of backends: a model from the text of its configuration, run by real instances, and
//! everything that reaches the clients.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::batch::Batch;
use crate::clock::{self, Timestamp};
use crate::config::ModelConfig;
use crate::error::{InferError, LoadError};
use crate::observe::statistics::Counts;
use crate::request::{
    BatchKey, Cancellation, Delivery, Entry, InferResponse, Parameter, Parameters, RequestOptions, Responder, ResponseSink,
    ValidRequest,
};
use crate::tensor::{DataType, Shape, Tensor};

use super::device::Devices;
use super::{Backend, InstancePool, ServedVersion};

/// How long a test waits for what must come; far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most deliveries that wait for a test to read them; a model that sends more is held back, as by a slow client.
const DELIVERIES: usize = 64;

/// A model that runs.
pub(super) struct TestModel {
    served: Arc<ServedVersion>,
    pool: InstancePool,
    devices: Arc<Devices>,
}

/// The version that a configuration text describes. The model's name is that in the text.
pub(super) fn served(text: &str, version: u64, version_directory: &Path) -> Arc<ServedVersion> {
    let written = proto::pbtxt::parse(text, "config.pbtxt").unwrap();
    let name = written.name.clone();
    let config = Arc::new(ModelConfig::parse(written, &name).unwrap());
    Arc::new(ServedVersion {
        config,
        version,
        statistics: Arc::default(),
        model_directory: version_directory.to_path_buf(),
        version_directory: version_directory.to_path_buf(),
    })
}

impl TestModel {
    /// Loads version 1 of the model that `text` describes; it needs no files.
    pub(super) fn load(text: &str) -> Result<Self, LoadError> {
        Self::load_from(text, Path::new("."))
    }

    /// Loads version 1 of the model that `text` describes, with its files in `directory`.
    pub(super) fn load_from(text: &str, directory: &Path) -> Result<Self, LoadError> {
        let written = served(text, 1, directory);
        let devices = Arc::<Devices>::default();
        let config = super::place(&written.config, &devices)?;
        let served = Arc::new(ServedVersion { config, ..ServedVersion::clone(&written) });
        let backend = super::open_backend(&served, &devices)?;
        Self::over_on(served, &backend, &devices)
    }

    /// Runs a backend of the test's own.
    pub(super) fn over(served: Arc<ServedVersion>, backend: &Arc<dyn Backend>) -> Result<Self, LoadError> {
        Self::over_on(served, backend, &Arc::default())
    }

    /// As [`TestModel::over`], on devices that other models share.
    pub(super) fn over_on(
        served: Arc<ServedVersion>,
        backend: &Arc<dyn Backend>,
        devices: &Arc<Devices>,
    ) -> Result<Self, LoadError> {
        let pool = InstancePool::start(Arc::clone(&served), backend, 16, devices)?;
        Ok(Self { served, pool, devices: Arc::clone(devices) })
    }

    /// An empty request.
    pub(super) fn request(&self) -> TestRequest<'_> {
        TestRequest {
            model: self,
            inputs: vec![None; self.served.config.inputs.len()],
            outputs: vec![true; self.served.config.outputs.len()],
            parameters: Parameters::new(),
        }
    }

    /// Runs requests as one batch.
    pub(super) fn run(&self, requests: Vec<TestRequest<'_>>) -> Vec<Asked> {
        self.run_by(requests.into_iter().map(|request| (request, None)).collect())
    }

    /// Runs requests as one batch, each with its deadline.
    pub(super) fn run_by(&self, requests: Vec<(TestRequest<'_>, Option<Timestamp>)>) -> Vec<Asked> {
        let (batch, asked) = self.batch(requests);
        assert!(self.pool.try_submit(batch).is_ok(), "the queue of batches is full");
        asked
    }

    /// Runs one request on one instance.
    pub(super) fn ask_instance(&self, instance: usize, request: TestRequest<'_>) -> Asked {
        let (batch, mut asked) = self.batch(vec![(request, None)]);
        assert!(self.pool.try_submit_to(instance, batch).is_ok(), "the queue of batches is full");
        asked.pop().unwrap()
    }

    /// Waits until instances have taken every batch.
    pub(super) fn wait_until_taken(&self) {
        while self.pool.waiting() > 0 {
            std::thread::yield_now();
        }
    }

    fn batch(&self, requests: Vec<(TestRequest<'_>, Option<Timestamp>)>) -> (Batch<Entry>, Vec<Asked>) {
        let mut batch = Batch::default();
        let mut asked = Vec::new();
        for (request, deadline) in requests {
            let (sender, deliveries) = bounded(DELIVERIES);
            let cancellation = Cancellation::default();
            let responder = Responder::new(Box::new(Sink(sender)), cancellation.clone());
            let request = request.finish();
            let rows = request.rows;
            self.served.statistics.enter_queue(1);
            batch.push(
                Entry { request, responder, queued_at: clock::now(), level: 1, deadline, delayed_from: None, stand_in: None },
                rows,
            );
            asked.push(Asked { deliveries, cancellation });
        }
        (batch, asked)
    }

    /// Runs one request alone.
    pub(super) fn ask(&self, request: TestRequest<'_>) -> Asked {
        self.run(vec![request]).pop().unwrap()
    }

    /// Runs one request whose answer nobody can take: the sink panics.
    pub(super) fn ask_of_a_panicking_sink(&self, request: TestRequest<'_>) {
        struct Panicking;
        impl ResponseSink for Panicking {
            fn deliver(&mut self, _: Delivery) {
                panic!("as the test wants it");
            }
        }
        let responder = Responder::new(Box::new(Panicking), Cancellation::default());
        self.served.statistics.enter_queue(1);
        let entry = Entry {
            request: request.finish(),
            responder,
            queued_at: clock::now(),
            level: 1,
            deadline: None,
            delayed_from: None,
            stand_in: None,
        };
        assert!(self.pool.try_submit(Batch::single(entry, 1)).is_ok(), "the queue of batches is full");
    }

    /// The counts at this moment.
    pub(super) fn counts(&self) -> Counts {
        self.served.statistics.snapshot()
    }

    /// Its instances.
    pub(super) fn pool(&self) -> &InstancePool {
        &self.pool
    }

    /// Its devices.
    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Lets all go: the instances end when they have nothing left to do.
    pub(super) fn unload(self) {
        drop(self);
    }
}

/// A request in the making; everything about it is taken to be valid.
#[derive(Clone)]
pub(super) struct TestRequest<'a> {
    model: &'a TestModel,
    inputs: Vec<Option<Tensor>>,
    outputs: Vec<bool>,
    parameters: Parameters,
}

impl TestRequest<'_> {
    /// Sets an input, in the shape that the model sees.
    pub(super) fn input(mut self, name: &str, tensor: Tensor) -> Self {
        let index = self.model.served.config.input_index(name).unwrap();
        self.inputs[index] = Some(tensor);
        self
    }

    /// Wants these outputs alone.
    pub(super) fn outputs(mut self, names: &[&str]) -> Self {
        let wanted = self.model.served.config.outputs.iter().map(|output| names.contains(&&*output.name));
        self.outputs = wanted.collect();
        self
    }

    /// Sets a parameter.
    pub(super) fn parameter(mut self, name: &str, value: Parameter) -> Self {
        self.parameters.insert(name.to_owned(), value);
        self
    }

    /// The checked request.
    pub(super) fn finish(self) -> ValidRequest {
        let first = self.inputs.iter().flatten().next();
        let rows = match self.model.served.config.max_batch_rows {
            Some(_) => first.map_or(1, |tensor| tensor.shape().sizes()[0]),
            None => 1,
        };
        ValidRequest {
            id: "test".to_owned(),
            options: RequestOptions::default(),
            parameters: self.parameters,
            inputs: self.inputs,
            outputs: self.outputs,
            rows,
            batch_key: BatchKey::default(),
            cost: 1,
            received_at: clock::now(),
            deadline: None,
            timeline: None,
        }
    }
}

struct Sink(Sender<Delivery>);

impl ResponseSink for Sink {
    fn deliver(&mut self, delivery: Delivery) {
        // A test that has seen enough no longer receives.
        let _ = self.0.send(delivery);
    }
}

/// One who waits for answers.
pub(super) struct Asked {
    deliveries: Receiver<Delivery>,
    /// Through which to leave.
    pub(super) cancellation: Cancellation,
}

impl Asked {
    /// The next delivery.
    pub(super) fn next(&self) -> Delivery {
        self.deliveries.recv_timeout(PATIENCE).unwrap()
    }

    /// Whether nothing more has come.
    pub(super) fn is_silent(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Every delivery up to the last.
    pub(super) fn all(&self) -> Vec<Delivery> {
        let mut all = Vec::new();
        while !all.last().is_some_and(Delivery::is_last) {
            all.push(self.next());
        }
        all
    }

    /// The only answer, or why there is none.
    pub(super) fn single(&self) -> Result<InferResponse, Box<InferError>> {
        match self.next() {
            Delivery::Response { response, last: true } => Ok(*response),
            Delivery::Failed { error, last: true } => Err(Box::new(error)),
            other => panic!("expected a single answer, got {other:?}"),
        }
    }

    /// The text of the error.
    pub(super) fn refusal(&self) -> String {
        self.single().unwrap_err().to_string()
    }

    /// The deliveries in short: outputs of responses as `NAME=elements`, `*` after the last delivery.
    pub(super) fn script(&self) -> Vec<String> {
        self.all().iter().map(summary).collect()
    }
}

fn summary(delivery: &Delivery) -> String {
    let text = match delivery {
        Delivery::Response { response, .. } => {
            let outputs = response.outputs.iter().map(|output| format!("{}={}", output.name, show(&output.tensor)));
            outputs.collect::<Vec<_>>().join(" ")
        }
        Delivery::Final => "final".to_owned(),
        Delivery::Failed { error, .. } => format!("error: {error}"),
    };
    if delivery.is_last() { format!("{text}*") } else { text }
}

/// A tensor as text: its shape where that is not one element per list, and its elements.
pub(super) fn show(tensor: &Tensor) -> String {
    fn list<const N: usize, T: ToString>(tensor: &Tensor, read: impl Fn([u8; N]) -> T) -> String {
        tensor.bytes().as_chunks::<N>().0.iter().map(|bytes| read(*bytes).to_string()).collect::<Vec<_>>().join(",")
    }
    let elements = match tensor.datatype() {
        DataType::Bool | DataType::Uint8 => list(tensor, u8::from_le_bytes),
        DataType::Int8 => list(tensor, i8::from_le_bytes),
        DataType::Uint16 => list(tensor, u16::from_le_bytes),
        DataType::Int16 => list(tensor, i16::from_le_bytes),
        DataType::Uint32 => list(tensor, u32::from_le_bytes),
        DataType::Int32 => list(tensor, i32::from_le_bytes),
        DataType::Uint64 => list(tensor, u64::from_le_bytes),
        DataType::Int64 => list(tensor, i64::from_le_bytes),
        DataType::Fp16 => list(tensor, half::f16::from_le_bytes),
        DataType::Bf16 => list(tensor, half::bf16::from_le_bytes),
        DataType::Fp32 => list(tensor, f32::from_le_bytes),
        DataType::Fp64 => list(tensor, f64::from_le_bytes),
        DataType::Bytes => tensor.strings().map(|text| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>().join(","),
    };
    format!("{}{elements}", tensor.shape())
}

/// A tensor from the little-endian bytes of its elements.
pub(super) fn tensor<const N: usize>(datatype: DataType, shape: &[usize], elements: impl IntoIterator<Item = [u8; N]>) -> Tensor {
    let bytes: Vec<u8> = elements.into_iter().flatten().collect();
    Tensor::new(datatype, Shape::new(shape), Bytes::from(bytes)).unwrap()
}

/// An `INT32` tensor.
pub(super) fn int32(shape: &[usize], elements: &[i32]) -> Tensor {
    tensor(DataType::Int32, shape, elements.iter().map(|element| element.to_le_bytes()))
}

/// A `UINT32` tensor.
pub(super) fn uint32(shape: &[usize], elements: &[u32]) -> Tensor {
    tensor(DataType::Uint32, shape, elements.iter().map(|element| element.to_le_bytes()))
}

/// An `INT64` tensor.
pub(super) fn int64(shape: &[usize], elements: &[i64]) -> Tensor {
    tensor(DataType::Int64, shape, elements.iter().map(|element| element.to_le_bytes()))
}

/// An `FP32` tensor.
pub(super) fn fp32(shape: &[usize], elements: &[f32]) -> Tensor {
    tensor(DataType::Fp32, shape, elements.iter().map(|element| element.to_le_bytes()))
}

/// A `BYTES` tensor.
pub(super) fn strings(shape: &[usize], elements: &[&str]) -> Tensor {
    Tensor::from_strings(Shape::new(shape), elements.iter().map(|element| element.as_bytes())).unwrap()
}
