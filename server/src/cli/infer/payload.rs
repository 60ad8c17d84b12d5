//! From what was written on the command line to the input tensors of a request.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)
)]

use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use proto::inference::{self as wire, model_input::Format};

use super::elements::{self, ElementError, Written};
use super::npy::{self, NpyError};
use super::picture::{self, PictureError};
use crate::tensor::{DataType, Dim, Dims, Shape, Tensor};

/// One `--input`, or one bare text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Given {
    /// The input it is meant for; `None` where the model decides.
    pub(super) name: Option<String>,
    /// The value.
    pub(super) value: Value,
}

/// A value before it is compared with the input it is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Value {
    /// One string element.
    Text(String),
    /// A file to read.
    File(PathBuf),
    /// JSON as it was written.
    Json(String),
}

impl FromStr for Given {
    type Err = PayloadError;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        // A value may itself hold '=': only a name without a mark of a value before the first '=' counts.
        if let Some(value) = parse_value(written) {
            return Ok(Self { name: None, value });
        }
        let refuse = || PayloadError::Form { got: written.to_owned() };
        let (name, value) = written.split_once('=').ok_or_else(refuse)?;
        if name.is_empty() {
            return Err(refuse());
        }
        Ok(Self { name: Some(name.to_owned()), value: parse_value(value).ok_or_else(refuse)? })
    }
}

fn parse_value(text: &str) -> Option<Value> {
    if let Some(text) = text.strip_prefix("text:") {
        return Some(Value::Text(text.to_owned()));
    }
    if let Some(path) = text.strip_prefix('@') {
        return (!path.is_empty()).then(|| Value::File(path.into()));
    }
    serde_json::from_str::<serde_json::Value>(text).ok().map(|_| Value::Json(text.to_owned()))
}

/// What a model takes, from the configuration that its server shows.
#[derive(Clone, Debug)]
pub(super) struct ModelShape {
    /// Name of the model.
    pub(super) model: String,
    /// Whether tensors have a batch dimension.
    pub(super) batching: bool,
    /// Inputs, in order.
    pub(super) inputs: Vec<InputShape>,
    /// Names of the outputs, in order.
    pub(super) outputs: Vec<String>,
    /// Whether a request may get any number of responses.
    pub(super) decoupled: bool,
}

/// What a model takes as one of its inputs.
#[derive(Clone, Debug)]
pub(super) struct InputShape {
    pub(super) name: String,
    pub(super) datatype: DataType,
    /// Dimensions without the batch dimension.
    pub(super) dims: Dims,
    pub(super) format: Format,
    pub(super) optional: bool,
}

impl ModelShape {
    /// Reads the configuration that the server shows.
    ///
    /// # Errors
    /// [`PayloadError::Datatype`] for an input of a type that this program does not know.
    pub(super) fn from_wire(config: &wire::ModelConfig) -> Result<Self, PayloadError> {
        let inputs = config.input.iter().map(|input| {
            let refuse = || PayloadError::Datatype { input: input.name.clone(), datatype: input.data_type };
            Ok(InputShape {
                name: input.name.clone(),
                datatype: datatype(input.data_type).ok_or_else(refuse)?,
                dims: Dims::new(
                    input.dims.iter().map(|dim| usize::try_from(*dim).map_or(Dim::Variable, Dim::Fixed)).collect::<Vec<_>>(),
                ),
                format: input.format(),
                optional: input.optional,
            })
        });
        Ok(Self {
            model: config.name.clone(),
            batching: config.max_batch_size > 0,
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: config.output.iter().map(|output| output.name.clone()).collect(),
            decoupled: config.model_transaction_policy.is_some_and(|policy| policy.decoupled),
        })
    }

    fn input(&self, name: &str) -> Result<&InputShape, PayloadError> {
        self.inputs.iter().find(|input| input.name == name).ok_or_else(|| PayloadError::UnknownInput {
            input: name.to_owned(),
            model: self.model.clone(),
            inputs: self.describe_inputs(),
        })
    }

    /// The input that a value without a name is meant for.
    fn only_input(&self, strings: bool) -> Result<&InputShape, PayloadError> {
        let mut candidates = self.inputs.iter().filter(|input| !strings || input.datatype == DataType::Bytes);
        match (candidates.next(), candidates.next()) {
            (Some(input), None) => Ok(input),
            _ => Err(PayloadError::NoOnlyInput {
                what: if strings { "one BYTES input" } else { "one input" },
                model: self.model.clone(),
                inputs: self.describe_inputs(),
            }),
        }
    }

    fn describe_inputs(&self) -> String {
        self.inputs.iter().map(|input| self.describe(input)).collect::<Vec<_>>().join(", ")
    }

    fn describe(&self, input: &InputShape) -> String {
        let dims = if self.batching { input.dims.with_batch() } else { input.dims.clone() };
        format!("{} {} {dims}", input.name, input.datatype)
    }
}

fn datatype(wire: i32) -> Option<DataType> {
    match wire::DataType::try_from(wire).ok()?.as_str_name().strip_prefix("TYPE_")? {
        "STRING" => Some(DataType::Bytes),
        name => DataType::parse(name),
    }
}

/// Why the values on the command line make no request.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(in crate::cli) enum PayloadError {
    #[error(
        "'{got}' is no input; write NAME=VALUE, where VALUE is text:SOME TEXT, @FILE (.npy, .json, .jpg, .png) or JSON such as [1,2]"
    )]
    Form { got: String },
    #[error("'{got}' is no parameter; write NAME=VALUE, where VALUE is true, false, a number or a text")]
    Parameter { got: String },
    #[error("input '{input}' has the data type number {datatype}, which this program does not know")]
    Datatype { input: String, datatype: i32 },
    #[error("model '{model}' has no input '{input}'; its inputs are {inputs}")]
    UnknownInput { input: String, model: String, inputs: String },
    #[error("a value without a name needs a model with exactly {what}; the inputs of '{model}' are {inputs}; write NAME=VALUE")]
    NoOnlyInput { what: &'static str, model: String, inputs: String },
    #[error("model '{model}' needs a value for {input}; give it with --input {name}=VALUE")]
    Missing { model: String, input: String, name: String },
    #[error("unable to read '{}' for input '{input}': {reason}", .path.display())]
    Read { input: String, path: PathBuf, reason: String },
    #[error("unable to use '{}' for input '{input}': {problem}", .path.display())]
    Npy { input: String, path: PathBuf, problem: NpyError },
    #[error("unable to use the picture '{}' for input '{input}': {problem}", .path.display())]
    Picture { input: String, path: PathBuf, problem: PictureError },
    #[error("unable to use '{}' for input {input}: a numeric input takes .npy, .json, .jpg or .png", .path.display())]
    FileKind { input: String, path: PathBuf },
    #[error("unable to read the JSON of {origin}: {reason}")]
    Json { origin: String, reason: String },
    #[error("unable to use {origin} for input '{input}': {problem}")]
    Element { input: String, origin: String, problem: ElementError },
    #[error("input {input} does not take text; a text is one element of a BYTES input")]
    TextForNumbers { input: String },
    #[error("{origin} holds {got} elements, but input '{input}' takes {expected}")]
    WrongType { input: String, origin: String, got: String, expected: DataType },
    #[error("{origin} has shape {got}, but input {input} is expected{note}")]
    WrongShape { input: String, origin: String, got: Shape, note: &'static str },
    #[error("{got} texts do not fill input {input}")]
    TextCount { input: String, got: usize },
    #[error("input '{input}' was given several times, but model '{model}' has no batch dimension to put the values in")]
    NotBatching { input: String, model: String },
    #[error("the values for input '{input}' have rows of different shapes: {first} and {other}")]
    UnlikeRows { input: String, first: Shape, other: Shape },
}

impl PayloadError {
    /// Whether the command line itself was not understood.
    pub(in crate::cli) fn is_usage(&self) -> bool {
        matches!(self, Self::Form { .. } | Self::Parameter { .. })
    }
}

/// The input tensors of a request, in the order in which their inputs were first given, with the batch
/// dimension in front where the model has one.
///
/// # Errors
/// [`PayloadError`] for the first value that does not fit.
pub(super) fn tensors(shape: &ModelShape, given: &[Given]) -> Result<Vec<(String, Tensor)>, PayloadError> {
    let mut collected: Vec<Collected<'_>> = Vec::new();
    for value in given {
        for (input, part) in parts(shape, value)? {
            match collected.iter_mut().find(|found| found.input.name == input.name) {
                Some(found) => found.parts.push(part),
                None => collected.push(Collected { input, parts: vec![part] }),
            }
        }
    }
    if let Some(missing) =
        shape.inputs.iter().find(|input| !input.optional && collected.iter().all(|found| found.input.name != input.name))
    {
        let (model, input) = (shape.model.clone(), shape.describe(missing));
        return Err(PayloadError::Missing { model, input, name: missing.name.clone() });
    }
    collected.into_iter().map(|found| Ok((found.input.name.clone(), found.assemble(shape)?))).collect()
}

/// The values given for one input.
struct Collected<'a> {
    input: &'a InputShape,
    parts: Vec<Part>,
}

/// One value for one input.
enum Part {
    /// One string element, whose shape follows from how many there are.
    Element(Bytes),
    /// A tensor in its final shape.
    Tensor(Tensor),
}

/// Finds the inputs that a value is meant for and reads it.
fn parts<'a>(shape: &'a ModelShape, given: &Given) -> Result<Vec<(&'a InputShape, Part)>, PayloadError> {
    let named = given.name.as_deref().map(|name| shape.input(name)).transpose()?;
    match &given.value {
        Value::Text(text) => {
            let input = named.map_or_else(|| shape.only_input(true), Ok)?;
            if input.datatype != DataType::Bytes {
                return Err(PayloadError::TextForNumbers { input: shape.describe(input) });
            }
            Ok(vec![(input, Part::Element(Bytes::copy_from_slice(text.as_bytes())))])
        }
        Value::Json(text) => json_parts(shape, named, text, "the JSON value"),
        Value::File(path) if has_extension(path, &["json"]) => {
            let input = named.map_or("the request", |input| &input.name);
            let text = String::from_utf8(read(input, path)?.to_vec())
                .map_err(|error| PayloadError::Json { origin: quoted(path), reason: error.to_string() })?;
            json_parts(shape, named, &text, &quoted(path))
        }
        Value::File(path) => {
            let input = named.map_or_else(|| shape.only_input(false), Ok)?;
            Ok(vec![(input, file_part(shape, input, path)?)])
        }
    }
}

fn file_part(shape: &ModelShape, input: &InputShape, path: &Path) -> Result<Part, PayloadError> {
    let name = || input.name.clone();
    if has_extension(path, &["npy"]) {
        let tensor = npy::read(&read(&input.name, path)?).map_err(|problem| PayloadError::Npy {
            input: name(),
            path: path.to_owned(),
            problem,
        })?;
        if tensor.datatype() != input.datatype {
            let (got, expected) = (tensor.datatype().to_string(), input.datatype);
            return Err(PayloadError::WrongType { input: name(), origin: quoted(path), got, expected });
        }
        return Ok(Part::Tensor(fit(shape, input, tensor, &quoted(path))?));
    }
    if input.datatype == DataType::Bytes {
        return Ok(Part::Element(read(&input.name, path)?));
    }
    if !has_extension(path, &["jpg", "jpeg", "png"]) {
        return Err(PayloadError::FileKind { input: shape.describe(input), path: path.to_owned() });
    }
    let tensor = picture::decode(&read(&input.name, path)?, input).map_err(|problem| PayloadError::Picture {
        input: name(),
        path: path.to_owned(),
        problem,
    })?;
    Ok(Part::Tensor(fit(shape, input, tensor, &quoted(path))?))
}

fn json_parts<'a>(
    shape: &'a ModelShape,
    named: Option<&'a InputShape>,
    text: &str,
    origin: &str,
) -> Result<Vec<(&'a InputShape, Part)>, PayloadError> {
    let refuse = |reason: String| PayloadError::Json { origin: origin.to_owned(), reason };
    let written = elements::parse(text).map_err(|error| refuse(error.to_string()))?;
    if named.is_some() && written.len() != 1 {
        return Err(refuse(format!("it holds {} inputs, so it is given without a name: --input @FILE", written.len())));
    }
    let mut parts = Vec::with_capacity(written.len());
    for one in &written {
        let input = match (named, &one.name) {
            (Some(input), _) => input,
            (None, Some(name)) => shape.input(name)?,
            (None, None) => shape.only_input(false)?,
        };
        parts.push((input, json_part(shape, input, one, origin)?));
    }
    Ok(parts)
}

fn json_part(shape: &ModelShape, input: &InputShape, written: &Written, origin: &str) -> Result<Part, PayloadError> {
    if let Some(got) = written.datatype.as_ref().filter(|got| *got != input.datatype.as_str()) {
        let (got, expected) = (got.clone(), input.datatype);
        return Err(PayloadError::WrongType { input: input.name.clone(), origin: origin.to_owned(), got, expected });
    }
    let tensor = elements::encode(written, input.datatype).map_err(|problem| PayloadError::Element {
        input: input.name.clone(),
        origin: origin.to_owned(),
        problem,
    })?;
    Ok(Part::Tensor(fit(shape, input, tensor, origin)?))
}

/// Gives a tensor the shape that the model expects: a batch dimension of 1 where it has none, all
/// dimensions where it is a single value.
fn fit(shape: &ModelShape, input: &InputShape, tensor: Tensor, origin: &str) -> Result<Tensor, PayloadError> {
    let sizes = tensor.shape().sizes();
    let batched = shape.batching && sizes.len() == input.dims.as_slice().len().saturating_add(1);
    let fitted = if batched && input.dims.admits(tensor.shape().row_sizes()) {
        Some(sizes.to_vec())
    } else if input.dims.admits(sizes) {
        Some(with_batch(shape.batching, sizes))
    } else if sizes.is_empty() {
        Some(with_batch(shape.batching, &input.dims.filled(1)))
    } else {
        None
    };
    let got = tensor.shape().clone();
    fitted.and_then(|sizes| tensor.reshaped(Shape::new(sizes))).ok_or_else(|| PayloadError::WrongShape {
        input: shape.describe(input),
        origin: origin.to_owned(),
        got,
        note: if shape.batching { " (the batch dimension in front may be left out)" } else { "" },
    })
}

fn with_batch(batching: bool, sizes: &[usize]) -> Vec<usize> {
    let front = if batching { Some(1) } else { None };
    front.into_iter().chain(sizes.iter().copied()).collect()
}

impl Collected<'_> {
    /// Puts all values of the input together.
    fn assemble(self, shape: &ModelShape) -> Result<Tensor, PayloadError> {
        let Self { input, parts } = self;
        let mut loose = Vec::new();
        let mut rows = Vec::new();
        for part in parts {
            match part {
                Part::Element(element) => loose.push(element),
                Part::Tensor(tensor) => {
                    flush(shape, input, &mut loose, &mut rows)?;
                    rows.push(tensor);
                }
            }
        }
        flush(shape, input, &mut loose, &mut rows)?;
        concatenate(shape, input, rows)
    }
}

/// Makes one tensor of the string elements collected so far.
fn flush(shape: &ModelShape, input: &InputShape, loose: &mut Vec<Bytes>, rows: &mut Vec<Tensor>) -> Result<(), PayloadError> {
    if loose.is_empty() {
        return Ok(());
    }
    let refuse = || PayloadError::TextCount { input: shape.describe(input), got: loose.len() };
    let sizes = text_sizes(shape.batching, &input.dims, loose.len()).ok_or_else(refuse)?;
    let tensor = Tensor::from_strings(Shape::new(sizes), loose.iter().map(Bytes::as_ref)).ok_or_else(refuse)?;
    rows.push(tensor);
    loose.clear();
    Ok(())
}

/// The shape of `count` texts: with a batch dimension they make rows, without one they fill the variable dimension.
fn text_sizes(batching: bool, dims: &Dims, count: usize) -> Option<Vec<usize>> {
    let row = Shape::new(dims.filled(1));
    let per_row = row.element_count().filter(|elements| *elements > 0 && count.is_multiple_of(*elements))?;
    let repeats = count / per_row;
    if batching {
        return Some(std::iter::once(repeats).chain(row.sizes().iter().copied()).collect());
    }
    let mut sizes = row.sizes().to_vec();
    match dims.as_slice().iter().position(|dim| *dim == Dim::Variable) {
        Some(variable) => *sizes.get_mut(variable)? = repeats,
        None if repeats == 1 => {}
        None => return None,
    }
    Some(sizes)
}

fn concatenate(shape: &ModelShape, input: &InputShape, parts: Vec<Tensor>) -> Result<Tensor, PayloadError> {
    let name = || input.name.clone();
    let missing = || PayloadError::Missing { model: shape.model.clone(), input: shape.describe(input), name: name() };
    let mut parts = parts.into_iter();
    let first = parts.next().ok_or_else(missing)?;
    let rest: Vec<Tensor> = parts.collect();
    if rest.is_empty() {
        return Ok(first);
    }
    if !shape.batching {
        return Err(PayloadError::NotBatching { input: name(), model: shape.model.clone() });
    }
    let mut bytes = BytesMut::from(first.bytes().as_ref());
    let mut rows = first.shape().sizes().first().copied().unwrap_or(0);
    for other in &rest {
        if other.shape().row_sizes() != first.shape().row_sizes() {
            let (first, other) = (first.shape().clone(), other.shape().clone());
            return Err(PayloadError::UnlikeRows { input: name(), first, other });
        }
        bytes.extend_from_slice(other.bytes());
        rows = rows.saturating_add(other.shape().sizes().first().copied().unwrap_or(0));
    }
    Tensor::new(first.datatype(), first.shape().with_rows(rows), bytes.freeze()).ok_or_else(missing)
}

fn read(input: &str, path: &Path) -> Result<Bytes, PayloadError> {
    let refuse =
        |error: std::io::Error| PayloadError::Read { input: input.to_owned(), path: path.to_owned(), reason: error.to_string() };
    std::fs::read(path).map(Bytes::from).map_err(refuse)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
