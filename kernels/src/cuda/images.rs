//! The kernels that were compiled into this build (see build.rs).

/// The kernels of one source file.
struct Module {
    name: &'static str,
    images: &'static [Image],
}

/// A module in a form that a driver takes.
struct Image {
    /// The least compute capability that it serves, ten times.
    capability: u32,
    bytes: &'static [u8],
}

static MODULES: &[Module] = &include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// The least compute capability that every module serves; nothing if there are no kernels.
pub(super) fn least_capability() -> Option<u32> {
    let least = |module: &Module| module.images.iter().map(|image| image.capability).min();
    MODULES.iter().filter_map(least).max()
}

/// The image of every module that serves a device best, behind the module's name. They begin at multiples of 8 bytes, as
/// drivers want of machine code.
pub(super) fn fitting(capability: u32) -> impl Iterator<Item = (&'static str, Vec<u64>)> {
    MODULES.iter().filter_map(move |module| {
        let serves = |image: &&Image| image.capability <= capability;
        let image = module.images.iter().filter(serves).max_by_key(|image| image.capability)?;
        let mut words = vec![0u64; image.bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..image.bytes.len()].copy_from_slice(image.bytes);
        Some((module.name, words))
    })
}
