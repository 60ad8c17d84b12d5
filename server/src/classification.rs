//! The classification extension: the highest elements of an output, as texts with their index and label.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]

use std::cmp::Ordering;
use std::fmt;

use crate::error::InferError;
use crate::request::OutputTensor;
use crate::tensor::{DataType, Shape, Tensor};

/// Most elements that are classified, as in Triton.
const MAX_ELEMENTS: usize = 1_000_000;

/// One element, widened without loss.
#[derive(Clone, Copy, Debug)]
enum Score {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

impl Score {
    /// High before low; not-a-number comes last.
    fn descending(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Signed(a), Self::Signed(b)) => b.cmp(&a),
            (Self::Unsigned(a), Self::Unsigned(b)) => b.cmp(&a),
            (Self::Float(a), Self::Float(b)) => b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
            // The elements of a tensor are of one kind.
            _ => Ordering::Equal,
        }
    }
}

impl fmt::Display for Score {
    /// As C's `printf` writes them: integers plain, floats with six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Float(value) if value.is_nan() => f.write_str("nan"),
            Self::Float(value) => write!(f, "{value:.6}"),
        }
    }
}

/// Replaces scores by their `classes` highest, each written `<value>:<index>` or `<value>:<index>:<label>`.
///
/// `output`: `[rows, ...]` where the model batches, else any shape, of an integer type, FP32 or FP64. The result
/// is BYTES `[rows, n]` or `[n]`, where n is the smaller of `classes` and the elements of a row (or of the whole
/// tensor). Equal values come in the order of their indices, and not-a-number comes last.
///
/// # Errors
/// [`InferError::ClassificationType`] for BOOL, FP16, BF16 and BYTES; [`InferError::ClassificationTooLarge`].
///
/// Source: Triton's classification extension.
pub fn classify(
    output: &OutputTensor,
    labels: Option<&[String]>,
    classes: usize,
    batching: bool,
) -> Result<OutputTensor, InferError> {
    let tensor = &output.tensor;
    let datatype = tensor.datatype();
    let unsupported = || InferError::ClassificationType { datatype };
    let read = reader(datatype).ok_or_else(unsupported)?;
    let element_bytes = datatype.element_bytes().ok_or_else(unsupported)?;
    let elements = tensor.bytes().len() / element_bytes;
    if elements > MAX_ELEMENTS {
        return Err(InferError::ClassificationTooLarge { elements, limit: MAX_ELEMENTS });
    }
    let (rows, row_elements) = match (batching, tensor.shape().sizes().first()) {
        (true, Some(rows)) => (*rows, Shape::new(tensor.shape().row_sizes()).element_count().unwrap_or(0)),
        _ => (1, elements),
    };
    let shown = classes.min(row_elements);
    let mut texts = Vec::new();
    // Without elements there may be any number of rows and no text.
    if shown > 0 {
        for row in tensor.bytes().chunks_exact(row_elements.saturating_mul(element_bytes)) {
            let scores = row.chunks_exact(element_bytes).map(read).enumerate().collect();
            texts.extend(highest(scores, shown).into_iter().map(|(index, score)| text(score, index, labels)));
        }
    }
    let shape = if batching { Shape::new([rows, shown]) } else { Shape::new([shown]) };
    let tensor = Tensor::from_strings(shape, texts.iter().map(String::as_bytes)).ok_or(InferError::Abandoned)?;
    Ok(OutputTensor { name: output.name.clone(), tensor })
}

/// The `shown` highest scores with their indices, highest first.
fn highest(mut scores: Vec<(usize, Score)>, shown: usize) -> Vec<(usize, Score)> {
    let order = |a: &(usize, Score), b: &(usize, Score)| a.1.descending(b.1).then(a.0.cmp(&b.0));
    if shown < scores.len() {
        // Only what is shown is sorted: of a thousand classes, clients ask for five.
        scores.select_nth_unstable_by(shown, order);
        scores.truncate(shown);
    }
    scores.sort_unstable_by(order);
    scores
}

fn text(score: Score, index: usize, labels: Option<&[String]>) -> String {
    match labels.and_then(|labels| labels.get(index)).filter(|label| !label.is_empty()) {
        Some(label) => format!("{score}:{index}:{label}"),
        None => format!("{score}:{index}"),
    }
}

/// How one little-endian element of a datatype is read; `None` for datatypes that are not classified.
fn reader(datatype: DataType) -> Option<fn(&[u8]) -> Score> {
    fn array<const N: usize>(element: &[u8]) -> [u8; N] {
        element.first_chunk().copied().unwrap_or([0; N])
    }
    Some(match datatype {
        DataType::Uint8 => |element| Score::Unsigned(u64::from(u8::from_le_bytes(array(element)))),
        DataType::Uint16 => |element| Score::Unsigned(u64::from(u16::from_le_bytes(array(element)))),
        DataType::Uint32 => |element| Score::Unsigned(u64::from(u32::from_le_bytes(array(element)))),
        DataType::Uint64 => |element| Score::Unsigned(u64::from_le_bytes(array(element))),
        DataType::Int8 => |element| Score::Signed(i64::from(i8::from_le_bytes(array(element)))),
        DataType::Int16 => |element| Score::Signed(i64::from(i16::from_le_bytes(array(element)))),
        DataType::Int32 => |element| Score::Signed(i64::from(i32::from_le_bytes(array(element)))),
        DataType::Int64 => |element| Score::Signed(i64::from_le_bytes(array(element))),
        DataType::Fp32 => |element| Score::Float(f64::from(f32::from_le_bytes(array(element)))),
        DataType::Fp64 => |element| Score::Float(f64::from_le_bytes(array(element))),
        DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::as_conversions)]

    use bytes::Bytes;

    use super::*;

    fn output(datatype: DataType, sizes: &[usize], bytes: Vec<u8>) -> OutputTensor {
        let tensor = Tensor::new(datatype, Shape::new(sizes), Bytes::from(bytes)).unwrap();
        OutputTensor { name: "OUTPUT0".into(), tensor }
    }

    fn floats(sizes: &[usize], values: &[f32]) -> OutputTensor {
        output(DataType::Fp32, sizes, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn texts(output: &OutputTensor) -> Vec<String> {
        output.tensor.strings().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    }

    fn labels(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_row_of_a_batch_has_its_own_classes() {
        let scores = floats(&[2, 4], &[0.1, 0.4, 0.2, 0.3, 9.0, -1.0, 8.5, 7.0]);
        let names = labels(&["zero", "one", "two"]);
        let classes = classify(&scores, Some(&names), 2, true).unwrap();
        assert_eq!(classes.tensor.shape(), &Shape::new([2, 2]));
        assert_eq!(texts(&classes), ["0.400000:1:one", "0.300000:3", "9.000000:0:zero", "8.500000:2:two"]);
    }

    #[test]
    fn without_batching_the_whole_tensor_is_ranked() {
        let classes = classify(&floats(&[2, 2], &[1.0, 5.0, 3.0, 4.0]), None, 100, false).unwrap();
        assert_eq!(classes.tensor.shape(), &Shape::new([4]));
        assert_eq!(texts(&classes), ["5.000000:1", "4.000000:3", "3.000000:2", "1.000000:0"]);
    }

    #[test]
    fn equal_values_keep_their_order_and_nan_is_last() {
        let classes = classify(&floats(&[5], &[f32::NAN, 2.0, f32::INFINITY, 2.0, f32::NEG_INFINITY]), None, 5, false).unwrap();
        assert_eq!(texts(&classes), ["inf:2", "2.000000:1", "2.000000:3", "-inf:4", "nan:0"]);
    }

    #[test]
    fn integers_are_written_plain() {
        let signed = output(DataType::Int16, &[3], [7i16, -2, 9].iter().flat_map(|value| value.to_le_bytes()).collect());
        assert_eq!(texts(&classify(&signed, None, 3, false).unwrap()), ["9:2", "7:0", "-2:1"]);
        let unsigned = output(DataType::Uint64, &[2], [1u64, u64::MAX].iter().flat_map(|value| value.to_le_bytes()).collect());
        assert_eq!(texts(&classify(&unsigned, None, 1, false).unwrap()), ["18446744073709551615:1"]);
    }

    #[test]
    fn zero_sizes_give_no_class() {
        assert_eq!(classify(&floats(&[0, 4], &[]), None, 2, true).unwrap().tensor.shape(), &Shape::new([0, 2]));
        assert_eq!(classify(&floats(&[3, 0], &[]), None, 2, true).unwrap().tensor.shape(), &Shape::new([3, 0]));
        assert_eq!(classify(&floats(&[0], &[]), None, 2, false).unwrap().tensor.shape(), &Shape::new([0]));
    }

    #[test]
    fn datatypes_without_an_order_are_refused() {
        for datatype in [DataType::Bool, DataType::Fp16, DataType::Bf16] {
            let scores = output(datatype, &[1], vec![0; datatype.element_bytes().unwrap()]);
            assert_eq!(classify(&scores, None, 1, false), Err(InferError::ClassificationType { datatype }));
        }
        let strings = output(DataType::Bytes, &[0], Vec::new());
        assert_eq!(classify(&strings, None, 1, false), Err(InferError::ClassificationType { datatype: DataType::Bytes }));
    }

    #[test]
    fn too_many_elements_are_refused() {
        let most = output(DataType::Uint8, &[MAX_ELEMENTS], vec![0; MAX_ELEMENTS]);
        assert_eq!(texts(&classify(&most, None, 1, false).unwrap()), ["0:0"]);
        let elements = MAX_ELEMENTS + 1;
        let scores = output(DataType::Uint8, &[elements], vec![0; elements]);
        assert_eq!(classify(&scores, None, 1, false), Err(InferError::ClassificationTooLarge { elements, limit: MAX_ELEMENTS }));
    }
}
