//! `alcedo serve` as a process, over a repository with one model.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

/// A small model with what the original framework gave for some texts.
pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/bert")
}

/// A repository with the model `m`: the files of the fixture, and this configuration.
pub(crate) fn repository(config: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    copy(&fixture(), &root.path().join("m").join("1"));
    fs::write(root.path().join("m").join("config.pbtxt"), config).unwrap();
    root
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

fn command(root: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alcedo"));
    command.args(["serve", "--model-repository", root.to_str().unwrap(), "--log-format=json"]);
    command.args(["--grpc-port=0", "--http-port=0", "--metrics-port=0"]);
    command.args(["--grpc-address=127.0.0.1", "--http-address=127.0.0.1"]).args(flags);
    command.envs(environment.iter().copied()).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Expects the server to end by itself: exit code and log.
pub(crate) fn fail(root: &Path, flags: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = command(root, flags, environment).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A server that runs; it is killed if a test ends before it does.
pub(crate) struct Served {
    child: Child,
    log: BufReader<ChildStderr>,
    device: String,
    grpc: String,
    http: String,
    metrics: String,
}

impl Served {
    /// Starts on free ports and waits until the start-up models are loaded.
    pub(crate) fn start(root: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command(root, flags, environment).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let [device, grpc, http, metrics] = [(); 4].map(|()| String::new());
        let mut served = Self { child, log, device, grpc, http, metrics };
        served.device = served.wait_for("device of models")["because"].as_str().unwrap().to_owned();
        let address = |line: &Value| line["address"].as_str().unwrap().to_owned();
        served.grpc = address(&served.wait_for("grpc listens"));
        served.http = address(&served.wait_for("http listens"));
        served.metrics = address(&served.wait_for("metrics listens"));
        served.wait_for("ready");
        served
    }

    /// Whether faults can be asked for.
    pub(crate) fn is_emulated(&self) -> bool {
        self.device.contains("Emulated device")
    }

    pub(crate) async fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        GrpcInferenceServiceClient::new(endpoint.connect().await.unwrap())
    }

    /// Reads the log to the line that begins with this message.
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ended before '{message}':\n{seen}");
            if let Ok(value) = serde_json::from_str::<Value>(&line)
                && value["message"].as_str().is_some_and(|found| found.starts_with(message))
            {
                return value;
            }
            seen.push_str(&line);
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Status line of an HTTP GET.
    pub(crate) fn http_status(&self, path: &str) -> String {
        get(&self.http, path).lines().next().unwrap_or_default().to_owned()
    }

    /// The metrics page.
    pub(crate) fn metrics(&self) -> String {
        get(&self.metrics, "/metrics")
    }

    /// Waits for the end; returns the exit code and the rest of the log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

fn get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    connection.read_to_string(&mut reply).unwrap();
    reply
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is the usual case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
