//! Pictures as tensors of pixels.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)
)]

use std::io::Cursor;

use bytes::{BufMut, Bytes, BytesMut};
use image::ImageReader;
use proto::inference::model_input::Format;

use super::payload::InputShape;
use crate::tensor::{DataType, Dim, Dims, Shape, Tensor};

/// Channels of a decoded picture: red, green, blue.
const CHANNELS: usize = 3;

/// Why a picture makes no tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(in crate::cli) enum PictureError {
    #[error("it cannot be decoded: {0}")]
    Decode(String),
    #[error("pixels are given as UINT8 or FP32, but the input takes {0}; prepare the picture yourself and send a .npy file")]
    Datatype(DataType),
    #[error("the input's dims {dims} are neither [height, width, 3] nor [3, height, width]")]
    Layout { dims: Dims },
    #[error("it is {width} pixels wide and {height} high, but the input's dims are {dims}; it is not resized for you")]
    Size { width: usize, height: usize, dims: Dims },
}

/// Where the channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// `[height, width, 3]`
    ChannelsLast,
    /// `[3, height, width]`
    ChannelsFirst,
}

/// Decodes a picture to RGB: `[height, width, 3]` or `[3, height, width]`, as the input's format or dims say,
/// UINT8 or FP32, both from 0 to 255. Transparency is dropped.
///
/// # Errors
/// [`PictureError`] where it does not decode or does not fit; a picture is never resized.
pub(super) fn decode(file: &Bytes, input: &InputShape) -> Result<Tensor, PictureError> {
    let layout = layout(input)?;
    if !matches!(input.datatype, DataType::Uint8 | DataType::Fp32) {
        return Err(PictureError::Datatype(input.datatype));
    }
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format();
    let decoded = reader
        .map_err(|error| PictureError::Decode(error.to_string()))?
        .decode()
        .map_err(|error| PictureError::Decode(error.to_string()))?
        .into_rgb8();
    let size = |pixels: u32| usize::try_from(pixels).unwrap_or(usize::MAX);
    let (width, height) = (size(decoded.width()), size(decoded.height()));
    let sizes = match layout {
        Layout::ChannelsLast => [height, width, CHANNELS],
        Layout::ChannelsFirst => [CHANNELS, height, width],
    };
    let wrong_size = || PictureError::Size { width, height, dims: input.dims.clone() };
    if !input.dims.admits(&sizes) {
        return Err(wrong_size());
    }
    let interleaved = decoded.into_raw();
    let pixels = match layout {
        Layout::ChannelsLast => interleaved,
        Layout::ChannelsFirst => {
            (0..CHANNELS).flat_map(|channel| interleaved.iter().skip(channel).step_by(CHANNELS).copied()).collect()
        }
    };
    let bytes = if input.datatype == DataType::Uint8 {
        pixels.into()
    } else {
        let mut bytes = BytesMut::with_capacity(pixels.len().saturating_mul(4));
        pixels.iter().for_each(|pixel| bytes.put_f32_le(f32::from(*pixel)));
        bytes.freeze()
    };
    Tensor::new(input.datatype, Shape::new(sizes), bytes).ok_or_else(wrong_size)
}

fn layout(input: &InputShape) -> Result<Layout, PictureError> {
    let channels = |dim: &Dim| *dim == Dim::Fixed(CHANNELS);
    match (input.format, input.dims.as_slice()) {
        (Format::Nhwc, [_, _, _]) => Ok(Layout::ChannelsLast),
        (Format::Nchw, [_, _, _]) => Ok(Layout::ChannelsFirst),
        (Format::None, [first, _, last]) if channels(last) && !channels(first) => Ok(Layout::ChannelsLast),
        (Format::None, [first, _, last]) if channels(first) && !channels(last) => Ok(Layout::ChannelsFirst),
        _ => Err(PictureError::Layout { dims: input.dims.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bytes::Bytes;
    use image::{ImageFormat, Rgb, RgbImage};
    use proto::inference::model_input::Format;

    use super::decode;
    use crate::cli::infer::payload::InputShape;
    use crate::tensor::{DataType, Dim, Dims, Shape};

    /// Two pixels wide, one high: (1,2,3), (4,5,6).
    fn png() -> Bytes {
        let picture = RgbImage::from_fn(2, 1, |x, _| if x == 0 { Rgb([1, 2, 3]) } else { Rgb([4, 5, 6]) });
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner().into()
    }

    fn input(datatype: DataType, format: Format, dims: &[i64]) -> InputShape {
        let dims: Vec<Dim> = dims.iter().map(|dim| usize::try_from(*dim).map_or(Dim::Variable, Dim::Fixed)).collect();
        InputShape { name: "I".to_owned(), datatype, dims: Dims::new(dims), format, optional: false }
    }

    #[test]
    fn both_layouts_and_types() {
        let last = decode(&png(), &input(DataType::Uint8, Format::None, &[-1, -1, 3])).unwrap();
        assert_eq!((last.shape(), last.bytes().as_ref()), (&Shape::new([1, 2, 3]), &[1, 2, 3, 4, 5, 6][..]));
        let first = decode(&png(), &input(DataType::Uint8, Format::None, &[3, 1, 2])).unwrap();
        assert_eq!((first.shape(), first.bytes().as_ref()), (&Shape::new([3, 1, 2]), &[1, 4, 2, 5, 3, 6][..]));
        let float = decode(&png(), &input(DataType::Fp32, Format::Nchw, &[-1, -1, -1])).unwrap();
        assert_eq!(float.bytes()[4..8], 4f32.to_le_bytes());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cases = [
            (input(DataType::Uint8, Format::None, &[224, 224, 3]), "2 pixels wide and 1 high"),
            (input(DataType::Uint8, Format::None, &[3, -1, 3]), "neither"),
            (input(DataType::Uint8, Format::None, &[-1]), "neither"),
            (input(DataType::Int64, Format::Nhwc, &[-1, -1, 3]), "takes INT64"),
            (input(DataType::Uint8, Format::Nhwc, &[-1, -1, 1]), "not resized"),
        ];
        for (input, text) in cases {
            let error = decode(&png(), &input).unwrap_err().to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
        let broken = decode(&Bytes::from_static(b"no picture"), &input(DataType::Uint8, Format::None, &[-1, -1, 3]));
        assert!(broken.unwrap_err().to_string().contains("cannot be decoded"));
    }
}
