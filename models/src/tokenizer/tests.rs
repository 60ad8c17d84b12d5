//! Where texts may be cut.

use serde_json::{Value, json};

use super::cut::Boundaries;

fn boundaries(normalizer: Value, pre_tokenizer: Value) -> Boundaries {
    Boundaries::of(&normalizer, &pre_tokenizer, &Value::Null, &["[MASK]"])
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

fn bert(added: &[&str]) -> Boundaries {
    let normalizer = json!({ "type": "BertNormalizer", "handle_chinese_chars": true });
    let model = json!({ "type": "WordPiece", "max_input_chars_per_word": 6 });
    Boundaries::of(&normalizer, &json!({ "type": "BertPreTokenizer" }), &model, added)
}

#[test]
fn words_that_become_one_unknown_token_lose_their_ends() {
    let beginning = bert(&["[MASK]"]).beginning("ab abcdefghijkl, cd zzzzzzzzzz", 1000);
    assert_eq!(beginning.text, "ab abcdefg, cd zzzzzzz");
    assert!(beginning.is_whole);
    assert_eq!(beginning.range_in_text((0, 2)), (0, 2));
    assert_eq!(beginning.range_in_text((3, 10)), (3, 15), "the whole word");
    assert_eq!(beginning.range_in_text((10, 11)), (15, 16));
    assert_eq!(beginning.range_in_text((15, 22)), (20, 30));
    // What normalization may take away, or take for a word of its own, stays.
    let marked = format!("abc{}def", "\u{301}".repeat(9));
    assert_eq!(bert(&["[MASK]"]).beginning(&marked, 1000).text, marked);
    // A word of exactly as many characters as a word may have, or one more.
    for word in ["abcdef", "abcdefg"] {
        assert_eq!(bert(&["[MASK]"]).beginning(word, 1000).text, word);
    }
    // An added token of letters might stand inside the word, and one that is long across its end.
    for added in ["mask", "[MASKING]"] {
        assert_eq!(bert(&[added]).beginning("abcdefghijkl", 1000).text, "abcdefghijkl");
    }
    let cut = bert(&["[MASK]"]).beginning("abcdefghijkl mn op", 9);
    assert_eq!((&*cut.text, cut.is_whole), ("abcdefg mn", false));
}

#[test]
fn other_models_cut_words_inside_far_behind_what_is_kept() {
    let bytes = boundaries(Value::Null, json!({ "type": "ByteLevel" }));
    let endless = "猫".repeat(1000);
    let cut = bytes.beginning(&endless, 100);
    assert_eq!((cut.text.len(), cut.is_whole), (612, false));
    let spaced = format!("{} {endless}", "a".repeat(300));
    assert_eq!(bytes.beginning(&spaced, 100).text.len(), 300, "a word that ends is not cut");
    let unknown = boundaries(Value::Null, Value::Null);
    assert!(unknown.beginning(&endless, 100).is_whole);
}
