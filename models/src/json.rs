//! Reading the JSON files of a model directory: bounded, with the place of every mistake.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::ModelError;

/// The longest configuration file that is read. Real ones are a few kilobytes; those with ten thousands of labels or
/// added tokens stay below a few megabytes.
pub(crate) const CONFIG_LIMIT_BYTES: u64 = 32 << 20;

/// Reads a whole file of at most `limit_bytes`; `None` if it does not exist.
pub(crate) fn read_file(path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, ModelError> {
    let unreadable = |source| ModelError::FileUnreadable { path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let got_bytes = file.metadata().map_err(unreadable)?.len();
    let too_large = |got_bytes| ModelError::FileTooLarge { path: path.to_path_buf(), limit_bytes, got_bytes };
    if got_bytes > limit_bytes {
        return Err(too_large(got_bytes));
    }
    let mut bytes = Vec::new();
    // The length is only what the file system says: a file that grows meanwhile, or a pipe, must stay bounded too.
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(Some(bytes))
}

/// Parses JSON, naming the file, line and column of a mistake.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Value, ModelError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        ModelError::BadJson {
            path: path.to_path_buf(),
            line: error.line(),
            column: error.column(),
            // The library appends the place to its sentence; it is printed once, in front.
            reason: text.split(" at line ").next().unwrap_or(&text).to_owned(),
        }
    })
}

/// A parsed file whose top level is an object.
pub(crate) struct JsonFile {
    path: PathBuf,
    /// What stands before the names of fields in errors: nothing, or the section's name and a dot.
    section: String,
    root: Value,
}

impl JsonFile {
    /// Reads and parses `path`; `None` if it does not exist.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, ModelError> {
        let Some(bytes) = read_file(path, CONFIG_LIMIT_BYTES)? else { return Ok(None) };
        let root = parse(path, &bytes)?;
        let file = JsonFile { path: path.to_path_buf(), section: String::new(), root };
        if !file.root.is_object() {
            return Err(file.invalid("(the whole file)", &file.root, "an object"));
        }
        Ok(Some(file))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The object `name` in this one, if it is there. Errors about its fields name them as `name.field`.
    pub(crate) fn section(&self, name: &str) -> Result<Option<JsonFile>, ModelError> {
        let Some((_, value)) = self.value(&[name]) else { return Ok(None) };
        if !value.is_object() {
            return Err(self.invalid(name, value, "an object"));
        }
        Ok(Some(JsonFile { path: self.path.clone(), section: format!("{}{name}.", self.section), root: value.clone() }))
    }

    /// The first of `names` that is present and not null, with its name.
    pub(crate) fn value<'s, 'n>(&'s self, names: &[&'n str]) -> Option<(&'n str, &'s Value)> {
        names.iter().find_map(|name| Some((*name, self.root.get(name).filter(|value| !value.is_null())?)))
    }

    /// Whether the field is there and null, where that means something else than its absence.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.root.get(name).is_some_and(Value::is_null)
    }

    /// An integer in `range`, if present.
    pub(crate) fn integer(&self, names: &[&str], range: RangeInclusive<usize>) -> Result<Option<usize>, ModelError> {
        let Some((name, value)) = self.value(names) else { return Ok(None) };
        let integer = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match integer {
            Some(integer) if range.contains(&integer) => Ok(Some(integer)),
            _ => {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                Err(self.invalid(name, value, &expected))
            }
        }
    }

    /// An integer in `range` that must be there.
    pub(crate) fn required_integer(&self, names: &[&str], range: RangeInclusive<usize>) -> Result<usize, ModelError> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.integer(names, range)?.ok_or_else(|| self.missing(names.first().copied().unwrap_or_default(), &expected))
    }

    /// A number, if present.
    pub(crate) fn number(&self, names: &[&str]) -> Result<Option<f64>, ModelError> {
        let Some((name, value)) = self.value(names) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.invalid(name, value, "a number"))
    }

    /// A string, if present.
    pub(crate) fn string(&self, names: &[&str]) -> Result<Option<&str>, ModelError> {
        let Some((name, value)) = self.value(names) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.invalid(name, value, "a string"))
    }

    /// A truth value, if present.
    pub(crate) fn boolean(&self, names: &[&str]) -> Result<Option<bool>, ModelError> {
        let Some((name, value)) = self.value(names) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.invalid(name, value, "true or false"))
    }

    /// Refuses a field whose value would change the answer unless it is absent or `false`.
    pub(crate) fn refuse_true(&self, name: &str) -> Result<(), ModelError> {
        match self.boolean(&[name])? {
            Some(true) => Err(self.invalid(name, &Value::Bool(true), "false: this is not supported")),
            _ => Ok(()),
        }
    }

    /// [`ModelError::FieldMissing`] for this file.
    pub(crate) fn missing(&self, field: &str, expected: &str) -> ModelError {
        let field = format!("{}{field}", self.section);
        ModelError::FieldMissing { path: self.path.clone(), field, expected: expected.to_owned() }
    }

    /// [`ModelError::FieldInvalid`] for this file.
    pub(crate) fn invalid(&self, field: &str, got: &Value, expected: &str) -> ModelError {
        ModelError::FieldInvalid {
            path: self.path.clone(),
            field: format!("{}{field}", self.section),
            expected: expected.to_owned(),
            got: describe(got),
        }
    }
}

/// A value as it is shown in an error: scalars as they are, but short; containers by kind.
pub(crate) fn describe(value: &Value) -> String {
    const SHOWN_CHARS: usize = 80;
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        scalar => {
            let text = scalar.to_string();
            match text.char_indices().nth(SHOWN_CHARS) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    }
}
