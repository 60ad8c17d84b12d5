//! Configurations in JSON: other spellings that are read, and faults with the exact text of their errors.

use expect_test::{Expect, expect};
use proto::{json, pbtxt};

#[track_caller]
fn check(text: &str, expected: Expect) {
    match json::from_json(text) {
        Ok(config) => panic!("accepted as {config:?}"),
        Err(error) => expected.assert_eq(&error.to_string()),
    }
}

#[track_caller]
fn same(text: &str, written: &str) {
    let config = json::from_json(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config, pbtxt::parse(written, "written").unwrap());
}

#[test]
fn other_spellings() {
    same(r#"{"maxBatchSize": 8, "defaultModelFilename": "m"}"#, "max_batch_size: 8 default_model_filename: 'm'");
    same(r#"{"input": [{"dims": ["-1", "3", 4.0, 1e2]}]}"#, "input { dims: [ -1, 3, 4, 100 ] }");
    same(r#"{"input": [{"data_type": 11}, {"dataType": "TYPE_FP32"}]}"#, "input { data_type: 11 } input { data_type: 11 }");
    same(r#"{"name": null, "input": null, "dynamic_batching": null, "max_batch_size": 1}"#, "max_batch_size: 1");
    same(r#"{"dynamic_batching": {}, "sequence_batching": null}"#, "dynamic_batching { }");
    same(r#"{"dynamic_batching": {"priority_queue_policy": {"2": {"max_queue_size": "7"}}}}"#, "dynamic_batching { priority_queue_policy { key: 2 value { max_queue_size: 7 } } }");
    same(r#"{"dynamic_batching": {"max_queue_delay_microseconds": "18446744073709551615"}}"#, "dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }");
    same(r#"{"model_metrics": {"metric_control": [{"histogram_options": {"buckets": ["1.5", 2, "Infinity", "-Infinity"]}}]}}"#, "model_metrics { metric_control { histogram_options { buckets: [ 1.5, 2, inf, -inf ] } } }");
    same(" {\n} ", "");
}

#[test]
fn syntax() {
    check("", expect![[r#"line 1, column 0: EOF while parsing a value"#]]);
    check("{", expect![[r#"line 1, column 1: EOF while parsing an object"#]]);
    check("{\"name\": \"a\",\n \"backend\" \"b\"}", expect![[r#"line 2, column 12: expected `:`"#]]);
    check("{} {}", expect![[r#"line 1, column 4: trailing characters"#]]);
    check("{\"name\": \"a\", \"name\": \"b\"}", expect![[r#"line 1, column 20: key `name` appears twice, expected it once"#]]);
    check("{\"name\": \"a\"} trailing", expect![[r#"line 1, column 15: trailing characters"#]]);
}

#[test]
fn unknown_names() {
    check(r#"{"max_batchsize": 8}"#, expect![[r#"unknown field `max_batchsize` in ModelConfig, expected a field of ModelConfig; did you mean `max_batch_size`?"#]]);
    check(r#"{"input": [{"name": "A"}, {"shape": [1]}]}"#, expect![[r#"unknown field `input[1].shape` in ModelInput, expected one of `name`, `data_type`, `format`, `dims`, `reshape`, `is_shape_tensor`, `allow_ragged_batch`, `optional`, `is_non_linear_format_io`"#]]);
    check(r#"{"dynamic_batching": {"preferred_batch_sizes": [1]}}"#, expect![[r#"unknown field `dynamic_batching.preferred_batch_sizes` in ModelDynamicBatching, expected one of `preferred_batch_size`, `max_queue_delay_microseconds`, `preserve_ordering`, `priority_levels`, `default_priority_level`, `default_queue_policy`, `priority_queue_policy`; did you mean `preferred_batch_size`?"#]]);
    check(r#"{"version_policy": {"all": {"x": 1}}}"#, expect![[r#"unknown field `version_policy.all.x` in ModelVersionPolicy.All, expected no field: ModelVersionPolicy.All has none"#]]);
    check(r#"{"input": [{"data_type": "FP32"}]}"#, expect![[r#"unknown value `FP32` for `input[0].data_type`, expected one of `TYPE_INVALID`, `TYPE_BOOL`, `TYPE_UINT8`, `TYPE_UINT16`, `TYPE_UINT32`, `TYPE_UINT64`, `TYPE_INT8`, `TYPE_INT16`, `TYPE_INT32`, `TYPE_INT64`, `TYPE_FP16`, `TYPE_FP32`, `TYPE_FP64`, `TYPE_STRING`, `TYPE_BF16`; did you mean `TYPE_FP32`?"#]]);
    check(r#"{"instance_group": [{"kind": "KIND_TPU"}]}"#, expect![[r#"unknown value `KIND_TPU` for `instance_group[0].kind`, expected one of `KIND_AUTO`, `KIND_GPU`, `KIND_CPU`, `KIND_MODEL`; did you mean `KIND_GPU`?"#]]);
}

#[test]
fn wrong_types() {
    check("[]", expect![[r#"found a list for `ModelConfig`, expected an object"#]]);
    check("null", expect![[r#"found null for `ModelConfig`, expected an object"#]]);
    check(r#"{"name": 7}"#, expect![[r#"found 7 for `name`, expected a string"#]]);
    check(r#"{"max_batch_size": true}"#, expect![[r#"found true for `max_batch_size`, expected a signed 32-bit integer"#]]);
    check(r#"{"max_batch_size": 1.5}"#, expect![[r#"found 1.5 for `max_batch_size`, expected a signed 32-bit integer"#]]);
    check(r#"{"max_batch_size": "eight"}"#, expect![[r#"found "eight" for `max_batch_size`, expected a signed 32-bit integer"#]]);
    check(r#"{"max_batch_size": ""}"#, expect![[r#"found "" for `max_batch_size`, expected a signed 32-bit integer"#]]);
    check(r#"{"input": {"name": "A"}}"#, expect![[r#"found an object for `input`, expected a list"#]]);
    check(r#"{"input": ["A"]}"#, expect![[r#"found "A" for `input[0]`, expected an object"#]]);
    check(r#"{"input": [null]}"#, expect![[r#"found null for `input[0]`, expected an object"#]]);
    check(r#"{"parameters": [{"key": "a"}]}"#, expect![[r#"found a list for `parameters`, expected an object"#]]);
    check(r#"{"parameters": {"a": "b"}}"#, expect![[r#"found "b" for `parameters["a"]`, expected an object"#]]);
    check(r#"{"response_cache": {"enable": "true"}}"#, expect![[r#"found "true" for `response_cache.enable`, expected true or false"#]]);
    check(r#"{"instance_group": [{"kind": []}]}"#, expect![[r#"found a list for `instance_group[0].kind`, expected the name of an enum value"#]]);
    check(r#"{"dynamic_batching": {"priority_queue_policy": {"one": {}}}}"#, expect![[r#"found "one" for `dynamic_batching.priority_queue_policy["one"]`, expected an unsigned 64-bit integer"#]]);
    check(r#"{"sequence_batching": {"direct": {"minimum_slot_utilization": "half"}}}"#, expect![[r#"found "half" for `sequence_batching.direct.minimum_slot_utilization`, expected a 32-bit float"#]]);
}

#[test]
fn out_of_range() {
    check(r#"{"max_batch_size": 2147483648}"#, expect![[r#"2147483648 is out of range for `max_batch_size`, expected a signed 32-bit integer"#]]);
    check(r#"{"input": [{"dims": [1, "9223372036854775808"]}]}"#, expect![[r#"9223372036854775808 is out of range for `input[0].dims[1]`, expected a signed 64-bit integer"#]]);
    check(r#"{"dynamic_batching": {"priority_levels": -1}}"#, expect![[r#"-1 is out of range for `dynamic_batching.priority_levels`, expected an unsigned 64-bit integer"#]]);
    check(r#"{"dynamic_batching": {"priority_levels": 1e300}}"#, expect![[r#"1e+300 is out of range for `dynamic_batching.priority_levels`, expected an unsigned 64-bit integer"#]]);
    check(r#"{"sequence_batching": {"direct": {"minimum_slot_utilization": 1e39}}}"#, expect![[r#"1e+39 is out of range for `sequence_batching.direct.minimum_slot_utilization`, expected a 32-bit float"#]]);
}

#[test]
fn clashes() {
    check(r#"{"max_batch_size": 1, "maxBatchSize": 2}"#, expect![[r#"`maxBatchSize` is set although `max_batch_size` is set, expected only one of them"#]]);
    check(r#"{"dynamic_batching": {}, "sequence_batching": {}}"#, expect![[r#"`sequence_batching` is set although `dynamic_batching` is set, expected only one of them"#]]);
    check(r#"{"version_policy": {"latest": {}, "all": {}}}"#, expect![[r#"`version_policy.all` is set although `latest` is set, expected only one of them"#]]);
    check(r#"{"dynamic_batching": {"priority_queue_policy": {"1": {}, "01": {}}}}"#, expect![[r#"`dynamic_batching.priority_queue_policy["01"]` is set although `1` is set, expected only one of them"#]]);
}
