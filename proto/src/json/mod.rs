//! Model configurations as JSON, as they travel over HTTP and in load requests.
//!
//! Owns both directions of protobuf's JSON form with the names of the `.proto` file: what is written holds every
//! field that has no presence, defaults and empty lists included, because clients index into it without asking;
//! messages and oneof fields that are not set are left out. 64-bit integers are numbers and enum values are names.
//! What is read may also use the other spellings of protobuf's JSON form: lowerCamelCase names, integers as
//! strings, enum values as numbers, null for a field that is not set. May import the generated types and
//! prost-reflect; must never import the text form or judge what a configuration means.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]

mod error;
mod read;
mod tree;

use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value as FieldValue};
use serde_json::{Map, Number, Value};

pub use self::error::JsonError;

use crate::inference::ModelConfig;
use crate::schema;

/// The JSON form of `config`, fields in the order of `model_config.proto`, maps by key.
pub fn to_json(config: &ModelConfig) -> Value {
    message(&schema::to_dynamic(config))
}

/// Reads a model configuration from JSON.
///
/// # Errors
/// [`JsonError`] for the first fault: JSON syntax with line and column, anything else with the path of the field.
pub fn from_json(text: &str) -> Result<ModelConfig, JsonError> {
    let tree = tree::parse(text)?;
    let message = read::message(&tree, &schema::model_config())?;
    Ok(schema::from_dynamic(&message))
}

fn message(message: &DynamicMessage) -> Value {
    let mut object = Map::new();
    for field in schema::fields(&message.descriptor()) {
        if !field.supports_presence() || message.has_field(&field) {
            object.insert(field.name().to_owned(), value(&message.get_field(&field), &field.kind()));
        }
    }
    Value::Object(object)
}

fn value(from: &FieldValue, kind: &Kind) -> Value {
    match from {
        FieldValue::Bool(value) => Value::from(*value),
        FieldValue::I32(value) => Value::from(*value),
        FieldValue::I64(value) => Value::from(*value),
        FieldValue::U32(value) => Value::from(*value),
        FieldValue::U64(value) => Value::from(*value),
        // By way of its shortest decimal form: 0.1 stays 0.1, where widening would give 0.10000000149011612.
        FieldValue::F32(value) => float(value.to_string().parse().unwrap_or(f64::from(*value))),
        FieldValue::F64(value) => float(*value),
        FieldValue::String(value) => Value::from(value.as_str()),
        // No field of a configuration is of this kind.
        FieldValue::Bytes(value) => Value::from(String::from_utf8_lossy(value)),
        FieldValue::EnumNumber(number) => match kind {
            Kind::Enum(of) => of.get_value(*number).map_or(Value::from(*number), |value| Value::from(value.name())),
            _ => Value::from(*number),
        },
        FieldValue::Message(inner) => message(inner),
        FieldValue::List(elements) => elements.iter().map(|element| value(element, kind)).collect(),
        FieldValue::Map(entries) => {
            let value_kind = match kind {
                Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
                _ => kind.clone(),
            };
            let entries = schema::sorted_entries(entries).into_iter();
            Value::Object(entries.map(|(key, entry)| (schema::key_text(key), value(entry, &value_kind))).collect())
        }
    }
}

/// A float as a number, or as the word that protobuf's JSON form uses where JSON has no number.
fn float(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::from("NaN"),
        None if value > 0.0 => Value::from("Infinity"),
        None => Value::from("-Infinity"),
    }
}
