//! Memory of a device.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::ledger::{Charge, Tag};
use super::{DeviceError, DeviceType, Event, Gpu, Stream, View};

/// Memory of a device, freed on its stream when dropped: after what is enqueued there then. Who uses it on other streams
/// drops it with [`Buffer::release_after`].
#[derive(Debug)]
pub struct Buffer {
    address: u64,
    bytes: usize,
    stream: Stream,
    _charge: Charge,
}

impl Buffer {
    /// So many bytes, not initialized; at least one. The ledger has them as nobody's in particular.
    ///
    /// # Errors
    /// The device has no such memory left.
    pub fn new(stream: &Stream, bytes: usize) -> Result<Self, DeviceError> {
        Self::tagged(stream, bytes, &Tag::anonymous())
    }

    /// So many bytes, not initialized; at least one. They are there for work on `stream`, and for other streams once they
    /// have waited for it.
    ///
    /// # Errors
    /// The device has no such memory left, or launches are being recorded on the stream.
    pub fn tagged(stream: &Stream, bytes: usize, tag: &Tag) -> Result<Self, DeviceError> {
        stream.refuse_in_recording("allocating memory")?;
        let (gpu, bytes) = (stream.gpu(), bytes.max(1));
        let what = || format!("allocating {bytes} bytes for {} of '{}'", tag.kind.name(), tag.owner);
        let full = |error: &_| *error == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        gpu.enter()?;
        // SAFETY: the stream is alive; the memory is not initialized, and no number of ours needs to be.
        let allocate = || unsafe { result::malloc_async(stream.handle(), bytes) };
        let address = match allocate() {
            Err(error) if full(&error.0) => {
                // What was freed on this stream may still be in use, and pieces that the pool holds unused may each be too
                // small: once both are given back, the driver can put them together.
                stream.synchronize()?;
                gpu.trim()?;
                allocate()
            }
            other => other,
        };
        let address = address.map_err(|error| match full(&error.0) {
            true => gpu.out_of_memory(what(), bytes),
            false => gpu.error(what(), error),
        })?;
        Ok(Buffer { address, bytes, stream: stream.clone(), _charge: gpu.ledger().charge(tag, bytes) })
    }

    /// A copy of `bytes` in memory of the device; it is there when this returns.
    ///
    /// # Errors
    /// The device has no such memory left, or copying fails.
    pub fn upload(stream: &Stream, bytes: &[u8]) -> Result<Self, DeviceError> {
        let buffer = Self::new(stream, bytes.len())?;
        if !bytes.is_empty() {
            buffer.write(stream, bytes)?;
        }
        Ok(buffer)
    }

    /// Copies `bytes`, of memory that is not pinned, over its own; they are there when this returns.
    ///
    /// # Errors
    /// Something enqueued failed, or copying fails.
    ///
    /// # Panics
    /// If there are more of them than it has.
    pub fn write(&self, stream: &Stream, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() <= self.bytes, "a copy is larger than where it goes");
        stream.refuse_in_recording("copying to the device")?;
        let what = format_args!("copying {} bytes to the device", bytes.len());
        // SAFETY: the buffer has as many bytes, and `bytes` are there until the copy is done, which is waited for.
        let copied = stream.gpu().call(what, || unsafe { result::memcpy_htod_async(self.address, bytes, stream.handle()) });
        copied.and(stream.synchronize())
    }

    /// A copy in memory of the host, once everything enqueued on `stream` is done.
    ///
    /// # Errors
    /// Something enqueued failed, or copying fails.
    pub fn download(&self, stream: &Stream) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = vec![0; self.bytes];
        self.read(stream, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies its first bytes to memory that is not pinned, once everything enqueued on `stream` is done.
    ///
    /// # Errors
    /// Something enqueued failed, or copying fails.
    ///
    /// # Panics
    /// If more are asked for than it has.
    pub fn read(&self, stream: &Stream, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() <= self.bytes, "a copy is larger than where it comes from");
        stream.refuse_in_recording("copying from the device")?;
        // SAFETY: there are as many bytes, which stay where they are until the copy is done, which is waited for.
        let copied = stream
            .gpu()
            .call("copying from the device", || unsafe { result::memcpy_dtoh_async(bytes, self.address, stream.handle()) });
        copied.and(stream.synchronize())
    }

    /// All of it as numbers of a type.
    pub fn view(&self, dtype: DeviceType) -> View {
        View { address: self.address, len: self.bytes / dtype.bytes(), dtype }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.stream.gpu()
    }

    /// Frees it after these moments of other streams, and after what is enqueued on its own.
    ///
    /// # Errors
    /// The driver refuses to wait; the memory is freed all the same, once the device is done with everything.
    pub fn release_after(self, events: &[&Event]) -> Result<(), DeviceError> {
        let waited = events.iter().try_for_each(|event| self.stream.wait(event));
        if waited.is_err() {
            events.iter().try_for_each(|event| event.wait())?;
        }
        waited
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let stream = self.stream.handle();
        // SAFETY: the memory is this one's own, and is used no more once the stream comes to it (see `release_after`).
        self.stream.gpu().free("freeing memory", || unsafe { result::free_async(self.address, stream) });
    }
}
