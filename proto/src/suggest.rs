//! Guesses what a misspelled name was meant to be, and lists what is allowed.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]

use prost_reflect::{EnumDescriptor, MessageDescriptor};

use crate::schema::{fields, short_name};

/// Names longer than this are no misspelling of ours, and comparing them would cost time.
const LONGEST_NAME_BYTES: usize = 64;
/// Messages with more fields than this are named instead of listed.
const LONGEST_LIST: usize = 16;

/// Names of data types elsewhere, without the prefix `TYPE_`, and what they are called here.
const OTHER_NAMES: [(&str, &str); 9] = [
    ("BYTES", "TYPE_STRING"),
    ("STR", "TYPE_STRING"),
    ("FLOAT", "TYPE_FP32"),
    ("FLOAT16", "TYPE_FP16"),
    ("FLOAT32", "TYPE_FP32"),
    ("FLOAT64", "TYPE_FP64"),
    ("BFLOAT16", "TYPE_BF16"),
    ("HALF", "TYPE_FP16"),
    ("DOUBLE", "TYPE_FP64"),
];

/// The name nearest to `name`, if one is near enough to be meant.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    if name.is_empty() || name.len() > LONGEST_NAME_BYTES {
        return None;
    }
    let wanted = name.to_ascii_lowercase();
    // One edit for short names, one in three letters for long ones: more would suggest unrelated names.
    let limit = (wanted.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let lower = candidate.to_ascii_lowercase();
        // `FP32` for `TYPE_FP32`, `GPU` for `KIND_GPU`: the prefix was left out.
        let distance = match lower.strip_suffix(wanted.as_str()) {
            Some(prefix) if prefix.is_empty() || prefix.ends_with('_') => 0,
            _ => edit_distance(&wanted, &lower),
        };
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate.to_owned())
}

/// The field of `message` nearest to `name`.
pub(crate) fn closest_field(name: &str, message: &MessageDescriptor) -> Option<String> {
    let fields = fields(message);
    closest(name, fields.iter().map(|field| field.name()))
}

/// The value of `of` nearest to `name`.
pub(crate) fn closest_value(name: &str, of: &EnumDescriptor) -> Option<String> {
    let values: Vec<_> = of.values().collect();
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("TYPE_").unwrap_or(&upper);
    let synonym = OTHER_NAMES.iter().find(|(other, _)| bare == *other);
    if let Some((_, meant)) = synonym
        && values.iter().any(|value| value.name() == *meant)
    {
        return Some((*meant).to_owned());
    }
    closest(name, values.iter().map(|value| value.name()))
}

/// What may stand where a field of `message` is expected, as a phrase.
pub(crate) fn expected_fields(message: &MessageDescriptor) -> String {
    let fields = fields(message);
    if fields.is_empty() {
        return format!("no field: {} has none", short_name(message.full_name()));
    }
    if fields.len() > LONGEST_LIST {
        return format!("a field of {}", short_name(message.full_name()));
    }
    listed(fields.iter().map(|field| field.name()))
}

/// What may stand where a value of `of` is expected, as a phrase.
pub(crate) fn expected_values(of: &EnumDescriptor) -> String {
    let values: Vec<_> = of.values().collect();
    listed(values.iter().map(|value| value.name()))
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [only] => only.clone(),
        _ => format!("one of {}", names.join(", ")),
    }
}

/// The least number of letters to insert, delete or replace to get from `a` to `b` (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let mut above: Vec<usize> = (0..=b.chars().count()).collect();
    for (row, letter) in a.chars().enumerate() {
        let mut left = row + 1;
        let mut current = vec![left];
        for (other, pair) in b.chars().zip(above.windows(2)) {
            let [diagonal, up] = pair else { continue };
            let replaced = diagonal + usize::from(letter != other);
            left = replaced.min(up + 1).min(left + 1);
            current.push(left);
        }
        above = current;
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, distance) in [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("dims", "dim", 1)] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn finds_what_was_meant() {
        let names = ["TYPE_FP16", "TYPE_FP32", "TYPE_STRING", "max_batch_size"];
        for (name, meant) in [
            ("FP32", Some("TYPE_FP32")),
            ("type_fp16", Some("TYPE_FP16")),
            ("max_batchsize", Some("max_batch_size")),
            ("TYPE_STRNG", Some("TYPE_STRING")),
            ("backend", None),
            ("", None),
        ] {
            assert_eq!(closest(name, names).as_deref(), meant, "{name}");
        }
    }

    #[test]
    fn long_names_are_not_compared() {
        let name = "a".repeat(LONGEST_NAME_BYTES + 1);
        assert_eq!(closest(&name, [name.as_str()]), None);
    }
}
