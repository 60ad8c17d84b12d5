//! The model repository over temporary folders of builtin models. Here is what its tests share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use server::clock;
use server::error::{ControlError, InferError};
use server::repository::{ControlMode, IndexEntry, LoadParameters, Repository, RepositoryOptions, VersionState};
use server::request::{
    Cancellation, Delivery, InferRequest, InferResponse, InputTensor, RequestOptions, Responder, ResponseSink, VersionChoice,
};
use server::tensor::DataType;
use tempfile::TempDir;

mod control;
mod ensembles;
mod hub;
mod reload;

/// Longest wait for anything that must happen; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

const LATEST: VersionChoice = VersionChoice::Latest;

/// A repository on disk.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn model(&self, name: &str, versions: &[&str], config: &str) {
        self.write(&format!("{name}/config.pbtxt"), config);
        for version in versions {
            std::fs::create_dir_all(self.path().join(name).join(version)).unwrap();
        }
    }

    fn open(&self, mode: ControlMode, startup: &[&str]) -> Arc<Repository> {
        open(&[self.path()], mode, startup)
    }
}

fn open(roots: &[&Path], control_mode: ControlMode, startup: &[&str]) -> Arc<Repository> {
    Repository::new(RepositoryOptions {
        control_mode,
        startup_models: startup.iter().map(|name| (*name).to_owned()).collect(),
        ..RepositoryOptions::new(roots.iter().map(|root| root.to_path_buf()).collect())
    })
}

/// A model that gives back its INT32 input of any length.
fn identity(extra: &str) -> String {
    format!(
        "backend: \"builtin\" input {{ name: \"IN\" data_type: TYPE_INT32 dims: -1 }} output {{ name: \"OUT\" data_type: TYPE_INT32 dims: -1 }}
         parameters {{ key: \"model\" value {{ string_value: \"identity\" }} }} {extra}"
    )
}

fn plain() -> LoadParameters {
    LoadParameters::default()
}

fn json(extra: &str) -> String {
    format!(
        r#"{{"backend": "builtin", "input": [{{"name": "IN", "data_type": "TYPE_INT32", "dims": [-1]}}],
            "output": [{{"name": "OUT", "data_type": "TYPE_INT32", "dims": [-1]}}],
            "parameters": {{"model": {{"string_value": "identity"}}}} {extra}}}"#
    )
}

struct Answers(std::sync::mpsc::SyncSender<Delivery>);

impl ResponseSink for Answers {
    fn deliver(&mut self, delivery: Delivery) {
        // The receiver leaves only when a test has failed already.
        let _ = self.0.send(delivery);
    }
}

fn request(value: i32) -> InferRequest {
    InferRequest {
        id: value.to_string(),
        options: RequestOptions::default(),
        parameters: BTreeMap::new(),
        inputs: vec![InputTensor {
            name: "IN".to_owned(),
            datatype: Ok(DataType::Int32),
            shape: vec![1],
            contents: Bytes::copy_from_slice(&value.to_le_bytes()),
        }],
        outputs: Vec::new(),
        received_at: clock::now(),
        deadline: None,
        timeline: None,
    }
}

fn submit(repository: &Repository, model: &str, version: VersionChoice, value: i32) -> Result<Receiver<Delivery>, InferError> {
    let handle = repository.resolve(model, version)?;
    let (sender, receiver) = sync_channel(4);
    handle.submit(request(value), Responder::new(Box::new(Answers(sender)), Cancellation::default()));
    Ok(receiver)
}

fn answer(receiver: &Receiver<Delivery>) -> Result<InferResponse, InferError> {
    match receiver.recv_timeout(PATIENCE).expect("an answer") {
        Delivery::Response { response, .. } => Ok(*response),
        Delivery::Failed { error, .. } => Err(error),
        Delivery::Final => panic!("an answer without content"),
    }
}

/// Sends one request and checks its answer; returns the version that answered.
fn infer(repository: &Repository, model: &str, version: VersionChoice, value: i32) -> Result<u64, InferError> {
    let response = answer(&submit(repository, model, version, value)?)?;
    assert_eq!(response.id, value.to_string());
    assert_eq!(response.outputs[0].tensor.bytes()[..], value.to_le_bytes());
    Ok(response.model_version)
}

/// Waits until a condition holds that changes of the repository bring about.
async fn until(repository: &Repository, mut holds: impl AsyncFnMut() -> bool) {
    let mut changes = repository.subscribe();
    let waiting = async {
        while !holds().await {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the condition to come true");
}

async fn index(repository: &Repository) -> Vec<IndexEntry> {
    repository.index(false).await.unwrap()
}

/// The index in short: `name:version=STATE reason`.
async fn short_index(repository: &Repository) -> Vec<String> {
    let show = |entry: IndexEntry| {
        let version = entry.version.map_or_else(String::new, |version| format!(":{version}"));
        let state = entry.state.map_or_else(String::new, |state| format!("={state}"));
        format!("{}{version}{state} {}", entry.name, entry.reason).trim_end().to_owned()
    };
    index(repository).await.into_iter().map(show).collect()
}
