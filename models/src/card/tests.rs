//! Cards of small directories, field by field.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn write(dir: &Path, file: &str, value: &Value) {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}

/// A directory of a BERT configuration and the given further files.
fn card(files: &[(&str, Value)]) -> ModelCard {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 100, "vocab_size": 50,
    });
    write(dir.path(), "config.json", &config);
    for (file, value) in files {
        write(dir.path(), file, value);
    }
    ModelCard::read(dir.path()).unwrap()
}

#[test]
fn defaults_of_a_bare_encoder() {
    let card = card(&[]);
    assert_eq!(card.task, Task::SentenceEmbedding);
    assert_eq!(card.pooling, [Pooling::Mean]);
    assert!(!card.normalize);
    assert_eq!((card.max_length, card.positions, card.token_types), (100, 100, 2));
    assert_eq!(card.layer_norm_eps, 1e-12);
    assert_eq!((card.dtype, card.pad_token_id), (None, None));
    assert!(card.labels.is_empty());
    assert_eq!(card.embedding_size(), 8);
}

#[test]
fn the_maximum_length_has_an_order_of_sources() {
    let length = |sentence: Value, tokenizer: Value| {
        card(&[("sentence_bert_config.json", sentence), ("tokenizer_config.json", tokenizer)]).max_length
    };
    let none = || json!({});
    assert_eq!(length(json!({ "max_seq_length": 30 }), json!({ "model_max_length": 60 })), 30);
    assert_eq!(length(json!({ "max_seq_length": null }), json!({ "model_max_length": 60 })), 60);
    assert_eq!(length(none(), json!({ "model_max_length": 60 })), 60);
    assert_eq!(length(none(), json!({ "model_max_length": 1e30 })), 100);
    assert_eq!(length(none(), json!({ "model_max_length": 1_000_000_000_000_000_000u64 })), 100);
    assert_eq!(length(json!({ "max_seq_length": 500 }), none()), 100);
    assert_eq!(length(none(), none()), 100);
}

#[test]
fn both_forms_of_the_sentence_transformers_files_are_read() {
    let modules = |prefix: &str| {
        json!([
            { "path": "", "type": format!("{prefix}Transformer") },
            { "path": "1_Pooling", "type": format!("{prefix}Pooling") },
            { "path": "2_Normalize", "type": format!("{prefix}Normalize") },
        ])
    };
    let old = json!({ "word_embedding_dimension": 8, "pooling_mode_lasttoken": true, "pooling_mode_cls_token": true });
    let old = card(&[("modules.json", modules("sentence_transformers.models.")), ("1_Pooling/config.json", old)]);
    assert_eq!(old.pooling, [Pooling::Cls, Pooling::Last]);
    assert!(old.normalize);
    assert_eq!(old.embedding_size(), 16);
    let new = json!({ "embedding_dimension": 8, "pooling_mode": ["mean", "max"] });
    let prefix = "sentence_transformers.sentence_transformer.modules.";
    let new = card(&[("modules.json", modules(prefix)), ("1_Pooling/config.json", new)]);
    assert_eq!(new.pooling, [Pooling::Mean, Pooling::Max]);
}

#[test]
fn the_transformer_may_have_a_folder_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "distilbert", "dim": 8, "n_layers": 3, "n_heads": 2, "hidden_dim": 16, "activation": "gelu",
        "max_position_embeddings": 100, "vocab_size": 50, "dtype": "bfloat16",
    });
    write(dir.path(), "0_Transformer/config.json", &config);
    write(dir.path(), "0_Transformer/model.safetensors", &json!(0));
    write(dir.path(), "0_Transformer/sentence_bert_config.json", &json!({ "max_seq_length": 9 }));
    write(dir.path(), "1_Pooling/config.json", &json!({ "pooling_mode_mean_tokens": true }));
    let modules = json!([
        { "path": "0_Transformer", "type": "sentence_transformers.models.Transformer" },
        { "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
    ]);
    write(dir.path(), "modules.json", &modules);
    let card = ModelCard::read(dir.path()).unwrap();
    assert_eq!(card.directory, dir.path().join("0_Transformer"));
    assert_eq!((card.layers, card.heads, card.max_length, card.token_types), (3, 2, 9, 0));
    assert_eq!(card.dtype, Some(DataType::BF16));
    assert!(!card.normalize);
    assert!(ModelCard::is_model_directory(dir.path()));
}

#[test]
fn labels_come_in_the_order_of_their_index() {
    let labels = |fields: Value| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({
            "architectures": ["RobertaForSequenceClassification"], "model_type": "roberta", "hidden_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 100,
            "vocab_size": 50, "pad_token_id": 1, "type_vocab_size": 1,
        });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        write(dir.path(), "config.json", &config);
        let card = ModelCard::read(dir.path()).unwrap();
        assert_eq!((card.task, card.positions), (Task::SequenceClassification, 98));
        card.labels
    };
    let eleven: serde_json::Map<String, Value> = (0..11).rev().map(|i| (i.to_string(), json!(format!("l{i}")))).collect();
    assert_eq!(labels(json!({ "id2label": eleven })), (0..11).map(|i| format!("l{i}")).collect::<Vec<_>>());
    assert_eq!(labels(json!({})), ["LABEL_0", "LABEL_1"]);
    assert_eq!(labels(json!({ "num_labels": 1 })), ["LABEL_0"]);
}
