//! The fixture models and how the tests run them.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use models::plan::Executor;
use models::plan::batch::{Integers, Texts};
use models::{Batch, Choice, CpuExecutor, CpuModel, Encoded, ModelCard, ModelError, Precision, Weights, encoder};
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

/// The directory of a fixture of another family.
pub(crate) fn family(name: &str) -> PathBuf {
    directory("families").join(name)
}

/// A copy of a fixture that a test may spoil.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    copy_of(&directory(name))
}

/// A copy of any directory.
pub(crate) fn copy_of(dir: &Path) -> tempfile::TempDir {
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
    fill(dir, target.path());
    target
}

/// Rewrites a JSON file of a copy.
pub(crate) fn edit(dir: &Path, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// A model with an instance of one thread.
pub(crate) struct Loaded {
    pub(crate) card: ModelCard,
    pub(crate) executor: CpuExecutor,
}

/// Loads the model of a directory.
pub(crate) fn load(dir: &Path) -> Result<Loaded, ModelError> {
    load_as(dir, Choice::default(), Precision::F32, NonZeroUsize::MIN)
}

/// As [`load`], with every choice there is.
pub(crate) fn load_as(dir: &Path, choice: Choice, precision: Precision, threads: NonZeroUsize) -> Result<Loaded, ModelError> {
    let card = ModelCard::read_as(dir, choice)?;
    let weights = Weights::open(&card.directory)?;
    let model = CpuModel::load(encoder::plan(&card, &weights)?, &weights, precision)?;
    Ok(Loaded { card, executor: CpuExecutor::new(Arc::new(model), "test", threads)? })
}

/// Integers as they come in messages.
pub(crate) fn bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Tokenized texts as a batch; with their token types where the model has some.
pub(crate) fn batch(card: &ModelCard, encoded: &Encoded) -> Batch<'static> {
    let input = card.tokens().unwrap();
    let (ids, mask, types) = (bytes(&encoded.ids), bytes(&encoded.mask), bytes(&encoded.type_ids));
    let mut batch = Batch::new();
    let texts = Texts {
        rows: encoded.rows,
        width: encoded.width,
        ids: Integers::new(&ids),
        mask: Some(Integers::new(&mask)),
        types: (input.token_types > 0).then(|| Integers::new(&types)),
    };
    batch.push_texts(input, &texts).unwrap();
    batch
}

impl Loaded {
    /// Runs the model on tokenized texts and returns the rows of its only output.
    pub(crate) fn run(&mut self, encoded: &Encoded) -> Vec<Vec<f32>> {
        let mut outputs = self.executor.enqueue(&batch(&self.card, encoded)).unwrap();
        assert_eq!(outputs.len(), 1);
        let output = outputs.remove(0);
        assert_eq!(output.columns, self.card.output_size);
        output.values.chunks_exact(output.columns).map(<[f32]>::to_vec).collect()
    }
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
