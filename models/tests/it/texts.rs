//! The tokenizer: truncation, padding, and that shortening long texts beforehand changes nothing.

use models::Tokenizer;
use models::tokenizer::Part;
use proptest::prelude::*;

use crate::fixture::{copy, directory, edit};

/// The fixtures with different tokenizers: WordPiece, byte-level BPE, Unigram.
const KINDS: [&str; 3] = ["bert", "roberta", "xlm-roberta"];

/// A tokenizer of ours, and the tokenizer library's own with nothing shortened beforehand.
struct Pair {
    name: &'static str,
    ours: Tokenizer,
    library: tokenizers::Tokenizer,
}

impl Pair {
    fn load(name: &'static str, length: usize) -> Pair {
        let mut library = tokenizers::Tokenizer::from_file(directory(name).join("tokenizer.json")).unwrap();
        let truncation = tokenizers::TruncationParams { max_length: length, ..Default::default() };
        library.with_padding(None).with_truncation(Some(truncation)).unwrap();
        Pair { name, ours: Tokenizer::load(&directory(name), length).unwrap(), library }
    }

    /// All kinds for all lengths.
    fn all(lengths: &[usize]) -> Vec<Pair> {
        KINDS.iter().flat_map(|name| lengths.iter().map(|length| Pair::load(name, *length))).collect()
    }

    fn check(&self, text: &str) {
        let encoding = self.library.encode(text, true).unwrap();
        let want: Vec<i64> = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
        let got = self.ours.encode_batch(&[text]).unwrap().ids;
        assert_eq!(got, want, "{}, {}: {:?}", self.name, self.ours.max_length(), text.chars().take(200).collect::<String>());
    }
}

#[test]
fn the_file_s_own_truncation_and_padding_are_dropped() {
    // The fixture's file says: truncate to 7, pad to 7.
    let text = "the cat sits on the mat and the dog runs";
    let encoded = Tokenizer::load(&directory("bert"), 12).unwrap().encode_batch(&[text, "a cat"]).unwrap();
    assert_eq!((encoded.rows, encoded.width), (2, 12));
    assert_eq!(encoded.mask[12..], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encoded.ids[16..], [0; 8]);
    let (first, last) = (encoded.ids[0], encoded.ids[11]);
    assert_eq!((first, last), (2, 3), "the special tokens are kept");
    let short = Tokenizer::load(&directory("bert"), 12).unwrap().encode_batch(&["a"]).unwrap();
    assert_eq!((short.ids.len(), short.width), (3, 3));
}

#[test]
fn empty_batches_and_texts_are_valid() {
    for name in KINDS {
        let tokenizer = Tokenizer::load(&directory(name), 16).unwrap();
        let none = tokenizer.encode_batch(&[]).unwrap();
        assert_eq!((none.rows, none.width, none.ids.len()), (0, 0, 0));
        let empty = tokenizer.encode_batch(&[""]).unwrap();
        assert_eq!((empty.rows, empty.width), (1, 2), "{name}");
        assert_eq!(empty.mask, [1, 1]);
    }
}

#[test]
fn the_padding_id_comes_from_the_files() {
    assert_eq!(Tokenizer::load(&directory("bert"), 16).unwrap().padding_id(), 0);
    assert_eq!(Tokenizer::load(&directory("roberta"), 16).unwrap().padding_id(), 1);
    let dir = copy("roberta");
    edit(dir.path(), "tokenizer_config.json", |config| config["pad_token"] = serde_json::json!({ "content": "</s>" }));
    assert_eq!(Tokenizer::load(dir.path(), 16).unwrap().padding_id(), 2);
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(Tokenizer::load(dir.path(), 16).unwrap().padding_id(), 1, "from config.json");
}

#[test]
fn long_texts_have_the_tokens_of_the_whole_text() {
    let words = "the cat sits on the mat, and the dog runs! ".repeat(600);
    let texts = [
        words.clone(),
        "a".repeat(20_000),
        format!("{} the cat", "z".repeat(3_000)),
        format!("{}{words}", " \u{1}\t\u{7f}".repeat(6_000)),
        "猫".repeat(8_000),
        format!("cat{}", "\u{301}".repeat(3_000)),
        ",.!".repeat(9_000),
        format!("the {} dog", "[MASK]".repeat(6_000)),
        "<mask> <s> </s>".repeat(3_000),
        "the\u{a0}cat\u{3000}sits\u{2028}on\n".repeat(1_000),
    ];
    for pair in Pair::all(&[2, 3, 16]) {
        for text in &texts {
            pair.check(text);
        }
    }
}

#[test]
fn every_place_that_a_special_token_can_be_cut_at_is_safe() {
    // The first try takes 8 bytes per token and the guard: shift a special token across that place, byte by byte.
    let pairs = Pair::all(&[9]);
    for shift in 0..200 {
        for special in ["[MASK]", "<mask>", "\u{301}", "  ", "猫"] {
            let text = format!("{}{}{special}{} the dog", "the ".repeat(shift / 4), "a".repeat(shift % 4), " cat".repeat(80));
            pairs.iter().for_each(|pair| pair.check(&text));
        }
    }
}

#[test]
fn lower_casing_asked_for_by_sentence_transformers_is_done() {
    let dir = copy("roberta");
    let upper = Tokenizer::load(dir.path(), 16).unwrap().encode_batch(&["THE CAT"]).unwrap();
    edit(dir.path(), "sentence_bert_config.json", |config| config["do_lower_case"] = true.into());
    let tokenizer = Tokenizer::load(dir.path(), 16).unwrap();
    let lower = tokenizer.encode_batch(&["THE CAT"]).unwrap();
    assert_eq!(lower, tokenizer.encode_batch(&["the cat"]).unwrap());
    assert_ne!(lower, upper);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_has_the_tokens_of_the_whole_text(
        parts in prop::collection::vec(
            prop::sample::select(vec!["the", " ", "cat", "\u{301}", "猫", "[MASK]", "<mask>", ",", "\n", "\u{0}", "É", "zzzzzzzzzzzzzzzzzzz", "[", "]"]),
            0..300,
        ),
        length in 3usize..20,
        kind in 0usize..3,
    ) {
        let text = parts.concat();
        Pair::load(KINDS[kind], length).check(&text);
    }
}

/// The shortest time that a tokenizer took for a text, of several.
fn shortest(tokenizer: &Tokenizer, text: &str) -> std::time::Duration {
    let once = || {
        let start = std::time::Instant::now();
        tokenizer.encode_batch(&[text]).unwrap();
        start.elapsed()
    };
    (0..5).map(|_| once()).min().unwrap()
}

#[test]
fn a_megabyte_costs_little_more_than_the_length_of_the_model() {
    const MEGABYTE: usize = 1 << 20;
    const LENGTH: usize = 512;
    let endless = |unit: &str| unit.repeat(MEGABYTE / unit.len());
    let texts = [
        ("words", endless("the cat sits on the mat, and the dog runs! ")),
        ("a word", endless("a")),
        ("a word of many letters", endless("kqzjxwvphg")),
        ("punctuation", endless(",.!")),
        ("ideographs", endless("猫犬")),
        ("Cyrillic", endless("собака")),
        ("a word and more", format!("{} the cat", endless("z"))),
    ];
    for name in KINDS {
        let tokenizer = Tokenizer::load(&directory(name), LENGTH).unwrap();
        // The small vocabulary of this fixture has no Cyrillic: a text of it is one unknown token, so it never fills the
        // length, and is tokenized to its end.
        for (kind, text) in texts.iter().filter(|(kind, _)| (name, *kind) != ("xlm-roberta", "Cyrillic")) {
            // Eight bytes a token is what ordinary text is cut to; most of these have more tokens in it than are kept.
            let mut end = LENGTH * 8;
            while !text.is_char_boundary(end) {
                end += 1;
            }
            let (limit, whole) = (shortest(&tokenizer, &text[..end]), shortest(&tokenizer, text));
            println!("{name}, {kind}: {limit:?} for {end} bytes, {whole:?} for a megabyte");
            // Twice, and a millisecond in which an endless word is looked through for its end.
            assert!(whole < limit * 3 + std::time::Duration::from_millis(8), "{name}, {kind}: {limit:?}, {whole:?}");
        }
    }
}

#[test]
fn two_long_texts_cost_no_more_than_their_tokens() {
    // The library would make every combination of what overflows of both: gigabytes.
    let text = "猫, the cat! ".repeat(40_000);
    for name in KINDS {
        let tokens = Tokenizer::load(&directory(name), 64).unwrap().encode(&text, Some(&text), true).unwrap();
        assert_eq!(tokens.len(), 64, "{name}");
    }
}

#[test]
fn words_without_end_have_the_tokens_of_the_whole_text() {
    // Letters without any order, from a fixed sequence.
    let mut state = 7u64;
    let mut letters = |alphabet: &str, count: usize| -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            alphabet[(state >> 33) as usize % alphabet.len()]
        };
        (0..count).map(|_| next()).collect()
    };
    for pair in Pair::all(&[4, 17, 64]) {
        for alphabet in ["abcdefghijklmnopqrstuvwxyz", "thecatsi", "aab", "猫犬the", "собака", ",.!?", "é\u{301}ae"] {
            for count in [300, 3_000] {
                pair.check(&letters(alphabet, count));
                pair.check(&format!("{} the cat {}", letters(alphabet, count), letters(alphabet, count)));
            }
        }
    }
}

#[test]
fn pairs_and_offsets_are_those_of_the_library() {
    let long = "the cat sits on the mat, and the dog runs! ".repeat(12);
    let texts = ["", "the cat", "É猫 naïve  cafe\u{301} 🐈‍⬛ dogs", &"the red cat ".repeat(20), &long, &"z".repeat(700)];
    for pair in Pair::all(&[12, 16, 40]) {
        let check = |text: &str, other: Option<&str>| {
            let input = match other {
                Some(other) => tokenizers::EncodeInput::Dual(text.into(), other.into()),
                None => text.into(),
            };
            let want = pair.library.encode_char_offsets(input, true).unwrap();
            // Where both texts are too long by themselves, an odd number of places is shared otherwise.
            let special = want.get_special_tokens_mask().iter().filter(|special| **special == 1).count();
            if other.is_some() && (pair.ours.max_length() - special) % 2 == 1 {
                return;
            }
            let got = pair.ours.encode(text, other, true).unwrap();
            let rows = [&got];
            let width = Tokenizer::width(&rows);
            let of = |part| pair.ours.padded(&rows, width, part);
            let numbers = |values: &[u32]| values.iter().map(|value| i64::from(*value)).collect::<Vec<i64>>();
            let about = || format!("{}, {}: {:.40?}, {:.40?}", pair.name, pair.ours.max_length(), text, other);
            assert_eq!(of(Part::Ids), numbers(want.get_ids()), "{}", about());
            assert_eq!(of(Part::Types), numbers(want.get_type_ids()), "{}", about());
            let offsets: Vec<i64> = want
                .get_offsets()
                .iter()
                .zip(want.get_special_tokens_mask())
                .flat_map(|((start, end), special)| if *special == 1 { [0, 0] } else { [*start as i64, *end as i64] })
                .collect();
            assert_eq!(of(Part::Offsets), offsets, "{}", about());
        };
        for text in texts {
            check(text, None);
            texts.iter().for_each(|other| check(text, Some(other)));
        }
    }
}
