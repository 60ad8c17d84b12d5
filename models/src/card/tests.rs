//! Cards of small directories, field by field.

use std::path::Path;

use kernels::activation::Activation;
use kernels::pool::{PoolSpec, Pooling};
use serde_json::{Value, json};

use super::*;
use crate::encoder::HeadLayer;

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

/// How a card pools, if it does.
fn pooling(card: &ModelCard) -> &PoolSpec {
    let Pick::Pool(pool) = &card.head.pick else { panic!("{:?}", card.head) };
    pool
}

#[test]
fn defaults_of_a_bare_encoder() {
    let card = card(&[]);
    assert_eq!(card.task, Task::Embedding);
    assert_eq!(*pooling(&card), PoolSpec { modes: vec![Pooling::Mean], normalize: false });
    assert!(card.head.layers.is_empty());
    let tokens = card.tokens().unwrap();
    assert_eq!((card.max_length, tokens.positions, tokens.token_types), (100, 100, 2));
    assert_eq!((tokens.vocab_size, tokens.counted_after, tokens.no_gaps, tokens.padding_id), (50, None, false, 0));
    assert!(card.images().is_none());
    assert_eq!(card.encoder.norm.eps, 1e-12);
    assert_eq!(card.dtype, None);
    assert!(card.labels.is_empty());
    assert_eq!(card.output_size, 8);
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
    assert_eq!(*pooling(&old), PoolSpec { modes: vec![Pooling::Cls, Pooling::Last], normalize: true });
    assert_eq!(old.output_size, 16);
    let new = json!({ "embedding_dimension": 8, "pooling_mode": ["mean", "max"] });
    let prefix = "sentence_transformers.sentence_transformer.modules.";
    let new = card(&[("modules.json", modules(prefix)), ("1_Pooling/config.json", new)]);
    assert_eq!(pooling(&new).modes, [Pooling::Mean, Pooling::Max]);
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
    let types = card.tokens().unwrap().token_types;
    assert_eq!((card.encoder.layers, card.encoder.heads, card.max_length, types), (3, 2, 9, 0));
    assert_eq!(card.dtype, Some(DataType::BF16));
    assert!(!pooling(&card).normalize);
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
        assert_eq!((card.task, card.tokens().unwrap().positions), (Task::Classification, 98));
        assert_eq!(card.output_size, card.labels.len());
        card.labels
    };
    let eleven: serde_json::Map<String, Value> = (0..11).rev().map(|i| (i.to_string(), json!(format!("l{i}")))).collect();
    assert_eq!(labels(json!({ "id2label": eleven })), (0..11).map(|i| format!("l{i}")).collect::<Vec<_>>());
    assert_eq!(labels(json!({})), ["LABEL_0", "LABEL_1"]);
    assert_eq!(labels(json!({ "num_labels": 1 })), ["LABEL_0"]);
}

/// A directory with the modules Transformer, Pooling of two modes, the given ones, and Normalize if `normalized`.
fn with_dense(dense: &[Value], normalized: bool) -> Result<ModelCard, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut modules = vec![
        json!({ "path": "", "type": "sentence_transformers.models.Transformer" }),
        json!({ "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" }),
    ];
    for (index, config) in dense.iter().enumerate() {
        let folder = format!("{}_Dense", index + 2);
        modules.push(json!({ "path": folder, "type": "sentence_transformers.models.Dense" }));
        write(dir.path(), &format!("{folder}/config.json"), config);
        // A safetensors file without tensors: the card reads no values.
        std::fs::write(dir.path().join(folder).join("model.safetensors"), [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
    }
    if normalized {
        modules.push(json!({ "path": "9_Normalize", "type": "sentence_transformers.models.Normalize" }));
    }
    write(dir.path(), "modules.json", &Value::from(modules));
    write(dir.path(), "1_Pooling/config.json", &json!({ "pooling_mode": ["cls", "mean"], "embedding_dimension": 8 }));
    let config = json!({
        "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": 100, "vocab_size": 50,
    });
    write(dir.path(), "config.json", &config);
    ModelCard::read(dir.path()).map_err(|error| error.to_string().replace(&dir.path().display().to_string(), "DIR"))
}

#[test]
fn dense_modules_follow_the_pooling() {
    let first = json!({ "in_features": 16, "out_features": 5, "activation_function": "torch.nn.modules.activation.ReLU" });
    let second = json!({
        "in_features": 5, "out_features": 3, "bias": false, "activation_function": "torch.nn.modules.linear.Identity",
    });
    let card = with_dense(&[first.clone(), second], true).unwrap();
    assert!(!pooling(&card).normalize, "it is the result that is normalized");
    let layers: Vec<_> = card
        .head
        .layers
        .iter()
        .map(|layer| match layer {
            HeadLayer::Dense { size, bias, activation, .. } => Some((*size, *bias, *activation)),
            HeadLayer::Normalize => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(layers, [Some((5, true, Activation::Relu)), Some((3, false, Activation::Identity)), None]);
    assert_eq!(card.output_size, 3);
    let plain = with_dense(&[json!({ "in_features": 16, "out_features": 5 })], false).unwrap();
    assert!(matches!(plain.head.layers[..], [HeadLayer::Dense { activation: Activation::Tanh, .. }]));
    let none = with_dense(&[], true).unwrap();
    assert!(pooling(&none).normalize && none.head.layers.is_empty());
}

#[test]
fn dense_modules_that_cannot_be_computed_are_refused() {
    let dense = |changes: Value| {
        let mut config = json!({ "in_features": 16, "out_features": 5 });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        with_dense(&[config], false).unwrap_err()
    };
    assert_eq!(
        dense(json!({ "in_features": 8 })),
        "DIR/2_Dense/config.json: field 'in_features' is 8; expected 16, as many numbers as the module before gives"
    );
    assert_eq!(
        dense(json!({ "activation_function": "torch.nn.modules.activation.Softplus" })),
        "DIR/2_Dense/config.json: field 'activation_function' is \"torch.nn.modules.activation.Softplus\"; expected one of \
         torch.nn.modules.linear.Identity, torch.nn.modules.activation.Tanh, ReLU, GELU, SiLU, Sigmoid"
    );
    assert_eq!(
        dense(json!({ "module_input_name": "token_embeddings" })),
        "DIR/2_Dense/config.json: field 'module_input_name' is \"token_embeddings\"; expected \"sentence_embedding\""
    );
    assert_eq!(
        dense(json!({ "out_features": 0 })),
        "DIR/2_Dense/config.json: field 'out_features' is 0; expected an integer from 1 to 2097152"
    );
}
