//! The corpus: configurations in every construct of the dialect, each beside the JSON it must read as.
//!
//! `UPDATE_EXPECT=1 cargo test -p proto` writes the JSON anew; what changed is then reviewed like code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::{expect, expect_file};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value};
use proto::inference::ModelConfig;
use proto::{json, pbtxt};

/// Every file of the corpus.
pub(crate) fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pbtxt"));
    files.sort();
    assert!(files.len() >= 70, "the corpus has {} files", files.len());
    files
}

fn parsed() -> Vec<(PathBuf, ModelConfig)> {
    let parse = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let config = pbtxt::parse(&text, &name).unwrap_or_else(|error| panic!("{error}"));
        (path, config)
    };
    files().into_iter().map(parse).collect()
}

/// Equality of the debug form: any NaN is equal to any other, and -0.0 is not 0.0.
#[track_caller]
fn assert_same(path: &Path, got: &ModelConfig, expected: &ModelConfig) {
    assert_eq!(format!("{got:#?}"), format!("{expected:#?}"), "{}", path.display());
}

#[test]
fn reads_as_recorded() {
    for (path, config) in parsed() {
        let json = serde_json::to_string_pretty(&json::to_json(&config)).unwrap();
        expect_file![path.with_extension("json")].assert_eq(&format!("{json}\n"));
    }
}

#[test]
fn printed_text_reads_back() {
    for (path, config) in parsed() {
        let text = pbtxt::print(&config);
        let again = pbtxt::parse(&text, "printed").unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
        assert_same(&path, &again, &config);
        assert_eq!(pbtxt::print(&again), text, "{}", path.display());
    }
}

#[test]
fn prints_for_readers() {
    let text = r#"
        ensemble_scheduling { step { model_version: -1 input_map { key: "TEXT" value: "text" } input_map { key: "A" value: "b" } } }
        parameters { key: "pooling" value { string_value: "mean" } } parameters { key: "none" }
        input { name: "é\"\001" dims: [ -1, 3 ] data_type: TYPE_FP16 reshape { } } input { } instance_group { kind: 9 }
        model_warmup { inputs { key: "A" value { zero_data: false dims: 1 } } }
    "#;
    expect![[r#"
        input [
          {
            name: "é\"\001"
            data_type: TYPE_FP16
            dims: [ -1, 3 ]
            reshape { }
          },
          { }
        ]
        ensemble_scheduling {
          step [
            {
              model_version: -1
              input_map [
                { key: "A" value: "b" },
                { key: "TEXT" value: "text" }
              ]
            }
          ]
        }
        instance_group [
          {
            kind: 9
          }
        ]
        parameters [
          { key: "none" value { } },
          { key: "pooling" value { string_value: "mean" } }
        ]
        model_warmup [
          {
            inputs [
              {
                key: "A"
                value {
                  dims: [ 1 ]
                  zero_data: false
                }
              }
            ]
          }
        ]
    "#]]
    .assert_eq(&pbtxt::print(&pbtxt::parse(text, "written").unwrap()));
}

#[test]
fn json_reads_back() {
    for (path, config) in parsed() {
        let text = json::to_json(&config).to_string();
        let again = json::from_json(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
        assert_same(&path, &again, &config);
    }
}

#[test]
fn recorded_json_reads_as_the_text() {
    for (path, config) in parsed() {
        let text = fs::read_to_string(path.with_extension("json")).unwrap();
        let again = json::from_json(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_same(&path, &again, &config);
    }
}

#[test]
fn sets_every_field_and_enum_value() {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let root = pool.get_message_by_name("inference.ModelConfig").unwrap();
    let mut wanted = BTreeSet::new();
    collect_declared(&root, &mut wanted);
    let mut seen = BTreeSet::new();
    for (_, config) in parsed() {
        let message = DynamicMessage::decode(root.clone(), config.encode_to_vec().as_slice()).unwrap();
        collect_set(&message, &mut seen);
    }
    let missing: Vec<&String> = wanted.difference(&seen).collect();
    assert!(missing.is_empty(), "no file of the corpus sets {missing:#?}");
}

fn collect_declared(message: &MessageDescriptor, names: &mut BTreeSet<String>) {
    for field in message.fields() {
        if !names.insert(field.full_name().to_owned()) {
            continue;
        }
        match field.kind() {
            Kind::Message(inner) => collect_declared(&inner, names),
            // The value of number 0 is the default one, which the wire does not show.
            Kind::Enum(of) => {
                names.extend(of.values().filter(|value| value.number() != 0).map(|value| value.full_name().to_owned()));
            }
            _ => {}
        }
    }
}

fn collect_set(message: &DynamicMessage, names: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        names.insert(field.full_name().to_owned());
        collect_values(value, &field.kind(), names);
    }
    // A field of a single-value enum can hold nothing but its default, so it counts as set.
    for field in message.descriptor().fields() {
        if matches!(field.kind(), Kind::Enum(of) if of.values().len() == 1) {
            names.insert(field.full_name().to_owned());
        }
    }
}

fn collect_values(value: &Value, kind: &Kind, names: &mut BTreeSet<String>) {
    match (value, kind) {
        (Value::Message(inner), _) => collect_set(inner, names),
        (Value::List(elements), _) => elements.iter().for_each(|element| collect_values(element, kind, names)),
        (Value::Map(entries), Kind::Message(entry)) => {
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            names.extend([key.full_name().to_owned(), value.full_name().to_owned()]);
            entries.values().for_each(|element| collect_values(element, &value.kind(), names));
        }
        (Value::EnumNumber(number), Kind::Enum(of)) => {
            names.extend(of.get_value(*number).map(|value| value.full_name().to_owned()));
        }
        _ => {}
    }
}
