//! Configurations of families: forms that mean the same, and every field that would change an answer without code for it.

use models::encoder::{EncoderSpec, Positions, Up};
use models::{ModelCard, Task};
use serde_json::{Map, Value, json};

use crate::fixture::{copy_of, edit, family};

/// The card of a family's fixture with other fields; `null` takes a field away unless `keep_null`.
fn changed(name: &str, fields: &Value, keep_null: bool) -> Result<ModelCard, String> {
    let dir = copy_of(&family(name));
    edit(dir.path(), "config.json", |config| {
        let config: &mut Map<String, Value> = config.as_object_mut().unwrap();
        for (field, value) in fields.as_object().unwrap() {
            if value.is_null() && !keep_null {
                config.remove(field);
            } else {
                config.insert(field.clone(), value.clone());
            }
        }
    });
    ModelCard::read(dir.path()).map_err(|error| error.to_string().replace(&dir.path().display().to_string(), "DIR"))
}

fn spec(name: &str, fields: Value) -> EncoderSpec {
    changed(name, &fields, false).unwrap().encoder
}

/// Checks that each value of a field is refused with `field 'FIELD' is VALUE; expected EXPECTED`.
fn check_refusals(name: &str, cases: &[(&str, Value, &str, &str)]) {
    for (field, value, shown, expected) in cases {
        let (top, _) = field.split_once('.').unwrap_or((field, ""));
        let error = changed(name, &json!({ top: value }), false).unwrap_err();
        assert_eq!(error, format!("DIR/config.json: field '{field}' is {shown}; expected {expected}"), "{name}");
    }
}

const UNSUPPORTED: &str = "false: this is not supported";

#[test]
fn fields_of_mpnet() {
    check_refusals(
        "mpnet-embedding",
        &[
            ("relative_attention_num_buckets", json!(16), "16", "32 (others are not supported)"),
            ("max_position_embeddings", json!(2), "2", "an integer from 3 to 2097152"),
            ("is_decoder", json!(true), "true", UNSUPPORTED),
        ],
    );
    // The padding id of the configuration plays no part in positions.
    let card = changed("mpnet-embedding", &json!({ "pad_token_id": 7 }), false).unwrap();
    let tokens = card.tokens().unwrap();
    assert_eq!((tokens.counted_after, tokens.positions, tokens.no_gaps), (Some(1), 70, true));
}

#[test]
fn fields_of_modernbert() {
    let kind = |rope_type: &str| json!({ "full_attention": { "rope_theta": 9.0, "rope_type": rope_type } });
    let scaled = json!({ "sliding_attention": { "rope_theta": 9.0, "factor": 2.0 } });
    check_refusals(
        "modernbert-embedding",
        &[
            ("rope_parameters.full_attention.rope_type", kind("yarn"), "\"yarn\"", "\"default\" (others are not supported)"),
            ("rope_parameters.sliding_attention.factor", scaled, "2.0", "null (others are not supported)"),
            (
                "rope_parameters.rope_theta",
                json!({ "rope_theta": 9.0 }),
                "9.0",
                "absent: only full_attention and sliding_attention are supported",
            ),
            ("rope_parameters", json!([]), "a list of 0", "an object"),
            ("rope_scaling", json!({ "type": "linear" }), "an object", "null: scaled rotary positions are not supported"),
            (
                "layer_types",
                json!(["full_attention"]),
                "a list of 1",
                "a list of full_attention or sliding_attention for each of 3 layers",
            ),
            ("classifier_pooling", json!("max"), "\"max\"", "cls or mean"),
            ("local_attention", json!(0), "0", "an integer from 1 to 2097152"),
            ("num_attention_heads", json!(8), "8", "heads of an even size: rotary positions turn pairs of numbers"),
            ("max_position_embeddings", json!(1 << 18), "262144", "an integer from 1 to 131072"),
        ],
    );
}

#[test]
fn bases_of_modernbert_have_an_order_of_sources() {
    let bases = |fields: Value, keep_null: bool| {
        let card = changed("modernbert-labels-mean", &fields, keep_null).unwrap();
        let Positions::Rotary { bases, .. } = card.encoder.positions else { panic!("other positions") };
        // Layer 0 sees everything, layer 1 has a window.
        (bases[0], bases[1])
    };
    assert_eq!(bases(json!({}), false), (900.0, 60.0));
    assert_eq!(bases(json!({ "local_rope_theta": null }), true), (900.0, 900.0), "null is the base of the others");
    assert_eq!(bases(json!({ "local_rope_theta": null, "global_rope_theta": null }), false), (160_000.0, 10_000.0));
    let new = json!({ "rope_parameters": { "full_attention": { "rope_theta": 5.0 }, "sliding_attention": null } });
    assert_eq!(bases(new, false), (5.0, 60.0), "the older keys where the newer say nothing");
}

#[test]
fn windows_of_modernbert_are_listed_or_counted() {
    let windows = |fields: Value| spec("modernbert-labels-mean", fields).windows;
    assert_eq!(windows(json!({})), [None, Some(2), None], "every second, half of 5");
    assert_eq!(windows(json!({ "global_attn_every_n_layers": null })), [None, Some(2), Some(2)], "every third by default");
    let listed = json!({ "layer_types": ["sliding_attention", "full_attention", "full_attention"], "local_attention": null });
    assert_eq!(windows(listed), [Some(64), None, None]);
    let gaps = |fields: Value| changed("modernbert-labels-mean", &fields, false).unwrap().tokens().unwrap().no_gaps;
    assert!(gaps(json!({})));
    assert!(!gaps(json!({ "global_attn_every_n_layers": 1 })), "angles have no objection to gaps");
}

#[test]
fn fields_of_nomic_bert() {
    let share = "a share above 0 and up to 1 that takes an even number of the 8 of a head";
    check_refusals(
        "nomic-bert-embedding",
        &[
            ("prenorm", json!(true), "true", UNSUPPORTED),
            ("use_rms_norm", json!(true), "true", UNSUPPORTED),
            ("rotary_emb_interleaved", json!(true), "true", UNSUPPORTED),
            ("causal", json!(true), "true", UNSUPPORTED),
            ("parallel_block", json!(true), "true", UNSUPPORTED),
            ("scale_attn_by_inverse_layer_idx", json!(true), "true", UNSUPPORTED),
            ("scale_attn_weights", json!(false), "false", "true (others are not supported)"),
            ("rotary_emb_scale_base", json!(512), "512", "null (others are not supported)"),
            ("rotary_scaling_factor", json!(2), "2", "null (others are not supported)"),
            ("activation_function", json!("gelu"), "\"gelu\"", "one of swiglu, geglu, glu"),
            ("rotary_emb_fraction", json!(0.0), "0.0", share),
            ("rotary_emb_fraction", json!(0.375), "0.375", share),
            ("rotary_emb_base", json!(-1), "-1", "a number above 0"),
        ],
    );
    check_refusals("nomic-bert-masked-lm", &[("head_dim", json!(8), "8", "4 (others are not supported)")]);
    let Positions::Rotary { dims, .. } = spec("nomic-bert-embedding", json!({ "rotary_emb_fraction": 0.25 })).positions else {
        panic!("other positions")
    };
    assert_eq!(dims, 2);
    assert!(spec("nomic-bert-embedding", json!({ "qkv_proj_bias": true })).layer.qkv_bias);
}

#[test]
fn old_and_new_keys_of_nomic_bert_mean_the_same() {
    let new = json!({
        "hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 57, "num_hidden_layers": 3, "layer_norm_eps": 0.003,
        "max_position_embeddings": 128, "rope_parameters": { "rope_theta": 700.0, "rope_type": "default" }, "hidden_act": "silu",
        "n_embd": null, "n_head": null, "n_inner": null, "n_layer": null, "layer_norm_epsilon": null, "n_positions": null,
        "rotary_emb_base": null, "activation_function": null,
    });
    assert_eq!(spec("nomic-bert-embedding", new), spec("nomic-bert-embedding", json!({})));
}

#[test]
fn fields_of_jina_s_models() {
    check_refusals(
        "jina-bert-embedding",
        &[
            ("feed_forward_type", json!("swiglu"), "\"swiglu\"", "one of original, geglu, reglu"),
            (
                "auto_map",
                json!({ "AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel" }),
                "\"jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel\"",
                "another program: models that normalize queries and keys are not supported",
            ),
            ("position_embedding_type", json!("rotary"), "\"rotary\"", "\"absolute\" (others are not supported)"),
            ("max_position_embeddings", json!(1 << 20), "1048576", "an integer from 1 to 131072"),
        ],
    );
    let plain = spec("jina-bert-embedding", json!({ "feed_forward_type": "original" }));
    assert!(matches!(plain.layer.up, Up::Plain("intermediate.dense")) && plain.positions == Positions::Alibi);
    // The first form of the third model has the same type as XLM-RoBERTa, and other positions.
    check_refusals(
        "xlm-roberta-embedding",
        &[("position_embedding_type", json!("rotary"), "\"rotary\"", "\"absolute\" (others are not supported)")],
    );
    let linear = json!({ "rope_theta": 9.0, "rope_type": "linear" });
    check_refusals(
        "jina-v3-embedding",
        &[("rope_parameters.rope_type", linear, "\"linear\"", "\"default\" (others are not supported)")],
    );
    let Positions::Rotary { bases, .. } = spec("jina-v3-embedding", json!({ "rope_parameters": null })).positions else {
        panic!("other positions")
    };
    assert_eq!(bases, [20_000.0; 3]);
}

#[test]
fn fields_of_deberta() {
    check_refusals(
        "deberta-v2-labels",
        &[
            ("conv_kernel_size", json!(3), "3", "0: the convolution beside the first layer is not supported"),
            ("embedding_size", json!(20), "20", "40 (others are not supported)"),
            ("attention_head_size", json!(4), "4", "8 (others are not supported)"),
            ("pooler_hidden_size", json!(20), "20", "40 (others are not supported)"),
            ("pos_att_type", json!(["c2p", "p2p"]), "a list of 2", "a list of c2p and p2c"),
            ("norm_rel_ebd", json!("batch_norm"), "\"batch_norm\"", "none or layer_norm"),
            ("position_buckets", json!(1), "1", "from 2 on and less than twice the largest relative position 96"),
            ("position_buckets", json!(190), "190", "from 2 on and less than twice the largest relative position 96"),
            ("pos_att_type", json!([["c2p"]]), "a list of 1", "a list of c2p and p2c"),
        ],
    );
    let error = changed("deberta-v2-labels", &json!({ "relative_attention": false }), false).unwrap_err();
    assert_eq!(
        error,
        "DIR/config.json: field 'pos_att_type' is a list of 2; expected an empty list, since relative_attention is false"
    );
    let listed = spec("deberta-v2-labels", json!({}));
    assert_eq!(spec("deberta-v2-labels", json!({ "pos_att_type": "c2p|p2c" })), listed, "names joined by bars");
    assert_eq!(listed.score_scale, 1.0 / 24f32.sqrt());
    let plain = spec("deberta-v2-labels", json!({ "relative_attention": false, "pos_att_type": [] }));
    assert_eq!((plain.positions, plain.score_scale), (Positions::Embedded, 1.0 / 8f32.sqrt()));
}

#[test]
fn tasks_that_a_family_has_no_head_for_are_refused() {
    let card = changed("nomic-bert-embedding", &json!({ "architectures": ["NomicBertForSequenceClassification"] }), false);
    // The files of sentence-transformers say what the directory is for.
    assert_eq!(card.unwrap().task, Task::Embedding);
    let named = json!({ "architectures": ["NomicBertForSequenceClassification"] });
    assert_eq!(
        changed("nomic-bert-masked-lm", &named, false).unwrap_err(),
        "DIR/config.json: task 'classification' is not supported; supported: embedding, hidden_states and what the model's \
         family has a head for"
    );
}
