//! Faulty `config.pbtxt` files and the exact text of their errors.

use expect_test::{Expect, expect};
use proto::pbtxt;

#[track_caller]
fn check(text: &str, expected: Expect) {
    match pbtxt::parse(text, "config.pbtxt") {
        Ok(config) => panic!("accepted as {config:?}"),
        Err(error) => expected.assert_eq(&error.to_string()),
    }
}

#[test]
fn unknown_fields() {
    check("name: \"a\"\nbackend: \"b\"\n    max_batchsize: 8\n", expect![[r#"config.pbtxt:3:5: unknown field `max_batchsize` in ModelConfig, expected a field of ModelConfig; did you mean `max_batch_size`?"#]]);
    check("input [ { name: \"A\" shape: [ 1 ] } ]", expect![[r#"config.pbtxt:1:21: unknown field `shape` in ModelInput, expected one of `name`, `data_type`, `format`, `dims`, `reshape`, `is_shape_tensor`, `allow_ragged_batch`, `optional`, `is_non_linear_format_io`"#]]);
    check("input [\n  { name: \"A\" datatype: TYPE_FP32 }\n]", expect![[r#"config.pbtxt:2:15: unknown field `datatype` in ModelInput, expected one of `name`, `data_type`, `format`, `dims`, `reshape`, `is_shape_tensor`, `allow_ragged_batch`, `optional`, `is_non_linear_format_io`; did you mean `data_type`?"#]]);
    check("inputs [ { name: \"A\" } ]", expect![[r#"config.pbtxt:1:1: unknown field `inputs` in ModelConfig, expected a field of ModelConfig; did you mean `input`?"#]]);
    check("completely_unrelated: 1", expect![[r#"config.pbtxt:1:1: unknown field `completely_unrelated` in ModelConfig, expected a field of ModelConfig"#]]);
    check("Name: \"a\"", expect![[r#"config.pbtxt:1:1: unknown field `Name` in ModelConfig, expected a field of ModelConfig; did you mean `name`?"#]]);
    check("version_policy { all { num_versions: 1 } }", expect![[r#"config.pbtxt:1:24: unknown field `num_versions` in ModelVersionPolicy.All, expected no field: ModelVersionPolicy.All has none"#]]);
    check("version_policy { newest { } }", expect![[r#"config.pbtxt:1:18: unknown field `newest` in ModelVersionPolicy, expected one of `latest`, `all`, `specific`"#]]);
    check("parameters { key: \"a\" valu { string_value: \"b\" } }", expect![[r#"config.pbtxt:1:23: unknown field `valu` in ModelConfig.ParametersEntry, expected one of `key`, `value`; did you mean `value`?"#]]);
    check("response_cache { enabled: true }", expect![[r#"config.pbtxt:1:18: unknown field `enabled` in ModelResponseCache, expected `enable`; did you mean `enable`?"#]]);
    check("optimization { cuda { graph: true } }", expect![[r#"config.pbtxt:1:23: unknown field `graph` in ModelOptimizationPolicy.Cuda, expected one of `graphs`, `busy_wait_events`, `graph_spec`, `output_copy_stream`; did you mean `graphs`?"#]]);
}

#[test]
fn unknown_enum_values() {
    check("input { data_type: TYPE_BYTES }", expect![[r#"config.pbtxt:1:20: unknown value `TYPE_BYTES` for `input.data_type`, expected one of `TYPE_INVALID`, `TYPE_BOOL`, `TYPE_UINT8`, `TYPE_UINT16`, `TYPE_UINT32`, `TYPE_UINT64`, `TYPE_INT8`, `TYPE_INT16`, `TYPE_INT32`, `TYPE_INT64`, `TYPE_FP16`, `TYPE_FP32`, `TYPE_FP64`, `TYPE_STRING`, `TYPE_BF16`; did you mean `TYPE_STRING`?"#]]);
    check("input { data_type: float }", expect![[r#"config.pbtxt:1:20: unknown value `float` for `input.data_type`, expected one of `TYPE_INVALID`, `TYPE_BOOL`, `TYPE_UINT8`, `TYPE_UINT16`, `TYPE_UINT32`, `TYPE_UINT64`, `TYPE_INT8`, `TYPE_INT16`, `TYPE_INT32`, `TYPE_INT64`, `TYPE_FP16`, `TYPE_FP32`, `TYPE_FP64`, `TYPE_STRING`, `TYPE_BF16`; did you mean `TYPE_FP32`?"#]]);
    check("input [ { name: \"A\"\n    data_type: FP32 } ]", expect![[r#"config.pbtxt:2:16: unknown value `FP32` for `input.data_type`, expected one of `TYPE_INVALID`, `TYPE_BOOL`, `TYPE_UINT8`, `TYPE_UINT16`, `TYPE_UINT32`, `TYPE_UINT64`, `TYPE_INT8`, `TYPE_INT16`, `TYPE_INT32`, `TYPE_INT64`, `TYPE_FP16`, `TYPE_FP32`, `TYPE_FP64`, `TYPE_STRING`, `TYPE_BF16`; did you mean `TYPE_FP32`?"#]]);
    check("input [ { data_type: TYPE_FLOAT32 } ]", expect!["config.pbtxt:1:22: unknown value `TYPE_FLOAT32` for `input.data_type`, expected one of `TYPE_INVALID`, `TYPE_BOOL`, `TYPE_UINT8`, `TYPE_UINT16`, `TYPE_UINT32`, `TYPE_UINT64`, `TYPE_INT8`, `TYPE_INT16`, `TYPE_INT32`, `TYPE_INT64`, `TYPE_FP16`, `TYPE_FP32`, `TYPE_FP64`, `TYPE_STRING`, `TYPE_BF16`; did you mean `TYPE_FP32`?"]);
    check("instance_group [ { kind: KIND_TPU } ]", expect![[r#"config.pbtxt:1:26: unknown value `KIND_TPU` for `instance_group.kind`, expected one of `KIND_AUTO`, `KIND_GPU`, `KIND_CPU`, `KIND_MODEL`; did you mean `KIND_GPU`?"#]]);
    check("instance_group [ { kind: gpu } ]", expect![[r#"config.pbtxt:1:26: unknown value `gpu` for `instance_group.kind`, expected one of `KIND_AUTO`, `KIND_GPU`, `KIND_CPU`, `KIND_MODEL`; did you mean `KIND_GPU`?"#]]);
    check("input { format: NCHW }", expect![[r#"config.pbtxt:1:17: unknown value `NCHW` for `input.format`, expected one of `FORMAT_NONE`, `FORMAT_NHWC`, `FORMAT_NCHW`; did you mean `FORMAT_NCHW`?"#]]);
}

#[test]
fn set_twice() {
    check("name: \"a\"\nmax_batch_size: 4\nname: \"b\"", expect![[r#"config.pbtxt:3:1: `name` is set a second time, expected it once (first set in line 1)"#]]);
    check("max_batch_size: 0\ninput [ { dims: [ 1 ] } ]\nmax_batch_size: 8", expect![[r#"config.pbtxt:3:1: `max_batch_size` is set a second time, expected it once (first set in line 1)"#]]);
    check("input [\n  { name: \"A\" },\n  { name: \"B\"\n    name: \"C\" }\n]", expect![[r#"config.pbtxt:4:5: `name` is set a second time, expected it once (first set in line 3)"#]]);
    check("dynamic_batching { }\ndynamic_batching { }", expect![[r#"config.pbtxt:2:1: `dynamic_batching` is set a second time, expected it once (first set in line 1)"#]]);
    check("parameters { key: \"a\" key: \"b\" }", expect![[r#"config.pbtxt:1:23: `key` is set a second time, expected it once (first set in line 1)"#]]);
    check("dynamic_batching { }\nsequence_batching { }", expect![[r#"config.pbtxt:2:1: `sequence_batching` and `dynamic_batching` (line 1) are both set, expected at most one field of `scheduling_choice`"#]]);
    check("version_policy {\n  latest { }\n  all { }\n}", expect![[r#"config.pbtxt:3:3: `all` and `latest` (line 2) are both set, expected at most one field of `policy_choice`"#]]);
    check("model_warmup { inputs { key: \"A\" value { zero_data: false random_data: true } } }", expect![[r#"config.pbtxt:1:59: `random_data` and `zero_data` (line 1) are both set, expected at most one field of `input_data_type`"#]]);
}

#[test]
fn wrong_types() {
    check("max_batch_size: \"8\"", expect![[r#"config.pbtxt:1:17: found `"8"` for `max_batch_size`, expected an integer; did you mean `8`?"#]]);
    check("max_batch_size: 1.5", expect![[r#"config.pbtxt:1:17: found `1.5` for `max_batch_size`, expected an integer"#]]);
    check("max_batch_size: many", expect![[r#"config.pbtxt:1:17: found `many` for `max_batch_size`, expected an integer"#]]);
    check("name: minilm", expect![[r#"config.pbtxt:1:7: found `minilm` for `name`, expected a string; did you mean `"minilm"`?"#]]);
    check("name: 7", expect![[r#"config.pbtxt:1:7: found `7` for `name`, expected a string; did you mean `"7"`?"#]]);
    check("name: [ \"a\" ]", expect![[r#"config.pbtxt:1:7: found `[` for `name`, expected a string"#]]);
    check("name { }", expect![[r#"config.pbtxt:1:6: found `{` for `name`, expected a string"#]]);
    check("input: \"A\"", expect![[r#"config.pbtxt:1:8: found `"A"` for `input`, expected `{` or `<`"#]]);
    check("input [ \"A\" ]", expect![[r#"config.pbtxt:1:9: found `"A"` for `input`, expected `{` or `<`"#]]);
    check("dynamic_batching: true", expect![[r#"config.pbtxt:1:19: found `true` for `dynamic_batching`, expected `{` or `<`"#]]);
    check("dynamic_batching [ { } ]", expect![[r#"config.pbtxt:1:18: found `[` for `dynamic_batching`, expected `{` or `<`"#]]);
    check("input { dims: [ 1, \"x\" ] }", expect![[r#"config.pbtxt:1:20: found `"x"` for `input.dims`, expected an integer"#]]);
    check("input { dims: [ TYPE_FP32 ] }", expect![[r#"config.pbtxt:1:17: found `TYPE_FP32` for `input.dims`, expected an integer"#]]);
    check("input { data_type: \"TYPE_FP32\" }", expect![[r#"config.pbtxt:1:20: found `"TYPE_FP32"` for `input.data_type`, expected an enum value; did you mean `TYPE_FP32`?"#]]);
    check("input { data_type: [ TYPE_FP32 ] }", expect![[r#"config.pbtxt:1:20: found `[` for `input.data_type`, expected an enum value"#]]);
    check("response_cache { enable: yes }", expect![[r#"config.pbtxt:1:26: found `yes` for `response_cache.enable`, expected `true` or `false`"#]]);
    check("response_cache { enable: 2 }", expect![[r#"config.pbtxt:1:26: found `2` for `response_cache.enable`, expected 0 or 1"#]]);
    check("response_cache { enable: \"true\" }", expect![[r#"config.pbtxt:1:26: found `"true"` for `response_cache.enable`, expected `true` or `false`; did you mean `true`?"#]]);
    check("parameters { key: \"a\" value: \"b\" }", expect![[r#"config.pbtxt:1:30: found `"b"` for `parameters.value`, expected `{` or `<`"#]]);
    check("metric_tags { key: \"a\" value { string_value: \"b\" } }", expect![[r#"config.pbtxt:1:30: found `{` for `metric_tags.value`, expected a string"#]]);
    check("sequence_batching { direct { minimum_slot_utilization: half } }", expect![[r#"config.pbtxt:1:56: found `half` for `sequence_batching.direct.minimum_slot_utilization`, expected a number"#]]);
    check("sequence_batching { direct { minimum_slot_utilization: 0x1 } }", expect![[r#"config.pbtxt:1:56: found `0x1` for `sequence_batching.direct.minimum_slot_utilization`, expected a number"#]]);
}

#[test]
fn out_of_range() {
    check("max_batch_size: 2147483648", expect![[r#"config.pbtxt:1:17: `2147483648` is out of range for `max_batch_size`, expected a signed 32-bit integer (-2147483648 to 2147483647)"#]]);
    check("input [ { dims: [\n  1,\n  9223372036854775808 ] } ]", expect![[r#"config.pbtxt:3:3: `9223372036854775808` is out of range for `input.dims`, expected a signed 64-bit integer (-9223372036854775808 to 9223372036854775807)"#]]);
    check("input { dims [ -0x8000000000000001 ] }", expect![[r#"config.pbtxt:1:16: `-0x8000000000000001` is out of range for `input.dims`, expected a signed 64-bit integer (-9223372036854775808 to 9223372036854775807)"#]]);
    check("dynamic_batching { max_queue_delay_microseconds: -1 }", expect![[r#"config.pbtxt:1:50: `-1` is out of range for `dynamic_batching.max_queue_delay_microseconds`, expected an unsigned 64-bit integer (0 to 18446744073709551615)"#]]);
    check("dynamic_batching { default_queue_policy { max_queue_size: 4294967296 } }", expect![[r#"config.pbtxt:1:59: `4294967296` is out of range for `dynamic_batching.default_queue_policy.max_queue_size`, expected an unsigned 32-bit integer (0 to 4294967295)"#]]);
    check("input { data_type: 99999999999 }", expect![[r#"config.pbtxt:1:20: `99999999999` is out of range for `input.data_type`, expected a signed 32-bit integer (-2147483648 to 2147483647)"#]]);
    check("max_batch_size: 111111111111111111111111111111111111111111111111111111111111", expect![[r#"config.pbtxt:1:17: `1111111111111111111111111111111111111111...` is out of range for `max_batch_size`, expected a signed 32-bit integer (-2147483648 to 2147483647)"#]]);
}

#[test]
fn brackets() {
    check("input [\n  {\n    name: \"A\"\n", expect![[r#"config.pbtxt:2:3: `{` for `input` is never closed, expected `}` before the end of the file"#]]);
    check("dynamic_batching {\n  preferred_batch_size: [ 1, 2", expect![[r#"config.pbtxt:2:25: `[` for `dynamic_batching.preferred_batch_size` is never closed, expected `]` before the end of the file"#]]);
    check("input [\n  { name: \"A\" ]\n}", expect![[r#"config.pbtxt:2:15: found `]`, expected `}` to close `{` of line 2"#]]);
    check("input < name: \"A\" }", expect![[r#"config.pbtxt:1:19: found `}`, expected `>` to close `<` of line 1"#]]);
    check("name: \"a\"\n}", expect![[r#"config.pbtxt:2:1: found `}`, expected a field name: no bracket is open here"#]]);
    check("{ name: \"a\" }", expect![[r#"config.pbtxt:1:1: found `{`, expected a field name"#]]);
    check("[ { name: \"a\" } ]", expect![[r#"config.pbtxt:1:3: found `{`, expected an identifier"#]]);
    // The bracket that is missing belongs to `input`, and the field after it is what shows it.
    check("input {\n  name: \"A\"\noutput { name: \"B\" } }", expect![[r#"config.pbtxt:3:1: unknown field `output` in ModelInput, expected one of `name`, `data_type`, `format`, `dims`, `reshape`, `is_shape_tensor`, `allow_ragged_batch`, `optional`, `is_non_linear_format_io`"#]]);
}

#[test]
fn separators_and_colons() {
    check("max_batch_size 8", expect![[r#"config.pbtxt:1:16: found `8` for `max_batch_size`, expected `:` or a message value"#]]);
    check("max_batch_size = 8", expect![[r#"config.pbtxt:1:16: unexpected character `=`, expected a field name, a value or a comment that begins with `#`"#]]);
    check("max_batch_size: 8 9", expect![[r#"config.pbtxt:1:19: found `9`, expected a field name"#]]);
    check("max_batch_size:\n", expect![[r#"config.pbtxt:2:1: found the end of the file for `max_batch_size`, expected an integer"#]]);
    check("name", expect![[r#"config.pbtxt:1:5: found the end of the file for `name`, expected `:` or a message value"#]]);
    check("name: \"a\",, backend: \"b\"", expect![[r#"config.pbtxt:1:11: found `,`, expected a field name"#]]);
    check("input { dims: [ 1, 2, ] }", expect![[r#"config.pbtxt:1:23: found `]` for `input.dims`, expected an integer"#]]);
    check("input { dims: [ 1 2 ] }", expect![[r#"config.pbtxt:1:19: found `2` for `input.dims`, expected `,` or `]`"#]]);
    check("input [ { name: \"A\" } { name: \"B\" } ]", expect![[r#"config.pbtxt:1:23: found `{` for `input`, expected `,` or `]`"#]]);
    check("input [ { name: \"A\" }, ]", expect![[r#"config.pbtxt:1:24: found `]` for `input`, expected `{` or `<`"#]]);
    check("input [ { name: \"A\" }; { name: \"B\" } ]", expect![[r#"config.pbtxt:1:22: found `;` for `input`, expected `,` or `]`"#]]);
    check("input { dims [ [ 1 ] ] }", expect![[r#"config.pbtxt:1:16: found `[` for `input.dims`, expected an integer"#]]);
    check(": 8", expect![[r#"config.pbtxt:1:1: found `:`, expected a field name"#]]);
    check("8: 8", expect![[r#"config.pbtxt:1:1: found `8`, expected a field name"#]]);
    check("\"name\": \"a\"", expect![[r#"config.pbtxt:1:1: found `"name"`, expected a field name"#]]);
    check("// a comment\nname: \"a\"", expect![[r#"config.pbtxt:1:1: found `/`, expected a field name"#]]);
    check("input.name: \"a\"", expect![[r#"config.pbtxt:1:6: found `.` for `input`, expected `:` or a message value"#]]);
}

#[test]
fn strings() {
    check("name: \"a\nbackend: \"b\"", expect![[r#"config.pbtxt:1:7: unterminated string, expected " before the end of the line"#]]);
    check("name: 'it's'", expect![[r#"config.pbtxt:1:12: unterminated string, expected ' before the end of the line"#]]);
    check("name: \"a", expect![[r#"config.pbtxt:1:7: unterminated string, expected " before the end of the line"#]]);
    check("name: \"a\\", expect![[r#"config.pbtxt:1:7: unterminated string, expected " before the end of the line"#]]);
    check("name: \"a\\qb\"", expect![[r#"config.pbtxt:1:9: unknown escape `\q` in a string, expected one of \n \r \t \\ \' \" \ooo \xhh \uhhhh"#]]);
    check("parameters { key: \"path\" value { string_value: \"C:\\models\" } }", expect![[r#"config.pbtxt:1:51: unknown escape `\m` in a string, expected one of \n \r \t \\ \' \" \ooo \xhh \uhhhh"#]]);
    check("name: \"\\777\"", expect![[r#"config.pbtxt:1:8: unknown escape `\7` in a string, expected one of \n \r \t \\ \' \" \ooo \xhh \uhhhh"#]]);
    check("name: \"\\xZZ\"", expect![[r#"config.pbtxt:1:8: unknown escape `\x` in a string, expected one of \n \r \t \\ \' \" \ooo \xhh \uhhhh"#]]);
    check("name: \"\\u12\"", expect![[r#"config.pbtxt:1:8: unknown escape `\u` in a string, expected one of \n \r \t \\ \' \" \ooo \xhh \uhhhh"#]]);
    check("name: \"\\ud800\"", expect![[r#"config.pbtxt:1:8: unknown escape `\u` in a string, expected one of \n \r \t \\ \' \" \ooo \xhh \uhhhh"#]]);
    check("name: \"ab\u{0}c\"", expect![[r#"config.pbtxt:1:10: character U+0000 in a string, expected it as an escape such as \000"#]]);
    check("name: \"\\377\"", expect![[r#"config.pbtxt:1:7: string is not UTF-8, expected escapes that make up whole characters"#]]);
}

#[test]
fn characters_and_numbers() {
    check("name: “a”", expect![[r#"config.pbtxt:1:7: unexpected character `“` (U+201C), expected a field name, a value or a comment that begins with `#`"#]]);
    check("name:\u{a0}\"a\"", expect![[r#"config.pbtxt:1:6: unexpected character U+00A0, expected a field name, a value or a comment that begins with `#`"#]]);
    check("name: \"a\"\nmax_batch_size: +8", expect![[r#"config.pbtxt:2:17: unexpected character `+`, expected a field name, a value or a comment that begins with `#`"#]]);
    check("größe: 8", expect![[r#"config.pbtxt:1:3: unexpected character `ö` (U+00F6), expected a field name, a value or a comment that begins with `#`"#]]);
    check("name: \"é\" max_batch_size: 8x", expect![[r#"config.pbtxt:1:27: malformed number `8x`, expected decimal digits, 0 and octal digits, 0x and hexadecimal digits, or a float"#]]);
    check("max_batch_size: 0x", expect![[r#"config.pbtxt:1:17: malformed number `0x`, expected decimal digits, 0 and octal digits, 0x and hexadecimal digits, or a float"#]]);
    check("sequence_batching { direct { minimum_slot_utilization: 0.5.1 } }", expect![[r#"config.pbtxt:1:56: malformed number `0.5.1`, expected decimal digits, 0 and octal digits, 0x and hexadecimal digits, or a float"#]]);
    check("max_batch_size: 09", expect![[r#"config.pbtxt:1:17: malformed number `09`, expected decimal digits, 0 and octal digits, 0x and hexadecimal digits, or a float"#]]);
    check("max_batch_size: --8", expect![[r#"config.pbtxt:1:18: found `-` for `max_batch_size`, expected an integer"#]]);
    check("max_batch_size: -", expect![[r#"config.pbtxt:1:18: found the end of the file for `max_batch_size`, expected an integer"#]]);
}

#[test]
fn extensions() {
    check("[a.b]: 1", expect![[r#"config.pbtxt:1:1: extension `[a.b]`, expected a field name: model configurations have no extensions"#]]);
    check("[type.example/inference.ModelInput] { name: \"A\" }", expect![[r#"config.pbtxt:1:1: extension `[type.example/inference.ModelInput]`, expected a field name: model configurations have no extensions"#]]);
    check("[type.example/nothing] { }", expect![[r#"config.pbtxt:1:1: extension `[type.example/nothing]`, expected a field name: model configurations have no extensions"#]]);
}

#[test]
fn files_in_another_encoding() {
    let refusal = |contents: &[u8]| pbtxt::parse_file(contents, "config.pbtxt").unwrap_err().to_string();
    expect!["config.pbtxt:2:6: byte 0xE8 is not UTF-8, expected a text in UTF-8"].assert_eq(&refusal(b"name: 'a'\n# mod\xe8le\n"));
    expect!["config.pbtxt:1:1: byte 0xFF is not UTF-8, expected a text in UTF-8"].assert_eq(&refusal(b"\xff\xfen\0a\0"));
    expect!["config.pbtxt:1:3: byte 0xC3 is not UTF-8, expected a text in UTF-8"].assert_eq(&refusal(b"# \xc3"));
    assert_eq!(pbtxt::parse_file("# modèle\nname: 'a'".as_bytes(), "config.pbtxt").unwrap().name, "a");
}

#[test]
fn positions_count_what_the_user_wrote() {
    // Colons added to colon-less lists, a byte order mark, CR LF and letters of several bytes do not shift them.
    check("input [ { dims [ 1 ] reshape { shape [ 2 ] } } ] output [ { dims [ x ] } ]", expect![[r#"config.pbtxt:1:68: found `x` for `output.dims`, expected an integer"#]]);
    check("\u{feff}nam: \"a\"", expect![[r#"config.pbtxt:1:1: unknown field `nam` in ModelConfig, expected a field of ModelConfig; did you mean `name`?"#]]);
    check("name: \"a\"\r\n\r\n  bakend: \"b\"\r\n", expect![[r#"config.pbtxt:3:3: unknown field `bakend` in ModelConfig, expected a field of ModelConfig; did you mean `backend`?"#]]);
    check("name: \"日本\" bakend: \"b\"", expect![[r#"config.pbtxt:1:12: unknown field `bakend` in ModelConfig, expected a field of ModelConfig; did you mean `backend`?"#]]);
    check("\tname: \"a\"\tbakend: \"b\"", expect![[r#"config.pbtxt:1:12: unknown field `bakend` in ModelConfig, expected a field of ModelConfig; did you mean `backend`?"#]]);
}
