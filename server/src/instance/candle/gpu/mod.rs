//! Owns encoders on GPUs: which can be used, models on them, and the lanes that run batches. May import what `candle` may;
//! must never know the command line. Without the feature `cuda` nothing is there, and whoever asks is told so.

/// What keeps a build without CUDA from using a GPU.
#[cfg(not(feature = "cuda"))]
const NOT_BUILT: &str = "this build has no CUDA support: build with scripts/build-cuda";

/// What a GPU is, as part of a sentence.
///
/// # Errors
/// Why it cannot be used.
#[cfg(not(feature = "cuda"))]
pub(super) fn probe(_ordinal: u32) -> Result<String, String> {
    Err(NOT_BUILT.to_owned())
}

/// How many GPUs there are.
///
/// # Errors
/// Why none can be used.
#[cfg(not(feature = "cuda"))]
pub(super) fn count() -> Result<u32, String> {
    Err(NOT_BUILT.to_owned())
}
