//! Turns an error of the text-format parser into one that names file position, field, expectation and remedy.
//!
//! prost-reflect keeps the kind of an error to itself: what it shows is a sentence and, as a diagnostic, the bytes
//! it is about. Its sentences are taken apart here and nowhere else; the golden tests in `tests/it/bad_text.rs` fail if a
//! new version words them differently.

use std::ops::Range;

use miette::Diagnostic;
use prost_reflect::MessageDescriptor;
use prost_reflect::text_format::ParseError;

use super::context;
use super::error::PbtxtProblem;
use super::tokens::{Fault, LONGEST_QUOTE, Token, WithColons, describe, shortened};
use crate::schema::short_name;
use crate::suggest;

/// The fault that `error` is about, and what was probably meant.
pub(super) fn diagnose(
    error: &ParseError,
    text: &str,
    tokens: &[Token],
    changed: &WithColons,
    root: &MessageDescriptor,
) -> (Fault, Option<String>) {
    let span = span(error, text, changed);
    let sentence = error.to_string();
    if sentence.contains("already set")
        && let Some(fault) = context::first_duplicate(text, tokens, root)
    {
        return (fault, None);
    }
    let place = Place { text, tokens, span: span.clone(), root };
    let (problem, suggestion) = place
        .unknown_name(&sentence)
        .or_else(|| place.out_of_range(&sentence))
        .or_else(|| place.bad_string(&sentence))
        .unwrap_or_else(|| place.unexpected(&sentence));
    ((span.start, problem), suggestion)
}

/// The bytes of the file that `error` is about: the end of the file if it names none.
fn span(error: &ParseError, text: &str, changed: &WithColons) -> Range<usize> {
    let label = error.labels().and_then(|mut labels| labels.next());
    match label {
        Some(label) => {
            let start = label.offset();
            changed.original(start)..changed.original(start + label.len())
        }
        None => text.len()..text.len(),
    }
}

struct Place<'a> {
    text: &'a str,
    tokens: &'a [Token],
    span: Range<usize>,
    root: &'a MessageDescriptor,
}

type Diagnosis = (PbtxtProblem, Option<String>);

impl Place<'_> {
    /// The bytes in question as written.
    fn written(&self) -> &str {
        self.text.get(self.span.clone()).unwrap_or_default()
    }

    fn field(&self) -> Option<String> {
        context::path(self.text, self.tokens, self.span.start)
    }

    fn unknown_name(&self, sentence: &str) -> Option<Diagnosis> {
        let quoted: Vec<&str> = sentence.split('\'').collect();
        match quoted.as_slice() {
            ["field ", field, " not found for message ", message, ""] => {
                let message = self.root.parent_pool().get_message_by_name(message)?;
                let problem = PbtxtProblem::UnknownField {
                    field: shortened(field),
                    message: short_name(message.full_name()).to_owned(),
                    expected: suggest::expected_fields(&message),
                };
                Some((problem, suggest::closest_field(field, &message)))
            }
            ["value ", value, " was not found for enum ", name, ""] => {
                let of = self.root.parent_pool().get_enum_by_name(name)?;
                let field = self.field().unwrap_or_else(|| short_name(of.full_name()).to_owned());
                let problem =
                    PbtxtProblem::UnknownValue { value: shortened(value), field, expected: suggest::expected_values(&of) };
                Some((problem, suggest::closest_value(value, &of)))
            }
            ["extension ", ..] | ["message type ", ..] | ["the field type must be ", ..] => {
                Some((PbtxtProblem::Extension { name: format!("`{}`", shortened(self.written())) }, None))
            }
            _ => None,
        }
    }

    fn out_of_range(&self, sentence: &str) -> Option<Diagnosis> {
        let rest = sentence.strip_prefix("expected value to be ")?;
        let (expected, _) = rest.split_once(", but the value ")?;
        let range = match expected {
            "a signed 32-bit integer" => format!("{} to {}", i32::MIN, i32::MAX),
            "a signed 64-bit integer" => format!("{} to {}", i64::MIN, i64::MAX),
            "an unsigned 32-bit integer" => format!("0 to {}", u32::MAX),
            "an unsigned 64-bit integer" => format!("0 to {}", u64::MAX),
            _ => return None,
        };
        let expected = format!("{expected} ({range})");
        let value = format!("`{}`", shortened(self.written()));
        Some((PbtxtProblem::OutOfRange { value, field: self.field(), expected }, None))
    }

    fn bad_string(&self, sentence: &str) -> Option<Diagnosis> {
        let problem = match sentence {
            "invalid string escape" => {
                // The parser stops inside the escape; the letter after the backslash says which one it is.
                let escape = self.text.get(self.span.start..).unwrap_or_default().chars().take(2).collect();
                PbtxtProblem::BadEscape { escape }
            }
            "invalid string character" => {
                let found = self.written().chars().next().map_or_else(String::new, describe);
                PbtxtProblem::BadStringCharacter { found }
            }
            "string is not valid utf-8" => PbtxtProblem::NotUtf8,
            _ => return None,
        };
        Some((problem, None))
    }

    fn unexpected(&self, sentence: &str) -> Diagnosis {
        let expected = match sentence.strip_prefix("expected ").and_then(|rest| rest.split_once(", but ")) {
            Some((expected, _)) => expected.replace('\'', "`"),
            None => format!("the text format of protobuf ({sentence})"),
        };
        let found = if self.span.start >= self.text.len() {
            "the end of the file".to_owned()
        } else {
            format!("`{}`", shortened(self.written()))
        };
        let field = if expected.ends_with("field name") {
            context::enclosing(self.text, self.tokens, self.span.start)
        } else {
            self.field()
        };
        let suggestion = self.quotes(&expected);
        (PbtxtProblem::Unexpected { found, field, expected }, suggestion)
    }

    /// A string without its quotes, or an enum value with them.
    fn quotes(&self, expected: &str) -> Option<String> {
        let written = self.written();
        let is_name = |text: &str| !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        let inside = written.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\'']));
        match (expected, inside) {
            ("a string", None) if is_name(written) && written.chars().count() <= LONGEST_QUOTE => Some(format!("\"{written}\"")),
            ("an enum value" | "`true` or `false`", Some(inside)) if is_name(inside) => Some(shortened(inside)),
            ("an integer" | "a number", Some(inside)) if inside.parse::<f64>().is_ok() => Some(shortened(inside)),
            _ => None,
        }
    }
}
