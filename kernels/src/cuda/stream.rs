//! Streams, and launches on them.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::{result, sys};

use super::gpu::Handle;
use super::{DeviceError, Event, Gpu, View};

/// The most parameters that a kernel has.
const MOST_ARGS: usize = 40;

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// An address; 0 stands for nothing.
    Address(u64),
    /// A number of 32 bits.
    U32(u32),
    /// A number of 32 bits with a sign.
    I32(i32),
    /// A number of 64 bits.
    U64(u64),
    /// A real number of 32 bits.
    F32(f32),
}

impl From<View> for Arg {
    fn from(view: View) -> Self {
        Arg::Address(view.address)
    }
}

impl From<Option<View>> for Arg {
    fn from(view: Option<View>) -> Self {
        Arg::Address(view.map_or(0, |view| view.address))
    }
}

/// How many blocks and threads a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: (u32, u32, u32),
    /// Threads of a block.
    pub threads: (u32, u32, u32),
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// Which streams a device serves first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// As all.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// A queue of work of a device. Work on it runs in order.
#[derive(Debug, Clone)]
pub struct Stream {
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    gpu: Arc<Gpu>,
    handle: Handle<sys::CUstream>,
    /// Whether what is enqueued is recorded, and not done.
    recording: AtomicBool,
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's own. The driver finishes what is enqueued before it frees it.
        self.gpu.free("freeing a stream", || unsafe { result::stream::destroy(self.handle.0) });
    }
}

impl Stream {
    /// A new queue, ordered after no other.
    ///
    /// # Errors
    /// The driver has none left.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        Self::with_priority(gpu, Priority::Normal)
    }

    /// A new queue that is served before or as others.
    ///
    /// # Errors
    /// The driver has none left.
    pub fn with_priority(gpu: &Arc<Gpu>, priority: Priority) -> Result<Self, DeviceError> {
        let handle = gpu.call("making a stream", || {
            use result::stream::StreamKind::NonBlocking;
            match priority {
                Priority::Normal => result::stream::create(NonBlocking),
                // The lower the number, the sooner.
                Priority::High => result::stream::create_with_priority(NonBlocking, result::stream::get_priority_range()?.1),
            }
        })?;
        let queue = Queue { gpu: Arc::clone(gpu), handle: Handle(handle), recording: AtomicBool::new(false) };
        Ok(Stream { queue: Arc::new(queue) })
    }

    /// Its device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.queue.gpu
    }

    pub(crate) fn handle(&self) -> sys::CUstream {
        self.queue.handle.0
    }

    /// Whether launches on it are recorded now, and not done.
    pub fn is_recording(&self) -> bool {
        self.queue.recording.load(Ordering::Relaxed)
    }

    pub(super) fn set_recording(&self, recording: bool) {
        self.queue.recording.store(recording, Ordering::Relaxed);
    }

    /// Whether both are the same queue.
    pub fn is(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.queue, &other.queue)
    }

    /// What cannot be part of a recording fails before it spoils it.
    pub(super) fn refuse_in_recording(&self, what: &str) -> Result<(), DeviceError> {
        if !self.is_recording() {
            return Ok(());
        }
        let reason = "launches are being recorded on this stream; do it before or after".to_owned();
        Err(DeviceError::Failed { ordinal: self.gpu().ordinal(), what: what.to_owned(), reason })
    }

    /// Waits until everything enqueued is done.
    ///
    /// # Errors
    /// Something enqueued failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.refuse_in_recording("waiting for a stream")?;
        // SAFETY: the stream is alive.
        self.gpu().call("work on the device", || unsafe { result::stream::synchronize(self.handle()) })
    }

    /// What is enqueued from now on begins when the moment has passed that `event` is now.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn wait(&self, event: &Event) -> Result<(), DeviceError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the stream and the event are alive, and of one context.
        self.gpu().call("waiting for an event", || unsafe { result::stream::wait_event(self.handle(), event.handle(), flags) })
    }

    /// Enqueues a copy from one place on the device to another.
    ///
    /// # Errors
    /// The driver refuses.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn copy(&self, from: View, to: View) -> Result<(), DeviceError> {
        assert_eq!(from.bytes(), to.bytes(), "a copy and what it copies differ in size");
        if from.bytes() == 0 {
            return Ok(());
        }
        let what = format_args!("copying {} bytes on the device", from.bytes());
        // SAFETY: both places have so many bytes; memory of the device is not memory of this process.
        self.gpu().call(what, || unsafe { result::memcpy_dtod_async(to.address, from.address, from.bytes(), self.handle()) })
    }

    /// Enqueues that every byte of a place on the device becomes `byte`.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn fill(&self, view: View, byte: u8) -> Result<(), DeviceError> {
        if view.bytes() == 0 {
            return Ok(());
        }
        let what = format_args!("filling {} bytes on the device", view.bytes());
        // SAFETY: the place has so many bytes; memory of the device is not memory of this process.
        self.gpu().call(what, || unsafe { result::memset_d8_async(view.address, byte, view.bytes(), self.handle()) })
    }

    /// Enqueues the kernel `name` of the source file `module`. For operations: they check what kernels rely on. A grid
    /// without blocks does nothing.
    ///
    /// # Errors
    /// There is no such kernel, or the driver refuses the launch.
    ///
    /// # Panics
    /// If there are more than 40 arguments.
    pub(crate) fn launch(&self, module: &'static str, name: &'static str, grid: Grid, args: &[Arg]) -> Result<(), DeviceError> {
        let (x, y, z) = grid.blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let kernel = self.gpu().kernel(module, name, grid.shared_bytes)?;
        assert!(args.len() <= MOST_ARGS, "kernel '{name}' has too many parameters");
        let mut places = [std::ptr::null_mut::<c_void>(); MOST_ARGS];
        for (place, arg) in places.iter_mut().zip(args) {
            *place = match arg {
                Arg::Address(value) | Arg::U64(value) => (&raw const *value).cast_mut().cast(),
                Arg::U32(value) => (&raw const *value).cast_mut().cast(),
                Arg::I32(value) => (&raw const *value).cast_mut().cast(),
                Arg::F32(value) => (&raw const *value).cast_mut().cast(),
            };
        }
        // SAFETY: operations pass the parameters that their kernel declares, of the sizes that it declares; the driver reads
        // them before it returns, and `args` lives as long. Views have lengths that operations have checked, and memory of
        // the device is not memory of this process.
        self.gpu().call(format_args!("launching '{name}'"), || unsafe {
            result::launch_kernel(kernel.0, grid.blocks, grid.threads, grid.shared_bytes, self.handle(), &mut places)
        })
    }
}
