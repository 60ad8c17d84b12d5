//! What can be wrong with a `config.pbtxt`, and where.

use std::fmt;

/// A fault in a configuration file: where it is, what it is, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PbtxtError {
    /// The name of the file, as given to [`parse`](super::parse).
    pub file: String,
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in characters, from 1; a tab is one character.
    pub column: usize,
    /// What is wrong and what was expected.
    pub problem: Box<PbtxtProblem>,
    /// What was probably meant, ready to be written in the file.
    pub suggestion: Option<String>,
}

impl fmt::Display for PbtxtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.problem)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PbtxtError {}

/// The kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PbtxtProblem {
    /// A name that is no field of the message it stands in.
    #[error("unknown field `{field}` in {message}, expected {expected}")]
    UnknownField {
        /// The name as written.
        field: String,
        /// The message it stands in.
        message: String,
        /// The fields of that message.
        expected: String,
    },
    /// A name that is no value of the field's enum.
    #[error("unknown value `{value}` for `{field}`, expected {expected}")]
    UnknownValue {
        /// The name as written.
        value: String,
        /// Path of the field.
        field: String,
        /// The values of the enum.
        expected: String,
    },
    /// A field that is not a list, written twice.
    #[error("`{field}` is set a second time, expected it once (first set in line {first_line})")]
    Duplicate {
        /// The field.
        field: String,
        /// Line in which it was set first.
        first_line: usize,
    },
    /// Two fields of which only one may be set.
    #[error("`{field}` and `{other}` (line {other_line}) are both set, expected at most one field of `{oneof}`")]
    OneofClash {
        /// The field set second.
        field: String,
        /// The field set first.
        other: String,
        /// Line in which it was set first.
        other_line: usize,
        /// The group that both belong to.
        oneof: String,
    },
    /// Something that cannot stand where it stands.
    #[error("found {found}{}, expected {expected}", for_field(.field))]
    Unexpected {
        /// What was found, quoted.
        found: String,
        /// Path of the field whose value it is, if it is a value.
        field: Option<String>,
        /// What could stand there.
        expected: String,
    },
    /// A number that its field cannot hold.
    #[error("{value} is out of range{}, expected {expected}", for_field(.field))]
    OutOfRange {
        /// The number as written.
        value: String,
        /// Path of the field.
        field: Option<String>,
        /// The type of the field and its range.
        expected: String,
    },
    /// Something that begins with a digit and is no number.
    #[error("malformed number `{number}`, expected decimal digits, 0 and octal digits, 0x and hexadecimal digits, or a float")]
    BadNumber {
        /// The number as written.
        number: String,
    },
    /// A string that does not end in its line.
    #[error("unterminated string, expected {quote} before the end of the line")]
    UnterminatedString {
        /// The quote that opened it.
        quote: char,
    },
    /// A backslash followed by something that is no escape.
    #[error("unknown escape `{escape}` in a string, expected one of \\n \\r \\t \\\\ \\' \\\" \\ooo \\xhh \\uhhhh")]
    BadEscape {
        /// The escape as written.
        escape: String,
    },
    /// A character that a string must write as an escape.
    #[error("character {found} in a string, expected it as an escape such as \\000")]
    BadStringCharacter {
        /// The character.
        found: String,
    },
    /// A file that is not UTF-8, in a comment or elsewhere.
    #[error("byte 0x{byte:02X} is not UTF-8, expected a text in UTF-8")]
    FileNotUtf8 {
        /// The first byte that does not fit.
        byte: u8,
    },
    /// A string whose escapes do not give UTF-8.
    #[error("string is not UTF-8, expected escapes that make up whole characters")]
    NotUtf8,
    /// A character that has no place outside of strings and comments.
    #[error("unexpected character {found}, expected a field name, a value or a comment that begins with `#`")]
    BadCharacter {
        /// The character.
        found: String,
    },
    /// A bracket that is never closed.
    #[error("`{opener}`{} is never closed, expected `{closer}` before the end of the file", for_field(.field))]
    Unclosed {
        /// The bracket.
        opener: char,
        /// What would close it.
        closer: char,
        /// Path of the field that it belongs to.
        field: Option<String>,
    },
    /// A closing bracket of another kind than the one that is open.
    #[error("found `{found}`, expected `{expected}` to close `{opener}` of line {opener_line}")]
    Mismatched {
        /// The closing bracket.
        found: char,
        /// The one that would close what is open.
        expected: char,
        /// The bracket that is open.
        opener: char,
        /// Line of the bracket that is open.
        opener_line: usize,
    },
    /// A closing bracket where none is open.
    #[error("found `{found}`, expected a field name: no bracket is open here")]
    Unopened {
        /// The closing bracket.
        found: char,
    },
    /// Brackets inside brackets, deeper than any configuration needs.
    #[error("brackets are nested too deep, expected at most {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A file larger than any configuration.
    #[error("file has {bytes} bytes, expected at most {limit_bytes}")]
    TooLarge {
        /// Size of the file.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// An extension or `Any` name, `[like.this]`.
    #[error("extension {name}, expected a field name: model configurations have no extensions")]
    Extension {
        /// The name as written.
        name: String,
    },
}

fn for_field(field: &Option<String>) -> String {
    match field {
        Some(field) => format!(" for `{field}`"),
        None => String::new(),
    }
}
