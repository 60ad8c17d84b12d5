//! Tests of the builtin models, run by real instances.

mod arithmetic;
mod fake;
mod identity;
mod loading;
mod streams;

/// The text of a configuration: a model of this kind with these tensors and further fields.
fn config(kind: &str, tensors: &str, more: &str) -> String {
    format!(
        "name: \"m\" backend: \"builtin\" {tensors} {more} parameters {{ key: \"model\" value {{ string_value: \"{kind}\" }} }}"
    )
}

/// The text of a parameter.
fn parameter(key: &str, value: &str) -> String {
    format!("parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }} ")
}
