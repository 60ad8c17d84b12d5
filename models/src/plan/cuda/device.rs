//! An opened GPU as models see it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use kernels::cuda::{self, Buffer, Description, LedgerLine, Stream, Tag};

use super::residency::Residency;
use crate::error::ModelError;

/// GPUs that are open: one for the process each.
static OPEN: Mutex<Vec<(u32, Weak<Gpu>)>> = Mutex::new(Vec::new());

/// How a GPU is used by all models on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// Whether more models may be loaded than fit: weights of idle models make room then, and come back with the next batch
    /// from copies in pinned memory of the host, which each model has from when it is loaded.
    pub overcommit: bool,
}

/// A GPU.
#[derive(Debug)]
pub struct Gpu {
    device: Arc<cuda::Gpu>,
    residency: Residency,
    options: GpuOptions,
}

/// What is known of the GPU number `ordinal`. Cheap: nothing stays open.
///
/// # Errors
/// [`ModelError::GpuUnusable`] says why it cannot be used.
pub fn probe(ordinal: u32) -> Result<Description, ModelError> {
    Ok(cuda::probe(ordinal)?)
}

impl Gpu {
    /// The GPU number `ordinal`, opened when nobody has it open. Who opens it first decides on the options; they hold until
    /// the last who has it drops it.
    ///
    /// # Errors
    /// [`ModelError::GpuUnusable`] says why it cannot be used, [`ModelError::GpuPoisoned`] that it no longer can.
    pub fn open(ordinal: u32, options: GpuOptions) -> Result<Arc<Self>, ModelError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, gpu)| gpu.strong_count() > 0);
        let known = open.iter().find_map(|(known, gpu)| (*known == ordinal).then(|| gpu.upgrade()).flatten());
        // The device answers whether it is still usable.
        let device = cuda::Gpu::open(ordinal)?;
        if let Some(gpu) = known {
            return Ok(gpu);
        }
        let gpu = Arc::new(Gpu { device, residency: Residency::default(), options });
        open.push((ordinal, Arc::downgrade(&gpu)));
        Ok(gpu)
    }

    /// Which GPU it is.
    pub fn ordinal(&self) -> u32 {
        self.device.ordinal()
    }

    /// What it is, with the memory that is free now.
    ///
    /// # Errors
    /// The driver does not tell.
    pub fn describe(&self) -> Result<Description, ModelError> {
        Ok(self.device.describe()?)
    }

    /// Memory that can still be taken.
    ///
    /// # Errors
    /// The driver does not tell.
    pub fn free_bytes(&self) -> Result<usize, ModelError> {
        Ok(self.device.memory()?.free_bytes)
    }

    /// Bytes by owner and kind, of everything that is taken and not yet given back.
    pub fn ledger(&self) -> Vec<LedgerLine> {
        self.device.ledger().snapshot()
    }

    /// Bytes on the device that the ledger knows of.
    pub fn ledger_bytes(&self) -> usize {
        self.device.ledger().device_bytes()
    }

    /// The fault that left it unusable for this process, if there was one.
    pub fn is_poisoned(&self) -> Option<String> {
        self.device.poisoned()
    }

    /// How it is used.
    pub fn options(&self) -> GpuOptions {
        self.options
    }

    pub(super) fn device(&self) -> &Arc<cuda::Gpu> {
        &self.device
    }

    pub(super) fn residency(&self) -> &Residency {
        &self.residency
    }

    /// Memory for a lane, for which idle models make room where that is allowed.
    pub(super) fn allocate(&self, stream: &Stream, bytes: usize, tag: &Tag) -> Result<Buffer, ModelError> {
        if !self.options.overcommit {
            return Ok(Buffer::tagged(stream, bytes, tag)?);
        }
        self.residency.allocate(stream, bytes, tag)
    }
}
