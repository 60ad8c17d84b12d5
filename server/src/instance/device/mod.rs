//! Owns the devices that models share: who runs next on each (`schedule`, pure), the rate limiter's resources
//! (`resources`, pure), which is meant where a configuration leaves it open (`choice`), the concurrent shell over both (`gate`), which devices there are (`registry`) and which of them
//! are lost (`health`). May
//! import the words, `config` and what of `instance` describes a model version; must never know a batch or a request.
//!
//! A device is a name and a number of slots, of which an execution takes one or more. Encoders share `cpu`, which has a
//! slot per core: an execution takes as many as it keeps threads busy, and so no more threads compute than there are
//! cores, however many models run. The builtin model `fake` shares the virtual device that it names; tokenizers and the
//! other builtin models share none. Under the rate limiter every instance claims turns, those of no device included.
//!
//! How a seat is used. An instance's thread that has something to run calls [`Seat::acquire`], runs one batch and, where
//! more waits for it, calls [`DevicePermit::exchange`], else drops the permit. A driver calls [`Seat::request`] when it
//! wants to run, forms the batch when the permit is there, and hands it to the instance with the batch. Both ask for the
//! next turn *before* they give back the one they have, as long as they have more to run: a model whose claim comes
//! after its release finds the device gone to whoever waited, and its weight would count for nothing. A claim that is
//! made early is not granted while all instances of the model run.

use std::num::NonZeroUsize;
use std::sync::Arc;

mod choice;
mod gate;
mod health;
mod registry;
pub mod resources;
pub mod schedule;

#[cfg(test)]
mod tests;

pub use choice::{ChosenDevice, DeviceChoice};
pub use gate::{Claim, DeviceGate, DevicePermit, Lane, Reservation, Seat};
pub use health::{Dependent, DeviceHealth};
pub use registry::{DeviceOptions, DeviceUsage, Devices, ModelUsage};

/// Batches under way on a GPU at a time, of all models together: one that computes and one whose inputs are copied
/// meanwhile, for two lanes, which is as many as small kernels need to fill a GPU. More would only make what is more urgent
/// wait behind what was launched before.
const CUDA_SLOTS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// What instances that share no device count as under the rate limiter: device 0, as in Triton.
const NO_DEVICE: &str = "0";

/// A device that models share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDevice {
    /// Name.
    pub name: Arc<str>,
    /// How many slots it has, unless the command line says otherwise.
    pub slots: NonZeroUsize,
}

impl SharedDevice {
    /// Name of the processor as a device.
    pub const CPU: &'static str = "cpu";

    /// Beginning of the names of GPUs as devices; their number follows.
    pub const CUDA: &'static str = "cuda:";

    /// The processor: one slot per core.
    pub fn cpu() -> Self {
        Self { name: Self::CPU.into(), slots: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN) }
    }

    /// A GPU: one slot per batch that is under way on it.
    pub fn cuda(ordinal: u32) -> Self {
        Self { name: format!("{}{ordinal}", Self::CUDA).into(), slots: CUDA_SLOTS }
    }

    /// What the rate limiter calls the device: the number of a GPU, as in Triton; the processor is device 0 there.
    fn number(&self) -> &str {
        if &*self.name == Self::CPU { NO_DEVICE } else { self.name.strip_prefix(Self::CUDA).unwrap_or(&self.name) }
    }
}

/// What concurrent files take their primitives from; tests put others in its place.
mod sync {
    pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

    pub(super) use crate::clock::now;
}
