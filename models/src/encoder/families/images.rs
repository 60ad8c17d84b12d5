//! What configurations say about images: sizes of images and patches.

use serde_json::Value;

use crate::error::ModelError;
use crate::json::JsonFile;
use crate::plan::batch::ImageInput;

/// The most pixels along a side of an image. Published models have at most about a thousand.
const MAX_SIDE: usize = 1 << 14;
/// The most channels of an image.
const MAX_CHANNELS: usize = 1 << 8;
/// The most patches of an image, so that a few digits in a file cannot ask for more memory than there is.
const MAX_PATCHES: usize = 1 << 16;

/// What stands in an error where one or two sides of an image are expected.
const SIDES: &str = "an integer from 1 to 16384, or [height, width] of such";

/// Height and width: one number for both, or a list of the two.
pub(super) fn sides(config: &JsonFile, field: &str, default: usize) -> Result<(usize, usize), ModelError> {
    let Some((field, value)) = config.value(&[field]) else { return Ok((default, default)) };
    let side = |value: &Value| value.as_u64().map(|side| side as usize).filter(|side| (1..=MAX_SIDE).contains(side));
    let sides = match value.as_array().map(Vec::as_slice) {
        Some([height, width]) => side(height).zip(side(width)),
        Some(_) => None,
        None => side(value).map(|side| (side, side)),
    };
    sides.ok_or_else(|| config.invalid(field, value, SIDES))
}

/// The side of a square.
pub(super) fn square(config: &JsonFile, field: &str, default: usize) -> Result<usize, ModelError> {
    let (height, width) = sides(config, field, default)?;
    if height == width {
        return Ok(height);
    }
    let got = Value::from(format!("{height} x {width}"));
    Err(config.invalid(field, &got, "an integer: this family has square images and patches only"))
}

/// What images are checked against. As in the reference implementation, pixels right of and below the last whole patch are
/// not looked at.
pub(super) fn input(
    config: &JsonFile,
    (height, width): (usize, usize),
    patch: (usize, usize),
    first_tokens: usize,
) -> Result<ImageInput, ModelError> {
    let channels = config.integer(&["num_channels"], 1..=MAX_CHANNELS)?.unwrap_or(3);
    let input = ImageInput { channels, height, width, patch, first_tokens };
    if (1..=MAX_PATCHES).contains(&input.patches()) {
        return Ok(input);
    }
    let expected = format!("1 to {MAX_PATCHES} patches in an image of {height} x {width}");
    Err(config.invalid("patch_size", &Value::from(format!("{} x {}", patch.0, patch.1)), &expected))
}

/// Height and width of the images that the preprocessor of `config` makes; `None` without a file, or if they vary.
///
/// # Errors
/// Those of reading `preprocessor_config.json`.
pub(super) fn preprocessed(config: &JsonFile) -> Result<Option<(usize, usize)>, ModelError> {
    let Some(file) = JsonFile::read(&config.path().with_file_name("preprocessor_config.json"))? else { return Ok(None) };
    let cropped = file.boolean(&["do_center_crop"])?.unwrap_or(true) && file.value(&["crop_size"]).is_some();
    let field = if cropped { "crop_size" } else { "size" };
    if !cropped && !file.boolean(&["do_resize"])?.unwrap_or(true) {
        return Ok(None);
    }
    match file.value(&[field]) {
        None => Ok(None),
        Some((_, Value::Object(_))) => {
            let Some(size) = file.section(field)? else { return Ok(None) };
            let side = |name: &str| size.integer(&[name], 1..=MAX_SIDE);
            // With only one edge given the other follows from the image.
            Ok(side("height")?.zip(side("width")?))
        }
        // One number as `size` is the shorter edge for some processors and both edges for others; as `crop_size` it is a
        // square for all.
        Some(_) if cropped => sides(&file, field, 0).map(Some),
        Some(_) => Ok(None),
    }
}
