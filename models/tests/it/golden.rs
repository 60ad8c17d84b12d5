//! Every fixture against the outputs recorded from the original framework.

use std::num::NonZeroUsize;

use models::plan::Executor;
use models::{Choice, CpuExecutor, Encoded, ModelCard, Precision, Task, Tokenizer};

use crate::fixture::{CLASSIFIERS, Expected, Loaded, SENTENCE, batch, difference, directory, load, load_as};

/// How far single-precision results may be from the recorded double-precision ones, for values of size 1.
const TOLERANCE: f32 = 1e-5;

#[test]
fn tokens_are_those_of_the_original_tokenizer() {
    for name in SENTENCE.iter().chain(&CLASSIFIERS) {
        let (card, expected) = (ModelCard::read(&directory(name)).unwrap(), Expected::read(name));
        let tokenizer = Tokenizer::load(&directory(name), card.max_length).unwrap();
        let encoded = tokenizer.encode_batch(&expected.texts()).unwrap();
        assert_eq!(encoded.ids, expected.input_ids.concat(), "{name}");
        assert_eq!(encoded.mask, expected.attention_mask.concat(), "{name}");
        assert!(encoded.type_ids.iter().all(|id| *id == 0), "{name}");
        assert_eq!(encoded.width, card.max_length, "{name}: the longest text is truncated");
    }
}

/// Hidden states of rows of the same width, with zeros where a row is masked.
fn hidden(name: &str, encoded: &Encoded) -> Vec<Vec<Vec<f32>>> {
    let choice = Choice { task: Some(Task::HiddenStates), tower: None };
    let Loaded { card, mut executor } = load_as(&directory(name), choice, Precision::F32, NonZeroUsize::MIN).unwrap();
    let batch = batch(&card, encoded);
    let outputs = executor.enqueue(&batch).unwrap();
    let (values, size) = (&outputs[0].values, outputs[0].columns);
    let all = batch.spread(values, size, 0..encoded.rows, encoded.width);
    let rows = all.chunks_exact(encoded.width * size);
    rows.map(|row| row.chunks_exact(size).map(<[f32]>::to_vec).collect()).collect()
}

#[test]
fn hidden_states_are_those_of_the_original_model() {
    for name in SENTENCE {
        let expected = Expected::read(name);
        let (rows, width) = (expected.input_ids.len(), expected.input_ids[0].len());
        let (ids, mask) = (expected.input_ids.concat(), expected.attention_mask.concat());
        let encoded = Encoded { ids, mask, type_ids: vec![0; rows * width], rows, width };
        let mut compared = 0;
        for (row, hidden) in hidden(name, &encoded).iter().enumerate() {
            let kept: usize = expected.attention_mask[row].iter().sum::<i64>() as usize;
            let largest = difference(&hidden[..kept], &expected.last_hidden_state[row][..kept]);
            assert!(largest <= TOLERANCE, "{name}, row {row}: {largest:e}");
            compared += kept;
            assert!(hidden[kept..].iter().flatten().all(|value| *value == 0.0), "{name}, row {row}");
        }
        assert!(compared > 2 * rows, "{name}");
    }
}

#[test]
fn token_types_are_looked_up() {
    for name in ["bert", "bert-pooling", "bert-bf16"] {
        let expected = Expected::read(name);
        let width = expected.input_ids[0].len();
        let (ids, mask) = (expected.input_ids[0].clone(), expected.attention_mask[0].clone());
        let hidden = hidden(name, &Encoded { ids, mask, type_ids: vec![1; width], rows: 1, width });
        let kept: usize = expected.attention_mask[0].iter().sum::<i64>() as usize;
        let largest = difference(&hidden[0][..kept], &expected.last_hidden_state_type_1[0][..kept]);
        assert!(largest <= TOLERANCE, "{name}: {largest:e}");
        assert!(difference(&hidden[0][..kept], &expected.last_hidden_state[0][..kept]) > 0.01, "{name}: types matter");
    }
}

#[test]
fn outputs_are_those_of_the_original_model_and_rows_are_independent() {
    for name in SENTENCE.iter().chain(&CLASSIFIERS) {
        let (card, expected) = (ModelCard::read(&directory(name)).unwrap(), Expected::read(name));
        let mut model = load(&directory(name)).unwrap();
        let tokenizer = Tokenizer::load(&card.directory, card.max_length).unwrap();
        let texts = expected.texts();
        let want = if CLASSIFIERS.contains(name) { &expected.logits } else { &expected.embedding };
        assert!(want.iter().flatten().any(|value| value.abs() > 0.1), "{name}");

        let batch = model.run(&tokenizer.encode_batch(&texts).unwrap());
        // Outputs that are not of unit length are compared relative to their size.
        let size = want.iter().flatten().fold(1f32, |size, value| size.max(value.abs()));
        let largest = difference(&batch, want);
        assert!(largest <= TOLERANCE * size, "{name}: {largest:e}");

        for (row, text) in texts.iter().enumerate() {
            let alone = model.run(&tokenizer.encode_batch(&[text]).unwrap());
            assert_eq!(alone, &batch[row..=row], "{name}, row {row} alone");
        }
        let reversed: Vec<&str> = texts.iter().rev().copied().collect();
        let mut turned = model.run(&tokenizer.encode_batch(&reversed).unwrap());
        turned.reverse();
        assert_eq!(turned, batch, "{name}, reversed");
    }
}

#[test]
fn a_model_is_shared_by_instances_of_many_threads() {
    let model = load(&directory("bert")).unwrap();
    let expected = Expected::read("bert");
    let tokenizer = Tokenizer::load(&directory("bert"), 16).unwrap();
    std::thread::scope(|scope| {
        for text in 0..expected.texts.len() {
            let executor = CpuExecutor::new(model.executor.model().clone(), "test", NonZeroUsize::MIN).unwrap();
            let mut instance = Loaded { card: model.card.clone(), executor };
            let (tokenizer, expected) = (tokenizer.clone(), &expected);
            scope.spawn(move || {
                for _ in 0..20 {
                    let got = instance.run(&tokenizer.encode_batch(&[&expected.texts[text]]).unwrap());
                    assert!(difference(&got, &expected.embedding[text..=text]) <= TOLERANCE);
                }
            });
        }
    });
}
