//! Every fixture against the outputs recorded from the original framework.

use candle_core::Device;
use models::weights::Weights;
use models::{Encoder, ModelCard, Tokenizer, load_encoder};

use crate::fixture::{CLASSIFIERS, Expected, SENTENCE, difference, directory, ints, run};

/// How far single-precision results may be from the recorded double-precision ones, for values of size 1.
const TOLERANCE: f32 = 1e-5;
/// How far the result of a row may depend on the rows and the padding beside it.
const ALONE_TOLERANCE: f32 = 1e-6;

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

#[test]
fn hidden_states_are_those_of_the_original_model() {
    for name in SENTENCE {
        let (card, expected) = (ModelCard::read(&directory(name)).unwrap(), Expected::read(name));
        let encoder = Encoder::load(&card, &Weights::open(&card.directory).unwrap(), &Device::Cpu).unwrap();
        let (rows, width) = (expected.input_ids.len(), expected.input_ids[0].len());
        let ids = ints(expected.input_ids.concat(), rows, width);
        let mask = ints(expected.attention_mask.concat(), rows, width);
        let hidden = encoder.forward(&encoder.check(&ids, &mask, None).unwrap()).unwrap();
        let hidden: Vec<Vec<Vec<f32>>> = hidden.to_vec3().unwrap();
        let mut compared = 0;
        for (row, hidden) in hidden.iter().enumerate() {
            let kept: usize = expected.attention_mask[row].iter().sum::<i64>() as usize;
            let largest = difference(&hidden[..kept], &expected.last_hidden_state[row][..kept]);
            assert!(largest <= TOLERANCE, "{name}, row {row}: {largest:e}");
            compared += kept;
            assert!(hidden.iter().flatten().all(|value| value.is_finite()), "{name}, row {row}");
        }
        assert!(compared > 2 * rows, "{name}");
    }
}

#[test]
fn token_types_are_looked_up() {
    for name in ["bert", "bert-pooling", "bert-bf16"] {
        let (card, expected) = (ModelCard::read(&directory(name)).unwrap(), Expected::read(name));
        let encoder = Encoder::load(&card, &Weights::open(&card.directory).unwrap(), &Device::Cpu).unwrap();
        let width = expected.input_ids[0].len();
        let row = |values: &[Vec<i64>]| ints(values[0].clone(), 1, width);
        let types = ints(vec![1; width], 1, width);
        let batch = encoder.check(&row(&expected.input_ids), &row(&expected.attention_mask), Some(&types)).unwrap();
        let hidden: Vec<Vec<Vec<f32>>> = encoder.forward(&batch).unwrap().to_vec3().unwrap();
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
        let model = load_encoder(&directory(name), &Device::Cpu).unwrap();
        let tokenizer = Tokenizer::load(&card.directory, card.max_length).unwrap();
        let texts = expected.texts();
        let want = if CLASSIFIERS.contains(name) { &expected.logits } else { &expected.embedding };
        assert!(want.iter().flatten().any(|value| value.abs() > 0.1), "{name}");

        let batch = run(&*model, &tokenizer.encode_batch(&texts).unwrap());
        // Outputs that are not of unit length are compared relative to their size.
        let size = want.iter().flatten().fold(1f32, |size, value| size.max(value.abs()));
        let largest = difference(&batch, want);
        assert!(largest <= TOLERANCE * size, "{name}: {largest:e}");

        for (row, text) in texts.iter().enumerate() {
            let alone = run(&*model, &tokenizer.encode_batch(&[text]).unwrap());
            let largest = difference(&alone, &batch[row..=row]);
            assert!(largest <= ALONE_TOLERANCE * size, "{name}, row {row} alone: {largest:e}");
        }
        let reversed: Vec<&str> = texts.iter().rev().copied().collect();
        let mut turned = run(&*model, &tokenizer.encode_batch(&reversed).unwrap());
        turned.reverse();
        let largest = difference(&turned, &batch);
        assert!(largest <= ALONE_TOLERANCE * size, "{name}, reversed: {largest:e}");
    }
}

#[test]
fn a_model_runs_on_many_threads_at_once() {
    let model = load_encoder(&directory("bert"), &Device::Cpu).unwrap();
    let expected = Expected::read("bert");
    let tokenizer = Tokenizer::load(&directory("bert"), 16).unwrap();
    std::thread::scope(|scope| {
        for text in 0..expected.texts.len() {
            let (model, tokenizer, expected) = (model.clone(), tokenizer.clone(), &expected);
            scope.spawn(move || {
                for _ in 0..20 {
                    let got = run(&*model, &tokenizer.encode_batch(&[&expected.texts[text]]).unwrap());
                    assert!(difference(&got, &expected.embedding[text..=text]) <= TOLERANCE);
                }
            });
        }
    });
}
