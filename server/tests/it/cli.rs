//! The binary as a user runs it: what it refuses, what it serves, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const IDENTITY: &str = "backend: 'builtin' max_batch_size: 8
    input [ { name: 'INPUT0' data_type: TYPE_STRING dims: [ 1 ] } ]
    output [ { name: 'OUTPUT0' data_type: TYPE_STRING dims: [ 1 ] } ]
    parameters { key: 'model' value: { string_value: 'identity' } }";

const REPEAT: &str = "backend: 'builtin' model_transaction_policy { decoupled: true }
    input [ { name: 'IN' data_type: TYPE_INT32 dims: [ -1 ] },
            { name: 'DELAY' data_type: TYPE_UINT32 dims: [ -1 ] },
            { name: 'WAIT' data_type: TYPE_UINT32 dims: [ 1 ] } ]
    output [ { name: 'OUT' data_type: TYPE_INT32 dims: [ 1 ] },
             { name: 'IDX' data_type: TYPE_UINT32 dims: [ 1 ] } ]
    parameters { key: 'model' value: { string_value: 'repeat' } }";

fn alcedo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alcedo"));
    command.args(arguments).env_remove("ALCEDO_URL").stdin(Stdio::null());
    command
}

fn finish(arguments: &[&str]) -> Output {
    alcedo(arguments).output().unwrap()
}

/// Expects the exit code, and returns what went to the standard error.
fn fail(arguments: &[&str], code: i32) -> String {
    let output = finish(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

/// Expects success, and returns what went to the standard output.
fn succeed(arguments: &[&str]) -> String {
    let output = finish(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn repository(models: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, config) in models {
        fs::create_dir_all(root.path().join(name).join("1")).unwrap();
        fs::write(root.path().join(name).join("config.pbtxt"), config).unwrap();
    }
    root
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running `alcedo serve`; it is killed if a test ends before it does.
struct Served {
    child: Child,
    log: BufReader<ChildStderr>,
    grpc: String,
    http: String,
}

impl Served {
    /// Starts on free ports and waits until the start-up models are loaded.
    fn start(root: &Path, flags: &[&str]) -> Self {
        Self::start_until(root, flags, "ready")
    }

    /// Starts on free ports and waits for this line of the log.
    fn start_until(root: &Path, flags: &[&str], message: &str) -> Self {
        let ports = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"];
        let addresses = ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--log-format=json"];
        let mut command = alcedo(&["serve", "--model-repository", text(root)]);
        let mut child = command.args(ports).args(addresses).args(flags).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut served = Self { child, log, grpc: String::new(), http: String::new() };
        let address = |line: &Value| line["address"].as_str().unwrap().to_owned();
        served.grpc = address(&served.wait_for("grpc listens"));
        served.http = address(&served.wait_for("http listens"));
        served.wait_for(message);
        served
    }

    /// Reads the log to the line that begins with this message.
    fn wait_for(&mut self, message: &str) -> Value {
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

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Status line of an HTTP GET.
    fn http_status(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(&self.http).unwrap();
        write!(connection, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).unwrap();
        reply.lines().next().unwrap_or_default().to_owned()
    }

    /// Waits for the end; returns the exit code and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is the usual case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A streaming request of which the first response has come and the second waits for `delay` milliseconds.
fn begin_stream(server: &Served, delay: u32) -> (Child, BufReader<std::process::ChildStdout>) {
    let delays = format!("DELAY=[0,{delay}]");
    let mut command =
        alcedo(&["infer", "--url", &server.grpc, "repeat", "-f", "json", "-i", "IN=[7,8]", "-i", &delays, "-i", "WAIT=0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert!(first.contains(r#""data":[7]"#), "{first}");
    (child, output)
}

#[test]
fn help_and_version_succeed() {
    let help = succeed(&["--help"]);
    for command in ["serve", "infer", "models", "config", "demo"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    assert!(succeed(&["serve", "--help"]).contains("--grpc-port <PORT>"));
    assert_eq!(succeed(&["--version"]), format!("alcedo {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_not_understood_ends_with_2() {
    assert!(fail(&["swerve"], 2).contains("serve"));
    assert!(fail(&["serve"], 2).contains("--model-repository"));
    assert!(fail(&["serve", "--model-repository", "x", "--grpc-prot", "1"], 2).contains("--grpc-port"));
    assert!(fail(&["serve", "--model-repository", "x", "--model-control-mode", "poll"], 2).contains("explicit"));
    assert!(fail(&["serve", "--model-repository", "x", "--log-level", "loud"], 2).contains("'loud' is no level"));
    assert!(fail(&["infer", "m", "-i", "hello"], 2).contains("'hello' is no input"));
    assert!(fail(&["infer", "--url", "nowhere", "m", "text"], 2).contains("it has no port"));
}

#[test]
fn what_cannot_be_done_ends_with_1() {
    let free = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"];
    let serve = [&["serve", "--model-repository", "/no/such/repository"][..], &free].concat();
    assert!(fail(&serve, 1).contains("/no/such/repository"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let root = repository(&[("identity", IDENTITY)]);
    let flags = [
        "serve",
        "--model-repository",
        text(root.path()),
        "--grpc-port=0",
        "--metrics-port=0",
        "--http-address=127.0.0.1",
        "--http-port",
        &port,
    ];
    let error = fail(&flags, 1);
    assert!(error.contains(&format!("unable to listen on 127.0.0.1:{port}")) && error.contains("--http-port"), "{error}");
    assert!(fail(&["infer", "--url", &format!("127.0.0.1:{port}0"), "m", "x"], 2).contains("HOST:PORT"));
    // Nobody listens on port 1; one that is free now may be taken by another test.
    assert!(fail(&["models", "--url", "127.0.0.1:1"], 1).contains("unable to connect"));
}

#[test]
fn a_model_that_fails_at_start_up_ends_the_server_or_does_not() {
    let broken = IDENTITY.replace("'identity'", "'no_such_kind'");
    let root = repository(&[("good", IDENTITY), ("broken", &broken)]);
    let flags = ["serve", "--model-repository", text(root.path()), "--grpc-port=0", "--http-port=0", "--metrics-port=0"];
    let error = fail(&flags, 1);
    assert!(error.contains("broken") && error.contains("no_such_kind"), "{error}");

    let server = Served::start_until(root.path(), &["--exit-on-error=false"], "one model failed");
    assert!(succeed(&["infer", "--url", &server.grpc, "good", "text"]).contains("\"text\""));
    assert!(fail(&["infer", "--url", &server.grpc, "broken", "text"], 1).contains("broken"));
    assert_eq!(server.http_status("/v2/health/ready"), "HTTP/1.1 400 Bad Request");
    server.signal("INT");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn commands_talk_to_a_server() {
    let root = repository(&[("identity", IDENTITY), ("repeat", REPEAT)]);
    let server = Served::start(root.path(), &["--model-control-mode=explicit", "--load-model=identity"]);
    let url = server.grpc.as_str();

    let shown = succeed(&["infer", "--url", url, "identity", "one", "two words", "--id", "mine"]);
    assert!(shown.contains("identity version 1, id mine"), "{shown}");
    assert!(shown.contains("OUTPUT0 BYTES [2,1]\n  [0] \"one\"\n  [1] \"two words\"\n"), "{shown}");
    let saved = root.path().join("out");
    succeed(&["infer", "--url", url, "identity", "one", "--format", &format!("npy:{}", text(&saved))]);
    let again = succeed(&["infer", "--url", url, "identity", "-i", &format!("@{}/OUTPUT0.npy", text(&saved)), "-f", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap()["outputs"][0]["data"], serde_json::json!(["one"]));
    assert!(fail(&["infer", "--url", url, "identity", "-i", "OTHER=[1]"], 1).contains("has no input 'OTHER'"));
    assert!(fail(&["infer", "--url", url, "nobody", "x"], 1).contains("'nobody' is not found"));

    let listed: Value = serde_json::from_str(&succeed(&["models", "--url", url, "--json"])).unwrap();
    let identity = listed.as_array().unwrap().iter().find(|model| model["name"] == "identity").unwrap();
    assert_eq!((&identity["state"], &identity["statistics"]["requests_succeeded"]), (&"READY".into(), &3.into()));
    assert!(succeed(&["models", "--url", url]).contains("INPUT0 BYTES [-1,1] -> OUTPUT0 BYTES [-1,1]"));
    assert_eq!(succeed(&["models", "--url", url, "load", "repeat"]), "loaded repeat\n");
    let stream = succeed(&["infer", "--url", url, "repeat", "-f", "json", "-i", "IN=[5,6]", "-i", "DELAY=[0,0]", "-i", "WAIT=0"]);
    let values: Vec<Value> =
        stream.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["outputs"][0]["data"][0].clone()).collect();
    assert_eq!(values, [5, 6]);
    succeed(&["models", "--url", url, "unload", "repeat"]);
    assert!(fail(&["models", "--url", url, "load", "nobody"], 1).contains("failed to load 'nobody'"));
}

#[test]
fn configurations_are_printed_without_a_server() {
    let root = repository(&[("identity", IDENTITY), ("broken", "backend: 'builtin'\nmax_batch: 3")]);
    let printed = succeed(&["config", text(&root.path().join("identity"))]);
    assert!(printed.contains("name: \"identity\"") && printed.contains("name: \"identity_0\""), "{printed}");
    let json: Value = serde_json::from_str(&succeed(&["config", "--json", text(&root.path().join("identity"))])).unwrap();
    assert_eq!(json["max_batch_size"], 8);
    assert!(fail(&["config", text(&root.path().join("broken"))], 1).contains("config.pbtxt:2:1: unknown field `max_batch`"));
    assert!(fail(&["config", text(root.path())], 1).contains(text(root.path())));
    assert!(fail(&["config", "/no/such/model"], 1).contains("/no/such/model"));
}

#[test]
fn sigterm_drains_and_a_second_one_does_not_wait() {
    let root = repository(&[("identity", IDENTITY)]);
    let mut server = Served::start(root.path(), &["--drain-delay-secs=600"]);
    assert_eq!(server.http_status("/v2/health/ready"), "HTTP/1.1 200 OK");
    server.signal("TERM");
    server.wait_for("draining");
    assert_eq!(server.http_status("/v2/health/ready"), "HTTP/1.1 400 Bad Request");
    assert_eq!(server.http_status("/v2/health/live"), "HTTP/1.1 200 OK");
    assert!(succeed(&["infer", "--url", &server.grpc, "identity", "still served"]).contains("still served"));
    server.signal("TERM");
    assert_eq!(server.end().0, Some(130));
}

#[test]
fn what_runs_is_finished() {
    let root = repository(&[("repeat", REPEAT)]);
    let mut server = Served::start(root.path(), &["--drain-delay-secs=0"]);
    let (mut client, mut output) = begin_stream(&server, 1000);
    server.signal("TERM");
    server.wait_for("stopping");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(r#""data":[8]"#), "{rest}");
    assert!(client.wait().unwrap().success());
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn what_outlasts_the_exit_timeout_is_cut_off() {
    let root = repository(&[("repeat", REPEAT)]);
    let server = Served::start(root.path(), &["--drain-delay-secs=0", "--exit-timeout-secs=0.1"]);
    let (mut client, _output) = begin_stream(&server, 600_000);
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("requests that were cut off: 1"), "{log}");
    assert!(!client.wait().unwrap().success());
}

#[test]
fn a_device_that_cannot_be_used_is_refused_and_never_replaced() {
    let root = repository(&[("m", IDENTITY)]);
    let path = text(root.path());
    // Whatever this build and this machine have, no machine has as many GPUs.
    let refusal = fail(&["serve", "--model-repository", path, "--device=cuda:255", "--grpc-port=0", "--http-port=0"], 1);
    assert!(refusal.contains("error: --device names a device that is not to be had: "), "{refusal}");
    assert!(!refusal.contains("listens"), "{refusal}");
    let refusal = fail(&["serve", "--model-repository", path, "--device=gpu"], 2);
    assert!(refusal.contains("expected auto, cpu or cuda:N"), "{refusal}");
    let server = Served::start(root.path(), &["--device=cpu"]);
    assert!(server.http_status("/v2/health/ready").contains("200"));
}

#[test]
fn memory_is_planned_without_a_gpu() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let bert = fixtures.join("bert");
    let table = succeed(&["plan", text(&bert), "--gpu-memory", "1GiB"]);
    let line =
        table.lines().find(|line| line.starts_with("bert.encoder  1        f16    1")).unwrap_or_else(|| panic!("{table}"));
    assert!(line.ends_with("yes") && table.contains("bert.tokenizer takes no memory of a GPU"), "{table}");
    let refusal = fail(&["plan", text(&bert), "--gpu-memory=30MiB", "--dtype=f32"], 1);
    assert!(refusal.contains("the models do not fit: they take "), "{refusal}");
    let refusal = fail(&["plan", text(&fixtures), "--gpu-memory=1GiB"], 1);
    assert!(refusal.contains("some models cannot be planned for:"), "{refusal}");
    assert!(fail(&["plan", text(&bert), "--gpu-memory=much"], 2).contains("expected a size such as 24GiB"));
}

#[test]
fn a_machine_is_examined_whatever_it_has() {
    let report = succeed(&["doctor", "--device=cpu"]);
    let named = |name: &str| report.lines().any(|line| line.starts_with(name));
    for name in ["alcedo  ", "processor  ", "memory  ", "driver  ", "cuBLASLt  ", "GPU"] {
        assert!(named(name), "{name}: {report}");
    }
    assert!(report.contains("no GPU is examined: --device cpu asks for no GPU"), "{report}");
    let report: Value = serde_json::from_str(&succeed(&["doctor", "--device=cpu", "--json"])).unwrap();
    assert!(report["processor"]["cores"].as_u64().unwrap() > 0 && report["right"] == true, "{report}");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    if report["features"] == serde_json::json!([]) {
        assert!(report["gpus"]["error"].as_str().unwrap().contains("build with scripts/build-cuda"), "{report}");
    }
    // No machine has as many GPUs.
    let refusal = fail(&["doctor", "--device=cuda:255"], 2);
    assert!(refusal.contains("error: the device 'cuda:255' cannot be used: "), "{refusal}");
    assert!(fail(&["doctor", "--device=gpu"], 2).contains("expected auto, cpu or cuda:N"));
    assert!(fail(&["doctor", "--device=cpu", "--model-repository=/nowhere"], 1).contains("unable to read '/nowhere'"));
}
