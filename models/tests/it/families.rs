//! Every family against outputs recorded from the original framework (`tests/fixtures/families`).

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use models::plan::batch::{Integers, Texts};
use models::plan::{Executor, Input};
use models::tokenizer::Part;
use models::weights::Weights;
use models::{Batch, Choice, CpuExecutor, CpuModel, ModelCard, Output, Precision, Task, Tokenizer, Tower, encoder};
use serde::Deserialize;

/// How far single-precision results may be from the recorded double-precision ones, for values of size 1.
pub(crate) const TOLERANCE: f32 = 1e-5;

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
    text: Option<String>,
    /// The second part of a pair.
    pair: Option<String>,
}

/// A fixture with its recorded results.
pub(crate) struct Fixture {
    pub(crate) directory: PathBuf,
    pub(crate) expected: Expected,
    pub(crate) recorded: Weights,
}

impl Fixture {
    pub(crate) fn read(name: &str) -> Fixture {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name);
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

pub(crate) fn executor(directory: &Path, choice: Choice, threads: usize, precision: Precision) -> (ModelCard, CpuExecutor) {
    let card = ModelCard::read_as(directory, choice).unwrap();
    let weights = Weights::open(&card.directory).unwrap();
    let model = CpuModel::load(encoder::plan(&card, &weights).unwrap(), &weights, precision).unwrap();
    (card, CpuExecutor::new(Arc::new(model), "test", NonZeroUsize::new(threads).unwrap()).unwrap())
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

/// Compares what was recorded as `recorded`, for so many items at least.
fn check(name: &str, choice: Choice, recorded: &str, least: usize) {
    let fixture = Fixture::read(name);
    let (card, mut executor) = executor(&fixture.directory, choice, 1, Precision::F32);
    let items = items(&fixture, &card.encoder.input);
    let together = batch(&card.encoder.input, &items);
    let results = executor.enqueue(&together).unwrap();
    let mut compared = 0;
    for (index, item) in items.iter().enumerate() {
        let got = part(&card, &together, &results[0], index);
        let single = batch(&card.encoder.input, [item]);
        let alone = executor.enqueue(&single).unwrap();
        let same = got.iter().zip(part(&card, &single, &alone[0], 0)).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name}, item {index}: other bits alone than in a batch");
        let Some(want) = fixture.values(&format!("{recorded}.{index}")) else { continue };
        let largest = difference(got, &want);
        assert!(largest <= TOLERANCE, "{name}, {recorded}.{index}: {largest:e}");
        compared += 1;
    }
    assert!(compared >= least, "{name}: {compared} results of {recorded} compared");
}

#[test]
fn outputs_are_those_of_the_original_models() {
    for (name, choice) in DIRECTORIES {
        let recorded = if choice.tower == Some(Tower::Vision) { "image_output" } else { "output" };
        check(name, *choice, recorded, 3);
    }
}

#[test]
fn hidden_states_are_those_of_the_original_models() {
    // Where they are the output, they have been compared as such.
    for (name, choice) in DIRECTORIES.iter().filter(|(_, choice)| choice.task != Some(Task::HiddenStates)) {
        let recorded = if choice.tower == Some(Tower::Vision) { "image_hidden" } else { "hidden" };
        check(name, Choice { task: Some(Task::HiddenStates), ..*choice }, recorded, 1);
    }
}

#[test]
fn tokens_are_those_of_the_original_tokenizers() {
    for (name, choice) in DIRECTORIES {
        let fixture = Fixture::read(name);
        let card = ModelCard::read_as(&fixture.directory, *choice).unwrap();
        let Some(input) = card.tokens() else { continue };
        let tokenizer = Tokenizer::load(&card.directory, card.max_length).unwrap();
        let mut compared = 0;
        for (index, text) in fixture.expected.inputs.iter().enumerate() {
            let Some(first) = &text.text else { continue };
            // Texts that a model wants padded are there without their padding too.
            let tokenizer = tokenizer.clone().padded_to(card.pads_to.filter(|length| *length == text.ids.len()));
            let tokens = tokenizer.encode(first, text.pair.as_deref(), false).unwrap();
            let row = |part: Part| tokenizer.padded(&[&tokens], tokens.len(), part);
            assert_eq!(row(Part::Ids), text.ids, "{name}, input {index}");
            if let Some(types) = text.types.as_ref().filter(|_| input.token_types > 0) {
                assert_eq!(row(Part::Types), *types, "{name}, input {index}");
            }
            compared += 1;
        }
        assert!(compared >= 5, "{name}: {compared} texts compared");
    }
}
