//! Models of every family with the results that were recorded from the original framework (`tests/fixtures/families`).

use std::path::{Path, PathBuf};

use models::plan::Input;
use models::plan::batch::{Integers, Texts};
use models::weights::Weights;
use models::{Batch, Choice, ModelCard, Output, Task, Tower};
use serde::Deserialize;

/// A directory and what is asked of it where its own architecture does not say.
pub(crate) const DIRECTORIES: &[(&str, Choice)] = &[
    ("bert-masked-lm", task(Task::FillMask)),
    ("bert-reranker", DEFAULT),
    ("bert-tokens", DEFAULT),
    ("camembert-masked-lm", task(Task::FillMask)),
    ("clip", tower(Tower::Text)),
    ("clip", tower(Tower::Vision)),
    ("clip-text", DEFAULT),
    ("clip-text-old", DEFAULT),
    ("clip-vision", DEFAULT),
    ("deberta-v2-hidden", task(Task::HiddenStates)),
    ("deberta-v2-labels", DEFAULT),
    ("deberta-v2-masked-lm", task(Task::FillMask)),
    ("distilbert-masked-lm", task(Task::FillMask)),
    ("distilbert-tokens", DEFAULT),
    ("jina-bert-embedding", DEFAULT),
    ("jina-bert-reglu", DEFAULT),
    ("jina-v3-embedding", DEFAULT),
    ("modernbert-embedding", DEFAULT),
    ("modernbert-labels-cls", DEFAULT),
    ("modernbert-labels-mean", DEFAULT),
    ("modernbert-masked-lm", task(Task::FillMask)),
    ("modernbert-tokens", DEFAULT),
    ("mpnet-embedding", DEFAULT),
    ("mpnet-labels", DEFAULT),
    ("mpnet-masked-lm", task(Task::FillMask)),
    ("nomic-bert-embedding", DEFAULT),
    ("nomic-bert-masked-lm", task(Task::FillMask)),
    ("roberta-labels", DEFAULT),
    ("roberta-masked-lm", task(Task::FillMask)),
    ("siglip", tower(Tower::Text)),
    ("siglip", tower(Tower::Vision)),
    ("siglip-text", DEFAULT),
    ("siglip-vision", DEFAULT),
    ("vit-hidden", task(Task::HiddenStates)),
    ("vit-labels", DEFAULT),
    ("xlm-roberta-embedding", DEFAULT),
    ("xlm-roberta-tokens", DEFAULT),
];

/// What the directory itself says.
const DEFAULT: Choice = Choice { task: None, tower: None };

const fn task(task: Task) -> Choice {
    Choice { task: Some(task), tower: None }
}

const fn tower(tower: Tower) -> Choice {
    Choice { task: None, tower: Some(tower) }
}

#[derive(Deserialize)]
pub(crate) struct Expected {
    #[serde(default)]
    pub(crate) inputs: Vec<Text>,
    #[serde(default)]
    pub(crate) images: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
pub(crate) struct Text {
    pub(crate) ids: Vec<i64>,
    pub(crate) types: Option<Vec<i64>>,
    /// What the tokenizer turns into these ids, if there is such a text.
    pub(crate) text: Option<String>,
    /// The second part of a pair.
    pub(crate) pair: Option<String>,
}

/// A fixture with its recorded results.
pub(crate) struct Fixture {
    pub(crate) directory: PathBuf,
    pub(crate) expected: Expected,
    pub(crate) recorded: Weights,
}

/// Where the directories are: in this crate, unless a bundle for another machine has them (scripts/gpu-acceptance).
fn families() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::env::var_os("ALCEDO_TEST_FIXTURES").map_or_else(own, PathBuf::from).join("families")
}

impl Fixture {
    pub(crate) fn read(name: &str) -> Fixture {
        let directory = families().join(name);
        let text = std::fs::read_to_string(directory.join("expected.json")).unwrap();
        let recorded = Weights::open_file(&directory.join("expected.safetensors")).unwrap();
        Fixture { directory, expected: serde_json::from_str(&text).unwrap(), recorded }
    }

    /// A recorded tensor, flattened; `None` if it was not recorded for this item.
    pub(crate) fn values(&self, name: &str) -> Option<Vec<f32>> {
        let shape = self.recorded.shape(name)?.to_vec();
        Some(self.recorded.floats(name, &shape).unwrap())
    }
}

/// Integers as they come in messages.
fn bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A text or an image of a fixture, as its bytes.
pub(crate) enum Item {
    Text { ids: Vec<u8>, types: Option<Vec<u8>>, width: usize },
    Image(Vec<u8>),
}

pub(crate) fn items(fixture: &Fixture, input: &Input) -> Vec<Item> {
    match input {
        Input::Tokens(_) => fixture
            .expected
            .inputs
            .iter()
            .map(|text| Item::Text { ids: bytes(&text.ids), types: text.types.as_deref().map(bytes), width: text.ids.len() })
            .collect(),
        Input::Images(_) => (0..fixture.expected.images.len())
            .map(|image| {
                let pixels = fixture.values(&format!("pixel_values.{image}")).unwrap();
                Item::Image(pixels.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect(),
    }
}

pub(crate) fn batch<'a>(input: &Input, items: impl IntoIterator<Item = &'a Item>) -> Batch<'a> {
    let mut batch = Batch::new();
    for item in items {
        match (input, item) {
            (Input::Tokens(input), Item::Text { ids, types, width }) => {
                let types = types.as_deref().filter(|_| input.token_types > 0).map(Integers::new);
                let texts = Texts { rows: 1, width: *width, ids: Integers::new(ids), mask: None, types };
                batch.push_texts(input, &texts).unwrap();
            }
            (Input::Images(input), Item::Image(pixels)) => batch.push_images(input, pixels).unwrap(),
            _ => panic!("a fixture of another kind than its model"),
        }
    }
    batch
}

/// The part of an output that belongs to item `index`.
pub(crate) fn part<'o>(card: &ModelCard, batch: &Batch<'_>, output: &'o Output, index: usize) -> &'o [f32] {
    let rows = if card.task.is_per_token() { batch.sequences()[index].tokens.clone() } else { index..index + 1 };
    &output.values[rows.start * output.columns..rows.end * output.columns]
}

/// The largest difference, relative to the size of the values where that is above 1.
pub(crate) fn difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(1f32, |size, value| size.max(value.abs()));
    got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max) / size
}
