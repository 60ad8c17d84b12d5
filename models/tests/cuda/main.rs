//! Plans on a device: a GPU, or the emulated one.

mod counts;
mod device;
mod discipline;
mod families;
mod lanes;
mod precision;
#[expect(dead_code, reason = "texts are for tests of tokenizers")]
#[path = "../it/recorded.rs"]
mod recorded;
mod residency;
mod widened;
