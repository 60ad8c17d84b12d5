//! The bases of rotary angles in a configuration: `rope_parameters`, or the older keys of a family.

use serde_json::Value;

use super::Sizes;
use crate::error::ModelError;
use crate::json::JsonFile;

/// The base that `rope_parameters` gives, if it is there; of the kind of layers `kind` where kinds have their own.
///
/// # Errors
/// A field that would change the angles in another way than their base.
pub(super) fn base(config: &JsonFile, kind: Option<&str>) -> Result<Option<f64>, ModelError> {
    refuse_scaling(config)?;
    let Some((name, mut value)) = config.value(&["rope_parameters"]) else { return Ok(None) };
    let mut field = name.to_owned();
    if let Some(kind) = kind {
        let Some(kinds) = value.as_object() else { return Err(config.invalid(&field, value, "an object")) };
        if let Some((other, value)) = kinds.iter().find(|(kind, _)| !["full_attention", "sliding_attention"].contains(&&kind[..]))
        {
            let expected = "absent: only full_attention and sliding_attention are supported";
            return Err(config.invalid(&format!("{field}.{other}"), value, expected));
        }
        match kinds.get(kind).filter(|value| !value.is_null()) {
            Some(parameters) => value = parameters,
            None => return Ok(None),
        }
        field = format!("{field}.{kind}");
    }
    let Some(parameters) = value.as_object() else { return Err(config.invalid(&field, value, "an object")) };
    let mut base = None;
    for (key, value) in parameters {
        let field = format!("{field}.{key}");
        let supported = match key.as_str() {
            "rope_theta" => {
                base = Some(positive(config, &field, value)?);
                continue;
            }
            "rope_type" | "type" => Value::from("default"),
            "partial_rotary_factor" => Value::from(1.0),
            _ => Value::Null,
        };
        if *value != supported {
            return Err(config.invalid(&field, value, &format!("{supported} (others are not supported)")));
        }
    }
    Ok(base)
}

/// The base in one of the top-level fields `names`, if it is there.
pub(super) fn field(config: &JsonFile, names: &[&str]) -> Result<Option<f64>, ModelError> {
    config.value(names).map(|(name, value)| positive(config, name, value)).transpose()
}

/// Refuses heads of an odd size, whose numbers form no pairs, and a size of heads other than that of `hidden_size`.
pub(super) fn check_heads(config: &JsonFile, names: &[&str], sizes: &Sizes) -> Result<(), ModelError> {
    let size = sizes.hidden / sizes.heads;
    super::refuse_other(config, "head_dim", &Value::from(size))?;
    if size.is_multiple_of(2) {
        return Ok(());
    }
    let name = config.value(names).map_or("num_attention_heads", |(name, _)| name);
    Err(config.invalid(name, &Value::from(sizes.heads), "heads of an even size: rotary positions turn pairs of numbers"))
}

fn refuse_scaling(config: &JsonFile) -> Result<(), ModelError> {
    match config.value(&["rope_scaling"]) {
        Some((field, value)) => Err(config.invalid(field, value, "null: scaled rotary positions are not supported")),
        None => Ok(()),
    }
}

fn positive(config: &JsonFile, field: &str, value: &Value) -> Result<f64, ModelError> {
    let number = value.as_f64().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| config.invalid(field, value, "a number above 0"))
}
