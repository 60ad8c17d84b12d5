//! What is refused, and in which words.

use std::path::Path;

use models::plan::Executor;
use models::plan::batch::{Integers, Texts};
use models::{Batch, ModelCard, Tokenizer};
use serde_json::{Value, json};

use crate::fixture::{bytes, copy, directory, edit, load};

/// The refusal of a spoiled copy, without its directory.
fn refusal(name: &str, spoil: impl FnOnce(&Path)) -> String {
    let dir = copy(name);
    spoil(dir.path());
    match load(dir.path()) {
        Ok(_) => panic!("{name} was loaded although it was spoiled"),
        Err(error) => error.to_string().replace(&dir.path().display().to_string(), "DIR"),
    }
}

/// The list in errors about unknown types, of which every entry is known.
fn known_model_types() -> String {
    let text = config("bert", "model_type", json!("none"));
    let (_, list) = text.split_once("supported: ").unwrap();
    for name in list.split(", ") {
        let dir = copy("bert");
        edit(dir.path(), "config.json", |config| config["model_type"] = name.into());
        // Most of them want other fields or tensors; that is for later.
        let error = load(dir.path()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!error.contains("model_type"), "{error}");
    }
    list.to_owned()
}

fn config(name: &str, field: &'static str, value: Value) -> String {
    refusal(name, |dir| edit(dir, "config.json", |config| config[field] = value))
}

#[test]
fn fields_of_the_configuration() {
    let cases = [
        ("model_type", json!("gpt2"), "DIR/config.json: model_type 'gpt2' is not supported; supported: KNOWN"),
        ("model_type", json!(null), "DIR/config.json: field 'model_type' is missing; expected one of KNOWN"),
        (
            "hidden_act",
            json!("softplus"),
            "DIR/config.json: field 'hidden_act' is \"softplus\"; expected one of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, \
             quick_gelu, relu, silu, tanh",
        ),
        (
            "position_embedding_type",
            json!("relative_key"),
            "DIR/config.json: field 'position_embedding_type' is \"relative_key\"; expected \"absolute\" (others are not supported)",
        ),
        ("is_decoder", json!(true), "DIR/config.json: field 'is_decoder' is true; expected false: this is not supported"),
        (
            "num_attention_heads",
            json!(5),
            "DIR/config.json: field 'num_attention_heads' is 5; expected a divisor of hidden_size 24",
        ),
        ("num_attention_heads", json!(0), "DIR/config.json: field 'num_attention_heads' is 0; expected an integer from 1 to 24"),
        ("hidden_size", json!(-1), "DIR/config.json: field 'hidden_size' is -1; expected an integer from 1 to 2097152"),
        ("hidden_size", json!("24"), "DIR/config.json: field 'hidden_size' is \"24\"; expected an integer from 1 to 2097152"),
        (
            "num_hidden_layers",
            json!(1_000_000_000),
            "DIR/config.json: field 'num_hidden_layers' is 1000000000; expected an integer from 1 to 4096",
        ),
        ("layer_norm_eps", json!(-0.5), "DIR/config.json: field 'layer_norm_eps' is -0.5; expected a number between 0 and 1"),
        (
            "torch_dtype",
            json!("int4"),
            "DIR/config.json: field 'torch_dtype' is \"int4\"; expected one of float32, float16, bfloat16, float64",
        ),
    ];
    for (field, value, text) in cases {
        assert_eq!(config("bert", field, value), text.replace("KNOWN", &known_model_types()));
    }
    // Where there are files of sentence-transformers, they say what the model is for; elsewhere the architecture does.
    assert_eq!(
        config("bert-classifier", "architectures", json!(["BertForQuestionAnswering"])),
        "DIR/config.json: architecture 'BertForQuestionAnswering' is not supported; supported: ...Model, ...ForMaskedLM, \
         ...ForPreTraining, ...ForSequenceClassification, ...ForTokenClassification, ...ForImageClassification, ...WithProjection"
    );
    assert_eq!(
        config("roberta", "pad_token_id", json!(21)),
        "DIR/config.json: field 'pad_token_id' is 21; expected less than max_position_embeddings 22 - 1"
    );
    assert_eq!(
        config("bert-classifier", "id2label", json!({ "0": "a", "2": "b" })),
        "DIR/config.json: field 'id2label.2' is \"b\"; expected an object from \"0\", \"1\", ... without gaps to names"
    );
}

#[test]
fn modules_of_sentence_transformers() {
    let module = |kind: &str, path: &str| json!({ "idx": 9, "name": "9", "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let modules = |entry: Value| refusal("bert", |dir| edit(dir, "modules.json", |all| all.as_array_mut().unwrap().push(entry)));
    let known = "supported: Transformer, then Pooling, then any number of Dense, then optionally Normalize";
    assert_eq!(
        modules(module("LSTM", "3_LSTM")),
        format!("DIR/modules.json: sentence-transformers module 'sentence_transformers.models.LSTM' is not supported; {known}")
    );
    for (kind, sequence) in [("Normalize", "Normalize, Normalize"), ("Dense", "Normalize, Dense")] {
        assert_eq!(
            modules(module(kind, "")),
            format!(
                "DIR/modules.json: sentence-transformers module 'sequence Transformer, Pooling, {sequence}' is not supported; {known}"
            )
        );
    }
    assert_eq!(
        modules(module("Pooling", "../elsewhere")),
        "DIR/modules.json: field '[3].path' is \"../elsewhere\"; expected \"\" or the plain name of a folder beside modules.json"
    );
    let pooling = |change: fn(&mut Value)| refusal("bert", |dir| edit(dir, "1_Pooling/config.json", change));
    assert_eq!(
        pooling(|config| config["pooling_mode_mean_tokens"] = false.into()),
        "DIR/1_Pooling/config.json: field 'pooling_mode_...' is missing; expected at least one of the pooling flags set to true"
    );
    assert_eq!(
        pooling(|config| config["pooling_mode"] = "median".into()),
        "DIR/1_Pooling/config.json: field 'pooling_mode' is \"median\"; expected one or a list of cls, max, mean, \
         mean_sqrt_len_tokens, weightedmean, lasttoken"
    );
    assert_eq!(
        pooling(|config| config["word_embedding_dimension"] = 99.into()),
        "DIR/1_Pooling/config.json: field 'word_embedding_dimension' is 99; expected hidden_size 24 of the model"
    );
    assert_eq!(
        refusal("bert", |dir| {
            let text = r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query"}"#;
            std::fs::write(dir.join("config_sentence_transformers.json"), text).unwrap();
        }),
        "DIR/config_sentence_transformers.json: field 'default_prompt_name' is \"query\"; expected null: a default prompt is \
         not supported"
    );
}

#[test]
fn files_that_are_missing_or_broken() {
    let without = |file: &'static str| refusal("bert", move |dir| std::fs::remove_file(dir.join(file)).unwrap());
    assert_eq!(without("config.json"), "DIR/config.json: file not found; a model directory must have a config.json");
    assert!(without("model.safetensors").starts_with("DIR/model.safetensors: file not found; the weights must be stored as"));
    assert!(without("1_Pooling/config.json").starts_with("DIR/1_Pooling/config.json: file not found; modules.json names"));
    assert_eq!(
        refusal("bert", |dir| std::fs::write(dir.join("config.json"), "{\n  \"model_type\": bert\n}").unwrap()),
        "DIR/config.json:2:17: not valid JSON: expected value"
    );
    assert_eq!(
        refusal("bert", |dir| std::fs::write(dir.join("config.json"), "[]").unwrap()),
        "DIR/config.json: field '(the whole file)' is a list of 0; expected an object"
    );
    let shard = "model-00002-of-00002.safetensors";
    assert!(
        refusal("bert-f16-shards", |dir| std::fs::remove_file(dir.join(shard)).unwrap())
            .starts_with(&format!("DIR/{shard}: file not found; "))
    );
    assert_eq!(
        refusal("bert-f16-shards", |dir| {
            edit(dir, "model.safetensors.index.json", |index| index["weight_map"]["x"] = "../../secret".into());
        }),
        "DIR/model.safetensors.index.json: field 'weight_map.x' is \"../../secret\"; expected the plain name of a .safetensors \
         file beside the index"
    );
}

#[test]
fn tensors_that_do_not_fit() {
    assert_eq!(
        config("bert", "vocab_size", json!(61)),
        "tensor 'embeddings.word_embeddings.weight' in DIR/model.safetensors has shape [56, 24]; config.json asks for [61, 24]"
    );
    assert_eq!(
        config("bert", "num_hidden_layers", json!(3)),
        "tensor 'encoder.layer.2.attention.self.query.weight' of shape [24, 24] is missing from DIR/model.safetensors"
    );
    assert_eq!(
        config("bert-classifier", "id2label", json!({ "0": "a", "1": "b" })),
        "tensor 'classifier.weight' in DIR/model.safetensors has shape [3, 24]; config.json asks for [2, 24]"
    );
    let integers = refusal("bert", |dir| {
        let path = dir.join("model.safetensors");
        let text = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(text[..8].try_into().unwrap()) as usize;
        let changed = String::from_utf8(text[8..8 + header].to_vec()).unwrap().replace("\"F32\"", "\"I32\"");
        std::fs::write(&path, [&text[..8], changed.as_bytes(), &text[8 + header..]].concat()).unwrap();
    });
    assert!(integers.ends_with("is stored as I32; expected F32, F16, BF16 or F64"), "{integers}");
}

#[test]
fn tokenizers() {
    let refusal = |spoil: fn(&Path), length: usize| {
        let dir = copy("bert");
        spoil(dir.path());
        let error = Tokenizer::load(dir.path(), length).map(|_| ()).unwrap_err();
        error.to_string().replace(&dir.path().display().to_string(), "DIR")
    };
    let missing = refusal(|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap(), 16);
    assert!(missing.starts_with("DIR/tokenizer.json: file not found; texts cannot be tokenized without it"), "{missing}");
    let syntax = refusal(|dir| std::fs::write(dir.join("tokenizer.json"), "{\"model\":}").unwrap(), 16);
    assert_eq!(syntax, "DIR/tokenizer.json:1:10: not valid JSON: expected value");
    let model = refusal(|dir| edit(dir, "tokenizer.json", |file| file["model"]["type"] = "Other".into()), 16);
    assert!(model.starts_with("DIR/tokenizer.json: not a usable tokenizer: "), "{model}");
    assert_eq!(
        refusal(|_| (), 1),
        "DIR/tokenizer.json: not a usable tokenizer: 2 special tokens do not fit into the maximum length of 1"
    );
    assert_eq!(
        refusal(|dir| edit(dir, "tokenizer_config.json", |config| config["truncation_side"] = "left".into()), 16),
        "DIR/tokenizer_config.json: field 'truncation_side' is \"left\"; expected \"right\": truncation from the left is not \
         supported"
    );
}

#[test]
fn inputs_of_a_request() {
    let mut model = load(&directory("bert")).unwrap();
    let input = model.card.tokens().unwrap().clone();
    let push = |rows: usize, width: usize, ids: &[i64], mask: &[i64]| {
        let (ids, mask) = (bytes(ids), bytes(mask));
        let texts = Texts { rows, width, ids: Integers::new(&ids), mask: Some(Integers::new(&mask)), types: None };
        let mut batch = Batch::new();
        batch.push_texts(&input, &texts).map(|()| batch).map_err(|error| error.to_string())
    };
    let text = |ids: &[i64], mask: &[i64]| push(1, ids.len(), ids, mask).unwrap_err();
    assert_eq!(text(&[1, 56], &[1, 1]), "input 'input_ids', row 0, column 1: got 56; expected 0 to 55");
    assert_eq!(text(&[1, i64::MIN], &[1, 1]), format!("input 'input_ids', row 0, column 1: got {}; expected 0 to 55", i64::MIN));
    assert_eq!(text(&[1, 2], &[0, 0]), "input 'attention_mask', row 0: got no 1; expected at least one token");
    assert_eq!(text(&[1, 2], &[1, -1]), "input 'attention_mask', row 0, column 1: got -1; expected 0 to 1");
    assert_eq!(
        text(&[1; 21], &[1; 21]),
        "input 'input_ids': got 21 columns; expected at most 20 columns (the positions of the model)"
    );
    assert_eq!(text(&[1, 2], &[1, 1, 1]), "input 'attention_mask': got 3 values; expected those of shape [1,2]");
    assert_eq!(text(&[], &[]), "input 'attention_mask', row 0: got no 1; expected at least one token");
    // No rows are no mistake: there is nothing to answer.
    let outputs = model.executor.enqueue(&push(0, 5, &[], &[]).unwrap()).unwrap();
    assert_eq!((outputs[0].values.len(), outputs[0].columns), (0, 24));
}

#[test]
fn directories_that_are_not_models() {
    for name in crate::fixture::SENTENCE.iter().chain(&crate::fixture::CLASSIFIERS) {
        assert!(ModelCard::is_model_directory(&directory(name)), "{name}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(!ModelCard::is_model_directory(empty.path()));
    assert!(!ModelCard::is_model_directory(&empty.path().join("none")));
    assert!(!ModelCard::is_model_directory(&directory("bert/config.json")));
    let dir = copy("bert");
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(!ModelCard::is_model_directory(dir.path()), "without weights");
    let dir = copy("bert");
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(!ModelCard::is_model_directory(dir.path()), "a config that names no model");
}
