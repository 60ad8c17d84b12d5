//! Hostile files: random bytes and damaged copies are refused or used, and never a panic or a large allocation.

use std::num::NonZeroUsize;
use std::path::Path;

use models::weights::Weights;
use models::{Choice, ModelCard, Precision, Tokenizer, Tower};
use proptest::prelude::*;

use crate::fixture::{copy, copy_of, family, load, load_as};

/// Random cases per property: few, since every run draws other ones.
const CASES: u32 = 150;

/// Files whose content decides how a directory is read.
const FILES: [&str; 6] = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "model.safetensors",
];

/// Families with settings of their own.
const FAMILIES: [&str; 11] = [
    "mpnet-embedding",
    "modernbert-embedding",
    "nomic-bert-embedding",
    "jina-bert-embedding",
    "jina-v3-embedding",
    "deberta-v2-labels",
    "vit-labels",
    "dinov2-registers-labels",
    "clip",
    "clip-vision",
    "siglip",
];

/// Files that say how a dense module follows the pooling.
const DENSE_FILES: [&str; 4] = ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"];

/// Failures are printed with their input and not kept in files.
fn config() -> ProptestConfig {
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

/// Reads a directory in every way there is; the results may be anything but a panic.
fn read_all(dir: &Path) {
    let _ = ModelCard::is_model_directory(dir);
    let card = ModelCard::read(dir);
    let length = card.as_ref().map_or(16, |card| card.max_length);
    let _ = Weights::open(dir);
    let _ = load(dir);
    let vision = Choice { task: None, tower: Some(Tower::Vision) };
    let _ = load_as(dir, vision, Precision::F32, NonZeroUsize::MIN);
    if let Ok(tokenizer) = Tokenizer::load(dir, length) {
        let _ = tokenizer.encode_batch(&["the cat sits, 猫 [MASK] on", ""]);
    }
}

/// Replaces a few bytes, cuts the end off, or doubles a part.
#[derive(Debug, Clone)]
enum Damage {
    Bytes(Vec<(prop::sample::Index, u8)>),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Digits(prop::sample::Index, String),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5).prop_map(Damage::Bytes),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(a, b)| Damage::Repeat(a, b)),
        (
            any::<prop::sample::Index>(),
            prop::sample::select(vec!["0", "-1", "99999999999999999999", "1e308", "null", "[]", "true"])
        )
            .prop_map(|(at, text)| Damage::Digits(at, text.to_owned())),
    ]
}

fn apply(content: &mut Vec<u8>, damage: &Damage) {
    if content.is_empty() {
        return;
    }
    match damage {
        Damage::Bytes(changes) => {
            for (at, byte) in changes {
                let at = at.index(content.len());
                content[at] = *byte;
            }
        }
        Damage::Cut(at) => content.truncate(at.index(content.len())),
        Damage::Repeat(a, b) => {
            let (a, b) = (a.index(content.len()), b.index(content.len()));
            let part = content[a.min(b)..a.max(b)].to_vec();
            content.splice(a..a, part);
        }
        Damage::Digits(at, text) => {
            // The first number at or after the place becomes another value.
            let start = at.index(content.len());
            let Some(first) = (start..content.len()).find(|i| content[*i].is_ascii_digit()) else { return };
            let last = (first..content.len()).find(|i| !content[*i].is_ascii_digit()).unwrap_or(content.len());
            content.splice(first..last, text.bytes());
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes_in_any_file(file in prop::sample::select(FILES.to_vec()), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let dir = copy("bert");
        std::fs::write(dir.path().join(file), &bytes).unwrap();
        read_all(dir.path());
    }

    #[test]
    fn damaged_files(file in prop::sample::select(FILES.to_vec()), damage in damage()) {
        let dir = copy("bert");
        let path = dir.path().join(file);
        let mut content = std::fs::read(&path).unwrap();
        apply(&mut content, &damage);
        std::fs::write(&path, content).unwrap();
        read_all(dir.path());
    }

    #[test]
    fn damaged_configurations_of_families(name in prop::sample::select(FAMILIES.to_vec()), damage in damage()) {
        let dir = copy_of(&family(name));
        let path = dir.path().join("config.json");
        let mut content = std::fs::read(&path).unwrap();
        apply(&mut content, &damage);
        std::fs::write(&path, content).unwrap();
        read_all(dir.path());
    }

    #[test]
    fn damaged_dense_modules(file in prop::sample::select(DENSE_FILES.to_vec()), damage in damage()) {
        let dir = copy_of(&family("mpnet-embedding"));
        let path = dir.path().join(file);
        let mut content = std::fs::read(&path).unwrap();
        apply(&mut content, &damage);
        std::fs::write(&path, content).unwrap();
        read_all(dir.path());
    }

    #[test]
    fn damaged_preprocessors(damage in damage()) {
        let dir = copy_of(&family("dinov2-hidden"));
        let path = dir.path().join("preprocessor_config.json");
        let mut content = std::fs::read(&path).unwrap();
        apply(&mut content, &damage);
        std::fs::write(&path, content).unwrap();
        read_all(dir.path());
    }

    #[test]
    fn damaged_shard_lists(damage in damage()) {
        let dir = copy("bert-f16-shards");
        let path = dir.path().join("model.safetensors.index.json");
        let mut content = std::fs::read(&path).unwrap();
        apply(&mut content, &damage);
        std::fs::write(&path, content).unwrap();
        read_all(dir.path());
    }

    #[test]
    fn damaged_tokenizers(name in prop::sample::select(vec!["bert", "roberta", "xlm-roberta"]), damages in prop::collection::vec(damage(), 1..3)) {
        let dir = copy(name);
        let path = dir.path().join("tokenizer.json");
        let mut content = std::fs::read(&path).unwrap();
        for damage in &damages {
            apply(&mut content, damage);
        }
        std::fs::write(&path, content).unwrap();
        if let Ok(tokenizer) = Tokenizer::load(dir.path(), 16) {
            let _ = tokenizer.encode_batch(&["the cat sits, 猫 [MASK] <mask> on", "", "a"]);
        }
    }

    #[test]
    fn damaged_weight_headers(damage in damage()) {
        let dir = copy("bert");
        let path = dir.path().join("model.safetensors");
        let content = std::fs::read(&path).unwrap();
        let end = 8 + u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
        let mut header = content[..end].to_vec();
        apply(&mut header, &damage);
        std::fs::write(&path, [&header, &content[end..]].concat()).unwrap();
        read_all(dir.path());
    }
}

#[test]
fn header_lengths_that_lie() {
    let dir = copy("bert");
    let path = dir.path().join("model.safetensors");
    let content = std::fs::read(&path).unwrap();
    for length in [0, 1, content.len() as u64, u64::from(u32::MAX), 100_000_001, i64::MAX as u64, u64::MAX - 7, u64::MAX] {
        std::fs::write(&path, [&length.to_le_bytes(), &content[8..]].concat()).unwrap();
        let error = Weights::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not a well-formed safetensors file"), "{length}: {error}");
    }
    for bytes in [0, 1, 7, 8] {
        std::fs::write(&path, &content[..bytes]).unwrap();
        assert!(Weights::open(dir.path()).is_err(), "{bytes} bytes");
    }
}

#[test]
fn offsets_that_lie() {
    let dir = copy("bert");
    let path = dir.path().join("model.safetensors");
    for header in [
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#,
    ] {
        let mut content = (header.len() as u64).to_le_bytes().to_vec();
        content.extend(header.bytes());
        content.extend([0; 4]);
        std::fs::write(&path, content).unwrap();
        assert!(Weights::open(dir.path()).is_err(), "{header}");
    }
}

#[test]
fn strings_that_are_not_unicode_in_a_tokenizer() {
    for (from, to) in [(&b"[MASK]"[..], &b"[M\x80SK]"[..]), (b"[MASK]", b"[MA\\ud800]")] {
        let dir = copy("bert");
        let path = dir.path().join("tokenizer.json");
        let content = std::fs::read(&path).unwrap();
        let at = content.windows(from.len()).position(|window| window == from).unwrap();
        let damaged = [&content[..at], to, &content[at + from.len()..]].concat();
        std::fs::write(&path, damaged).unwrap();
        let error = Tokenizer::load(dir.path(), 16).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json:1:") && error.contains("not valid JSON"), "{error}");
    }
}
