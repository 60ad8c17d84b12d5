//! Memory of the host that the device copies from and to while the host does other things.
//!
//! The device must have what it copies to itself, and what it copies from must not change. So the host reaches pinned memory
//! only through types that know whether a copy goes on: an [`UploadSlot`] waits before it can be filled again, and bytes of a
//! [`Download`] can be read once it has been waited for.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys};

use super::ledger::{Charge, MemoryKind, Tag};
use super::{DeviceError, Event, Gpu, Stream, View};

/// Who reads and who writes.
#[derive(Clone, Copy)]
enum Direction {
    /// The host writes. Its writes bypass the caches, which makes its reads very slow.
    ToDevice,
    /// The device writes.
    ToHost,
}

/// Pinned memory, and the event after the last copy.
#[derive(Debug)]
struct Slot {
    gpu: Arc<Gpu>,
    start: NonNull<u8>,
    bytes: usize,
    done: Event,
    /// Whether a copy may be going on; it is done after `done`.
    in_flight: bool,
    _charge: Charge,
}

// SAFETY: the memory is the slot's own, and pinned for every thread and context of the process; what the device does with it
// is behind `in_flight`.
unsafe impl Send for Slot {}
// SAFETY: a shared slot gives out nothing but its size.
unsafe impl Sync for Slot {}

impl Slot {
    fn new(gpu: &Arc<Gpu>, bytes: usize, owner: &str, direction: Direction) -> Result<Self, DeviceError> {
        let (bytes, tag) = (bytes.max(1), Tag::new(owner, MemoryKind::Pinned));
        let flags = match direction {
            Direction::ToDevice => sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_WRITECOMBINED,
            Direction::ToHost => sys::CU_MEMHOSTALLOC_PORTABLE,
        };
        let done = Event::new(gpu)?;
        let what = format_args!("pinning {bytes} bytes of the host's memory for '{owner}'");
        // SAFETY: the size is not 0, and the flags are those of the call.
        let start: *mut c_void = gpu.call(what, || unsafe { result::malloc_host(bytes, flags) })?;
        // SAFETY: there are as many bytes, which nobody else knows of yet. Bytes that are read as numbers must be initialized.
        unsafe { start.cast::<u8>().write_bytes(0, bytes) };
        let start = NonNull::new(start.cast()).expect("the driver pins no memory at address 0");
        let charge = gpu.ledger().charge(&tag, bytes);
        Ok(Slot { gpu: Arc::clone(gpu), start, bytes, done, in_flight: false, _charge: charge })
    }

    /// Waits until no copy goes on.
    fn settle(&mut self) -> Result<(), DeviceError> {
        if self.in_flight {
            self.done.wait()?;
            self.in_flight = false;
        }
        Ok(())
    }

    /// Enqueues a copy, and notes when it is done.
    fn copy(&mut self, stream: &Stream, view: View, range: Range<usize>, direction: Direction) -> Result<(), DeviceError> {
        assert!(range.start <= range.end && range.end <= self.bytes, "a copy lies outside its pinned memory");
        assert_eq!(range.len(), view.bytes(), "a copy and what it copies differ in size");
        stream.refuse_in_recording("copying pinned memory")?;
        if range.is_empty() {
            return Ok(());
        }
        if self.in_flight {
            // The event tells of one moment: that of this copy must not come before that of an earlier one elsewhere.
            stream.wait(&self.done)?;
        }
        let (bytes, queue) = (range.len(), stream.handle());
        // SAFETY: the range lies within the memory, which is not freed while `in_flight`, and which the host does not touch
        // meanwhile; the view has as many bytes, and memory of the device is not memory of this process.
        let copied = self.gpu.call(format_args!("copying {bytes} pinned bytes"), || unsafe {
            let host = self.start.as_ptr().add(range.start);
            match direction {
                Direction::ToDevice => sys::cuMemcpyHtoDAsync_v2(view.address, host.cast(), bytes, queue).result(),
                Direction::ToHost => sys::cuMemcpyDtoHAsync_v2(host.cast(), view.address, bytes, queue).result(),
            }
        });
        copied?;
        self.in_flight = true;
        if let Err(error) = self.done.record(stream) {
            // Without the event, waiting for everything is what is left.
            stream.synchronize()?;
            self.in_flight = false;
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.settle().is_err() && self.gpu.poisoned().is_none() {
            // The device may still copy: memory that is lost is better than memory that changes by itself.
            self.gpu.poison("waiting for a copy failed".to_owned());
        }
        // SAFETY: the memory is the slot's own, and no copy goes on.
        self.gpu.free("freeing pinned memory", || unsafe { result::free_host(self.start.as_ptr().cast()) });
    }
}

/// Pinned memory that the host fills and the device copies from.
#[derive(Debug)]
pub struct UploadSlot(Slot);

impl UploadSlot {
    /// So many bytes, 0 at first.
    ///
    /// # Errors
    /// The host has no such memory to pin.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize, owner: &str) -> Result<Self, DeviceError> {
        Slot::new(gpu, bytes, owner, Direction::ToDevice).map(UploadSlot)
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Lets `write` fill it, once no copy of it goes on. To be written from front to back, and not read: its memory bypasses
    /// the caches.
    ///
    /// # Errors
    /// A copy failed, or what was enqueued before it.
    pub fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> Result<R, DeviceError> {
        self.0.settle()?;
        // SAFETY: the memory has as many bytes, initialized, and no copy goes on; the slot is borrowed for as long as `write`
        // has them.
        Ok(write(unsafe { slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.bytes) }))
    }

    /// Enqueues a copy of some of its bytes to the device.
    ///
    /// # Errors
    /// The driver refuses, or launches are being recorded on the stream.
    ///
    /// # Panics
    /// If the sizes differ, or the bytes lie outside.
    pub fn upload(&mut self, stream: &Stream, from: Range<usize>, to: View) -> Result<(), DeviceError> {
        self.0.copy(stream, to, from, Direction::ToDevice)
    }
}

/// Slots that are filled in turn, so that the host fills one while the device copies from others.
#[derive(Debug)]
pub struct UploadRing {
    slots: VecDeque<UploadSlot>,
}

impl UploadRing {
    /// So many slots of so many bytes.
    ///
    /// # Errors
    /// The host has no such memory to pin.
    ///
    /// # Panics
    /// Without slots.
    pub fn new(gpu: &Arc<Gpu>, slots: usize, bytes: usize, owner: &str) -> Result<Self, DeviceError> {
        assert!(slots > 0, "a ring has slots");
        let slots: Result<_, _> = (0..slots).map(|_| UploadSlot::new(gpu, bytes, owner)).collect();
        Ok(UploadRing { slots: slots? })
    }

    /// The slot that was used longest ago.
    pub fn next_slot(&mut self) -> &mut UploadSlot {
        self.slots.rotate_left(1);
        self.slots.back_mut().expect("a ring has slots")
    }
}

/// Pinned memory that the device copies to, in slots that are lent and come back.
#[derive(Debug, Clone)]
pub struct DownloadRing(Arc<Ring>);

#[derive(Debug)]
struct Ring {
    gpu: Arc<Gpu>,
    bytes: usize,
    free: Mutex<Vec<Slot>>,
    returned: Condvar,
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DownloadRing {
    /// So many slots of so many bytes.
    ///
    /// # Errors
    /// The host has no such memory to pin.
    pub fn new(gpu: &Arc<Gpu>, slots: usize, bytes: usize, owner: &str) -> Result<Self, DeviceError> {
        let slots: Result<_, _> = (0..slots).map(|_| Slot::new(gpu, bytes, owner, Direction::ToHost)).collect();
        let (free, returned) = (Mutex::new(slots?), Condvar::new());
        Ok(DownloadRing(Arc::new(Ring { gpu: Arc::clone(gpu), bytes, free, returned })))
    }

    /// How many bytes a slot has.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// How many slots are not lent.
    pub fn free_slots(&self) -> usize {
        self.0.lock().len()
    }

    /// A slot, if one is not lent.
    pub fn try_take(&self) -> Option<DownloadSlot> {
        let slot = self.0.lock().pop()?;
        Some(DownloadSlot(Lent { slot: Some(slot), ring: Arc::clone(&self.0) }))
    }

    /// A slot; waits until one has come back.
    ///
    /// # Errors
    /// The device is poisoned.
    pub fn take(&self) -> Result<DownloadSlot, DeviceError> {
        let mut free = self.0.lock();
        loop {
            self.0.gpu.enter()?;
            if let Some(slot) = free.pop() {
                return Ok(DownloadSlot(Lent { slot: Some(slot), ring: Arc::clone(&self.0) }));
            }
            free = self.0.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A slot that goes back to its ring when dropped, after its copy.
#[derive(Debug)]
struct Lent {
    slot: Option<Slot>,
    ring: Arc<Ring>,
}

impl Lent {
    fn slot(&mut self) -> &mut Slot {
        self.slot.as_mut().expect("a slot is lent until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(mut slot) = self.slot.take() {
            match slot.settle() {
                Ok(()) => self.ring.lock().push(slot),
                // The device is poisoned, and the slot of no more use.
                Err(_) => drop(slot),
            }
        }
        self.ring.returned.notify_all();
    }
}

/// Pinned memory that is ready to be copied to.
#[derive(Debug)]
pub struct DownloadSlot(Lent);

impl DownloadSlot {
    /// Enqueues a copy of `from` to its beginning.
    ///
    /// # Errors
    /// The driver refuses, or launches are being recorded on the stream.
    ///
    /// # Panics
    /// If the slot is smaller.
    pub fn download(mut self, stream: &Stream, from: View) -> Result<Download, DeviceError> {
        self.0.slot().copy(stream, from, 0..from.bytes(), Direction::ToHost)?;
        Ok(Download { lent: self.0, bytes: from.bytes() })
    }
}

/// A copy to the host that goes on. Any thread may wait for it.
#[derive(Debug)]
pub struct Download {
    lent: Lent,
    bytes: usize,
}

impl Download {
    /// Whether the bytes have come.
    ///
    /// # Errors
    /// The copy failed, or something enqueued before it.
    pub fn is_complete(&self) -> Result<bool, DeviceError> {
        match &self.lent.slot {
            Some(slot) if slot.in_flight => slot.done.is_complete(),
            _ => Ok(true),
        }
    }

    /// Waits for the bytes.
    ///
    /// # Errors
    /// The copy failed, or something enqueued before it.
    pub fn wait(mut self) -> Result<Downloaded, DeviceError> {
        self.lent.slot().settle()?;
        Ok(Downloaded { lent: self.lent, bytes: self.bytes })
    }
}

/// Bytes that have come from the device, in pinned memory that goes back to its ring when this is dropped.
#[derive(Debug)]
pub struct Downloaded {
    lent: Lent,
    bytes: usize,
}

impl Downloaded {
    /// All of it as real numbers.
    ///
    /// # Panics
    /// If the bytes are not a whole number of them.
    pub fn as_f32(&self) -> &[f32] {
        // Pinned memory begins at a page.
        bytemuck::cast_slice(self)
    }
}

impl Deref for Downloaded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let slot = self.lent.slot.as_ref().expect("a slot is lent until it is dropped");
        // SAFETY: the slot has at least so many bytes, initialized; the copy has been waited for, and none can begin while
        // this has the slot.
        unsafe { slice::from_raw_parts(slot.start.as_ptr(), self.bytes) }
    }
}

impl AsRef<[u8]> for Downloaded {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
