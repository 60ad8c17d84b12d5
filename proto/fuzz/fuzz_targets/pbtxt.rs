//! Feeds any bytes to the text and JSON readers; what they accept must survive printing and reading again.
//!
//! `cargo fuzz run pbtxt` needs a nightly compiler, or `RUSTC_BOOTSTRAP=1` with a stable one. What it finds goes to
//! `fuzz/corpus/pbtxt`, where the test `robust::fuzz_corpus_is_replayed` runs it ever after.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::inference::ModelConfig;
use proto::{json, pbtxt};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match pbtxt::parse(&text, "input") {
        Ok(config) => round_trip(&config),
        Err(error) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let line = text.split('\n').nth(error.line - 1).expect("errors name a line of the text");
            assert!(error.column >= 1 && error.column <= line.chars().count() + 1);
        }
    }
    if let Ok(config) = json::from_json(&text) {
        round_trip(&config);
    }
});

fn round_trip(config: &ModelConfig) {
    // The debug form and not the message is compared: in it NaN is equal to NaN, whatever its sign.
    let expected = format!("{config:?}");
    let again = pbtxt::parse(&pbtxt::print(config), "printed").expect("printed text reads back");
    assert_eq!(format!("{again:?}"), expected);
    let again = json::from_json(&json::to_json(config).to_string()).expect("written JSON reads back");
    assert_eq!(format!("{again:?}"), expected);
}
