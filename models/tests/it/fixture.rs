//! The fixture models and how the tests run them.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use models::{Encoded, Model};
use serde::Deserialize;

/// Fixtures with a sentence encoder.
pub(crate) const SENTENCE: [&str; 8] =
    ["bert", "bert-pooling", "bert-f16-shards", "bert-bf16", "roberta", "xlm-roberta", "camembert", "distilbert"];
/// Fixtures with a classification head.
pub(crate) const CLASSIFIERS: [&str; 3] = ["bert-classifier", "roberta-classifier", "distilbert-classifier"];

/// What the original framework gave for a fixture.
#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) texts: Vec<String>,
    pub(crate) input_ids: Vec<Vec<i64>>,
    pub(crate) attention_mask: Vec<Vec<i64>>,
    #[serde(default)]
    pub(crate) last_hidden_state: Vec<Vec<Vec<f32>>>,
    #[serde(default)]
    pub(crate) last_hidden_state_type_1: Vec<Vec<Vec<f32>>>,
    #[serde(default)]
    pub(crate) embedding: Vec<Vec<f32>>,
    #[serde(default)]
    pub(crate) logits: Vec<Vec<f32>>,
}

impl Expected {
    pub(crate) fn read(name: &str) -> Expected {
        let text = std::fs::read_to_string(directory(name).join("expected.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn texts(&self) -> Vec<&str> {
        self.texts.iter().map(String::as_str).collect()
    }
}

/// The directory of a fixture.
pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a fixture that a test may spoil.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    fn fill(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&target).unwrap();
                fill(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let target = tempfile::tempdir().unwrap();
    fill(&directory(name), target.path());
    target
}

/// Rewrites a JSON file of a copy.
pub(crate) fn edit(dir: &Path, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Integers as a tensor.
pub(crate) fn ints(values: Vec<i64>, rows: usize, width: usize) -> Tensor {
    Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
}

/// Runs a model on tokenized texts and returns its only output.
pub(crate) fn run(model: &dyn Model, encoded: &Encoded) -> Vec<Vec<f32>> {
    let tensor = |values: &[i64]| ints(values.to_vec(), encoded.rows, encoded.width);
    let mut inputs = vec![("input_ids", tensor(&encoded.ids)), ("attention_mask", tensor(&encoded.mask))];
    if model.signature().inputs.iter().any(|input| input.name == "token_type_ids") {
        inputs.push(("token_type_ids", tensor(&encoded.type_ids)));
    }
    let mut outputs = model.forward(&inputs).unwrap();
    assert_eq!(outputs.len(), 1);
    let (name, output) = outputs.remove(0);
    assert_eq!(name, model.signature().outputs[0].name);
    assert_eq!(output.dims(), [encoded.rows, model.signature().outputs[0].dims[0].unwrap()]);
    output.to_vec2().unwrap()
}

/// The largest difference between two tables.
pub(crate) fn difference(got: &[Vec<f32>], want: &[Vec<f32>]) -> f32 {
    assert_eq!(got.len(), want.len());
    let mut largest = 0f32;
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!(got.is_finite() && want.is_finite(), "{got} for {want}");
            largest = largest.max((got - want).abs());
        }
    }
    largest
}
