//! Memory of a device that another process has allocated and made a handle for.

use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::error::describe;
use super::{DeviceError, Gpu, Stream};

/// Bytes of a handle, as `cuIpcGetMemHandle` and `cudaIpcGetMemHandle` write it.
pub const HANDLE_BYTES: usize = 64;

/// Memory of a device that belongs to another process, which must live, and keep the memory, as long as this does; closed
/// when dropped.
///
/// Streams of two processes do not order each other's work: a writer synchronizes before it tells the reader. Copies here
/// are done when they return.
#[derive(Debug)]
pub struct IpcMemory {
    stream: Stream,
    address: sys::CUdeviceptr,
    /// From the address to the end of the allocation.
    bytes: u64,
}

impl IpcMemory {
    /// Opens the memory that `handle` stands for, on the device on which it was allocated. May wait for the device.
    ///
    /// # Errors
    /// The handle is none of this device's, or this process made it itself; the device cannot be used any more.
    pub fn open(gpu: &Arc<Gpu>, handle: [u8; HANDLE_BYTES]) -> Result<Self, DeviceError> {
        let stream = Stream::new(gpu)?;
        gpu.enter()?;
        // Whatever the driver says of a handle from outside, it says nothing of the device: no error here poisons it.
        let what = "opening a CUDA IPC handle".to_owned();
        let failed = |error| DeviceError::Failed { ordinal: gpu.ordinal(), what, reason: describe(error) };
        let handle = sys::CUipcMemHandle { reserved: handle.map(|byte| byte as _) };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut address = 0;
        // SAFETY: `address` is a place for one address, valid during the call; the handle is 64 bytes by value, and the driver
        // refuses those that no driver made. The device's context is current on this thread.
        let opened = unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut address, handle, flags) }.result();
        // From here on, dropping closes it.
        let opened = opened.map(|()| Self { stream, address, bytes: 0 });
        let measured = opened.and_then(|mut memory| {
            memory.bytes = memory.bytes_to_end()?;
            Ok(memory)
        });
        measured.map_err(failed)
    }

    fn bytes_to_end(&self) -> Result<u64, DriverError> {
        let (mut base, mut bytes) = (0, 0);
        // SAFETY: both places are valid during the call, and the address is one that the driver gave in the current context.
        unsafe { sys::cuMemGetAddressRange_v2(&raw mut base, &raw mut bytes, self.address) }.result()?;
        Ok((bytes as u64).saturating_sub(self.address.saturating_sub(base)))
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies from byte `offset` on as many bytes as `into` has; they are there when this returns.
    ///
    /// # Errors
    /// They are not within the memory, or copying fails.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), DeviceError> {
        let what = "copying from memory that another process shares";
        let address = self.address_of(offset, into.len(), what)?;
        if into.is_empty() {
            return Ok(());
        }
        // SAFETY: `into` is as many bytes of the host, borrowed until the copy is done, which is waited for; those of the
        // device are within the memory that is open, as was just checked. Another process may write them meanwhile: then what
        // arrives is some bytes, and all bytes are valid.
        let copied = self.stream.gpu().call(what, || unsafe { result::memcpy_dtoh_async(into, address, self.stream.handle()) });
        copied.and(self.stream.synchronize())
    }

    /// Copies `bytes` to byte `offset`; the device has them when this returns.
    ///
    /// # Errors
    /// They would not be within the memory, or copying fails.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let what = "copying to memory that another process shares";
        let address = self.address_of(offset, bytes.len(), what)?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: `bytes` are bytes of the host, borrowed until the copy is done, which is waited for; as many of the device
        // are within the memory that is open, as was just checked.
        let copied = self.stream.gpu().call(what, || unsafe { result::memcpy_htod_async(address, bytes, self.stream.handle()) });
        copied.and(self.stream.synchronize())
    }

    fn address_of(&self, offset: u64, bytes: usize, what: &str) -> Result<sys::CUdeviceptr, DeviceError> {
        if offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes) {
            return Ok(self.address + offset);
        }
        let reason = format!("{bytes} bytes at {offset} are not within its {} bytes", self.bytes);
        Err(DeviceError::Failed { ordinal: self.stream.gpu().ordinal(), what: what.to_owned(), reason })
    }
}

impl Drop for IpcMemory {
    fn drop(&mut self) {
        // What fails here is the other process's memory, and none of the device's own; the driver closes the rest with the
        // context.
        if self.stream.gpu().enter().is_ok() {
            // SAFETY: the address came from opening a handle in this context and is closed once, as this owns it; all copies
            // have ended, as each is waited for.
            let _ = unsafe { sys::cuIpcCloseMemHandle(self.address) };
        }
    }
}
