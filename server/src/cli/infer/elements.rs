//! Tensors as JSON: nested lists, or the tensor object of the protocol's JSON form.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)
)]

use bytes::{BufMut, BytesMut};
use half::{bf16, f16};
use serde_json::Value;

use crate::tensor::{DataType, Shape, Tensor};

/// A tensor as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    /// The `name` of a tensor object.
    pub(super) name: Option<String>,
    /// The `datatype` of a tensor object.
    pub(super) datatype: Option<String>,
    /// The `shape` of a tensor object; without one the nesting of the lists is the shape.
    pub(super) shape: Option<Shape>,
    /// The elements, in lists of any nesting.
    pub(super) data: Value,
}

/// Why JSON makes no tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(in crate::cli) enum ElementError {
    #[error("{0}")]
    Syntax(String),
    #[error("'{field}' is {got}, expected {expected}")]
    Field { field: &'static str, got: String, expected: &'static str },
    #[error("'{field}' is no field of a tensor; its fields are name, shape, datatype, parameters and data")]
    UnknownField { field: String },
    #[error("a tensor object needs 'data'")]
    NoData,
    #[error("the lists are ragged: one at depth {depth} has {got} entries, expected {expected} as in the one before")]
    Ragged { depth: usize, got: usize, expected: usize },
    #[error("lists and single values stand side by side at depth {depth}")]
    Mixed { depth: usize },
    #[error("'shape' is {shape}, which asks for {expected} elements, but 'data' holds {got}")]
    Count { shape: Shape, expected: usize, got: usize },
    #[error("the shape {shape} is too large")]
    TooLarge { shape: Shape },
    #[error("element {index} is {got}, which is no {datatype}; expected {expected}")]
    Element { index: usize, got: String, datatype: DataType, expected: &'static str },
}

/// Reads JSON that holds one tensor, or a request object with several `inputs`.
///
/// # Errors
/// [`ElementError`] for broken JSON and wrong fields.
pub(super) fn parse(text: &str) -> Result<Vec<Written>, ElementError> {
    let value: Value = serde_json::from_str(text).map_err(|error| ElementError::Syntax(error.to_string()))?;
    match value {
        Value::Object(mut object) if object.contains_key("inputs") => match object.remove("inputs") {
            Some(Value::Array(inputs)) if !inputs.is_empty() => inputs.into_iter().map(parse_tensor).collect(),
            other => Err(field("inputs", &other.unwrap_or_default(), "a list of tensors")),
        },
        other => Ok(vec![parse_tensor(other)?]),
    }
}

fn parse_tensor(value: Value) -> Result<Written, ElementError> {
    let Value::Object(object) = value else {
        return Ok(Written { name: None, datatype: None, shape: None, data: value });
    };
    let mut written = Written { name: None, datatype: None, shape: None, data: Value::Null };
    let mut has_data = false;
    for (key, value) in object {
        match key.as_str() {
            "name" => written.name = Some(text("name", value)?),
            "datatype" => written.datatype = Some(text("datatype", value)?),
            "shape" => written.shape = Some(parse_shape(&value)?),
            "data" => {
                written.data = value;
                has_data = true;
            }
            "parameters" if value.as_object().is_some_and(serde_json::Map::is_empty) => {}
            "parameters" => return Err(field("parameters", &value, "none: they cannot be passed on from here")),
            _ => return Err(ElementError::UnknownField { field: key }),
        }
    }
    if has_data { Ok(written) } else { Err(ElementError::NoData) }
}

fn text(name: &'static str, value: Value) -> Result<String, ElementError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(field(name, &other, "a string")),
    }
}

fn parse_shape(value: &Value) -> Result<Shape, ElementError> {
    let sizes = value
        .as_array()
        .and_then(|sizes| sizes.iter().map(|size| usize::try_from(size.as_u64()?).ok()).collect::<Option<Vec<_>>>());
    sizes.map(Shape::new).ok_or_else(|| field("shape", value, "a list of sizes >= 0"))
}

fn field(field: &'static str, got: &Value, expected: &'static str) -> ElementError {
    ElementError::Field { field, got: shorten(got), expected }
}

/// The beginning of a value, for messages.
fn shorten(value: &Value) -> String {
    const SHOWN: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Encodes the elements as tensors hold them.
///
/// # Errors
/// [`ElementError`] for ragged lists, a wrong count, and an element that the datatype cannot hold.
pub(super) fn encode(written: &Written, datatype: DataType) -> Result<Tensor, ElementError> {
    let mut found = Found::default();
    found.walk(&written.data, 0)?;
    let nested = Shape::new(found.sizes.iter().map(|size| size.unwrap_or(0)).collect::<Vec<_>>());
    let shape = written.shape.clone().unwrap_or(nested);
    let expected = shape.element_count().ok_or_else(|| ElementError::TooLarge { shape: shape.clone() })?;
    let got = found.elements.len();
    let wrong_count = || ElementError::Count { shape: shape.clone(), expected, got };
    if expected != got {
        return Err(wrong_count());
    }
    let mut bytes = BytesMut::new();
    for (index, element) in found.elements.iter().enumerate() {
        put(&mut bytes, element, datatype).map_err(|expected| ElementError::Element {
            index,
            got: shorten(element),
            datatype,
            expected,
        })?;
    }
    Tensor::new(datatype, shape.clone(), bytes.freeze()).ok_or_else(wrong_count)
}

/// The elements of nested lists, in order, and the size of the lists at each depth.
#[derive(Default)]
struct Found<'a> {
    sizes: Vec<Option<usize>>,
    elements: Vec<&'a Value>,
    /// At which depth the elements are, once one is known.
    depth: Option<usize>,
}

impl<'a> Found<'a> {
    fn walk(&mut self, value: &'a Value, depth: usize) -> Result<(), ElementError> {
        let Value::Array(list) = value else {
            if *self.depth.get_or_insert(depth) != depth || depth < self.sizes.len() {
                return Err(ElementError::Mixed { depth });
            }
            self.elements.push(value);
            return Ok(());
        };
        if self.depth.is_some_and(|elements| depth >= elements) {
            return Err(ElementError::Mixed { depth });
        }
        match self.sizes.get(depth) {
            None => self.sizes.push(Some(list.len())),
            Some(Some(expected)) if *expected != list.len() => {
                return Err(ElementError::Ragged { depth, got: list.len(), expected: *expected });
            }
            Some(_) => {}
        }
        list.iter().try_for_each(|entry| self.walk(entry, depth.saturating_add(1)))
    }
}

/// Appends one element, or says what was expected.
fn put(bytes: &mut BytesMut, element: &Value, datatype: DataType) -> Result<(), &'static str> {
    /// Appends an integer of the given type.
    macro_rules! integer {
        ($kind:ty, $read:ident, $expected:literal) => {
            bytes.put_slice(&element.$read().and_then(|value| <$kind>::try_from(value).ok()).ok_or($expected)?.to_le_bytes())
        };
    }
    match datatype {
        DataType::Bool => bytes.put_u8(u8::from(element.as_bool().ok_or("true or false")?)),
        DataType::Uint8 => integer!(u8, as_u64, "an integer from 0 to 255"),
        DataType::Uint16 => integer!(u16, as_u64, "an integer from 0 to 65535"),
        DataType::Uint32 => integer!(u32, as_u64, "an integer from 0 to 4294967295"),
        DataType::Uint64 => integer!(u64, as_u64, "an integer from 0 to 18446744073709551615"),
        DataType::Int8 => integer!(i8, as_i64, "an integer from -128 to 127"),
        DataType::Int16 => integer!(i16, as_i64, "an integer from -32768 to 32767"),
        DataType::Int32 => integer!(i32, as_i64, "an integer from -2147483648 to 2147483647"),
        DataType::Int64 => integer!(i64, as_i64, "an integer of 64 bits"),
        DataType::Fp16 => bytes.put_slice(&finite(element, f16::from_f64, f16::is_finite)?.to_le_bytes()),
        DataType::Bf16 => bytes.put_slice(&finite(element, bf16::from_f64, bf16::is_finite)?.to_le_bytes()),
        DataType::Fp32 => bytes.put_slice(&finite(element, narrow, f32::is_finite)?.to_le_bytes()),
        DataType::Fp64 => bytes.put_slice(&finite(element, |value| value, f64::is_finite)?.to_le_bytes()),
        DataType::Bytes => {
            let text = element.as_str().ok_or("a string")?;
            bytes.put_u32_le(u32::try_from(text.len()).map_err(|_| "a string of less than 4 GiB")?);
            bytes.put_slice(text.as_bytes());
        }
    }
    Ok(())
}

/// Rounds to the nearest `f32`.
#[allow(clippy::as_conversions, reason = "there is no other conversion from f64 to f32 in the language")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// A float; what JSON has no number for is written as a string, and a number may not become infinite.
fn finite<T: Copy>(element: &Value, convert: impl Fn(f64) -> T, is_finite: impl Fn(T) -> bool) -> Result<T, &'static str> {
    const EXPECTED: &str = "a number in its range, \"NaN\", \"Infinity\" or \"-Infinity\"";
    match element.as_str() {
        Some("NaN") => return Ok(convert(f64::NAN)),
        Some("Infinity") => return Ok(convert(f64::INFINITY)),
        Some("-Infinity") => return Ok(convert(f64::NEG_INFINITY)),
        Some(_) => return Err(EXPECTED),
        None => {}
    }
    let converted = convert(element.as_f64().ok_or(EXPECTED)?);
    if is_finite(converted) { Ok(converted) } else { Err(EXPECTED) }
}

#[cfg(test)]
mod tests {
    use super::{encode, parse};
    use crate::tensor::{DataType, Shape};

    fn encoded(text: &str, datatype: DataType) -> Result<(Shape, Vec<u8>), String> {
        let written = parse(text).map_err(|error| error.to_string())?;
        let tensor = encode(&written[0], datatype).map_err(|error| error.to_string())?;
        Ok((tensor.shape().clone(), tensor.bytes().to_vec()))
    }

    #[test]
    fn nesting_is_the_shape() {
        assert_eq!(encoded("[[1,2,3],[4,5,6]]", DataType::Uint8), Ok((Shape::new([2, 3]), vec![1, 2, 3, 4, 5, 6])));
        assert_eq!(encoded("5", DataType::Int16), Ok((Shape::new([]), vec![5, 0])));
        assert_eq!(encoded("[]", DataType::Int16), Ok((Shape::new([0]), vec![])));
        assert_eq!(encoded("[[],[]]", DataType::Fp32), Ok((Shape::new([2, 0]), vec![])));
        assert_eq!(encoded("[true,false]", DataType::Bool), Ok((Shape::new([2]), vec![1, 0])));
        assert_eq!(encoded("[\"a\",\"\"]", DataType::Bytes), Ok((Shape::new([2]), vec![1, 0, 0, 0, b'a', 0, 0, 0, 0])));
    }

    #[test]
    fn floats_of_every_width() {
        let (_, fp32) = encoded("[1.5,\"NaN\",\"-Infinity\",3]", DataType::Fp32).unwrap();
        let read: Vec<f32> = fp32.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!((read[0], read[1].is_nan(), read[2], read[3]), (1.5, true, f32::NEG_INFINITY, 3.0));
        assert_eq!(encoded("[1.5]", DataType::Fp16), Ok((Shape::new([1]), vec![0x00, 0x3e])));
        assert_eq!(encoded("[1.5]", DataType::Bf16), Ok((Shape::new([1]), vec![0xc0, 0x3f])));
        assert_eq!(encoded("[1]", DataType::Fp64), Ok((Shape::new([1]), 1f64.to_le_bytes().to_vec())));
    }

    #[test]
    fn tensor_objects_carry_their_shape() {
        let text = r#"{"inputs":[{"name":"A","shape":[2,1],"datatype":"INT8","data":[1,2]},{"name":"B","data":[[3]]}]}"#;
        let written = parse(text).unwrap();
        assert_eq!(written.len(), 2);
        assert_eq!(written[0].datatype.as_deref(), Some("INT8"));
        assert_eq!(encode(&written[0], DataType::Int8).unwrap().shape(), &Shape::new([2, 1]));
        assert_eq!(encode(&written[1], DataType::Int8).unwrap().shape(), &Shape::new([1, 1]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("[1,", DataType::Int8, "EOF while parsing"),
            ("[[1,2],[3]]", DataType::Int8, "ragged: one at depth 1 has 1 entries, expected 2"),
            ("[1,[2]]", DataType::Int8, "side by side at depth 1"),
            ("[[1],2]", DataType::Int8, "side by side at depth 1"),
            ("[[],1]", DataType::Int8, "side by side at depth 1"),
            ("[1,300]", DataType::Uint8, "element 1 is 300, which is no UINT8; expected an integer from 0 to 255"),
            ("[-1]", DataType::Uint64, "element 0 is -1"),
            ("[1.0]", DataType::Int32, "element 0 is 1.0"),
            ("[1e39]", DataType::Fp32, "a number in its range"),
            ("[70000]", DataType::Fp16, "a number in its range"),
            ("[1]", DataType::Bool, "true or false"),
            ("[1]", DataType::Bytes, "a string"),
            (r#"{"shape":[3],"data":[1]}"#, DataType::Int8, "asks for 3 elements, but 'data' holds 1"),
            (r#"{"shape":[-1],"data":[1]}"#, DataType::Int8, "'shape' is [-1], expected a list of sizes"),
            (r#"{"shape":[1]}"#, DataType::Int8, "needs 'data'"),
            (r#"{"data":[1],"dtype":"INT8"}"#, DataType::Int8, "'dtype' is no field of a tensor"),
            (r#"{"inputs":{}}"#, DataType::Int8, "'inputs' is {}, expected a list of tensors"),
            (r#"{"shape":[4294967296,4294967296],"data":[1]}"#, DataType::Int8, "too large"),
        ];
        for (text, datatype, expected) in cases {
            let error = encoded(text, datatype).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
