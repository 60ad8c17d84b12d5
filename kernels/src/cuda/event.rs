//! Events: moments of a stream that others can wait for.

use std::hint;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{DriverError, result, sys};

use super::gpu::Handle;
use super::{DeviceError, Gpu, Stream};

/// How long a host asks over and over before it goes to sleep: about what waking up costs.
const SPIN: Duration = Duration::from_micros(50);

/// A moment of a stream: when everything that was enqueued before it is done. One that was never recorded has passed.
#[derive(Debug)]
pub struct Event {
    gpu: Arc<Gpu>,
    handle: Handle<sys::CUevent>,
}

impl Event {
    /// An event for waiting.
    ///
    /// # Errors
    /// The driver has none left.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        use sys::CUevent_flags_enum::{CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING};
        Self::with_flags(gpu, CU_EVENT_BLOCKING_SYNC as u32 | CU_EVENT_DISABLE_TIMING as u32)
    }

    /// An event that notes the time, too.
    ///
    /// # Errors
    /// The driver has none left.
    pub fn timed(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        Self::with_flags(gpu, sys::CUevent_flags_enum::CU_EVENT_BLOCKING_SYNC as u32)
    }

    fn with_flags(gpu: &Arc<Gpu>, flags: u32) -> Result<Self, DeviceError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the driver writes one handle, which lives through the call.
        gpu.call("making an event", || unsafe { sys::cuEventCreate(&mut handle, flags) }.result())?;
        Ok(Event { gpu: Arc::clone(gpu), handle: Handle(handle) })
    }

    pub(super) fn handle(&self) -> sys::CUevent {
        self.handle.0
    }

    /// Makes it the moment after everything that is enqueued on `stream` now. Who waits already is not affected.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn record(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: the event and the stream are alive, and of one context.
        self.gpu.call("recording an event", || unsafe { result::event::record(self.handle.0, stream.handle()) })
    }

    /// Whether it has passed.
    ///
    /// # Errors
    /// Something enqueued failed.
    pub fn is_complete(&self) -> Result<bool, DeviceError> {
        self.gpu.enter()?;
        // SAFETY: the event is alive.
        match unsafe { result::event::query(self.handle.0) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(self.gpu.error("work on the device", error)),
        }
    }

    /// Waits until it has passed: asks for a moment, then sleeps.
    ///
    /// # Errors
    /// Something enqueued failed.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let start = Instant::now();
        loop {
            if self.is_complete()? {
                return Ok(());
            }
            if start.elapsed() >= SPIN {
                break;
            }
            hint::spin_loop();
        }
        // SAFETY: the event is alive.
        self.gpu.call("work on the device", || unsafe { result::event::synchronize(self.handle.0) })
    }

    /// Milliseconds from this moment to a later one; both are [`Event::timed`], and have passed.
    ///
    /// # Errors
    /// One has not passed, or notes no time.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f32, DeviceError> {
        // SAFETY: both events are alive.
        self.gpu.call("taking a time", || unsafe { result::event::elapsed(self.handle.0, end.handle.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's own. The driver keeps what is still waited for.
        self.gpu.free("freeing an event", || unsafe { result::event::destroy(self.handle.0) });
    }
}
