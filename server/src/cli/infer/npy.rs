//! NumPy's .npy files, versions 1 to 3: little-endian arrays in C order, as tensors.
//!
//! Source: the format is described in NumPy's documentation, `numpy.lib.format`.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)
)]

use bytes::Bytes;

use crate::tensor::{DataType, Shape, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy aligns the data to this many bytes.
const ALIGNMENT: usize = 64;
/// A header longer than this is no honest file: NumPy itself refuses above 10,000 bytes.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// Why a .npy file cannot be read, or a tensor not be written as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(in crate::cli) enum NpyError {
    #[error("it does not begin with the mark of a .npy file")]
    Magic,
    #[error("format version {major}.{minor} is not known, expected 1.0, 2.0 or 3.0")]
    Version { major: u8, minor: u8 },
    #[error("the file ends within its header")]
    CutHeader,
    #[error("the header has no '{field}', expected a dictionary with 'descr', 'fortran_order' and 'shape'")]
    Header { field: &'static str },
    #[error("the shape {text} is no list of sizes")]
    Shape { text: String },
    #[error("elements of type '{descr}' are not supported; {advice}")]
    Element { descr: String, advice: &'static str },
    #[error("the array is in Fortran order; save it with numpy.ascontiguousarray")]
    FortranOrder,
    #[error("the shape {shape} is too large")]
    TooLarge { shape: Shape },
    #[error("the array holds {got} bytes, expected {expected} for its type and shape {shape}")]
    ByteCount { got: usize, expected: usize, shape: Shape },
    #[error("element {index} is no valid Unicode text")]
    Text { index: usize },
    #[error("string element {index} ends in a NUL byte, which .npy files cannot keep; write JSON instead")]
    TrailingNul { index: usize },
}

/// How the elements lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// As in a tensor of this type.
    Fixed(DataType),
    /// Byte strings padded with NULs to this many bytes.
    PaddedBytes(usize),
    /// Texts of this many UTF-32 units, padded with NULs.
    PaddedText(usize),
}

/// Reads a file; strings become a `BYTES` tensor (texts as UTF-8).
///
/// # Errors
/// [`NpyError`] for everything that is not a little-endian array in C order of a type that tensors have.
pub(super) fn read(file: &Bytes) -> Result<Tensor, NpyError> {
    let rest = file.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
    let (&[major, minor], rest) = rest.split_first_chunk::<2>().ok_or(NpyError::CutHeader)?;
    let (length, rest) = match (major, minor) {
        (1, 0) => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or(NpyError::CutHeader)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        (2 | 3, 0) => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or(NpyError::CutHeader)?;
            (usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX), rest)
        }
        _ => return Err(NpyError::Version { major, minor }),
    };
    if length > MAX_HEADER_BYTES {
        return Err(NpyError::CutHeader);
    }
    let header = rest.get(..length).ok_or(NpyError::CutHeader)?;
    let data = rest.get(length..).ok_or(NpyError::CutHeader)?;
    let header = String::from_utf8_lossy(header);
    let element = parse_element(field(&header, "descr").ok_or(NpyError::Header { field: "descr" })?)?;
    let order = field(&header, "fortran_order").ok_or(NpyError::Header { field: "fortran_order" })?;
    let shape = parse_shape(field(&header, "shape").ok_or(NpyError::Header { field: "shape" })?)?;
    // An array of one dimension is in both orders at once.
    if !order.starts_with("False") && shape.rank() > 1 {
        return Err(NpyError::FortranOrder);
    }
    build(element, shape, file.slice_ref(data))
}

/// The text that follows `'name':`.
fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let start = [format!("'{name}'"), format!("\"{name}\"")].iter().find_map(|key| Some((header.find(key)?, key.len())))?;
    let rest = header.get(start.0.checked_add(start.1)?..)?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn parse_element(text: &str) -> Result<Element, NpyError> {
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)).map(|(descr, _)| descr);
    let Some(descr) = quoted('\'').or_else(|| quoted('"')) else {
        let descr = text.chars().take(40).collect();
        return Err(NpyError::Element { descr, advice: "structured arrays have no tensor form" });
    };
    let refuse = |advice| Err(NpyError::Element { descr: descr.to_owned(), advice });
    if descr.starts_with('>') {
        return refuse("save it little-endian, for example with array.astype('<f4')");
    }
    let kind = descr.strip_prefix(['<', '|']).unwrap_or(descr);
    let fixed = match kind {
        "b1" => DataType::Bool,
        "u1" => DataType::Uint8,
        "u2" => DataType::Uint16,
        "u4" => DataType::Uint32,
        "u8" => DataType::Uint64,
        "i1" => DataType::Int8,
        "i2" => DataType::Int16,
        "i4" => DataType::Int32,
        "i8" => DataType::Int64,
        "f2" => DataType::Fp16,
        "f4" => DataType::Fp32,
        "f8" => DataType::Fp64,
        // NumPy has no bfloat16; the usual extension type is saved as two raw bytes.
        "V2" => DataType::Bf16,
        _ => {
            let width = |prefix: char| kind.strip_prefix(prefix).and_then(|digits| digits.parse::<usize>().ok());
            return match (width('S'), width('U')) {
                (Some(width), _) => Ok(Element::PaddedBytes(width)),
                (_, Some(width)) => Ok(Element::PaddedText(width)),
                _ if kind == "O" => refuse("save strings as array.astype('S') or astype('U'); pickled objects are not read"),
                _ => refuse("the types are b1, u1 to u8, i1 to i8, f2, f4, f8, V2 (bfloat16), S and U"),
            };
        }
    };
    Ok(Element::Fixed(fixed))
}

fn parse_shape(text: &str) -> Result<Shape, NpyError> {
    let refuse = || NpyError::Shape { text: text.chars().take(40).collect() };
    let (inner, _) = text.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(refuse)?;
    let sizes = inner.split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse);
    Ok(Shape::new(sizes.collect::<Result<Vec<usize>, _>>().map_err(|_| refuse())?))
}

fn build(element: Element, shape: Shape, data: Bytes) -> Result<Tensor, NpyError> {
    let too_large = || NpyError::TooLarge { shape: shape.clone() };
    let count = shape.element_count().ok_or_else(too_large)?;
    let width = match element {
        Element::Fixed(datatype) => datatype.element_bytes().unwrap_or(0),
        Element::PaddedBytes(width) => width,
        Element::PaddedText(units) => units.checked_mul(4).ok_or_else(too_large)?,
    };
    let expected = count.checked_mul(width).ok_or_else(too_large)?;
    let wrong_count = |got| NpyError::ByteCount { got, expected, shape: shape.clone() };
    if data.len() != expected {
        return Err(wrong_count(data.len()));
    }
    let built = match element {
        Element::Fixed(datatype) => Tensor::new(datatype, shape.clone(), data.clone()),
        _ if width == 0 => Tensor::from_strings(shape.clone(), std::iter::repeat_n(&b""[..], bounded(count, &shape)?)),
        Element::PaddedBytes(_) => Tensor::from_strings(shape.clone(), data.chunks_exact(width).map(strip_padding)),
        Element::PaddedText(_) => {
            let texts = data.chunks_exact(width).enumerate().map(|(index, units)| decode_text(index, units));
            let texts = texts.collect::<Result<Vec<String>, _>>()?;
            Tensor::from_strings(shape.clone(), texts.iter().map(String::as_bytes))
        }
    };
    built.ok_or_else(|| wrong_count(data.len()))
}

/// Empty strings take no room in the file, so a short header could ask for any number of them.
fn bounded(count: usize, shape: &Shape) -> Result<usize, NpyError> {
    const MAX_EMPTY: usize = 1 << 24;
    if count > MAX_EMPTY { Err(NpyError::TooLarge { shape: shape.clone() }) } else { Ok(count) }
}

fn strip_padding(padded: &[u8]) -> &[u8] {
    let length = padded.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    padded.get(..length).unwrap_or(padded)
}

fn decode_text(index: usize, units: &[u8]) -> Result<String, NpyError> {
    let (units, _) = units.as_chunks::<4>();
    let mut text = String::new();
    for unit in units {
        text.push(char::from_u32(u32::from_le_bytes(*unit)).ok_or(NpyError::Text { index })?);
    }
    text.truncate(text.trim_end_matches('\0').len());
    Ok(text)
}

/// Writes a tensor: version 1.0, little-endian, C order. `BYTES` become strings padded to the longest.
///
/// # Errors
/// [`NpyError::TrailingNul`] for a string that the padding would shorten, [`NpyError::TooLarge`].
pub(super) fn write(tensor: &Tensor) -> Result<Vec<u8>, NpyError> {
    let (descr, data) = match tensor.datatype() {
        DataType::Bool => ("|b1".to_owned(), None),
        DataType::Uint8 => ("|u1".to_owned(), None),
        DataType::Uint16 => ("<u2".to_owned(), None),
        DataType::Uint32 => ("<u4".to_owned(), None),
        DataType::Uint64 => ("<u8".to_owned(), None),
        DataType::Int8 => ("|i1".to_owned(), None),
        DataType::Int16 => ("<i2".to_owned(), None),
        DataType::Int32 => ("<i4".to_owned(), None),
        DataType::Int64 => ("<i8".to_owned(), None),
        DataType::Fp16 => ("<f2".to_owned(), None),
        DataType::Fp32 => ("<f4".to_owned(), None),
        DataType::Fp64 => ("<f8".to_owned(), None),
        DataType::Bf16 => ("|V2".to_owned(), None),
        DataType::Bytes => {
            let (width, padded) = pad_strings(tensor)?;
            (format!("|S{width}"), Some(padded))
        }
    };
    let sizes = tensor.shape().sizes().iter().map(|size| format!("{size},")).collect::<Vec<_>>().join(" ");
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    let prefix = MAGIC.len().saturating_add(4);
    // The newline ends the header; spaces before it align the data.
    let unpadded = prefix.saturating_add(header.len()).saturating_add(1);
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT).saturating_sub(unpadded)));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| NpyError::TooLarge { shape: tensor.shape().clone() })?;
    let mut file = Vec::with_capacity(prefix.saturating_add(header.len()).saturating_add(tensor.bytes().len()));
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&[1, 0]);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data.as_deref().unwrap_or(tensor.bytes()));
    Ok(file)
}

fn pad_strings(tensor: &Tensor) -> Result<(usize, Vec<u8>), NpyError> {
    // NumPy reads a width of zero as "any", so even empty strings take one byte.
    let width = tensor.strings().map(<[u8]>::len).max().unwrap_or(0).max(1);
    let too_large = || NpyError::TooLarge { shape: tensor.shape().clone() };
    let total = tensor.strings().count().checked_mul(width).ok_or_else(too_large)?;
    let mut padded = Vec::new();
    padded.try_reserve_exact(total).map_err(|_| too_large())?;
    for (index, element) in tensor.strings().enumerate() {
        if element.last() == Some(&0) {
            return Err(NpyError::TrailingNul { index });
        }
        padded.extend_from_slice(element);
        padded.resize(padded.len().saturating_add(width.saturating_sub(element.len())), 0);
    }
    Ok((width, padded))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{NpyError, read, write};
    use crate::tensor::{DataType, Shape, Tensor};

    /// A version 1 file with this header, written as NumPy writes it but without padding.
    fn file(header: &str, data: &[u8]) -> Bytes {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(data);
        file.into()
    }

    fn header(descr: &str, order: &str, shape: &str) -> String {
        format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")
    }

    #[test]
    fn every_datatype_comes_back() {
        for datatype in DataType::all() {
            let shape = Shape::new([2, 3]);
            let tensor = match datatype.element_bytes() {
                Some(size) => Tensor::new(datatype, shape, (0..6 * size).map(|byte| byte as u8 % 2).collect()).unwrap(),
                None => Tensor::from_strings(shape, [&b"a"[..], b"", b"\0b", b"long element", b"\xff", b"c"]).unwrap(),
            };
            let file = write(&tensor).unwrap();
            assert_eq!(read(&Bytes::from(file)), Ok(tensor), "{datatype}");
        }
    }

    #[test]
    fn the_data_is_aligned_and_the_header_is_pythonic() {
        let tensor = Tensor::new(DataType::Fp32, Shape::new([1, 2]), Bytes::from_static(&[0; 8])).unwrap();
        let file = write(&tensor).unwrap();
        assert_eq!(file.len(), 64 + 64 + 8);
        let text = String::from_utf8_lossy(&file[10..]);
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2,), }"), "{text}");
        assert_eq!(file[127], b'\n');
    }

    #[test]
    fn texts_and_scalars_and_other_versions_are_read() {
        let data: Vec<u8> = "h\u{e9}\0\0".chars().flat_map(|unit| u32::from(unit).to_le_bytes()).collect();
        let tensor = read(&file(&header("'<U2'", "False", "(2,)"), &data)).unwrap();
        assert_eq!(tensor.strings().collect::<Vec<_>>(), ["h\u{e9}".as_bytes(), b""]);
        let scalar = read(&file(&header("'<i4'", "False", "()"), &[7, 0, 0, 0])).unwrap();
        assert_eq!((scalar.shape().rank(), scalar.bytes().len()), (0, 4));
        let vector = read(&file(&header("'|u1'", "True", "(2,)"), &[1, 2])).unwrap();
        assert_eq!(vector.shape(), &Shape::new([2]));
        let text = header("'|u1'", "False", "(1,)");
        let mut second = b"\x93NUMPY\x02\x00".to_vec();
        second.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
        second.extend_from_slice(text.as_bytes());
        second.push(9);
        assert_eq!(read(&second.into()).unwrap().bytes().as_ref(), [9]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let cases = [
            (Bytes::from_static(b"PK"), "mark of a .npy file"),
            (Bytes::from_static(b"\x93NUMPY\x09\x00"), "format version 9.0"),
            (Bytes::from_static(b"\x93NUMPY\x01\x00\xff\x00{"), "ends within its header"),
            (file("{}", &[]), "no 'descr'"),
            (file(&header("'<f4'", "False", "(x,)"), &[]), "no list of sizes"),
            (file(&header("'>f4'", "False", "(1,)"), &[0; 4]), "'>f4' are not supported; save it little-endian"),
            (file(&header("'|O'", "False", "(1,)"), &[0; 4]), "pickled objects"),
            (file(&header("[('a', '<f4')]", "False", "(1,)"), &[0; 4]), "structured arrays"),
            (file(&header("'<c8'", "False", "(1,)"), &[0; 8]), "the types are"),
            (file(&header("'<f4'", "True", "(2, 2)"), &[0; 16]), "Fortran order"),
            (file(&header("'<f4'", "False", "(2, 2)"), &[0; 15]), "holds 15 bytes, expected 16"),
            (file(&header("'<f8'", "False", "(4294967296, 4294967296)"), &[]), "too large"),
            (file(&header("'|S0'", "False", "(99999999,)"), &[]), "too large"),
            (file(&header("'<U1'", "False", "(1,)"), &[0xff; 4]), "element 0 is no valid Unicode"),
        ];
        for (file, text) in cases {
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
        let tensor = Tensor::from_strings(Shape::new([1]), [&b"a\0"[..]]).unwrap();
        assert_eq!(write(&tensor), Err(NpyError::TrailingNul { index: 0 }));
    }

    proptest::proptest! {
        #[test]
        fn cut_and_mutated_files_never_panic(cut in 0usize..160, position in 0usize..160, value: u8) {
            let tensor = Tensor::new(DataType::Int16, Shape::new([4, 2]), Bytes::from_static(&[1; 16])).unwrap();
            let mut bytes = write(&tensor).unwrap();
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
            bytes.truncate(cut);
            drop(read(&bytes.into()));
        }
    }
}
