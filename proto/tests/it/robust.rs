//! No text makes the readers panic, and what they accept survives every round trip.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proto::inference::ModelConfig;
use proto::{json, pbtxt};

/// Reads `text` in both forms; what is accepted must be printed and read back unchanged.
fn read_both(text: &str) {
    if let Ok(config) = pbtxt::parse(text, "input") {
        round_trip(&config);
    }
    if let Ok(config) = json::from_json(text) {
        round_trip(&config);
    }
}

#[track_caller]
fn round_trip(config: &ModelConfig) {
    // The debug form and not the message is compared: in it NaN is equal to NaN, whatever its sign.
    let expected = format!("{config:?}");
    let printed = pbtxt::print(config);
    let again = pbtxt::parse(&printed, "printed").unwrap_or_else(|error| panic!("{error} in\n{printed}"));
    assert_eq!(format!("{again:?}"), expected, "{printed}");
    let written = json::to_json(config).to_string();
    let again = json::from_json(&written).unwrap_or_else(|error| panic!("{error} in\n{written}"));
    assert_eq!(format!("{again:?}"), expected, "{written}");
}

/// Positions lie inside of the text, or directly behind it.
fn position_is_in(text: &str) {
    let Err(error) = pbtxt::parse(text, "input") else { return };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = text.split('\n').nth(error.line - 1).unwrap_or_else(|| panic!("{error}: no such line in {text:?}"));
    assert!(error.column >= 1 && error.column <= line.chars().count() + 1, "{error}: no such column in {text:?}");
    assert!(error.to_string().starts_with(&format!("input:{}:{}: ", error.line, error.column)));
}

/// A word of the dialect.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "name",
        "input",
        "output",
        "dims",
        "data_type",
        "TYPE_FP32",
        "parameters",
        "key",
        "value",
        "string_value",
        "dynamic_batching",
        "sequence_batching",
        "optimization",
        "cuda",
        "graph_spec",
        "max_batch_size",
        "instance_group",
        "kind",
        "KIND_GPU",
        "version_policy",
        "latest",
        "all",
        "model_warmup",
        "inputs",
        "zero_data",
        "random_data",
        "true",
        "f",
        "inf",
        "-",
        "1",
        "0x1F",
        "017",
        "1.5e3",
        "99999999999999999999",
        "\"a\"",
        "'b\\n'",
        "\"\\q\"",
        "\"",
        ":",
        ":",
        ":",
        "{",
        "}",
        "{",
        "}",
        "[",
        "]",
        "[",
        "]",
        "<",
        ">",
        ",",
        ";",
        "# c\n",
        "\n",
        " ",
        "\u{feff}",
        "é",
        "[a.b]",
        "[a/inference.ModelConfig]",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC*") {
        read_both(&text);
        position_is_in(&text);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        read_both(&text);
        position_is_in(&text);
    }

    #[test]
    fn any_words(words in prop::collection::vec(word(), 0..60)) {
        let text = words.join(" ");
        read_both(&text);
        position_is_in(&text);
    }

    #[test]
    fn any_string_value(value in any::<String>(), key in any::<String>()) {
        let parameter = proto::inference::ModelParameter { string_value: value };
        round_trip(&ModelConfig { parameters: [(key, parameter)].into(), ..Default::default() });
    }

    #[test]
    fn any_float(value in any::<f32>(), bucket in any::<f64>(), size in any::<i32>(), version in any::<i64>()) {
        use proto::inference::{ModelMetrics, ModelSequenceBatching, ModelVersionPolicy};
        use proto::inference::model_config::SchedulingChoice;
        use proto::inference::model_metrics::{MetricControl, metric_control::{HistogramOptions, MetricOptions}};
        use proto::inference::model_sequence_batching::{Control, ControlInput};
        use proto::inference::model_version_policy::{PolicyChoice, Specific};
        let control = Control { fp32_false_true: vec![value], ..Default::default() };
        let input = ControlInput { control: vec![control], ..Default::default() };
        let buckets = MetricOptions::HistogramOptions(HistogramOptions { buckets: vec![bucket] });
        let metric = MetricControl { metric_identifier: None, metric_options: Some(buckets) };
        round_trip(&ModelConfig {
            max_batch_size: size,
            version_policy: Some(ModelVersionPolicy { policy_choice: Some(PolicyChoice::Specific(Specific { versions: vec![version] })) }),
            scheduling_choice: Some(SchedulingChoice::SequenceBatching(ModelSequenceBatching { control_input: vec![input], ..Default::default() })),
            model_metrics: Some(ModelMetrics { metric_control: vec![metric] }),
            ..Default::default()
        });
    }

    #[test]
    fn a_damaged_file(index in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), cut in 0usize..20, put in "[\\[\\]{}<>:;,#'\"\\\\a0\n-]{0,3}") {
        let files = crate::corpus::files();
        let text = fs::read_to_string(index.get(&files)).unwrap();
        let letters: Vec<char> = text.chars().collect();
        let at = at.index(letters.len() + 1);
        let damaged: String = letters.iter().take(at).copied().chain(put.chars()).chain(letters.iter().skip(at + cut).copied()).collect();
        read_both(&damaged);
        position_is_in(&damaged);
    }
}

/// Files that the fuzzer found worth keeping, and every input that once was a fault.
#[test]
fn fuzz_corpus_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pbtxt");
    let mut replayed = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        read_both(&text);
        position_is_in(&text);
        replayed += 1;
    }
    assert!(replayed >= 20, "the fuzz corpus has {replayed} files");
}

#[test]
fn deep_nesting_is_refused() {
    for opener in ["input {", "input [ {", "input <", "[", "{", "[a/inference.ModelConfig] {"] {
        let error = pbtxt::parse(&opener.repeat(100_000), "deep").unwrap_err();
        assert!(error.to_string().contains("nested too deep"), "{error}");
    }
    for opener in ["[", "{\"a\":"] {
        let error = json::from_json(&opener.repeat(100_000)).unwrap_err();
        assert!(error.to_string().contains("nested too deep"), "{error}");
    }
}

#[test]
fn large_files_are_refused() {
    let text = " ".repeat(pbtxt::MAX_FILE_BYTES);
    assert_eq!(pbtxt::parse(&text, "large").unwrap(), ModelConfig::default());
    let error = pbtxt::parse(&format!("{text} "), "large").unwrap_err();
    assert_eq!(error.to_string(), "large:1:1: file has 4194305 bytes, expected at most 4194304");
}
