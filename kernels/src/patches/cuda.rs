//! Patches on a GPU.

use super::PatchSpec;
use crate::cuda::launch::{aligned, code, count, pack_grid};
use crate::cuda::{Arg, DeviceError, DeviceType, Stream, View};

/// Numbers of a pack of [`assemble`].
const PACK: usize = 8;

/// Cuts images into patches. See the [contract](super).
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn patches(stream: &Stream, pixels: View, spec: &PatchSpec, output: View) -> Result<(), DeviceError> {
    let PatchSpec { channels, height, width, patch: (patch_height, patch_width) } = *spec;
    assert!(
        spec.columns() > 0 && height.is_multiple_of(patch_height) && width.is_multiple_of(patch_width),
        "the patches leave a rest"
    );
    assert!(
        pixels.dtype == DeviceType::F32 && pixels.len.is_multiple_of(spec.pixels()),
        "the pixels are not whole images of f32"
    );
    assert!(output.len == pixels.len, "the output and the pixels disagree");
    let aligned = aligned(&[Some(pixels), Some(output)]);
    let (name, pack) = match patch_width {
        _ if aligned && patch_width.is_multiple_of(4) => ("patches_wide", 4),
        _ if aligned && patch_width.is_multiple_of(2) => ("patches_pairs", 2),
        _ => ("patches_narrow", 1),
    };
    let packs = pixels.len / pack;
    let sizes = [channels, height, width, patch_height, patch_width].map(|size| Arg::U32(count(size)));
    let mut args = vec![pixels.into()];
    args.extend(sizes);
    args.extend([output.into(), Arg::U32(code(output.dtype)), Arg::U32(count(packs))]);
    stream.launch("patches", name, pack_grid(packs), &args)
}

/// Puts `first` before the patches of each of `items` items and adds the positions. See the [contract](super).
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn assemble(
    stream: &Stream,
    patches: View,
    first: Option<View>,
    positions: View,
    n: usize,
    items: usize,
    output: View,
) -> Result<(), DeviceError> {
    let before = first.map_or(0, |first| first.len);
    assert!(first.is_none_or(|first| first.dtype == DeviceType::F32) && positions.dtype == DeviceType::F32, "parameters are f32");
    assert!(n > 0 && before.is_multiple_of(n) && positions.len.is_multiple_of(n), "the parameters and their width disagree");
    assert!(before < positions.len, "there are no positions for patches");
    assert!(patches.len == items * (positions.len - before), "the patches and the positions disagree");
    assert!(output.len == items * positions.len, "the output and the positions disagree");
    let wide = n.is_multiple_of(PACK) && aligned(&[Some(patches), first, Some(positions), Some(output)]);
    let packs = output.len / if wide { PACK } else { 1 };
    let args = [
        patches.into(),
        Arg::U32(code(patches.dtype)),
        first.into(),
        Arg::U32(count(before)),
        positions.into(),
        Arg::U32(count(positions.len)),
        output.into(),
        Arg::U32(code(output.dtype)),
        Arg::U32(count(packs)),
    ];
    stream.launch("patches", if wide { "assemble_wide" } else { "assemble_narrow" }, pack_grid(packs), &args)
}
