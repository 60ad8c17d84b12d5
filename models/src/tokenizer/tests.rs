//! Where texts may be cut.

use serde_json::{Value, json};

use super::cut::Boundaries;

fn boundaries(normalizer: Value, pre_tokenizer: Value) -> Boundaries {
    Boundaries::of(&normalizer, &pre_tokenizer, 6)
}

#[test]
fn bert_ends_words_at_spaces_punctuation_and_ideographs() {
    let normalizer = json!({ "type": "BertNormalizer", "handle_chinese_chars": true });
    let bert = boundaries(normalizer, json!({ "type": "BertPreTokenizer" }));
    assert_eq!(bert.end_of_word_from("hello world", 2), 5);
    assert_eq!(bert.end_of_word_from("hello world", 5), 5);
    assert_eq!(bert.end_of_word_from("hello world", 6), 11);
    assert_eq!(bert.end_of_word_from("hello, world", 2), 5);
    assert_eq!(bert.end_of_word_from("ab猫cd", 1), 2);
    // Inside a character the search begins at the next one.
    assert_eq!(bert.end_of_word_from("猫猫猫", 1), 3);
    assert_eq!(bert.end_of_word_from("short", 100), 5);
    assert_eq!(bert.end_of_word_from("", 0), 0);
    let plain =
        boundaries(json!({ "type": "BertNormalizer", "handle_chinese_chars": false }), json!({ "type": "BertPreTokenizer" }));
    assert_eq!(plain.end_of_word_from("ab猫cd", 1), 7);
}

#[test]
fn a_run_of_spaces_is_not_cut_inside() {
    let bytes = boundaries(Value::Null, json!({ "type": "ByteLevel", "add_prefix_space": false }));
    assert_eq!(bytes.end_of_word_from("a   b c", 2), 5);
    assert_eq!(bytes.end_of_word_from("a   b c", 1), 1);
    assert_eq!(bytes.end_of_word_from("a,b.c", 1), 5);
}

#[test]
fn metaspace_ends_words_at_spaces_only() {
    let pre_tokenizer = json!({ "type": "Metaspace", "replacement": "\u{2581}" });
    let normalizer = json!({ "type": "Sequence", "normalizers": [
        { "type": "Precompiled" },
        { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " },
    ] });
    let meta = boundaries(normalizer, pre_tokenizer);
    assert_eq!(meta.end_of_word_from("a\tb c", 1), 3);
}

#[test]
fn clip_ends_words_at_white_space() {
    let split = |pattern: &str, behavior: &str| {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior, "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] })
    };
    let normalizer = |content: &str| {
        json!({ "type": "Sequence", "normalizers": [
            { "type": "NFC" }, { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": content }, { "type": "Lowercase" },
        ] })
    };
    let pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    assert_eq!(boundaries(normalizer(" "), split(pattern, "Removed")).end_of_word_from("a,b \tc d", 1), 3);
    // What is not known to keep words apart is not cut.
    assert_eq!(boundaries(normalizer(""), split(pattern, "Removed")).end_of_word_from("a,b c", 1), 5);
    assert_eq!(boundaries(normalizer(" "), split(pattern, "Isolated")).end_of_word_from("a,b c", 1), 5);
    assert_eq!(boundaries(normalizer(" "), split(".+", "Removed")).end_of_word_from("a,b c", 1), 5);
}

#[test]
fn unknown_tokenizers_are_given_whole_texts() {
    let whole = |normalizer, pre_tokenizer| boundaries(normalizer, pre_tokenizer).end_of_word_from("a b c", 1) == 5;
    assert!(whole(Value::Null, Value::Null));
    assert!(whole(Value::Null, json!({ "type": "Split", "pattern": { "Regex": "x" } })));
    assert!(whole(Value::Null, json!({ "type": "ByteLevel", "use_regex": false })));
    assert!(whole(Value::Null, json!({ "type": "Metaspace", "split": false })));
    let replace = json!({ "type": "Replace", "pattern": { "Regex": "a b" }, "content": "x" });
    assert!(whole(replace, json!({ "type": "Whitespace" })));
    assert!(!whole(Value::Null, json!({ "type": "Whitespace" })));
    let sequence = json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, { "type": "Digits" }] });
    assert!(!whole(Value::Null, sequence));
}
