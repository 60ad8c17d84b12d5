//! Answers as readable text, as JSON and as .npy files.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)
)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use proto::inference::{InferParameter, ModelInferResponse, infer_parameter::ParameterChoice};
use serde_json::{Map, Number, Value, json};

use super::npy::{self, NpyError};
use crate::tensor::{DataType, Shape, Tensor};

/// Elements of a row that readable text shows.
const SHOWN_ELEMENTS: usize = 8;
/// Rows of a tensor that readable text shows.
const SHOWN_ROWS: usize = 16;

/// Why an answer cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(in crate::cli) enum RenderError {
    #[error("the answer holds {got} raw contents for {expected} outputs")]
    ContentCount { expected: usize, got: usize },
    #[error("output '{output}' of the answer has the unknown datatype '{datatype}'")]
    Datatype { output: String, datatype: String },
    #[error("output '{output}' of the answer has shape {shape:?}, which its {bytes} bytes do not fill")]
    Contents { output: String, shape: Vec<i64>, bytes: usize },
    #[error("output '{output}' cannot be saved: {problem}")]
    Npy { output: String, problem: NpyError },
    #[error("output '{output}' cannot be saved under its name; use --format json")]
    FileName { output: String },
}

/// An answer with its tensors checked.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Answer {
    model: String,
    version: String,
    id: String,
    parameters: Vec<(String, Value)>,
    outputs: Vec<(String, Tensor)>,
}

impl Answer {
    /// Checks a response message.
    ///
    /// # Errors
    /// [`RenderError`] for tensors that contradict themselves.
    pub(in crate::cli) fn decode(response: ModelInferResponse) -> Result<Self, RenderError> {
        let (expected, got) = (response.outputs.len(), response.raw_output_contents.len());
        if expected != got {
            return Err(RenderError::ContentCount { expected, got });
        }
        let outputs = response.outputs.into_iter().zip(response.raw_output_contents).map(|(output, contents)| {
            let Some(datatype) = DataType::parse(&output.datatype) else {
                return Err(RenderError::Datatype { output: output.name, datatype: output.datatype });
            };
            let bytes = contents.len();
            let sizes = output.shape.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<Vec<_>>>();
            let tensor = sizes
                .and_then(|sizes| Tensor::new(datatype, Shape::new(sizes), contents))
                .filter(|tensor| datatype != DataType::Bytes || Some(tensor.strings().count()) == tensor.shape().element_count());
            match tensor {
                Some(tensor) => Ok((output.name, tensor)),
                None => Err(RenderError::Contents { output: output.name, shape: output.shape, bytes }),
            }
        });
        Ok(Self {
            model: response.model_name,
            version: response.model_version,
            id: response.id,
            parameters: response.parameters.iter().map(|(key, value)| (key.clone(), parameter(value))).collect(),
            outputs: outputs.collect::<Result<_, _>>()?,
        })
    }

    /// The tensors, by output name.
    pub(in crate::cli) fn outputs(&self) -> &[(String, Tensor)] {
        &self.outputs
    }

    /// Readable text: a line per output and its first rows and elements, or `all` of them.
    pub(super) fn text(&self, all: bool) -> String {
        let mut text = format!("{} version {}", self.model, self.version);
        if !self.id.is_empty() {
            push(&mut text, format_args!(", id {}", self.id));
        }
        for (key, value) in &self.parameters {
            push(&mut text, format_args!(", {key} = {value}"));
        }
        text.push('\n');
        for (name, tensor) in &self.outputs {
            push(&mut text, format_args!("{name} {} {}\n", tensor.datatype(), tensor.shape()));
            tensor_rows(&mut text, tensor, all);
        }
        text
    }

    /// The protocol's JSON form of a response, elements flat. Infinities and NaN are strings; a string
    /// that is no UTF-8 is an object `{"base64": "..."}`.
    pub(super) fn json(&self) -> Value {
        let outputs: Vec<Value> = self
            .outputs
            .iter()
            .map(|(name, tensor)| {
                let data: Vec<Value> = elements(tensor).map(|element| element.json()).collect();
                json!({"name": name, "datatype": tensor.datatype().as_str(), "shape": tensor.shape().sizes(), "data": data})
            })
            .collect();
        let mut object = Map::new();
        object.insert("model_name".to_owned(), self.model.clone().into());
        object.insert("model_version".to_owned(), self.version.clone().into());
        if !self.id.is_empty() {
            object.insert("id".to_owned(), self.id.clone().into());
        }
        if !self.parameters.is_empty() {
            object.insert("parameters".to_owned(), Value::Object(self.parameters.iter().cloned().collect()));
        }
        object.insert("outputs".to_owned(), outputs.into());
        Value::Object(object)
    }

    /// One .npy file per output below `directory`; a response of a stream carries its `number` in the names.
    ///
    /// # Errors
    /// [`RenderError::Npy`], and [`RenderError::FileName`] for an output whose name would leave the directory.
    pub(super) fn files(&self, directory: &Path, number: Option<usize>) -> Result<Vec<(PathBuf, Vec<u8>)>, RenderError> {
        self.outputs
            .iter()
            .map(|(name, tensor)| {
                if name.is_empty() || name.contains(['/', '\\', '\0']) {
                    return Err(RenderError::FileName { output: name.clone() });
                }
                let file = match number {
                    Some(number) => format!("{name}.{number}.npy"),
                    None => format!("{name}.npy"),
                };
                let bytes = npy::write(tensor).map_err(|problem| RenderError::Npy { output: name.clone(), problem })?;
                Ok((directory.join(file), bytes))
            })
            .collect()
    }
}

fn parameter(value: &InferParameter) -> Value {
    match &value.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(value)) => Value::from(*value),
        Some(ParameterChoice::Int64Param(value)) => Value::from(*value),
        Some(ParameterChoice::StringParam(value)) => Value::from(value.clone()),
        Some(ParameterChoice::DoubleParam(value)) => Value::from(*value),
        Some(ParameterChoice::Uint64Param(value)) => Value::from(*value),
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    text.write_fmt(arguments).unwrap_or_default();
}

/// One element of a tensor.
enum Element<'a> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Bytes(&'a [u8]),
}

impl Element<'_> {
    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Single(value) => value.to_string(),
            Self::Double(value) => value.to_string(),
            Self::Bytes(bytes) => match str::from_utf8(bytes) {
                Ok(text) => format!("{text:?}"),
                Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
            },
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Bool(value) => Value::from(*value),
            Self::Unsigned(value) => Value::from(*value),
            Self::Signed(value) => Value::from(*value),
            // The shortest digits that read back as the same f32, not those of its f64 neighbor.
            Self::Single(value) => float(value.to_string().parse().unwrap_or(f64::NAN)),
            Self::Double(value) => float(*value),
            Self::Bytes(bytes) => match str::from_utf8(bytes) {
                Ok(text) => Value::from(text),
                Err(_) => json!({"base64": base64(bytes)}),
            },
        }
    }
}

fn float(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::from("NaN"),
        None if value > 0.0 => Value::from("Infinity"),
        None => Value::from("-Infinity"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: [char; 64] = digits();
    let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| chunk.get(index).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4usize {
            let shift = 18usize.saturating_sub(digit.saturating_mul(6));
            let index = usize::try_from(bits >> shift & 63).unwrap_or(0);
            // A chunk of n bytes fills n + 1 digits.
            text.push(if digit <= chunk.len() { DIGITS.get(index).copied().unwrap_or('=') } else { '=' });
        }
    }
    text
}

/// The digits of base64, in order.
#[allow(clippy::indexing_slicing, clippy::as_conversions, reason = "evaluated by the compiler, which would refuse a fault")]
const fn digits() -> [char; 64] {
    let text = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digits = ['='; 64];
    let mut index = 0;
    while index < 64 {
        digits[index] = text[index] as char;
        index += 1;
    }
    digits
}

/// The elements in row-major order.
fn elements<'a>(tensor: &'a Tensor) -> Box<dyn Iterator<Item = Element<'a>> + 'a> {
    let bytes = tensor.bytes().as_ref();
    /// The elements as numbers of one type.
    macro_rules! numbers {
        ($kind:ty, $size:literal, $make:expr) => {
            Box::new(bytes.as_chunks::<$size>().0.iter().map(|bytes| $make(<$kind>::from_le_bytes(*bytes))))
        };
    }
    match tensor.datatype() {
        DataType::Bool => Box::new(bytes.iter().map(|byte| Element::Bool(*byte != 0))),
        DataType::Uint8 => numbers!(u8, 1, |value| Element::Unsigned(u64::from(value))),
        DataType::Uint16 => numbers!(u16, 2, |value| Element::Unsigned(u64::from(value))),
        DataType::Uint32 => numbers!(u32, 4, |value| Element::Unsigned(u64::from(value))),
        DataType::Uint64 => numbers!(u64, 8, Element::Unsigned),
        DataType::Int8 => numbers!(i8, 1, |value| Element::Signed(i64::from(value))),
        DataType::Int16 => numbers!(i16, 2, |value| Element::Signed(i64::from(value))),
        DataType::Int32 => numbers!(i32, 4, |value| Element::Signed(i64::from(value))),
        DataType::Int64 => numbers!(i64, 8, Element::Signed),
        DataType::Fp16 => numbers!(f16, 2, |value: f16| Element::Single(value.to_f32())),
        DataType::Bf16 => numbers!(bf16, 2, |value: bf16| Element::Single(value.to_f32())),
        DataType::Fp32 => numbers!(f32, 4, Element::Single),
        DataType::Fp64 => numbers!(f64, 8, Element::Double),
        DataType::Bytes => Box::new(tensor.strings().map(Element::Bytes)),
    }
}

/// Appends the rows along the last dimension, each behind its index.
fn tensor_rows(text: &mut String, tensor: &Tensor, all: bool) {
    let sizes = tensor.shape().sizes();
    let (outer, columns) = match sizes.split_last() {
        Some((columns, outer)) => (outer, *columns),
        None => (sizes, 1),
    };
    let rows = outer.iter().fold(1usize, |product, size| product.saturating_mul(*size));
    if columns == 0 || rows == 0 {
        return;
    }
    let (shown_rows, shown) = if all { (rows, columns) } else { (rows.min(SHOWN_ROWS), columns.min(SHOWN_ELEMENTS)) };
    let mut elements = elements(tensor);
    for row in 0..shown_rows {
        let mut line: Vec<String> = elements
            .by_ref()
            .take(columns)
            .enumerate()
            .filter(|(column, _)| *column < shown)
            .map(|(_, element)| element.text())
            .collect();
        if shown < columns {
            line.push(format!("... {} more", columns.saturating_sub(shown)));
        }
        push(text, format_args!("  {}{}\n", row_index(outer, row), line.join(" ")));
    }
    if shown_rows < rows {
        push(text, format_args!("  ... {} more rows\n", rows.saturating_sub(shown_rows)));
    }
}

/// `[i,j] `, the position of a row among the outer dimensions; nothing where there are none.
fn row_index(outer: &[usize], row: usize) -> String {
    let mut rest = row;
    let mut indices: Vec<usize> = outer
        .iter()
        .rev()
        .map(|size| {
            let index = rest.checked_rem(*size).unwrap_or(0);
            rest = rest.checked_div(*size).unwrap_or(0);
            index
        })
        .collect();
    indices.reverse();
    if indices.is_empty() { String::new() } else { format!("{} ", Shape::new(indices)) }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
