//! What can be wrong with a model configuration in JSON.

/// A fault in a configuration: where it is, what was expected, and what was probably meant.
///
/// Paths are those of the configuration, such as `instance_group[0].kind`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON, has a key twice, or is nested too deep.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault in bytes, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A key that is no field of its message.
    #[error("unknown field `{path}` in {message}, expected {expected}{}", did_you_mean(.suggestion))]
    UnknownField {
        /// Path of the key.
        path: String,
        /// The message it stands in.
        message: String,
        /// The fields of that message.
        expected: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// A text that is no value of the field's enum.
    #[error("unknown value `{value}` for `{path}`, expected {expected}{}", did_you_mean(.suggestion))]
    UnknownValue {
        /// Path of the field.
        path: String,
        /// The value as written.
        value: String,
        /// The values of the enum.
        expected: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// A value of the wrong type.
    #[error("found {found} for `{path}`, expected {expected}")]
    WrongType {
        /// Path of the field.
        path: String,
        /// The value, or its type.
        found: String,
        /// The type that the field has.
        expected: String,
    },
    /// A number that its field cannot hold.
    #[error("{value} is out of range for `{path}`, expected {expected}")]
    OutOfRange {
        /// Path of the field.
        path: String,
        /// The number as written.
        value: String,
        /// The type of the field.
        expected: String,
    },
    /// One field under both of its names, or two fields of which only one may be set.
    #[error("`{path}` is set although `{other}` is set, expected only one of them")]
    Clash {
        /// Path of the second key.
        path: String,
        /// The first key.
        other: String,
    },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(suggestion) => format!("; did you mean `{suggestion}`?"),
        None => String::new(),
    }
}
