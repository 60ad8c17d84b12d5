//! Measures the server as a process: time from start to ready, resident memory, size of the binary.
//!
//! It starts `alcedo serve` several times over a repository of one identity model (or any other) and
//! prints the median of each figure with its minimum and maximum.

use std::error::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use proto::inference::ServerReadyRequest;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;

/// How long one start may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures start to ready, resident memory and binary size of `alcedo serve`.
#[derive(Parser)]
struct Arguments {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/alcedo")]
    binary: PathBuf,
    /// Model repository to serve; by default one identity model made in a temporary folder.
    #[arg(long)]
    model_repository: Option<PathBuf>,
    /// Number of starts.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

/// What one start showed.
struct Sample {
    ready: Duration,
    resident_bytes: u64,
}

/// A started server; it is ended when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder that is removed when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let scratch = Scratch(std::env::temp_dir().join(format!("alcedo-startup-{}", std::process::id())));
    let repository = match &arguments.model_repository {
        Some(repository) => repository.clone(),
        None => identity_repository(&scratch.0)?,
    };
    let mut samples = Vec::new();
    for _ in 0..arguments.runs {
        samples.push(measure(&arguments.binary, &repository).await?);
    }
    let binary_bytes = std::fs::metadata(&arguments.binary)?.len();
    print_row("start to ready, ms", samples.iter().map(|sample| sample.ready.as_secs_f64() * 1e3));
    print_row("resident memory when ready, MiB", samples.iter().map(|sample| mebibytes(sample.resident_bytes)));
    println!("binary, MiB: {:.1}", mebibytes(binary_bytes));
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    // Sizes of processes and binaries are far below 2^53, so the conversion is exact.
    bytes as f64 / f64::from(1 << 20)
}

fn print_row(name: &str, values: impl Iterator<Item = f64>) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values[values.len() / 2];
    println!("{name}: median {middle:.1} (min {:.1}, max {:.1}, n {})", values[0], values[values.len() - 1], values.len());
}

fn identity_repository(scratch: &Path) -> std::io::Result<PathBuf> {
    let model = scratch.join("identity");
    std::fs::create_dir_all(model.join("1"))?;
    std::fs::write(
        model.join("config.pbtxt"),
        "backend: \"builtin\"\nmax_batch_size: 8\n\
         input [ { name: \"INPUT0\" data_type: TYPE_FP32 dims: [ -1 ] } ]\n\
         output [ { name: \"OUTPUT0\" data_type: TYPE_FP32 dims: [ -1 ] } ]\n\
         parameters { key: \"model\" value: { string_value: \"identity\" } }\n",
    )?;
    Ok(scratch.to_path_buf())
}

/// A port that is free now. Another process could take it before the server does; the run then fails loudly.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

async fn measure(binary: &Path, repository: &Path) -> Result<Sample, Box<dyn Error>> {
    let (grpc, http, metrics) = (free_port()?, free_port()?, free_port()?);
    let begin = Instant::now();
    let child = Command::new(binary)
        .arg("serve")
        .arg("--model-repository")
        .arg(repository)
        .args([format!("--grpc-port={grpc}"), format!("--http-port={http}"), format!("--metrics-port={metrics}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("unable to start {}: {error}; build it with cargo build --release", binary.display()))?;
    let mut server = Server(child);
    let url = format!("http://127.0.0.1:{grpc}");
    loop {
        if let Some(status) = server.0.try_wait()? {
            return Err(format!("the server ended before it was ready: {status}").into());
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("the server was not ready after {PATIENCE:?}").into());
        }
        if is_ready(&url).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ready = begin.elapsed();
    Ok(Sample { ready, resident_bytes: resident_bytes(server.0.id())? })
}

async fn is_ready(url: &str) -> bool {
    let Ok(endpoint) = tonic::transport::Endpoint::from_shared(url.to_owned()) else {
        return false;
    };
    let Ok(channel) = endpoint.connect().await else {
        return false;
    };
    GrpcInferenceServiceClient::new(channel).server_ready(ServerReadyRequest {}).await.is_ok_and(|reply| reply.into_inner().ready)
}

/// Resident memory of a process, from the kernel's own account of it.
fn resident_bytes(pid: u32) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc status")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}
