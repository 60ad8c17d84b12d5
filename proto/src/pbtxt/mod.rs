//! Model configurations as text: `config.pbtxt`.
//!
//! Owns reading and printing the protobuf text format in the dialect that configuration files use. May import the
//! generated types and prost-reflect; must never import the JSON form or judge what a configuration means.
//!
//! The dialect is that of protobuf's text format as Triton reads it: `#` comments, `{ }` or `< >`, fields separated
//! by space, `,` or `;`, adjacent strings joined, either quote, escapes, enum values by name or number, decimal, hex
//! and octal integers, maps as lists of `{ key .. value .. }`, and lists with or without a colon before them.
//! Two differences: a list of scalars may also go without its colon, and a field that is set twice is always
//! refused. Of two map entries with the same key the later one counts, as in protobuf.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used))]

mod context;
mod diagnose;
mod error;
mod print;
mod tokens;

use prost_reflect::DynamicMessage;

pub use self::error::{PbtxtError, PbtxtProblem};
pub use self::print::print;

use crate::inference::ModelConfig;
use crate::schema;

/// The largest file that is read, in bytes. Configurations have a few kilobytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// Parses the contents of a `config.pbtxt` file, as [`parse`] does its text.
///
/// # Errors
/// As [`parse`], and [`PbtxtProblem::FileNotUtf8`].
pub fn parse_file(contents: &[u8], file: &str) -> Result<ModelConfig, PbtxtError> {
    let error = match std::str::from_utf8(contents) {
        Ok(text) => return parse(text, file),
        Err(error) => error,
    };
    let (before, after) = contents.split_at_checked(error.valid_up_to()).unwrap_or((contents, &[]));
    let before = String::from_utf8_lossy(before);
    let (line, column) = tokens::line_and_column(&before, before.len());
    let problem = PbtxtProblem::FileNotUtf8 { byte: after.first().copied().unwrap_or_default() };
    Err(PbtxtError { file: file.to_owned(), line, column, problem: Box::new(problem), suggestion: None })
}

/// Reads a model configuration from `text`. `file` is the name that errors give.
///
/// # Errors
/// [`PbtxtError`] for the first fault, with its line and column in `text`.
///
/// Source: `text_format.proto` dialect as accepted by Triton for `config.pbtxt`.
pub fn parse(text: &str, file: &str) -> Result<ModelConfig, PbtxtError> {
    // Editors on some systems put a byte order mark in front; positions count from after it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let locate = |(offset, problem): tokens::Fault, suggestion: Option<String>| {
        let (line, column) = tokens::line_and_column(text, offset);
        PbtxtError { file: file.to_owned(), line, column, problem: Box::new(problem), suggestion }
    };
    if text.len() > MAX_FILE_BYTES {
        let problem = PbtxtProblem::TooLarge { bytes: text.len(), limit_bytes: MAX_FILE_BYTES };
        return Err(locate((0, problem), None));
    }
    let tokens = tokens::lex(text).map_err(|fault| locate(fault, None))?;
    tokens::check_brackets(text, &tokens).map_err(|fault| locate(fault, None))?;
    let changed = tokens::add_colons(text, &tokens);
    let root = schema::model_config();
    let message = match DynamicMessage::parse_text_format(root.clone(), &changed.text) {
        Ok(message) => message,
        Err(error) => {
            let (fault, suggestion) = diagnose::diagnose(&error, text, &tokens, &changed, &root);
            return Err(locate(fault, suggestion));
        }
    };
    match context::first_duplicate(text, &tokens, &root) {
        Some(fault) => Err(locate(fault, None)),
        None => Ok(schema::from_dynamic(&message)),
    }
}
