//! Micro-benchmarks of the pure parts of the request path: decoding, checking, batching.

use std::num::NonZeroUsize;

use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use prost::Message;
use proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use server::clock::Timestamp;
use server::config::{DynamicBatching, ModelConfig};
use server::request::{BatchKey, InferRequest, InputTensor, Parameters, RequestOptions};
use server::scheduler::batcher::{DynamicBatcher, Room};
use server::scheduler::queue::Waiting;
use server::scheduler::validate::validate;
use server::tensor::DataType;

fn main() {
    divan::main();
}

/// Numbers of FP32 elements: a feature row, an embedding, an image of 224 x 224 x 3.
const ELEMENTS: [usize; 3] = [16, 1024, 150_528];

fn message(elements: usize) -> Bytes {
    let request = ModelInferRequest {
        model_name: "identity".to_owned(),
        id: "1".to_owned(),
        inputs: vec![InferInputTensor {
            name: "INPUT0".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, i64::try_from(elements).unwrap_or(i64::MAX)],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::from(vec![0u8; elements * 4])],
        ..Default::default()
    };
    request.encode_to_vec().into()
}

/// Protobuf decoding; the payload stays a slice of the message, so the time must not grow with it.
#[divan::bench(args = ELEMENTS)]
fn decode(bencher: Bencher, elements: usize) {
    let message = message(elements);
    bencher.bench(|| ModelInferRequest::decode(black_box(message.clone())));
}

/// Comparing a decoded request with its model's configuration.
#[divan::bench(args = ELEMENTS)]
fn check(bencher: Bencher, elements: usize) {
    let text = "backend: \"builtin\" max_batch_size: 8 \
        input [ { name: \"INPUT0\" data_type: TYPE_FP32 dims: [ -1 ] } ] \
        output [ { name: \"OUTPUT0\" data_type: TYPE_FP32 dims: [ -1 ] } ]";
    let written = proto::pbtxt::parse(text, "config.pbtxt").expect("the text is well formed");
    let config = ModelConfig::parse(written, "identity").expect("the configuration is valid");
    let request = InferRequest {
        id: "1".to_owned(),
        options: RequestOptions::default(),
        parameters: Parameters::new(),
        inputs: vec![InputTensor {
            name: "INPUT0".to_owned(),
            datatype: Ok(DataType::Fp32),
            shape: vec![1, i64::try_from(elements).unwrap_or(i64::MAX)],
            contents: Bytes::from(vec![0u8; elements * 4]),
        }],
        outputs: Vec::new(),
        received_at: Timestamp::default(),
        deadline: None,
        timeline: None,
    };
    bencher.with_inputs(|| request.clone()).bench_values(|request| validate(black_box(request), &config));
}

/// Pushing entries of one shape and taking them out in batches of 8.
#[divan::bench(args = [8, 64, 1024])]
fn batch(bencher: Bencher, waiting: usize) {
    let eight = NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN);
    let policy = DynamicBatching::plain(eight, NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN));
    bencher.counter(ItemsCount::new(waiting)).bench(|| {
        let mut batcher = DynamicBatcher::new(policy.clone(), 1);
        for item in 0..waiting {
            let key = BatchKey(vec![16]);
            let entry = Waiting {
                item,
                rows: 1,
                cost: 1,
                key,
                queued_at: Timestamp::default(),
                start_by: None,
                finish_by: None,
                delayed_from: None,
            };
            let _ = black_box(batcher.push(Timestamp::default(), 0, entry, |_| false, &mut Vec::new()));
        }
        let mut gone = Vec::new();
        while let Some(batch) = batcher.poll(Timestamp::default(), Room::Idle, |_| false, &mut gone) {
            black_box(batch);
        }
    });
}
