//! Images cut into patches, and the patches' vectors with what stands before them and where they stand.
//!
//! Owns: [`PatchSpec`], `patches` and `assemble` on a GPU (`cuda`) and their specification (`twin`). May import: `cuda`. Must
//! never import: other operations, anything that knows models. On the CPU a plan cuts images as it reads them from a message;
//! there is no operation of this kind.
//!
//! # Contract
//! `patches`: `pixels: [items, channels, height, width] f32`, result `[items * down * across, channels * patch height * patch
//! width]`: the patches of each image from left to right and from the top down, each in the order of a convolution's weights.
//!
//! `assemble`: `patches: [items, count, n]`, `first: [before, n] f32` (optional), `positions: [before + count, n] f32`, result
//! `[items, before + count, n]`: `first` and then the patches, plus the positions.
//!
//! Patches and results are f32, f16 or bf16. Tolerance: none where the result is f32; otherwise the sum in f32 is rounded to the
//! nearest number of its type.
//!
//! Source: Dosovitskiy et al. 2021, equation 1.

pub mod cuda;
pub(crate) mod twin;

/// How images are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchSpec {
    /// Colors of a pixel.
    pub channels: usize,
    /// Lines of an image.
    pub height: usize,
    /// Pixels of a line.
    pub width: usize,
    /// Height and width of a patch, which divide those of the image.
    pub patch: (usize, usize),
}

impl PatchSpec {
    /// Numbers of an image.
    pub fn pixels(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Numbers of a patch.
    pub fn columns(&self) -> usize {
        self.channels * self.patch.0 * self.patch.1
    }
}
