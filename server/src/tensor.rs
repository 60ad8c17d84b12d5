//! Tensors as the server sees them: a datatype, a shape and bytes, and the specifications that models declare.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// Element type of a tensor. `Bytes` elements are byte strings of any length, each stored with a
/// little-endian u32 length in front; all others have a fixed size and are stored little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bf16,
    Bytes,
}

/// Every datatype with its name on the wire.
const WIRE_NAMES: [(DataType, &str); 14] = [
    (DataType::Bool, "BOOL"),
    (DataType::Uint8, "UINT8"),
    (DataType::Uint16, "UINT16"),
    (DataType::Uint32, "UINT32"),
    (DataType::Uint64, "UINT64"),
    (DataType::Int8, "INT8"),
    (DataType::Int16, "INT16"),
    (DataType::Int32, "INT32"),
    (DataType::Int64, "INT64"),
    (DataType::Fp16, "FP16"),
    (DataType::Fp32, "FP32"),
    (DataType::Fp64, "FP64"),
    (DataType::Bf16, "BF16"),
    (DataType::Bytes, "BYTES"),
];

impl DataType {
    /// All datatypes, in the order of the KServe v2 text.
    pub fn all() -> impl Iterator<Item = DataType> {
        WIRE_NAMES.iter().map(|(datatype, _)| *datatype)
    }

    /// Parses the name used on the wire (`FP32`); `None` where there is no such datatype.
    pub fn parse(name: &str) -> Option<Self> {
        WIRE_NAMES.iter().find(|(_, wire)| *wire == name).map(|(datatype, _)| *datatype)
    }

    /// The name used on the wire.
    pub fn as_str(self) -> &'static str {
        WIRE_NAMES.iter().find(|(datatype, _)| *datatype == self).map_or("", |(_, wire)| wire)
    }

    /// Bytes per element, or `None` for `Bytes`, whose elements differ in size.
    pub const fn element_bytes(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Concrete sizes of a tensor, outermost first. Printed as clients know it: `[1,16]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// A shape of these sizes.
    pub fn new(sizes: impl Into<Vec<usize>>) -> Self {
        Self(sizes.into())
    }

    /// The sizes, outermost first.
    pub fn sizes(&self) -> &[usize] {
        &self.0
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The product of the sizes (1 for rank 0), or `None` where it does not fit.
    ///
    /// The product is taken over the non-zero sizes first, so that a zero does not hide an overflow.
    pub fn element_count(&self) -> Option<usize> {
        let non_zero = self.0.iter().filter(|size| **size != 0).try_fold(1usize, |product, size| product.checked_mul(*size))?;
        Some(if self.0.contains(&0) { 0 } else { non_zero })
    }

    /// The shape of one row: all sizes after the first.
    pub fn row_sizes(&self) -> &[usize] {
        self.0.get(1..).unwrap_or_default()
    }

    /// This shape with its first size replaced; a rank-0 shape gains a first dimension.
    pub fn with_rows(&self, rows: usize) -> Self {
        let mut sizes = Vec::with_capacity(self.0.len().max(1));
        sizes.push(rows);
        sizes.extend_from_slice(self.row_sizes());
        Self(sizes)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, &self.0)
    }
}

/// Writes `[a,b,c]`, the form in which error texts print shapes.
fn write_list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    f.write_str("[")?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{item}")?;
    }
    f.write_str("]")
}

/// One configured dimension: a size, or any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Exactly this size.
    Fixed(usize),
    /// Any size, zero included; written -1.
    Variable,
}

impl Dim {
    /// Whether a concrete size fits this dimension.
    pub fn admits(self, size: usize) -> bool {
        match self {
            Self::Fixed(expected) => expected == size,
            Self::Variable => true,
        }
    }

    /// Whether two configured dimensions can describe the same tensor.
    pub fn agrees(self, other: Dim) -> bool {
        match (self, other) {
            (Self::Fixed(a), Self::Fixed(b)) => a == b,
            _ => true,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Variable => f.write_str("-1"),
        }
    }
}

/// Configured dimensions of a tensor, without the batch dimension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dims(Vec<Dim>);

impl Dims {
    /// Dimensions in this order, outermost first.
    pub fn new(dims: impl Into<Vec<Dim>>) -> Self {
        Self(dims.into())
    }

    /// The dimensions, outermost first.
    pub fn as_slice(&self) -> &[Dim] {
        &self.0
    }

    /// These dimensions behind a batch dimension of any size, as metadata shows a batching model's tensors.
    pub fn with_batch(&self) -> Self {
        let mut dims = Vec::with_capacity(self.0.len() + 1);
        dims.push(Dim::Variable);
        dims.extend_from_slice(&self.0);
        Self(dims)
    }

    /// Whether concrete sizes fit, rank included.
    pub fn admits(&self, sizes: &[usize]) -> bool {
        self.0.len() == sizes.len() && self.0.iter().zip(sizes).all(|(dim, size)| dim.admits(*size))
    }

    /// Whether all sizes are fixed.
    pub fn is_fixed(&self) -> bool {
        self.0.iter().all(|dim| matches!(dim, Dim::Fixed(_)))
    }

    /// The sizes with each variable dimension replaced by `size`.
    pub fn filled(&self, size: usize) -> Vec<usize> {
        self.0
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(fixed) => *fixed,
                Dim::Variable => size,
            })
            .collect()
    }

    /// Carries concrete sizes over to dimensions of equal element count: the n-th variable dimension
    /// here gives its size to the n-th variable dimension of `to`. `None` where the sizes do not fit.
    pub fn carry(&self, sizes: &[usize], to: &Dims) -> Option<Vec<usize>> {
        if !self.admits(sizes) {
            return None;
        }
        let mut variable = self.0.iter().zip(sizes).filter(|(dim, _)| **dim == Dim::Variable).map(|(_, size)| *size);
        to.0.iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => Some(*size),
                Dim::Variable => variable.next(),
            })
            .collect()
    }

    /// The dimensions as the protocol writes them, -1 for a variable one.
    pub fn to_wire(&self) -> Vec<i64> {
        self.0
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
                Dim::Variable => -1,
            })
            .collect()
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, &self.0)
    }
}

/// Whom a tensor of a model is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TensorRole {
    /// Clients send it, or are sent it.
    #[default]
    Client,
    /// Input that tells the model about the sequence that a row belongs to; the server fills it in.
    Control,
    /// What the server keeps of a sequence between its requests: an output of one is an input of the next.
    State,
}

/// What a model declares about one of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name, unique among the model's inputs (or outputs).
    pub name: Arc<str>,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions that clients see, without the batch dimension.
    pub dims: Dims,
    /// Dimensions that the model sees, where they differ from `dims` (same element count).
    pub reshape: Option<Dims>,
    /// Inputs only: the request may leave it out.
    pub optional: bool,
    /// Inputs only: requests whose shapes differ in this input may share a batch.
    pub ragged: bool,
    /// Outputs only: one label per index, for classification.
    pub labels: Option<Arc<[String]>>,
    /// Whom it is for.
    pub role: TensorRole,
}

impl TensorSpec {
    /// A required input or plain output of this name, type and dimensions.
    pub fn new(name: impl Into<Arc<str>>, datatype: DataType, dims: impl Into<Vec<Dim>>) -> Self {
        Self {
            name: name.into(),
            datatype,
            dims: Dims::new(dims),
            reshape: None,
            optional: false,
            ragged: false,
            labels: None,
            role: TensorRole::Client,
        }
    }

    /// The same for another use than a client's.
    pub fn with_role(self, role: TensorRole) -> Self {
        Self { role, ..self }
    }

    /// Whether clients send it, or are sent it.
    pub fn is_for_clients(&self) -> bool {
        self.role == TensorRole::Client
    }
}

/// A tensor: element type, concrete shape and row-major contents in host memory.
///
/// Cloning and slicing share the bytes. The bytes are often a slice of a received message, so they
/// have no alignment: read numbers with `from_le_bytes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    datatype: DataType,
    shape: Shape,
    bytes: Bytes,
}

impl Tensor {
    /// A tensor over these bytes. For a fixed-size datatype the byte count must be that of the shape;
    /// `None` where it is not. The element count of `BYTES` is the caller's to check (see [`count_strings`]).
    pub fn new(datatype: DataType, shape: Shape, bytes: Bytes) -> Option<Self> {
        if let Some(size) = datatype.element_bytes() {
            let expected = shape.element_count()?.checked_mul(size)?;
            if expected != bytes.len() {
                return None;
            }
        }
        Some(Self { datatype, shape, bytes })
    }

    /// A `BYTES` tensor of these elements, or `None` where their number is not that of the shape
    /// or an element is longer than a u32 can say.
    pub fn from_strings<'a>(shape: Shape, elements: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut bytes = BytesMut::new();
        let mut count = 0usize;
        for element in elements {
            bytes.put_u32_le(u32::try_from(element.len()).ok()?);
            bytes.put_slice(element);
            count += 1;
        }
        (Some(count) == shape.element_count()).then(|| Self { datatype: DataType::Bytes, shape, bytes: bytes.freeze() })
    }

    /// A tensor whose elements are all zero, or empty strings; `None` beyond [`MAX_MADE_BYTES`].
    pub fn zeros(datatype: DataType, shape: Shape) -> Option<Self> {
        let bytes = zeros(datatype, shape.element_count()?)?;
        Self::new(datatype, shape, bytes)
    }

    /// Element type.
    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    /// Concrete shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Row-major contents.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same contents under another shape of equal element count; `None` where counts differ.
    pub fn reshaped(self, shape: Shape) -> Option<Self> {
        (shape.element_count() == self.shape.element_count()).then_some(Self { shape, ..self })
    }

    /// The elements of a `BYTES` tensor in row-major order.
    pub fn strings(&self) -> Strings<'_> {
        Strings { rest: &self.bytes }
    }
}

/// Most bytes of a tensor that the server makes up by itself: what the largest message can carry. Its size comes
/// from a configuration, which a client may have sent, and memory that cannot be had would end the process.
pub const MAX_MADE_BYTES: usize = 0x7fff_ffff;

/// Contents of `count` elements that are all zero: zero bytes, or empty strings. `None` beyond
/// [`MAX_MADE_BYTES`].
pub fn zeros(datatype: DataType, count: usize) -> Option<Bytes> {
    let size = datatype.element_bytes().unwrap_or(size_of::<u32>());
    let length = count.checked_mul(size).filter(|length| *length <= MAX_MADE_BYTES)?;
    Some(Bytes::from(vec![0; length]))
}

/// Iterator over length-prefixed elements; ends at the first incomplete one.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Strings<'a> {
    /// Iterates over raw `BYTES` contents.
    pub fn new(contents: &'a [u8]) -> Self {
        Self { rest: contents }
    }

    /// What has not been read: empty after the last element of well-formed contents.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let element = rest.get(..length)?;
        self.rest = rest.get(length..)?;
        Some(element)
    }
}

/// Why raw `BYTES` contents do not hold the expected number of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringsFault {
    /// The contents end after `got` elements.
    TooFew {
        /// Complete elements found.
        got: usize,
    },
    /// There is at least one element more than expected.
    TooMany,
    /// Fewer than four bytes are left where a length should stand.
    CutLength {
        /// Bytes left.
        available: usize,
    },
    /// A length says more bytes than are left.
    CutElement {
        /// Bytes that the length announces.
        announced: usize,
        /// Bytes left.
        available: usize,
    },
}

/// Checks that raw `BYTES` contents hold exactly `expected` elements; it reads lengths only and copies nothing.
///
/// # Errors
/// The first fault, in the order in which the bytes are read.
pub fn check_strings(contents: &[u8], expected: usize) -> Result<(), StringsFault> {
    let mut strings = Strings::new(contents);
    let mut got = 0usize;
    loop {
        let rest = strings.rest();
        if rest.is_empty() {
            break;
        }
        if got == expected {
            return Err(StringsFault::TooMany);
        }
        if strings.next().is_none() {
            return Err(match rest.split_first_chunk::<4>() {
                None => StringsFault::CutLength { available: rest.len() },
                Some((length, rest)) => StringsFault::CutElement {
                    announced: usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX),
                    available: rest.len(),
                },
            });
        }
        got += 1;
    }
    if got < expected { Err(StringsFault::TooFew { got }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datatypes_round_trip_by_name() {
        for datatype in DataType::all() {
            assert_eq!(DataType::parse(datatype.as_str()), Some(datatype));
        }
        assert_eq!(DataType::parse("FLOAT"), None);
    }

    #[test]
    fn element_count_sees_overflow_behind_a_zero() {
        assert_eq!(Shape::new([usize::MAX, 2, 0]).element_count(), None);
        assert_eq!(Shape::new([3, 0]).element_count(), Some(0));
        assert_eq!(Shape::new([]).element_count(), Some(1));
    }

    #[test]
    fn strings_keep_nul_and_empty_elements() {
        let elements: [&[u8]; 3] = [b"a\0b", b"", b"c"];
        let tensor = Tensor::from_strings(Shape::new([3]), elements).unwrap();
        assert_eq!(tensor.strings().collect::<Vec<_>>(), elements);
        assert_eq!(check_strings(tensor.bytes(), 3), Ok(()));
        assert_eq!(check_strings(tensor.bytes(), 2), Err(StringsFault::TooMany));
        assert_eq!(check_strings(tensor.bytes(), 4), Err(StringsFault::TooFew { got: 3 }));
        assert_eq!(check_strings(&tensor.bytes()[..9], 3), Err(StringsFault::CutLength { available: 2 }));
        assert_eq!(check_strings(&[9, 0, 0, 0, 1], 1), Err(StringsFault::CutElement { announced: 9, available: 1 }));
    }

    #[test]
    fn shapes_print_without_spaces() {
        assert_eq!(Shape::new([1, 17]).to_string(), "[1,17]");
        assert_eq!(Dims::new([Dim::Variable, Dim::Fixed(16)]).to_string(), "[-1,16]");
    }
}
