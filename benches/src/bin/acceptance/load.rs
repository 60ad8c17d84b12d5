//! Requests to a running server in a closed loop: how many rows it answers, how long that takes, and whether every request
//! gets one answer, which is its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{ModelInferRequest, ModelInferResponse};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Different requests, so that an answer which belongs to another one is found out.
const REQUESTS: usize = 16;
/// How long a call may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Flags of `load`.
#[derive(Args, Clone)]
pub(crate) struct LoadArgs {
    /// Where the server listens for gRPC.
    #[arg(long)]
    address: String,
    /// Model to ask.
    #[arg(long)]
    model: String,
    /// Its input.
    #[arg(long, default_value = "input_ids")]
    input: String,
    /// What the input holds.
    #[arg(long, value_enum, default_value = "ids")]
    content: Content,
    /// Ids are below this.
    #[arg(long, default_value_t = 30_000)]
    vocabulary: u32,
    /// Elements of a row.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    width: u32,
    /// Rows of a request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    rows: u32,
    /// Connections.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// Requests in flight, over all connections.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    flight: u32,
    /// Threads that send and receive.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds before.
    #[arg(long, default_value_t = 0.5)]
    warm: f64,
    /// The largest difference from what the same request is answered alone, relative to the largest number of its row.
    #[arg(long, default_value_t = 0.02)]
    tolerance: f32,
}

/// What the elements of an input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Content {
    /// INT64 tokens, with an attention mask of ones beside them.
    Ids,
    /// FP32 numbers, for models that give back what they get.
    Floats,
}

/// What became of requests.
#[derive(Default)]
struct Tally {
    sent: u64,
    rows: u64,
    codes: BTreeMap<String, u64>,
    wrong: u64,
    /// Of those that were answered in the measured time.
    latencies_us: Vec<u32>,
    rows_measured: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.sent += other.sent;
        self.rows += other.rows;
        self.wrong += other.wrong;
        self.rows_measured += other.rows_measured;
        self.latencies_us.extend(other.latencies_us);
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
    }

    fn answered(&self) -> u64 {
        self.codes.values().sum()
    }
}

/// A request and its right answer.
struct Known {
    request: ModelInferRequest,
    answer: Vec<f32>,
}

/// Measures, and prints one line.
pub(crate) fn run(arguments: &LoadArgs) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(arguments.threads as usize).enable_all().build()?;
    let line = runtime.block_on(measure(arguments))?;
    println!("{line}");
    Ok(())
}

async fn measure(arguments: &LoadArgs) -> Result<Value, Box<dyn Error>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", arguments.address))?;
    let mut clients = Vec::new();
    for _ in 0..arguments.connections {
        let client = GrpcInferenceServiceClient::new(endpoint.connect().await?);
        clients.push(client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX));
    }
    let mut known = Vec::with_capacity(REQUESTS);
    for index in 0..REQUESTS {
        let request = request(arguments, index);
        let answer = clients[0].model_infer(request.clone()).await?.into_inner();
        known.push(Known { request, answer: floats(&answer).ok_or("the model's first output is not FP32")? });
    }
    let (known, start) = (Arc::new(known), Instant::now());
    let window = (start + Duration::try_from_secs_f64(arguments.warm)?, Duration::try_from_secs_f64(arguments.seconds)?);
    let mut flying = JoinSet::new();
    for index in 0..arguments.flight as usize {
        let client = clients[index % clients.len()].clone();
        flying.spawn(keep_asking(client, Arc::clone(&known), index, arguments.clone(), window));
    }
    let mut tally = Tally::default();
    while let Some(one) = flying.join_next().await {
        tally.add(one?);
    }
    let lost = tally.sent - tally.answered();
    tally.latencies_us.sort_unstable();
    let quantile = |share: f64| {
        let index = (tally.latencies_us.len() as f64 * share) as usize;
        tally.latencies_us.get(index.min(tally.latencies_us.len().saturating_sub(1))).map(|us| f64::from(*us) / 1e3)
    };
    Ok(json!({
        "model": arguments.model, "width": arguments.width, "rows": arguments.rows, "flight": arguments.flight,
        "connections": arguments.connections,
        "rows_per_s": tally.rows_measured as f64 / arguments.seconds,
        "requests_per_s": tally.latencies_us.len() as f64 / arguments.seconds,
        "p50_ms": quantile(0.5), "p99_ms": quantile(0.99),
        "sent": tally.sent, "lost": lost, "wrong": tally.wrong, "rows_answered": tally.rows, "codes": tally.codes,
    }))
}

/// A request of random content; its number is its seed.
fn request(arguments: &LoadArgs, index: usize) -> ModelInferRequest {
    let count = arguments.rows as usize * arguments.width as usize;
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(index as u64 + 1);
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let tensor = |name: &str, datatype: &str| InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![i64::from(arguments.rows), i64::from(arguments.width)],
        ..Default::default()
    };
    let (inputs, contents): (Vec<_>, Vec<Vec<u8>>) = match arguments.content {
        Content::Ids => {
            let ids = (0..count).flat_map(|_| i64::from(random() % arguments.vocabulary.max(1)).to_le_bytes()).collect();
            let mask = (0..count).flat_map(|_| 1i64.to_le_bytes()).collect();
            (vec![tensor(&arguments.input, "INT64"), tensor("attention_mask", "INT64")], vec![ids, mask])
        }
        Content::Floats => {
            let numbers = (0..count).flat_map(|_| ((random() % 2048) as f32 / 1024.0 - 1.0).to_le_bytes()).collect();
            (vec![tensor(&arguments.input, "FP32")], vec![numbers])
        }
    };
    let raw_input_contents = contents.into_iter().map(Into::into).collect();
    ModelInferRequest { model_name: arguments.model.clone(), inputs, raw_input_contents, ..Default::default() }
}

/// The numbers of the first output.
fn floats(answer: &ModelInferResponse) -> Option<Vec<f32>> {
    let is_floats = answer.outputs.first()?.datatype == "FP32";
    let bytes = answer.raw_output_contents.first().filter(|_| is_floats)?;
    Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Whether an answer is the right one, within a tolerance: the order of sums depends on the batch.
fn is_right(got: &[f32], want: &[f32], tolerance: f32) -> bool {
    let largest = want.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    got.len() == want.len()
        && got.iter().zip(want).all(|(got, want)| {
            let difference = (got - want).abs();
            difference <= tolerance * largest
        })
}

/// Asks, and when there is an answer asks again, until the time is over. What is refused counts and is asked anew.
async fn keep_asking(
    mut client: GrpcInferenceServiceClient<Channel>,
    known: Arc<Vec<Known>>,
    first: usize,
    arguments: LoadArgs,
    (start, time): (Instant, Duration),
) -> Tally {
    let mut tally = Tally::default();
    let mut index = first;
    while Instant::now() < start + time {
        let Known { request, answer } = &known[index % known.len()];
        index += 1;
        tally.sent += 1;
        let asked = Instant::now();
        // A call that has not come back by then is lost: it counts as sent, and not as answered.
        let Ok(result) = tokio::time::timeout(PATIENCE, client.model_infer(request.clone())).await else { break };
        let answered = Instant::now();
        let code = result.as_ref().map_or_else(tonic::Status::code, |_| tonic::Code::Ok);
        *tally.codes.entry(format!("{code:?}")).or_default() += 1;
        let Ok(response) = result else { continue };
        let right = floats(response.get_ref()).is_some_and(|got| is_right(&got, answer, arguments.tolerance));
        tally.wrong += u64::from(!right);
        tally.rows += u64::from(arguments.rows);
        if answered >= start && answered < start + time {
            tally.rows_measured += u64::from(arguments.rows);
            tally.latencies_us.push(u32::try_from((answered - asked).as_micros()).unwrap_or(u32::MAX));
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_request_is_wrong() {
        let want = [0.5, -1.0, 0.25];
        assert!(is_right(&[0.5, -0.99, 0.25], &want, 0.02));
        for wrong in [&[0.5, -0.97, 0.25][..], &[0.5, -1.0], &[f32::NAN, -1.0, 0.25], &[]] {
            assert!(!is_right(wrong, &want, 0.02), "{wrong:?}");
        }
    }
}
