//! The specification of patches: plain loops.

use super::PatchSpec;

/// The patches of all images.
pub(crate) fn patches(pixels: &[f32], spec: &PatchSpec) -> Vec<f32> {
    let PatchSpec { channels, height, width, patch: (patch_height, patch_width) } = *spec;
    let mut out = Vec::new();
    for image in pixels.chunks(spec.pixels()) {
        for top in (0..height).step_by(patch_height) {
            for left in (0..width).step_by(patch_width) {
                for channel in 0..channels {
                    for y in top..top + patch_height {
                        out.extend((left..left + patch_width).map(|x| image[(channel * height + y) * width + x]));
                    }
                }
            }
        }
    }
    out
}

/// The rows of all items, in f64. Sizes are numbers, not rows.
pub(crate) fn assemble(patches: &[f32], first: &[f32], positions: &[f32]) -> Vec<f64> {
    let sum = |(a, b): (&f32, &f32)| f64::from(*a) + f64::from(*b);
    let item = |patches: &[f32]| first.iter().chain(patches).zip(positions).map(sum).collect::<Vec<f64>>();
    patches.chunks(positions.len() - first.len()).flat_map(item).collect()
}
