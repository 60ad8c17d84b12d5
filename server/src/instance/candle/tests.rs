//! Tests of encoder and tokenizer models on the small fixture models of the crate `models`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::AutoTensor;
use crate::request::InferResponse;
use crate::tensor::{Shape, Tensor};

use super::super::InstancePool;
use super::super::device::{DeviceOptions, Devices};
use super::super::testing::{Asked, TestModel, TestRequest, int64, served, show, strings};
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
        let tokens: usize = lengths.iter().sum();
        assert_eq!((distributions.real, distributions.padding), (2 * tokens as u64, 0), "nothing is padded");
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
            model.request().input("input_ids", int64(&[1, 2], &[2, 77])).input("attention_mask", int64(&[1, 2], &[1, 1])),
            "input 'input_ids', row 0, column 1: got 77; expected 0 to 55",
        ),
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

#[test]
fn a_padded_batch_gives_the_same_bits_and_counts_its_padding() {
    let padded = format!("{ENCODER} parameters {{ key: \"batch_layout\" value {{ string_value: \"padded\" }} }}");
    let (packed, padded, expected) = (load("bert", ENCODER), load("bert", &padded), Expected::read("bert"));
    let unpadded = |row: usize| expected.ids(row)[..expected.length(row)].to_vec();
    let count = expected.texts().len();
    let of = |model: &TestModel| -> Vec<Vec<f32>> {
        model.run((0..count).map(|row| tokens(model, &unpadded(row))).collect()).iter().map(row).collect()
    };
    assert_eq!(of(&packed), of(&padded));
    let counted = |model: &TestModel| {
        let recorded = model.pool().served().statistics.recorded().distributions.expect("they are on by default");
        (recorded.real, recorded.padding)
    };
    let lengths: Vec<usize> = (0..count).map(|row| expected.length(row)).collect();
    let (all, widest): (usize, usize) = (lengths.iter().sum(), lengths.iter().copied().max().unwrap());
    assert_eq!(counted(&packed), (all as u64, 0));
    assert_eq!(counted(&padded), (all as u64, (count * widest - all) as u64));
}

#[test]
fn rows_per_token_stand_where_the_tokens_do() {
    let hidden = ENCODER.replace("EMBEDDING", "LAST_HIDDEN_STATE").replace("TYPE_FP32 dims: -1", "TYPE_FP32 dims: [ -1, 24 ]");
    let text = format!("{hidden} parameters {{ key: \"task\" value {{ string_value: \"hidden_states\" }} }}");
    let model = load("bert", &text);
    let numbers = |asked: &Asked| -> (Vec<usize>, Vec<f32>) {
        let tensor = asked.single().unwrap().outputs[0].tensor.clone();
        let values = tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (tensor.shape().sizes().to_vec(), values)
    };
    let (shape, dense) = numbers(&model.ask(tokens(&model, &[2, 5, 3])));
    assert_eq!((shape, dense.len()), (vec![1, 3, 24], 72));
    assert!(dense.iter().all(|value| *value != 0.0));
    // Two rows of five columns, one with three tokens and one with two, between requests that fill their rows.
    let masked = || {
        let request = model.request().input("input_ids", int64(&[2, 5], &[2, 5, 3, 0, 0, 2, 3, 9, 9, 9]));
        request.input("attention_mask", int64(&[2, 5], &[1, 1, 1, 0, 0, 1, 1, 0, 0, 0]))
    };
    let asked = model.run(vec![tokens(&model, &[2, 7, 7, 3]), masked(), tokens(&model, &[2, 5, 3])]);
    assert_eq!(numbers(&asked[2]).1, dense);
    assert_eq!(numbers(&asked[0]), numbers(&model.ask(tokens(&model, &[2, 7, 7, 3]))));
    let (shape, spread) = numbers(&asked[1]);
    assert_eq!(shape, [2, 5, 24]);
    assert_eq!(spread[..72], dense[..]);
    assert!(spread[72..5 * 24].iter().all(|value| *value == 0.0), "masked places are zero");
    let two = numbers(&model.ask(tokens(&model, &[2, 3]))).1;
    assert_eq!(spread[5 * 24..7 * 24], two[..]);
    assert!(spread[7 * 24..].iter().all(|value| *value == 0.0));
}

#[test]
fn without_a_mask_every_column_is_a_token() {
    let text = ENCODER.replace("attention_mask\" data_type: TYPE_INT64", "attention_mask\" optional: true data_type: TYPE_INT64");
    let model = load("bert", &text);
    let bare = model.request().input("input_ids", int64(&[1, 3], &[2, 5, 3]));
    assert_eq!(row(&model.ask(bare)), row(&model.ask(tokens(&model, &[2, 5, 3]))));
}

#[test]
fn bf16_is_near() {
    let text = format!("{ENCODER} parameters {{ key: \"dtype\" value {{ string_value: \"bf16\" }} }}");
    let (model, expected) = (load("bert", &text), Expected::read("bert"));
    for index in 0..expected.texts().len() {
        let got = row(&model.ask(tokens(&model, &expected.ids(index)[..expected.length(index)])));
        let want = expected.vector("embedding", index);
        let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let cosine = dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt();
        assert!(cosine > 0.999, "{cosine}");
        assert_ne!(got, want, "it is not f32");
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

const PAIRS: &str = "name: \"m\" backend: \"candle\" max_batch_size: 16
    input { name: \"TEXT\" data_type: TYPE_STRING dims: 1 } input { name: \"TEXT_PAIR\" data_type: TYPE_STRING dims: 1 optional: true }
    output { name: \"input_ids\" data_type: TYPE_INT64 dims: -1 } output { name: \"token_type_ids\" data_type: TYPE_INT64 dims: -1 }
    output { name: \"OFFSETS\" data_type: TYPE_INT64 dims: [ -1, 2 ] }
    parameters { key: \"model\" value { string_value: \"tokenizer\" } }";

#[test]
fn pairs_have_types_and_offsets_of_their_own_texts() {
    let model = load("bert", PAIRS);
    let pair = model.request().input("TEXT", texts(&["a cat"])).input("TEXT_PAIR", texts(&["the dog"]));
    let alone = model.request().input("TEXT", texts(&["a cat"]));
    let script = |asked: &Asked| asked.script().join(" ");
    let asked = model.run(vec![pair, alone]);
    let expected = "input_ids=[1,7]2,19,7,3,5,8,3 token_type_ids=[1,7]0,0,0,0,1,1,1 \
                    OFFSETS=[1,7,2]0,0,0,1,2,5,0,0,0,3,4,7,0,0*";
    assert_eq!(script(&asked[0]), expected);
    assert_eq!(script(&asked[1]), "input_ids=[1,4]2,19,7,3 token_type_ids=[1,4]0,0,0,0 OFFSETS=[1,4,2]0,0,0,1,2,5,0,0*");
    let bad = Tensor::from_strings(Shape::new([1, 1]), [&b"no\xff"[..]]).unwrap();
    let request = model.request().input("TEXT", texts(&["a"])).input("TEXT_PAIR", bad);
    assert_eq!(model.ask(request).refusal(), "input 'TEXT_PAIR', row 0: expected UTF-8, got a wrong byte at offset 2");
}

#[test]
fn many_texts_are_encoded_side_by_side_in_their_order() {
    let model = load("bert", TOKENIZER);
    let long: Vec<String> = (0..16).map(|row| "the cat ".repeat(row * 20)).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let together = model.ask(model.request().input("TEXT", texts(&long)).outputs(&["input_ids"])).single().unwrap();
    let ids = &together.outputs[0].tensor;
    let width = ids.shape().sizes()[1];
    let all: Vec<i64> = ids.bytes().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    for (row, text) in long.iter().enumerate() {
        let alone = models::Tokenizer::load(&fixture("bert"), 16).unwrap().encode_batch(&[text]).unwrap().ids;
        assert_eq!(all[row * width..][..alone.len()], alone[..], "row {row}");
    }
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

fn read(name: &str) -> Result<Option<Described>, LoadError> {
    describe("m", &fixture(name), &BTreeMap::new())
}

#[test]
fn directories_describe_their_models() {
    let described = read("bert").unwrap().unwrap();
    let line = |tensors: &[AutoTensor]| -> Vec<String> {
        let marks =
            |tensor: &AutoTensor| format!("{}{}", if tensor.optional { "?" } else { "" }, if tensor.ragged { "~" } else { "" });
        tensors.iter().map(|tensor| format!("{}{} {} {}", tensor.name, marks(tensor), tensor.datatype, tensor.dims)).collect()
    };
    assert_eq!(
        line(&described.encoder.inputs),
        ["input_ids~ INT64 [-1]", "attention_mask?~ INT64 [-1]", "token_type_ids?~ INT64 [-1]"]
    );
    assert_eq!(line(&described.encoder.outputs), ["EMBEDDING FP32 [24]"]);
    let tokenizer = described.tokenizer.unwrap();
    assert_eq!(line(&tokenizer.inputs), ["TEXT BYTES [1]"]);
    assert_eq!(line(&tokenizer.outputs), ["input_ids INT64 [-1]", "attention_mask INT64 [-1]", "token_type_ids INT64 [-1]"]);
    assert!(described.labels.is_empty());

    let described = read("distilbert-classifier").unwrap().unwrap();
    assert_eq!(line(&described.encoder.inputs), ["input_ids~ INT64 [-1]", "attention_mask?~ INT64 [-1]"]);
    let tokenizer = described.tokenizer.unwrap();
    assert_eq!(line(&tokenizer.inputs), ["TEXT BYTES [1]", "TEXT_PAIR? BYTES [1]"]);
    let asked = [("task".to_owned(), "hidden_states".to_owned())].into();
    let hidden = describe("m", &fixture("distilbert-classifier"), &asked).unwrap().unwrap();
    assert_eq!(line(&hidden.encoder.outputs), ["LAST_HIDDEN_STATE FP32 [-1,24]"]);
    let asked = [("task".to_owned(), "poetry".to_owned())].into();
    let refusal = describe("m", &fixture("bert"), &asked).unwrap_err().to_string();
    assert!(refusal.starts_with("parameter 'task' of model 'm' must be 'embedding', "), "{refusal}");
    assert_eq!(line(&described.encoder.outputs), ["LOGITS FP32 [3]"]);
    assert_eq!(described.labels.len(), 3);
    assert!(read(".").unwrap().is_none());
}

#[test]
fn configurations_that_do_not_suit_are_refused() {
    let refusal = |text: &str| TestModel::load_from(text, &fixture("bert")).err().unwrap().to_string();
    let parameter = |key: &str, value: &str| {
        refusal(&format!("{ENCODER} parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }}"))
    };
    assert_eq!(parameter("model", "decoder"), "parameter 'model' of model 'm' must be 'encoder' or 'tokenizer', got 'decoder'");
    let known = crate::config::SCHEDULER_PARAMETERS.join(", ");
    let own = "model, dtype, threads, task, tower, batch_layout, graphs";
    assert_eq!(
        parameter("pooling", "cls"),
        format!("'candle encoder' has no parameter 'pooling' (model 'm'); it takes: {own}, {known}")
    );
    assert_eq!(parameter("threads", "none"), "parameter 'threads' of model 'm' must be an integer of at least 1, got 'none'");
    assert_eq!(parameter("threads", "0"), "parameter 'threads' of model 'm' must be an integer of at least 1, got '0'");
    for (key, value) in [("dtype", "int4"), ("tower", "eiffel"), ("task", "poetry"), ("batch_layout", "square")] {
        let refusal = parameter(key, value);
        assert!(refusal.starts_with(&format!("parameter '{key}' of model 'm' must be ")), "{refusal}");
        assert!(refusal.ends_with(&format!(", got '{value}'")), "{refusal}");
    }
    let tokenizer = format!("{TOKENIZER} parameters {{ key: \"threads\" value {{ string_value: \"1\" }} }}");
    assert_eq!(
        refusal(&tokenizer),
        format!("'candle tokenizer' has no parameter 'threads' (model 'm'); it takes: model, task, tower, {known}")
    );
    assert_eq!(
        refusal(&format!("{ENCODER} instance_group {{ kind: KIND_GPU }}")),
        "instance group of model 'm' asks for KIND_GPU, but this build has no CUDA support: build with scripts/build-cuda"
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
    let no_ids: String = ENCODER.lines().filter(|line| !line.contains("input_ids")).collect();
    assert_eq!(unsuited(&no_ids), "input 'input_ids', not optional; its configuration has no such input");
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
        let backend = open(&served, &Devices::default())?;
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
    assert!(describe("m", empty.path(), &BTreeMap::new()).unwrap().is_none());
    // With weights beside it the directory is a model, and must be one that is known.
    std::fs::write(empty.path().join("model.safetensors"), b"").unwrap();
    std::fs::write(empty.path().join("config.json"), br#"{ "model_type": "llama" }"#).unwrap();
    let error = describe("m", empty.path(), &BTreeMap::new()).unwrap_err().to_string();
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
