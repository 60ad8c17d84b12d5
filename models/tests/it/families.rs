//! Every family against outputs recorded from the original framework.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use models::plan::Executor;
use models::tokenizer::Part;
use models::{Choice, CpuExecutor, CpuModel, ModelCard, Precision, Task, Tokenizer, Tower, Weights, encoder};

use crate::recorded::{DIRECTORIES, Fixture, batch, difference, items, part};

/// How far single-precision results may be from the recorded double-precision ones, for values of size 1.
pub(crate) const TOLERANCE: f32 = 1e-5;

pub(crate) fn executor(directory: &Path, choice: Choice, threads: usize, precision: Precision) -> (ModelCard, CpuExecutor) {
    let card = ModelCard::read_as(directory, choice).unwrap();
    let weights = Weights::open(&card.directory).unwrap();
    let model = CpuModel::load(encoder::plan(&card, &weights).unwrap(), &weights, precision).unwrap();
    (card, CpuExecutor::new(Arc::new(model), "test", NonZeroUsize::new(threads).unwrap()).unwrap())
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
