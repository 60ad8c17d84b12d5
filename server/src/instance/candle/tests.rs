//! Tests of encoder and tokenizer models on the small fixture models of the crate `models`.

use std::path::{Path, PathBuf};

use models::load_encoder;
use serde_json::Value;

use crate::config::AutoTensor;
use crate::request::InferResponse;
use crate::tensor::{Shape, Tensor};

use super::super::InstancePool;
use super::super::device::{DeviceOptions, Devices};
use super::super::testing::{Asked, TestModel, TestRequest, int64, served, show, strings};
use super::tokens::{Padded, RequestTokens, TokenInputs, TokenLimits, pad};
use super::*;

/// Largest difference from what the original framework gave.
const TOLERANCE: f32 = 1e-5;

/// Largest difference between a row alone and the same row in a batch.
const ROW_TOLERANCE: f32 = 1e-6;

const ENCODER: &str = "name: \"m\" backend: \"candle\" max_batch_size: 16
    input { name: \"input_ids\" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true }
    input { name: \"attention_mask\" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true }
    input { name: \"token_type_ids\" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true optional: true }
    output { name: \"EMBEDDING\" data_type: TYPE_FP32 dims: -1 }";

const TOKENIZER: &str = "name: \"m\" backend: \"candle\" max_batch_size: 16
    input { name: \"TEXT\" data_type: TYPE_STRING dims: 1 }
    output { name: \"input_ids\" data_type: TYPE_INT64 dims: -1 } output { name: \"attention_mask\" data_type: TYPE_INT64 dims: -1 }
    output { name: \"token_type_ids\" data_type: TYPE_INT64 dims: -1 }
    parameters { key: \"model\" value { string_value: \"tokenizer\" } }";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name)
}

/// What the original framework gave.
struct Expected(Value);

impl Expected {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(fixture(name).join("expected.json")).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    fn texts(&self) -> Vec<&str> {
        self.0["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
    }

    fn ids(&self, row: usize) -> Vec<i64> {
        self.0["input_ids"][row].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
    }

    /// Tokens of a row, special tokens included.
    fn length(&self, row: usize) -> usize {
        self.0["attention_mask"][row].as_array().unwrap().iter().filter(|mask| mask.as_i64() == Some(1)).count()
    }

    fn vector(&self, output: &str, row: usize) -> Vec<f32> {
        self.0[output][row].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    }
}

fn load(fixture_name: &str, text: &str) -> TestModel {
    TestModel::load_from(text, &fixture(fixture_name)).unwrap()
}

/// A request of one row with these tokens.
fn tokens<'a>(model: &'a TestModel, ids: &[i64]) -> TestRequest<'a> {
    let request = model.request().input("input_ids", int64(&[1, ids.len()], ids));
    request.input("attention_mask", int64(&[1, ids.len()], &vec![1; ids.len()]))
}

/// The rows of the only output.
fn rows(response: &InferResponse) -> Vec<Vec<f32>> {
    let tensor = &response.outputs[0].tensor;
    let size = tensor.shape().sizes()[1];
    let values: Vec<f32> = tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    values.chunks(size).map(<[f32]>::to_vec).collect()
}

fn row(asked: &Asked) -> Vec<f32> {
    rows(&asked.single().unwrap()).remove(0)
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    let difference = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f32::max);
    assert!(difference <= tolerance, "differs by {difference}");
}

#[test]
fn requests_of_different_widths_share_a_batch() {
    let families = [("bert", ENCODER.to_owned()), ("roberta", without_types(ENCODER)), ("distilbert", without_types(ENCODER))];
    for (name, text) in families {
        let (model, expected) = (load(name, &text), Expected::read(name));
        let unpadded = |row: usize| expected.ids(row)[..expected.length(row)].to_vec();
        let count = expected.texts().len();
        let asked = model.run((0..count).map(|row| tokens(&model, &unpadded(row))).collect());
        for (index, asked) in asked.iter().enumerate() {
            let got = row(asked);
            assert_close(&got, &expected.vector("embedding", index), TOLERANCE);
            assert_close(&row(&model.ask(tokens(&model, &unpadded(index)))), &got, ROW_TOLERANCE);
        }
        let counts = model.counts();
        assert_eq!((counts.execution_count, counts.inference_count), (1 + count as u64, 2 * count as u64));
        let distributions = model.pool().served().statistics.recorded().distributions.expect("they are on by default");
        let lengths: Vec<usize> = (0..count).map(|row| expected.length(row)).collect();
        let (tokens, widest): (usize, usize) = (lengths.iter().sum(), lengths.iter().copied().max().unwrap());
        // The batch was padded to its longest text, and each text alone was not.
        assert_eq!((distributions.real, distributions.padding), (2 * tokens as u64, (count * widest - tokens) as u64));
    }
}

fn without_types(text: &str) -> String {
    text.lines().filter(|line| !line.contains("token_type_ids")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_request_of_padded_rows_gets_the_same_vectors() {
    let (model, expected) = (load("bert", ENCODER), Expected::read("bert"));
    let count = expected.texts().len();
    let width = expected.ids(0).len();
    let ids: Vec<i64> = (0..count).flat_map(|row| expected.ids(row)).collect();
    let mask: Vec<i64> = ids.iter().map(|id| i64::from(*id != 0)).collect();
    let request = model.request().input("input_ids", int64(&[count, width], &ids));
    let request = request.input("attention_mask", int64(&[count, width], &mask));
    let request = request.input("token_type_ids", int64(&[count, width], &vec![0; ids.len()]));
    let got = rows(&model.ask(request).single().unwrap());
    assert_eq!(got.len(), count);
    for (index, got) in got.iter().enumerate() {
        assert_close(got, &expected.vector("embedding", index), TOLERANCE);
    }
}

#[test]
fn classifiers_give_logits() {
    let text = ENCODER.replace("EMBEDDING", "LOGITS").replace("dims: -1 }\"", "dims: 3 }\"");
    let (model, expected) = (load("bert-classifier", &text), Expected::read("bert-classifier"));
    for index in 0..expected.texts().len() {
        let ids = expected.ids(index)[..expected.length(index)].to_vec();
        assert_close(&row(&model.ask(tokens(&model, &ids))), &expected.vector("logits", index), TOLERANCE);
    }
}

#[test]
fn a_bad_request_fails_alone() {
    let model = load("bert", ENCODER);
    let good = || tokens(&model, &[2, 5, 3]);
    let bad = [
        (tokens(&model, &[2, 56, 3]), "input 'input_ids', row 0, column 1: got 56; expected 0 to 55"),
        (tokens(&model, &[2, -1, 3]), "input 'input_ids', row 0, column 1: got -1; expected 0 to 55"),
        (tokens(&model, &[2; 21]), "input 'input_ids': got 21 columns; expected at most 20 columns (the positions of the model)"),
        (tokens(&model, &[]), "input 'attention_mask', row 0: got no 1; expected at least one token"),
        (
            good().input("attention_mask", int64(&[1, 3], &[1, 2, 1])),
            "input 'attention_mask', row 0, column 1: got 2; expected 0 to 1",
        ),
        (
            good().input("attention_mask", int64(&[1, 3], &[0; 3])),
            "input 'attention_mask', row 0: got no 1; expected at least one token",
        ),
        (
            good().input("attention_mask", int64(&[1, 2], &[1, 1])),
            "input 'attention_mask': got shape [1,2]; expected shape [1,3], as input_ids has",
        ),
        (
            good().input("token_type_ids", int64(&[1, 3], &[0, 0, 2])),
            "input 'token_type_ids', row 0, column 2: got 2; expected 0 to 1",
        ),
    ];
    let alone = row(&model.ask(good()));
    let mut requests = vec![good()];
    requests.extend(bad.iter().map(|(request, _)| request.clone()));
    requests.push(good());
    let asked = model.run(requests);
    for (asked, (_, expected)) in asked[1..].iter().zip(&bad) {
        assert_eq!(asked.refusal(), *expected);
    }
    for fine in [&asked[0], &asked[asked.len() - 1]] {
        assert_close(&row(fine), &alone, ROW_TOLERANCE);
    }
    let counts = model.counts();
    assert_eq!((counts.success.count, counts.fail.count), (3, bad.len() as u64));
    // Where no request is left there is nothing to run.
    assert_eq!(model.ask(bad[0].0.clone()).refusal(), bad[0].1);
}

/// A valid request of `rows` rows, every element of it `value`.
fn filled(rows: usize, width: usize, value: i64, types: Option<i64>) -> RequestTokens {
    let model = load("bert", ENCODER);
    let tensor = |value: i64| int64(&[rows, width], &vec![value; rows * width]);
    let mut request = model.request().input("input_ids", tensor(value)).input("attention_mask", tensor(1));
    if let Some(types) = types {
        request = request.input("token_type_ids", tensor(types));
    }
    let inputs = TokenInputs { ids: 0, mask: 1, types: Some(2) };
    RequestTokens::parse(&request.finish(), inputs, &limits()).unwrap()
}

fn limits() -> TokenLimits {
    TokenLimits::of(&ModelCard::read(&fixture("bert")).unwrap())
}

#[test]
fn rows_are_padded_to_the_longest_of_their_pass() {
    let (narrow, wide) = (filled(2, 1, 7, None), filled(1, 3, 8, Some(1)));
    let one = Padded {
        ids: vec![7, 0, 0, 7, 0, 0, 8, 8, 8],
        mask: vec![1, 0, 0, 1, 0, 0, 1, 1, 1],
        types: Some(vec![0, 0, 0, 0, 0, 0, 1, 1, 1]),
        rows: 3,
        width: 3,
    };
    assert_eq!(pad(&[&narrow, &wide], &limits()), [one]);
    // A feed-forward layer of 37 for each of the two narrow rows fits; three rows of three tokens do not.
    let passes = pad(&[&narrow, &wide], &limits().with_max_elements(2 * 37));
    assert_eq!(passes.iter().map(|pass| (pass.rows, pass.width)).collect::<Vec<_>>(), [(2, 1), (1, 3)]);
    assert_eq!((passes[0].types.as_ref(), &passes[1].types), (None, &Some(vec![1, 1, 1])));
    assert!(pad(&[], &limits()).is_empty());
}

#[test]
fn passes_do_not_change_the_answer() {
    let (card, expected) = (ModelCard::read(&fixture("bert")).unwrap(), Expected::read("bert"));
    let served = served(ENCODER, 1, &fixture("bert"));
    let encoder = encoder::EncoderModel::open(&served, &card).unwrap();
    let small = encoder.with_max_elements(1);
    let model = TestModel::over(served, &(Arc::new(small) as Arc<dyn Backend>)).unwrap();
    let unpadded = |row: usize| expected.ids(row)[..expected.length(row)].to_vec();
    let asked = model.run((0..expected.texts().len()).map(|row| tokens(&model, &unpadded(row))).collect());
    for (index, asked) in asked.iter().enumerate() {
        assert_close(&row(asked), &expected.vector("embedding", index), TOLERANCE);
    }
}

fn texts(texts: &[&str]) -> Tensor {
    strings(&[texts.len(), 1], texts)
}

#[test]
fn texts_are_padded_to_the_longest_of_their_request() {
    let (model, expected) = (load("bert", TOKENIZER), Expected::read("bert"));
    let all = expected.texts();
    let both = model.request().input("TEXT", texts(&[all[2], all[0]]));
    let short = model.request().input("TEXT", texts(&[all[1]]));
    let asked = model.run(vec![both, short]);
    let answer = asked[0].single().unwrap();
    let width = expected.length(0);
    let ids: Vec<i64> = [2, 0].iter().flat_map(|row| expected.ids(*row)[..width].to_vec()).collect();
    let mask: Vec<i64> = ids.iter().map(|id| i64::from(*id != 0)).collect();
    let got: Vec<&Tensor> = answer.outputs.iter().map(|output| &output.tensor).collect();
    assert_eq!(got, [&int64(&[2, width], &ids), &int64(&[2, width], &mask), &int64(&[2, width], &vec![0; 2 * width])]);
    assert_eq!(asked[1].script(), ["input_ids=[1,2]2,3 attention_mask=[1,2]1,1 token_type_ids=[1,2]0,0*"]);
}

#[test]
fn only_wanted_outputs_are_made() {
    let model = load("bert", TOKENIZER);
    let request = model.request().input("TEXT", texts(&[""])).outputs(&["attention_mask"]);
    assert_eq!(model.ask(request).script(), ["attention_mask=[1,2]1,1*"]);
}

#[test]
fn text_that_is_not_utf8_fails_its_request_alone() {
    let model = load("bert", TOKENIZER);
    let bad = Tensor::from_strings(Shape::new([2, 1]), [&b"fine"[..], b"no\xff"]).unwrap();
    let asked = model.run(vec![model.request().input("TEXT", texts(&["a"])), model.request().input("TEXT", bad)]);
    assert!(asked[0].single().is_ok());
    assert_eq!(asked[1].refusal(), "input 'TEXT', row 1: expected UTF-8, got a wrong byte at offset 2");
}

#[test]
fn directories_describe_their_models() {
    let described = describe("m", &fixture("bert")).unwrap().unwrap();
    let line = |tensors: &[AutoTensor]| -> Vec<String> {
        let marks =
            |tensor: &AutoTensor| format!("{}{}", if tensor.optional { "?" } else { "" }, if tensor.ragged { "~" } else { "" });
        tensors.iter().map(|tensor| format!("{}{} {} {}", tensor.name, marks(tensor), tensor.datatype, tensor.dims)).collect()
    };
    assert_eq!(
        line(&described.encoder.inputs),
        ["input_ids~ INT64 [-1]", "attention_mask~ INT64 [-1]", "token_type_ids?~ INT64 [-1]"]
    );
    assert_eq!(line(&described.encoder.outputs), ["EMBEDDING FP32 [24]"]);
    let tokenizer = described.tokenizer.unwrap();
    assert_eq!(line(&tokenizer.inputs), ["TEXT BYTES [1]"]);
    assert_eq!(line(&tokenizer.outputs), ["input_ids INT64 [-1]", "attention_mask INT64 [-1]", "token_type_ids INT64 [-1]"]);
    assert!(described.labels.is_empty());

    let described = describe("m", &fixture("distilbert-classifier")).unwrap().unwrap();
    assert_eq!(line(&described.encoder.inputs), ["input_ids~ INT64 [-1]", "attention_mask~ INT64 [-1]"]);
    assert_eq!(line(&described.encoder.outputs), ["LOGITS FP32 [3]"]);
    assert_eq!(described.labels.len(), 3);
    assert!(describe("m", &fixture(".")).unwrap().is_none());
}

#[test]
fn descriptions_agree_with_the_loaded_models() {
    let all = ["bert", "bert-pooling", "bert-f16-shards", "bert-bf16", "bert-classifier", "roberta", "distilbert"];
    for name in all {
        let described = describe("m", &fixture(name)).unwrap().unwrap().encoder;
        let loaded = load_encoder(&fixture(name), &candle_core::Device::Cpu).unwrap();
        let signature = loaded.signature();
        for (tensors, infos) in [(&described.inputs, &signature.inputs), (&described.outputs, &signature.outputs)] {
            let described: Vec<_> =
                tensors.iter().map(|tensor| (tensor.name.to_string(), tensor.optional, tensor.dims.clone())).collect();
            let dim = |dim: &Option<usize>| dim.map_or(Dim::Variable, Dim::Fixed);
            let own = |info: &models::TensorInfo| {
                (info.name.clone(), info.optional, Dims::new(info.dims.iter().map(dim).collect::<Vec<_>>()))
            };
            assert_eq!(described, infos.iter().map(own).collect::<Vec<_>>(), "{name}");
        }
    }
}

#[test]
fn configurations_that_do_not_suit_are_refused() {
    let refusal = |text: &str| TestModel::load_from(text, &fixture("bert")).err().unwrap().to_string();
    let parameter = |key: &str, value: &str| {
        refusal(&format!("{ENCODER} parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }}"))
    };
    assert_eq!(parameter("model", "decoder"), "parameter 'model' of model 'm' must be 'encoder' or 'tokenizer', got 'decoder'");
    let known = crate::config::SCHEDULER_PARAMETERS.join(", ");
    let own = "model, dtype, threads, task, tower, batch_layout";
    assert_eq!(
        parameter("pooling", "cls"),
        format!("'candle encoder' has no parameter 'pooling' (model 'm'); it takes: {own}, {known}")
    );
    assert_eq!(parameter("threads", "none"), "parameter 'threads' of model 'm' must be an integer of at least 1, got 'none'");
    assert_eq!(parameter("threads", "0"), "parameter 'threads' of model 'm' must be an integer of at least 1, got '0'");
    assert_eq!(
        parameter("task", "classification"),
        "parameter 'task' of model 'm' must be 'embedding', which is what the model's files make of it, got 'classification'"
    );
    for (key, value) in [("dtype", "int4"), ("tower", "text"), ("batch_layout", "square")] {
        let refusal = parameter(key, value);
        assert!(refusal.starts_with(&format!("parameter '{key}' of model 'm' must be ")), "{refusal}");
        assert!(refusal.ends_with(&format!(", got '{value}'")), "{refusal}");
    }
    let tokenizer = format!("{TOKENIZER} parameters {{ key: \"threads\" value {{ string_value: \"1\" }} }}");
    assert_eq!(
        refusal(&tokenizer),
        format!("'candle tokenizer' has no parameter 'threads' (model 'm'); it takes: model, {known}")
    );
    assert_eq!(
        refusal(&format!("{ENCODER} instance_group {{ kind: KIND_GPU }}")),
        "instance group of model 'm' asks for KIND_GPU, but this build has no CUDA support; write KIND_CPU or KIND_AUTO"
    );
    let unsuited =
        |text: &str| refusal(text).strip_prefix("model 'm' does not suit 'candle encoder', which needs ").unwrap().to_owned();
    assert_eq!(unsuited(&ENCODER.replace("max_batch_size: 16", "")), "'max_batch_size' of at least 1; its configuration has 0");
    assert_eq!(
        unsuited(&ENCODER.replacen("TYPE_INT64", "TYPE_INT32", 1)),
        "input 'input_ids' as INT64 [-1]; its configuration has INT32 [-1]"
    );
    assert_eq!(
        unsuited(&ENCODER.replace("TYPE_FP32 dims: -1", "TYPE_FP32 dims: 25")),
        "output 'EMBEDDING' as FP32 [24]; its configuration has FP32 [25]"
    );
    assert_eq!(
        unsuited(&ENCODER.replace("EMBEDDING", "LOGITS")),
        "each output to be one of EMBEDDING; its configuration has output 'LOGITS'"
    );
    let no_mask: String = ENCODER.lines().filter(|line| !line.contains("attention_mask")).collect();
    assert_eq!(unsuited(&no_mask), "input 'attention_mask', not optional; its configuration has no such input");
}

#[test]
fn an_execution_takes_a_slot_for_each_of_its_threads() {
    let threads = |written: &str, slots: usize| {
        let devices = Devices::new(DeviceOptions {
            slots: [("cpu".to_owned(), NonZeroUsize::new(slots).unwrap())].into(),
            ..DeviceOptions::default()
        });
        let text = match written {
            "" => format!("{ENCODER} dynamic_batching {{ }}"),
            written => format!(
                "{ENCODER} dynamic_batching {{ }} parameters {{ key: \"threads\" value {{ string_value: \"{written}\" }} }}"
            ),
        };
        let served = served(&text, 1, &fixture("bert"));
        let backend = open(&served)?;
        let pool = InstancePool::start(served, &backend, 4, &devices)?;
        Ok::<usize, LoadError>(pool.seat().unwrap().slots().get())
    };
    assert_eq!(threads("", 3).unwrap(), 3, "all of them");
    assert_eq!(threads("2", 3).unwrap(), 2);
    assert_eq!(
        threads("4", 3).unwrap_err().to_string(),
        "parameter 'threads' of model 'm' asks for 4 threads, but the device 'cpu' has 3 slots; ask for at most 3, or start the server with --device-slots cpu=4"
    );
}

#[test]
fn missing_files_fail_the_load() {
    let empty = tempfile::tempdir().unwrap();
    let refusal = |text: &str| TestModel::load_from(text, empty.path()).err().unwrap().to_string();
    assert!(refusal(ENCODER).contains("config.json: file not found"), "{}", refusal(ENCODER));
    std::fs::copy(fixture("bert").join("config.json"), empty.path().join("config.json")).unwrap();
    assert!(refusal(TOKENIZER).contains("tokenizer.json: file not found"), "{}", refusal(TOKENIZER));
    assert!(describe("m", empty.path()).unwrap().is_none());
    // With weights beside it the directory is a model, and must be one that is known.
    std::fs::write(empty.path().join("model.safetensors"), b"").unwrap();
    std::fs::write(empty.path().join("config.json"), br#"{ "model_type": "llama" }"#).unwrap();
    let error = describe("m", empty.path()).unwrap_err().to_string();
    assert!(error.starts_with("model 'm': ") && error.contains("'llama' is not supported"), "{error}");
}

#[test]
fn instances_share_the_model() {
    let model = load("bert", &format!("{ENCODER} instance_group {{ kind: KIND_CPU count: 3 }}"));
    let alone = show(&model.ask(tokens(&model, &[2, 5, 3])).single().unwrap().outputs[0].tensor);
    let asked: Vec<Asked> = (0..9).map(|_| model.ask(tokens(&model, &[2, 5, 3]))).collect();
    for asked in &asked {
        assert_eq!(show(&asked.single().unwrap().outputs[0].tensor), alone);
    }
}
