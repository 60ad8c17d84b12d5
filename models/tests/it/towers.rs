//! Tokenizers of CLIP and SigLIP: words with ends, and padding that is part of a text.

use models::plan::Executor;
use models::plan::batch::{Integers, Texts};
use models::{Batch, Choice, ModelCard, Precision, Tokenizer, Tower};
use serde_json::{Value, json};

use crate::families::{TOLERANCE, executor};
use crate::fixture::family;
use crate::recorded::{Fixture, difference};

/// The texts of a directory's record, each with its ids.
fn texts(name: &str) -> Vec<(String, Vec<i64>)> {
    let file = std::fs::read_to_string(family(name).join("expected.json")).unwrap();
    let record: Value = serde_json::from_str(&file).unwrap();
    let ids = |entry: &Value| entry["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
    let inputs = record["inputs"].as_array().unwrap();
    inputs.iter().filter_map(|entry| Some((entry.get("text")?.as_str()?.to_owned(), ids(entry)))).collect()
}

#[test]
fn texts_have_the_ids_of_the_original_tokenizers() {
    for name in ["clip", "clip-text", "clip-text-old"] {
        let card = ModelCard::read(&family(name)).unwrap();
        assert_eq!(card.pads_to, None, "{name}");
        let tokenizer = Tokenizer::load(&card.directory, card.max_length).unwrap();
        let mut compared = 0;
        for (text, ids) in texts(name) {
            assert_eq!(tokenizer.encode_batch(&[&text]).unwrap().ids, ids, "{name}: {text}");
            assert_eq!(tokenizer.encode_batch(&[&text.to_uppercase()]).unwrap().ids, ids, "{name}: case does not matter");
            compared += 1;
        }
        assert!(compared >= 5, "{name}: {compared} texts");
    }
}

#[test]
fn padding_is_part_of_a_text_of_siglip() {
    for name in ["siglip", "siglip-text"] {
        let fixture = Fixture::read(name);
        let choice = Choice { task: None, tower: (name == "siglip").then_some(Tower::Text) };
        let (card, mut executor) = executor(&fixture.directory, choice, 1, Precision::F32);
        assert_eq!(card.pads_to, Some(70), "{name}");
        let plain = Tokenizer::load(&card.directory, card.max_length).unwrap();
        let padding = plain.padding_id();
        let tokenizer = plain.clone().padded_to(card.pads_to);
        for (text, ids) in texts(name) {
            let encoded = tokenizer.encode_batch(&[&text]).unwrap();
            let mut want = ids.clone();
            want.resize(70, padding);
            assert_eq!((encoded.ids, encoded.width), (want, 70), "{name}: {text}");
            assert_eq!(encoded.mask, [1; 70], "{name}: {text}");
        }
        // From the text alone to what the library gives for the text that it padded.
        let last = fixture.expected.inputs.len() - 1;
        let (text, _) = texts(name).pop().unwrap();
        let embedding = |tokenizer: &Tokenizer, executor: &mut models::CpuExecutor| {
            let encoded = tokenizer.encode_batch(&[&text]).unwrap();
            let bytes = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
            let (ids, mask) = (bytes(&encoded.ids), bytes(&encoded.mask));
            let (ids, mask) = (Integers::new(&ids), Some(Integers::new(&mask)));
            let mut batch = Batch::new();
            let texts = Texts { rows: 1, width: encoded.width, ids, mask, types: None };
            batch.push_texts(card.tokens().unwrap(), &texts).unwrap();
            executor.enqueue(&batch).unwrap().remove(0).values
        };
        let want = fixture.values(&format!("output.{last}")).unwrap();
        let largest = difference(&embedding(&tokenizer, &mut executor), &want);
        assert!(largest <= TOLERANCE, "{name}: {largest:e}");
        assert!(difference(&embedding(&plain, &mut executor), &want) > 1e-3, "{name}: padding does not matter");
    }
}

#[test]
fn padding_to_one_length_never_cuts() {
    let plain = Tokenizer::load(&family("siglip-text"), 12).unwrap();
    let short = plain.clone().padded_to(Some(3)).encode_batch(&["a dog", "a dog on the mat and a cat on the dog and the mat"]);
    let short = short.unwrap();
    assert_eq!((short.width, short.mask), (12, vec![1; 24]), "a length below the longest text is taken for that");
    let none = plain.padded_to(Some(20)).encode_batch(&[]).unwrap();
    assert_eq!((none.rows, none.ids.len()), (0, 0));
}

/// A tokenizer as published files of CLIP have it: bytes, with and without the end of a word, a few merges, special tokens.
fn clip_tokenizer(dir: &std::path::Path) -> std::collections::HashMap<String, i64> {
    let mut letters: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    let merges = [["t", "h"], ["th", "e</w>"], ["c", "a"], ["ca", "t</w>"]];
    let words = letters.iter().map(char::to_string).chain(letters.iter().map(|letter| format!("{letter}</w>")));
    let words = words.chain(merges.iter().map(|[a, b]| format!("{a}{b}")));
    let words = words.chain(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocabulary: std::collections::HashMap<String, i64> = words.zip(0..).collect();
    let special = |name: &str| {
        json!({ "id": vocabulary[name], "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special("<|startoftext|>"), special("<|endoftext|>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" }, { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " }, { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "behavior": "Removed", "invert": true,
              "pattern": { "Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+" } },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] },
        "post_processor": { "type": "RobertaProcessing", "sep": ["<|endoftext|>", vocabulary["<|endoftext|>"]],
                            "cls": ["<|startoftext|>", vocabulary["<|startoftext|>"]], "trim_offsets": false,
                            "add_prefix_space": false },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
                   "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocabulary, "merges": merges },
    });
    std::fs::write(dir.join("tokenizer.json"), file.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), json!({ "pad_token": "<|endoftext|>" }).to_string()).unwrap();
    vocabulary
}

#[test]
fn published_tokenizers_of_clip() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = clip_tokenizer(dir.path());
    let ids = |words: &[&str]| words.iter().map(|word| vocabulary[*word]).collect::<Vec<_>>();
    let tokenizer = Tokenizer::load(dir.path(), 77).unwrap();
    let encoded = tokenizer.encode_batch(&["The \t CAT's 2 cats!?", ""]).unwrap();
    let (start, end) = ("<|startoftext|>", "<|endoftext|>");
    let words = [start, "the</w>", "cat</w>", "'", "s</w>", "2</w>", "ca", "t", "s</w>", "!", "?</w>", end];
    assert_eq!(encoded.ids[..12], ids(&words));
    assert_eq!(encoded.ids[12..], ids(&[start, end, end, end, end, end, end, end, end, end, end, end]));
    assert_eq!(encoded.mask[12..], [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // Long texts are cut where words end; what is kept is what the library keeps of the whole.
    let mut library = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
    let truncation = tokenizers::TruncationParams { max_length: 77, ..Default::default() };
    library.with_padding(None).with_truncation(Some(truncation)).unwrap();
    for (piece, count) in [("the cat's  hat, ", 9000), ("supercalifragilistic", 700), ("a\u{301} 1.2;<|endoftext|> \n", 5000)] {
        let text = piece.repeat(count);
        let want: Vec<i64> = library.encode(text.as_str(), true).unwrap().get_ids().iter().map(|id| i64::from(*id)).collect();
        let got = tokenizer.encode_batch(&[&text]).unwrap();
        assert_eq!((got.ids, got.width), (want, 77), "{piece}");
    }
}
