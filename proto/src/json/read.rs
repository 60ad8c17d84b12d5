//! Reads a JSON tree to a message, field by field, with the path of the field at hand for errors.

use std::collections::HashMap;
use std::str::FromStr;

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as FieldValue};
use serde_json::{Map, Value};

use super::error::JsonError;
use crate::schema::{key_text, short_name};
use crate::suggest;

/// Longest value that an error repeats, in characters.
const LONGEST_QUOTE: usize = 40;

/// Reads `tree` as a message of type `of`.
///
/// # Errors
/// All of [`JsonError`] but `Syntax`.
pub(super) fn message(tree: &Value, of: &MessageDescriptor) -> Result<DynamicMessage, JsonError> {
    let Value::Object(object) = tree else {
        return Err(wrong_type(short_name(of.full_name()), tree, "an object"));
    };
    fields(object, of, "")
}

fn fields(object: &Map<String, Value>, of: &MessageDescriptor, path: &str) -> Result<DynamicMessage, JsonError> {
    let mut message = DynamicMessage::new(of.clone());
    // What was set: fields, and oneofs under the name of the field that chose them.
    let mut set: HashMap<String, &str> = HashMap::new();
    for (key, value) in object {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(field) = of.get_field_by_name(key).or_else(|| of.get_field_by_json_name(key)) else {
            return Err(JsonError::UnknownField {
                path: shortened(&path, 200),
                message: short_name(of.full_name()).to_owned(),
                expected: suggest::expected_fields(of),
                suggestion: suggest::closest_field(key, of),
            });
        };
        if value.is_null() {
            continue;
        }
        let group = field.containing_oneof().map_or_else(|| field.full_name().to_owned(), |oneof| oneof.full_name().to_owned());
        if let Some(other) = set.insert(group, key) {
            return Err(JsonError::Clash { path, other: other.to_owned() });
        }
        let value = field_value(value, &field, &path)?;
        message.set_field(&field, value);
    }
    Ok(message)
}

fn field_value(tree: &Value, field: &FieldDescriptor, path: &str) -> Result<FieldValue, JsonError> {
    let kind = field.kind();
    if field.is_map() {
        let (Value::Object(object), Kind::Message(entry)) = (tree, &kind) else {
            return Err(wrong_type(path, tree, "an object"));
        };
        let key_kind = entry.map_entry_key_field().kind();
        let value_kind = entry.map_entry_value_field().kind();
        let mut entries = HashMap::new();
        for (text, tree) in object {
            let path = format!("{path}[{:?}]", shortened(text, LONGEST_QUOTE));
            let value = single(tree, &value_kind, &path)?;
            let key = key(text, &key_kind, &path)?;
            if entries.insert(key.clone(), value).is_some() {
                return Err(JsonError::Clash { path, other: key_text(&key) });
            }
        }
        return Ok(FieldValue::Map(entries));
    }
    if field.is_list() {
        let Value::Array(elements) = tree else {
            return Err(wrong_type(path, tree, "a list"));
        };
        let read = |(index, element): (usize, &Value)| single(element, &kind, &format!("{path}[{index}]"));
        return Ok(FieldValue::List(elements.iter().enumerate().map(read).collect::<Result<_, _>>()?));
    }
    single(tree, &kind, path)
}

fn single(tree: &Value, kind: &Kind, path: &str) -> Result<FieldValue, JsonError> {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(tree, path, "a signed 32-bit integer").map(FieldValue::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(tree, path, "a signed 64-bit integer").map(FieldValue::I64),
        Kind::Uint32 | Kind::Fixed32 => integer(tree, path, "an unsigned 32-bit integer").map(FieldValue::U32),
        Kind::Uint64 | Kind::Fixed64 => integer(tree, path, "an unsigned 64-bit integer").map(FieldValue::U64),
        Kind::Float => {
            float(tree, path, "a 32-bit float", [f32::NAN, f32::INFINITY, f32::NEG_INFINITY], |value| value.is_finite())
                .map(FieldValue::F32)
        }
        Kind::Double => {
            float(tree, path, "a 64-bit float", [f64::NAN, f64::INFINITY, f64::NEG_INFINITY], |value| value.is_finite())
                .map(FieldValue::F64)
        }
        Kind::Bool => match tree {
            Value::Bool(value) => Ok(FieldValue::Bool(*value)),
            _ => Err(wrong_type(path, tree, "true or false")),
        },
        Kind::String => match tree {
            Value::String(value) => Ok(FieldValue::String(value.clone())),
            _ => Err(wrong_type(path, tree, "a string")),
        },
        Kind::Message(of) => match tree {
            Value::Object(object) => fields(object, of, path).map(FieldValue::Message),
            _ => Err(wrong_type(path, tree, "an object")),
        },
        Kind::Enum(of) => enum_value(tree, of, path).map(FieldValue::EnumNumber),
        // No field of a configuration is of this kind.
        Kind::Bytes => Err(wrong_type(path, tree, "a field that is not bytes")),
    }
}

fn enum_value(tree: &Value, of: &EnumDescriptor, path: &str) -> Result<i32, JsonError> {
    match tree {
        Value::String(name) => of.get_value_by_name(name).map(|value| value.number()).ok_or_else(|| JsonError::UnknownValue {
            path: path.to_owned(),
            value: shortened(name, LONGEST_QUOTE),
            expected: suggest::expected_values(of),
            suggestion: suggest::closest_value(name, of),
        }),
        Value::Number(_) => integer(tree, path, "the number of an enum value"),
        _ => Err(wrong_type(path, tree, "the name of an enum value")),
    }
}

/// A whole number: JSON's own, a float without a fraction, or a string of digits.
fn integer<T: TryFrom<i128>>(tree: &Value, path: &str, expected: &str) -> Result<T, JsonError> {
    let (text, whole) = match tree {
        Value::Number(number) => {
            let text = number.to_string();
            let whole = match number.as_f64() {
                _ if number.is_i64() || number.is_u64() => text.parse::<i128>().ok(),
                Some(float) if float.fract() != 0.0 => return Err(wrong_type(path, tree, expected)),
                Some(float) => format!("{float:.0}").parse::<i128>().ok(),
                None => None,
            };
            (text, whole)
        }
        Value::String(text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(wrong_type(path, tree, expected));
            }
            (text.clone(), text.parse::<i128>().ok())
        }
        _ => return Err(wrong_type(path, tree, expected)),
    };
    let value = whole.and_then(|whole| T::try_from(whole).ok());
    value.ok_or_else(|| out_of_range(path, &text, expected))
}

/// A float: a number, its digits as a string, or one of the three words (`words`: NaN, Infinity, -Infinity).
fn float<T: FromStr + Copy>(
    tree: &Value,
    path: &str,
    expected: &str,
    words: [T; 3],
    is_finite: impl Fn(T) -> bool,
) -> Result<T, JsonError> {
    let [nan, infinity, negative_infinity] = words;
    let text = match tree {
        // The text and not the number is parsed, so that it is rounded once.
        Value::Number(number) => number.to_string(),
        Value::String(text) => match text.as_str() {
            "NaN" => return Ok(nan),
            "Infinity" => return Ok(infinity),
            "-Infinity" => return Ok(negative_infinity),
            _ if text.bytes().any(|byte| byte.is_ascii_digit()) => text.clone(),
            _ => return Err(wrong_type(path, tree, expected)),
        },
        _ => return Err(wrong_type(path, tree, expected)),
    };
    match text.parse::<T>() {
        Ok(value) if is_finite(value) => Ok(value),
        Ok(_) => Err(out_of_range(path, &text, expected)),
        Err(_) => Err(wrong_type(path, tree, expected)),
    }
}

fn key(text: &str, kind: &Kind, path: &str) -> Result<MapKey, JsonError> {
    let tree = || Value::from(text);
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(&tree(), path, "a signed 32-bit integer").map(MapKey::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(&tree(), path, "a signed 64-bit integer").map(MapKey::I64),
        Kind::Uint32 | Kind::Fixed32 => integer(&tree(), path, "an unsigned 32-bit integer").map(MapKey::U32),
        Kind::Uint64 | Kind::Fixed64 => integer(&tree(), path, "an unsigned 64-bit integer").map(MapKey::U64),
        Kind::Bool => bool::from_str(text).map(MapKey::Bool).map_err(|_| wrong_type(path, &tree(), "true or false")),
        _ => Ok(MapKey::String(text.to_owned())),
    }
}

fn wrong_type(path: &str, found: &Value, expected: &str) -> JsonError {
    let found = match found {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        _ => shortened(&found.to_string(), LONGEST_QUOTE),
    };
    JsonError::WrongType { path: path.to_owned(), found, expected: expected.to_owned() }
}

fn out_of_range(path: &str, value: &str, expected: &str) -> JsonError {
    JsonError::OutOfRange { path: path.to_owned(), value: shortened(value, LONGEST_QUOTE), expected: expected.to_owned() }
}

/// At most the beginning of a text, so that an error stays readable.
fn shortened(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(longest).collect();
    format!("{beginning}...")
}
