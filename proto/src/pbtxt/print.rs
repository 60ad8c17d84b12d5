//! Prints a model configuration as a `config.pbtxt` that people read.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use crate::inference::ModelConfig;
use crate::schema;

/// Writes `config` as text, fields in the order of `model_config.proto`, two spaces a level, maps by key.
///
/// [`parse`](super::parse) reads back what was printed. Fields that have their default value are left out.
pub fn print(config: &ModelConfig) -> String {
    let mut out = String::new();
    fields(&schema::to_dynamic(config), 0, &mut out);
    out
}

fn fields(message: &DynamicMessage, level: usize, out: &mut String) {
    for field in schema::fields(&message.descriptor()) {
        if message.has_field(&field) {
            indent(level, out);
            out.push_str(field.name());
            field_value(&field, &message.get_field(&field), level, out);
            out.push('\n');
        }
    }
}

fn field_value(field: &FieldDescriptor, value: &Value, level: usize, out: &mut String) {
    let kind = field.kind();
    match value {
        Value::List(elements) if matches!(kind, Kind::Message(_)) => list(elements, level, out, |element, out| {
            braces(element, level + 1, out);
        }),
        Value::List(elements) => {
            let elements: Vec<String> = elements.iter().map(|element| scalar(element, &kind)).collect();
            out.push_str(": [ ");
            out.push_str(&elements.join(", "));
            out.push_str(" ]");
        }
        Value::Map(entries) => {
            let Kind::Message(entry) = &kind else { return };
            let value_kind = entry.map_entry_value_field().kind();
            list(&schema::sorted_entries(entries), level, out, |(key, value), out| {
                entry_braces(&key_literal(key), value, &value_kind, level + 1, out);
            });
        }
        Value::Message(_) => {
            out.push(' ');
            braces(value, level, out);
        }
        _ => {
            out.push_str(": ");
            out.push_str(&scalar(value, &kind));
        }
    }
}

/// ` [`, the elements each on lines of its own, `]`.
fn list<T>(elements: &[T], level: usize, out: &mut String, element: impl Fn(&T, &mut String)) {
    out.push_str(" [\n");
    for (index, item) in elements.iter().enumerate() {
        indent(level + 1, out);
        element(item, out);
        out.push_str(if index + 1 < elements.len() { ",\n" } else { "\n" });
    }
    indent(level, out);
    out.push(']');
}

/// A map entry: in one line if its value is a scalar or a message of at most one line, as most are.
fn entry_braces(key: &str, value: &Value, value_kind: &Kind, level: usize, out: &mut String) {
    let mut inside = String::new();
    let value = match value {
        Value::Message(message) => {
            fields(message, level + 2, &mut inside);
            match inside.trim() {
                "" => " { }".to_owned(),
                line if !line.contains('\n') => format!(" {{ {line} }}"),
                _ => String::new(),
            }
        }
        _ => format!(": {}", scalar(value, value_kind)),
    };
    if !value.is_empty() {
        out.push_str(&format!("{{ key: {key} value{value} }}"));
        return;
    }
    out.push_str("{\n");
    indent(level + 1, out);
    out.push_str(&format!("key: {key}\n"));
    indent(level + 1, out);
    out.push_str("value {\n");
    out.push_str(&inside);
    indent(level + 1, out);
    out.push_str("}\n");
    indent(level, out);
    out.push('}');
}

/// A message in braces, the closing one at `level`.
fn braces(value: &Value, level: usize, out: &mut String) {
    let Value::Message(message) = value else { return };
    let mut inside = String::new();
    fields(message, level + 1, &mut inside);
    if inside.is_empty() {
        out.push_str("{ }");
        return;
    }
    out.push_str("{\n");
    out.push_str(&inside);
    indent(level, out);
    out.push('}');
}

fn indent(level: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", level));
}

fn key_literal(key: &MapKey) -> String {
    match key {
        MapKey::String(key) => quoted(key.as_bytes()),
        _ => schema::key_text(key),
    }
}

fn scalar(value: &Value, kind: &Kind) -> String {
    match (value, kind) {
        (Value::Bool(value), _) => value.to_string(),
        (Value::I32(value), _) => value.to_string(),
        (Value::I64(value), _) => value.to_string(),
        (Value::U32(value), _) => value.to_string(),
        (Value::U64(value), _) => value.to_string(),
        // The debug form has an exponent where digits would fill the line, and reads back as the same number.
        (Value::F32(value), _) => format!("{value:?}"),
        (Value::F64(value), _) => format!("{value:?}"),
        (Value::String(value), _) => quoted(value.as_bytes()),
        (Value::Bytes(value), _) => quoted(value),
        (Value::EnumNumber(number), Kind::Enum(of)) => match of.get_value(*number) {
            Some(value) => value.name().to_owned(),
            None => number.to_string(),
        },
        (Value::EnumNumber(number), _) => number.to_string(),
        // Lists, maps and messages are no scalars and are printed by `field_value`.
        (Value::List(_) | Value::Map(_) | Value::Message(_), _) => String::new(),
    }
}

/// `bytes` in double quotes. Text stays text; what would break the line or cannot be seen is an octal escape.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                _ if letter.is_control() => octal(letter.encode_utf8(&mut [0; 4]).as_bytes(), &mut out),
                _ => out.push(letter),
            }
        }
        octal(chunk.invalid(), &mut out);
    }
    out.push('"');
    out
}

fn octal(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        out.push_str(&format!("\\{byte:03o}"));
    }
}
