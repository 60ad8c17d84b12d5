//! Which weights are on the device where there are more than fit: those used longest ago make room.
//!
//! Weights never change, so a model keeps a copy in pinned memory of the host from when it is loaded, and making room is
//! nothing but freeing. A batch holds the weights that it computes with until it has been waited for, and weights that
//! somebody holds never go: so memory is freed only after the host has seen that the device is done with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kernels::cuda::{Buffer, DeviceError, DeviceType, Stream, Tag, UploadSlot, View};

use crate::error::ModelError;

/// Weights of a model on the device.
#[derive(Debug)]
pub(super) struct Resident {
    /// There until it is dropped.
    buffer: Option<Buffer>,
    address: u64,
    stream: Stream,
    /// Other after every return: addresses recorded in graphs are those of one of them.
    pub(super) generation: u64,
    /// Whether the memory goes back to the driver; else it stays with the pool, for what it made room for.
    returns: bool,
}

impl Resident {
    /// Weights that were uploaded on `stream`.
    pub(super) fn new(buffer: Buffer, stream: &Stream, generation: u64) -> Self {
        let address = buffer.view(DeviceType::U8).address;
        Resident { buffer: Some(buffer), address, stream: stream.clone(), generation, returns: true }
    }

    /// All of it.
    pub(super) fn view(&self) -> View {
        View { address: self.address, len: self.buffer.as_ref().map_or(0, Buffer::bytes), dtype: DeviceType::U8 }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // Who holds weights has waited for the batches that read them, so nothing on the device does any more. Whoever waits
        // for this to be over finds the memory free. A device that fails says so to whoever calls it next.
        drop(self.buffer.take());
        let _ = self.stream.synchronize();
        if self.returns {
            let _ = self.stream.gpu().give_back();
        }
    }
}

/// Weights of a model, on the device or not.
#[derive(Debug)]
pub(super) struct Seat {
    stream: Stream,
    tag: Tag,
    bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    resident: Option<Arc<Resident>>,
    /// The copy to come back from.
    host: UploadSlot,
    last_used: u64,
}

/// The weights of all models of a device.
#[derive(Debug, Default)]
pub(super) struct Residency {
    /// Held while anything is allocated, so that nobody takes the room that another has made.
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    all: Vec<Weak<Seat>>,
    clock: u64,
    generations: u64,
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Residency {
    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the weights of a model, which `host` holds. They are on the device when this returns.
    ///
    /// # Errors
    /// There is no room, even without all that is idle.
    pub(super) fn seat(&self, stream: &Stream, tag: Tag, host: UploadSlot) -> Result<Arc<Seat>, ModelError> {
        let bytes = host.bytes();
        let inner = Mutex::new(Inner { resident: None, host, last_used: 0 });
        let seat = Arc::new(Seat { stream: stream.clone(), tag, bytes, inner });
        self.acquire(&seat)?;
        let mut seats = self.lock();
        seats.all.retain(|seat| seat.strong_count() > 0);
        seats.all.push(Arc::downgrade(&seat));
        Ok(seat)
    }

    /// The weights, brought back if they are away. They stay for as long as the result is held.
    ///
    /// # Errors
    /// There is no room, even without all that is idle; or the device fails.
    pub(super) fn acquire(&self, seat: &Arc<Seat>) -> Result<Arc<Resident>, ModelError> {
        let mut seats = self.lock();
        seats.clock += 1;
        let mut inner = seat.lock();
        inner.last_used = seats.clock;
        if let Some(resident) = &inner.resident {
            return Ok(Arc::clone(resident));
        }
        let buffer = seats.allocate(&seat.stream, seat.bytes, &seat.tag)?;
        let view = buffer.view(DeviceType::U8);
        inner.host.upload(&seat.stream, 0..seat.bytes, view)?;
        // Lanes read them on streams of their own, from now on.
        seat.stream.synchronize()?;
        seats.generations += 1;
        let resident = Arc::new(Resident::new(buffer, &seat.stream, seats.generations));
        inner.resident = Some(Arc::clone(&resident));
        Ok(resident)
    }

    /// Frees the weights of a model that nobody uses any more.
    pub(super) fn leave(&self, seat: &Arc<Seat>) {
        let mut seats = self.lock();
        seats.all.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(seat)));
        drop(seat.lock().resident.take());
    }

    /// Memory for which idle weights make room.
    ///
    /// # Errors
    /// There is no room, even without all that is idle.
    pub(super) fn allocate(&self, stream: &Stream, bytes: usize, tag: &Tag) -> Result<Buffer, ModelError> {
        Ok(self.lock().allocate(stream, bytes, tag)?)
    }
}

impl Seats {
    fn allocate(&mut self, stream: &Stream, bytes: usize, tag: &Tag) -> Result<Buffer, DeviceError> {
        loop {
            match Buffer::tagged(stream, bytes, tag) {
                Err(error @ DeviceError::OutOfMemory { .. }) => {
                    if !self.evict() {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Frees the weights that were used longest ago of those that nobody holds: whether there were any.
    fn evict(&mut self) -> bool {
        let idle = |seat: &Arc<Seat>| {
            // One that is being brought back is locked by whoever does it.
            let inner = seat.inner.try_lock().ok()?;
            let resident = inner.resident.as_ref()?;
            (Arc::strong_count(resident) == 1).then_some(inner.last_used)
        };
        let seats = self.all.iter().filter_map(Weak::upgrade);
        let Some((_, seat)) = seats.filter_map(|seat| Some((idle(&seat)?, seat))).min_by_key(|(used, _)| *used) else {
            return false;
        };
        // Nobody can have taken them since: that needs the lock on all seats.
        if let Some(mut resident) = seat.lock().resident.take().and_then(Arc::into_inner) {
            resident.returns = false;
        }
        true
    }
}
