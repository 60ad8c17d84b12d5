//! `alcedo demo`: the server in this process, real sentences over gRPC, and numbers.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use proto::inference::ModelInferRequest;

use super::client::{self, Client};
use super::error::CliError;
use super::infer::{self, Answer};
use super::log::LogArgs;
use super::print;
use super::serve::{Address, GrpcConfig, Server, ServerConfig, Signals, Watching};
use crate::clock::{self, Timestamp};
use crate::grpc::HeaderForwarding;
use crate::instance::default_tokenizer_threads;
use crate::instance::device::DeviceChoice;
use crate::repository::RepositoryOptions;
use crate::shared_memory::Allowed;
use crate::tensor::{DataType, Shape, Tensor};

/// Each sentence belongs with the one beside it: 0 with 1, 2 with 3, 4 with 5.
const SENTENCES: [&str; 6] = [
    "A cat is sleeping on the sofa.",
    "A kitten takes a nap on the couch.",
    "The central bank raised interest rates again.",
    "Borrowing money from a bank has become more expensive.",
    "Heavy snow fell on the mountain village.",
    "The village in the mountains is covered in deep snow.",
];
/// How far a vector's length may be from 1.
const NORM_TOLERANCE: f32 = 1e-3;
/// Values of each embedding that are printed.
const SHOWN_VALUES: usize = 5;
/// How often the wait for the models is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Flags of `alcedo demo`.
#[derive(Args, Clone, Debug)]
pub(super) struct DemoArgs {
    /// Model repository to serve.
    #[arg(long, default_value = "examples/repository", value_name = "DIR")]
    model_repository: PathBuf,
    /// Sentence encoder to ask: a model from TEXT to EMBEDDING.
    #[arg(long, default_value = "minilm", value_name = "NAME")]
    model: String,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    address: String,
    /// gRPC port; 0 takes any free one.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    grpc_port: u16,
    /// HTTP port; 0 takes any free one.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    http_port: u16,
    /// Metrics port; 0 takes any free one.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    metrics_port: u16,
    /// Seconds of each measurement.
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = infer::parse_seconds)]
    seconds: Duration,
    /// End after the measurements instead of serving on; exit code 0 says that the answers were right.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    log: LogArgs,
}

impl DemoArgs {
    fn server_config(&self) -> ServerConfig {
        let address = |port, flag| Address { host: self.address.clone(), port, flag };
        ServerConfig {
            forwarding: HeaderForwarding::default(),
            shared_memory: Allowed::default(),
            repository: RepositoryOptions::new(vec![self.model_repository.clone()]),
            name: "triton".to_owned(),
            grpc: Some(GrpcConfig { address: address(self.grpc_port, "--grpc-port"), ..GrpcConfig::default() }),
            http: Some(address(self.http_port, "--http-port")),
            metrics: Some(address(self.metrics_port, "--metrics-port")),
            watching: Watching::default(),
            device: DeviceChoice::Auto,
            threads: None,
            tokenizer_threads: default_tokenizer_threads(),
            exit_on_error: true,
            // Nobody balances load over a demo.
            drain_delay: Duration::ZERO,
            exit_timeout: Duration::from_secs(10),
        }
    }

    /// Whether the repository can hold the model: as a directory of it, or by being its Hugging Face directory.
    fn holds_model(&self) -> bool {
        self.model_repository.join(&self.model).is_dir() || self.model_repository.join("config.json").is_file()
    }
}

/// Runs `alcedo demo`.
///
/// # Errors
/// The server did not start, or an answer is wrong.
pub(super) fn run(args: &DemoArgs) -> Result<(), CliError> {
    if !args.holds_model() {
        return Err(CliError::NoExample { repository: args.model_repository.clone(), model: args.model.clone() });
    }
    args.log.start()?;
    let runtime = super::serve::runtime(None)?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::watch()?;
        let server = Server::start(args.server_config()).await?;
        let shown = tokio::select! {
            shown = show(&server, args) => Some(shown),
            _ = signals.next() => None,
        };
        match shown {
            Some(Ok(())) if !args.once => {
                print("\nserving until Ctrl-C\n")?;
                server.serve_loaded(&mut signals).await?;
            }
            Some(result) => {
                server.stop(&mut signals).await?;
                result?;
            }
            None => server.stop(&mut signals).await?,
        }
        Ok(())
    });
    runtime.shutdown_background();
    ended
}

async fn show(server: &Server, args: &DemoArgs) -> Result<(), CliError> {
    let begun = clock::now();
    load(server, args, begun).await?;
    print(&format!("ready after {:.2} s\n\n", seconds_since(begun)))?;
    let Some(address) = server.bound().grpc else {
        return Err(CliError::Incomplete { call: "bind", what: "gRPC address" });
    };
    let mut client = client::connect(&address.to_string()).await?;
    let embeddings = Embeddings::fetch(&mut client, &args.model, &SENTENCES).await?;
    print(&embeddings.table())?;
    embeddings.check()?;
    print("\nlatency and throughput, one sentence per request:\n")?;
    for concurrency in [1, 16] {
        let measured = measure(&client, args, concurrency).await?;
        print(&format!("  {concurrency:>2} at a time: {measured}\n"))?;
    }
    print(&calls(server, &args.model))
}

/// Loads the models and says every now and then that it is still at it.
async fn load(server: &Server, args: &DemoArgs, begun: Timestamp) -> Result<(), CliError> {
    print(&format!("loading {} ...\n", args.model_repository.display()))?;
    let mut loading = std::pin::pin!(server.load());
    loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, &mut loading).await {
            Ok(loaded) => return loaded.map_err(|error| CliError::Serve(error.into())),
            Err(_) => print(&format!("  still loading after {:.0} s\n", seconds_since(begun)))?,
        }
    }
}

fn seconds_since(begun: Timestamp) -> f64 {
    clock::now().since(begun).as_secs_f64()
}

/// One row per sentence.
struct Embeddings {
    rows: Vec<Vec<f32>>,
}

impl Embeddings {
    /// Sends all sentences in one request.
    async fn fetch(client: &mut Client, model: &str, sentences: &[&str]) -> Result<Self, CliError> {
        let response = client.model_infer(request(model, sentences)?).await;
        let response = response.map_err(|status| CliError::call("ModelInfer", &status))?.into_inner();
        let answer = Answer::decode(response)?;
        let wrong = |reason: String| CliError::WrongAnswers(reason);
        let Some((name, tensor)) = answer.outputs().first() else {
            return Err(wrong("the answer has no output".to_owned()));
        };
        let sizes = tensor.shape().sizes();
        let [rows, columns] = *sizes else {
            return Err(wrong(format!("output {name} has shape {}, expected [{},-1]", tensor.shape(), sentences.len())));
        };
        if tensor.datatype() != DataType::Fp32 || rows != sentences.len() || columns == 0 {
            return Err(wrong(format!(
                "output {name} is {} {}, expected FP32 [{},-1]",
                tensor.datatype(),
                tensor.shape(),
                sentences.len()
            )));
        }
        let values: Vec<f32> = tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Self { rows: values.chunks(columns).map(<[f32]>::to_vec).collect() })
    }

    /// First values, lengths, and how alike the sentences are.
    fn table(&self) -> String {
        let mut text = String::new();
        for (index, (row, sentence)) in self.rows.iter().zip(SENTENCES).enumerate() {
            let values = row.iter().take(SHOWN_VALUES).map(|value| format!("{value:+.4}")).collect::<Vec<_>>().join(" ");
            text.push_str(&format!("[{index}] {sentence}\n    [{values} ...] {} values, length {:.6}\n", row.len(), norm(row)));
        }
        text.push_str("\ncosine similarity:\n   ");
        text.extend((0..self.rows.len()).map(|column| format!("    [{column}]")));
        for (index, row) in self.rows.iter().enumerate() {
            text.push_str(&format!("\n[{index}]"));
            text.extend(self.rows.iter().map(|other| format!(" {:6.3}", cosine(row, other))));
        }
        text.push('\n');
        text
    }

    /// Whether lengths are 1 and each sentence is closer to its partner than to any other.
    fn check(&self) -> Result<(), CliError> {
        for (index, row) in self.rows.iter().enumerate() {
            let length = norm(row);
            // Asked this way around, NaN is wrong too.
            let is_unit = (length - 1.0).abs() <= NORM_TOLERANCE;
            if !is_unit {
                return Err(CliError::WrongAnswers(format!("the embedding of sentence {index} has length {length}, expected 1")));
            }
            let partner = index ^ 1;
            let similarity = |other: usize| self.rows.get(other).map_or(f32::NAN, |other| cosine(row, other));
            for other in (0..self.rows.len()).filter(|other| *other != index && *other != partner) {
                let (near, far) = (similarity(partner), similarity(other));
                let is_nearer = near > far;
                if !is_nearer {
                    let reason =
                        format!("sentence {index} is closer to {other} ({far:.3}) than to its partner {partner} ({near:.3})");
                    return Err(CliError::WrongAnswers(reason));
                }
            }
        }
        Ok(())
    }
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|value| value * value).sum::<f32>().sqrt()
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum::<f32>() / (norm(left) * norm(right))
}

fn request(model: &str, sentences: &[&str]) -> Result<ModelInferRequest, CliError> {
    let shape = Shape::new([sentences.len(), 1]);
    let tensor = Tensor::from_strings(shape, sentences.iter().map(|sentence| sentence.as_bytes()))
        .ok_or(CliError::Incomplete { call: "ModelInfer", what: "text" })?;
    Ok(ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![infer::input("TEXT", &tensor)],
        raw_input_contents: vec![tensor.bytes().clone()],
        ..Default::default()
    })
}

/// What a closed loop of requests took.
struct Measured {
    elapsed: Duration,
    /// Ascending.
    latencies: Vec<Duration>,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let milliseconds = |latency: Duration| latency.as_secs_f64() * 1e3;
        let (half, most) = (milliseconds(self.quantile(50)), milliseconds(self.quantile(99)));
        write!(f, "{rate:8.1} requests/s, latency p50 {half:.2} ms, p99 {most:.2} ms ({} requests)", self.latencies.len())
    }
}

impl Measured {
    /// The latency that `percent` of the requests did not exceed.
    fn quantile(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100).max(1);
        self.latencies.get(rank - 1).copied().unwrap_or_default()
    }
}

/// Sends requests, `concurrency` at a time, each as soon as one is answered.
async fn measure(client: &Client, args: &DemoArgs, concurrency: usize) -> Result<Measured, CliError> {
    let begun = clock::now();
    let deadline = begun.plus(args.seconds);
    let mut loops = tokio::task::JoinSet::new();
    for offset in 0..concurrency {
        let (mut client, model) = (client.clone(), args.model.clone());
        loops.spawn(async move {
            let mut latencies = Vec::new();
            for sentence in SENTENCES.iter().cycle().skip(offset % SENTENCES.len()) {
                let sent = clock::now();
                if sent >= deadline && !latencies.is_empty() {
                    break;
                }
                Embeddings::fetch(&mut client, &model, &[sentence]).await?;
                latencies.push(clock::now().since(sent));
            }
            Ok::<_, CliError>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(ended) = loops.join_next().await {
        latencies.extend(ended.map_err(|error| CliError::WrongAnswers(error.to_string()))??);
    }
    latencies.sort_unstable();
    Ok(Measured { elapsed: clock::now().since(begun), latencies })
}

/// How to ask the server from elsewhere.
fn calls(server: &Server, model: &str) -> String {
    let bound = server.bound();
    let mut text = "\ncall it yourself:\n".to_owned();
    if let Some(grpc) = bound.grpc {
        text.push_str(&format!("  alcedo infer --url {grpc} {model} \"A sentence of yours.\"\n"));
        text.push_str(&format!("  alcedo models --url {grpc}\n"));
        text.push_str(&format!("  python: tritonclient.grpc.InferenceServerClient(\"{grpc}\")\n"));
    }
    if let Some(http) = bound.http {
        text.push_str(&format!("  curl http://{http}/v2/models/{model}\n"));
    }
    if let Some(metrics) = bound.metrics {
        text.push_str(&format!("  curl http://{metrics}/metrics\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of rows along different axes, slightly apart.
    fn rows() -> Vec<Vec<f32>> {
        (0..SENTENCES.len())
            .map(|index| {
                let mut row = vec![0.0; 4];
                row[index / 2] = 0.96;
                row[3] = if index % 2 == 0 { 0.28 } else { -0.28 };
                row
            })
            .collect()
    }

    #[test]
    fn right_answers_pass_and_wrong_ones_do_not() {
        assert!(Embeddings { rows: rows() }.check().is_ok());
        let mut long = rows();
        long[2].iter_mut().for_each(|value| *value *= 1.1);
        assert!(Embeddings { rows: long }.check().unwrap_err().to_string().contains("sentence 2 has length"));
        let mut swapped = rows();
        swapped.swap(1, 2);
        assert!(Embeddings { rows: swapped }.check().unwrap_err().to_string().contains("than to its partner"));
        let mut broken = rows();
        broken[0][0] = f32::NAN;
        assert!(Embeddings { rows: broken }.check().is_err());
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let latencies = (1..=100).map(Duration::from_millis).collect();
        let measured = Measured { elapsed: Duration::from_secs(1), latencies };
        assert_eq!((measured.quantile(50).as_millis(), measured.quantile(99).as_millis()), (50, 99));
        let one = Measured { elapsed: Duration::ZERO, latencies: vec![Duration::from_millis(7)] };
        assert_eq!((one.quantile(50).as_millis(), one.quantile(99).as_millis()), (7, 7));
        assert!(measured.to_string().contains("100.0 requests/s, latency p50 50.00 ms, p99 99.00 ms"));
    }
}
