//! Memory of a device that another process has allocated and made a handle for.

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::DeviceError;

/// Bytes of a handle, as `cudaIpcGetMemHandle` writes it.
pub const HANDLE_BYTES: usize = 64;

/// Memory of a device that belongs to another process. That process must live, and keep the memory, as long as this does;
/// closed when dropped.
///
/// Neither process's streams order what the other one does: a writer synchronizes before it tells the reader. Copies here
/// are done when they return.
#[derive(Debug)]
pub struct IpcMemory {
    ordinal: u32,
    context: Arc<CudaContext>,
    address: sys::CUdeviceptr,
    /// From the address to the end of the allocation.
    bytes: u64,
}

impl IpcMemory {
    /// Opens the memory that `handle` stands for, on device number `ordinal`: the one on which it was allocated. Needs a
    /// driver and no kernels.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] where the device cannot be used, [`DeviceError::Failed`] where the handle is none of its.
    pub fn open(ordinal: u32, handle: [u8; HANDLE_BYTES]) -> Result<Self, DeviceError> {
        let unusable = |reason: String| DeviceError::Unusable { ordinal, reason };
        // SAFETY: it only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(unusable("no NVIDIA driver (libcuda.so.1) is installed".to_owned()));
        }
        let context = CudaContext::new(ordinal as usize).map_err(|error| unusable(error.to_string()))?;
        let failed = |error| DeviceError::failed(ordinal, "opening the CUDA IPC handle", error);
        context.bind_to_thread().map_err(failed)?;
        let handle = sys::CUipcMemHandle { reserved: handle.map(u8::cast_signed) };
        let mut address = 0;
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        // SAFETY: `address` is a valid place for one address during the call; the handle is 64 bytes by value, and the
        // driver refuses those it did not make. The context that the address belongs to is current on this thread.
        unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut address, handle, flags) }.result().map_err(failed)?;
        // From here on, dropping closes it.
        let mut memory = Self { ordinal, context, address, bytes: 0 };
        memory.bytes = memory.bytes_to_end().map_err(failed)?;
        Ok(memory)
    }

    fn bytes_to_end(&self) -> Result<u64, DriverError> {
        let (mut base, mut bytes) = (0, 0);
        // SAFETY: both places are valid during the call, and the address is one that the driver gave in this context.
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
        let what = "copying from shared memory of the device";
        let address = self.address_of(offset, into.len(), what)?;
        let failed = |error| DeviceError::failed(self.ordinal, what, error);
        self.context.bind_to_thread().map_err(failed)?;
        // SAFETY: `into` is as many writable bytes of the host, borrowed for the call, which returns when they are
        // written; the bytes of the device are within the memory that is open, as was just checked. Another process may
        // write them meanwhile: then what arrives is some bytes, which are valid whatever they are.
        unsafe { result::memcpy_dtoh_sync(into, address) }.map_err(failed)
    }

    /// Copies `bytes` to byte `offset`; the device has them when this returns.
    ///
    /// # Errors
    /// They would not be within the memory, or copying fails.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let what = "copying to shared memory of the device";
        let address = self.address_of(offset, bytes.len(), what)?;
        let failed = |error| DeviceError::failed(self.ordinal, what, error);
        self.context.bind_to_thread().map_err(failed)?;
        // SAFETY: `bytes` are as many readable bytes of the host, borrowed for the call, which has read them all when it
        // returns; the bytes of the device are within the memory that is open, as was just checked.
        unsafe { result::memcpy_htod_sync(address, bytes) }.map_err(failed)?;
        // From pageable memory the call above may return when the bytes are staged, before the device has them.
        // SAFETY: the null stream is the default stream of the current context, on which the copy is.
        unsafe { result::stream::synchronize(std::ptr::null_mut()) }.map_err(failed)
    }

    fn address_of(&self, offset: u64, bytes: usize, what: &str) -> Result<sys::CUdeviceptr, DeviceError> {
        let is_within = offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes);
        if is_within {
            return Ok(self.address + offset);
        }
        let reason = format!("{bytes} bytes at {offset} are not within its {} bytes", self.bytes);
        Err(DeviceError::Failed { ordinal: self.ordinal, what: what.to_owned(), reason })
    }
}

impl Drop for IpcMemory {
    fn drop(&mut self) {
        // What fails here has no one to be told; the driver closes everything with the context.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the address came from opening a handle in this context and is closed once, as this owns it; all
            // copies have ended, as each is done when its call returns.
            let _ = unsafe { sys::cuIpcCloseMemHandle(self.address) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    /// With this variable the test binary runs as the process that owns the memory.
    const OWNER: &str = "ALCEDO_TEST_IPC_OWNER";

    const BYTES: usize = 4099;

    fn pattern(seed: u8) -> Vec<u8> {
        (0..BYTES).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect()
    }

    /// Allocates, fills, hands the handle out, waits for a word, and says what the memory holds then.
    fn own() {
        let context = CudaContext::new(0).expect("device 0 can be used");
        context.bind_to_thread().expect("the context is usable");
        // SAFETY: plain memory of the device, written as a whole by the copy below and freed at the end of the process.
        let address = unsafe { result::malloc_sync(BYTES) }.expect("there is memory");
        // SAFETY: both sides have `BYTES` bytes.
        unsafe { result::memcpy_htod_sync(address, &pattern(1)) }.expect("the copy succeeds");
        context.synchronize().expect("the copy ends");
        let mut handle = sys::CUipcMemHandle { reserved: [0; HANDLE_BYTES] };
        // SAFETY: the address is that of an allocation of this context.
        unsafe { sys::cuIpcGetMemHandle(&raw mut handle, address) }.result().expect("the memory can be shared");
        let mut out = std::io::stdout().lock();
        out.write_all(b"\nHANDLE").expect("the other process reads");
        out.write_all(&handle.reserved.map(i8::cast_unsigned)).expect("the other process reads");
        out.flush().expect("the other process reads");
        let mut word = [0; 1];
        std::io::stdin().read_exact(&mut word).expect("the other process writes one byte");
        let mut held = vec![0; BYTES];
        // SAFETY: both sides have `BYTES` bytes.
        unsafe { result::memcpy_dtoh_sync(&mut held, address) }.expect("the copy succeeds");
        out.write_all(b"\nHELD").expect("the other process reads");
        out.write_all(&held).expect("the other process reads");
    }

    /// What follows `mark` in a stream of bytes: the output of a test binary has other lines before it.
    fn after<const N: usize>(mark: &[u8], from: &mut impl Read, into: &mut [u8; N]) {
        let mut seen = Vec::new();
        let mut byte = [0; 1];
        while !seen.ends_with(mark) {
            from.read_exact(&mut byte).expect("the owner writes the mark");
            seen.push(byte[0]);
        }
        from.read_exact(into).expect("the owner writes what follows the mark");
    }

    #[test]
    fn another_process_s_memory_is_read_and_written() {
        if std::env::var_os(OWNER).is_some() {
            return own();
        }
        let name = "cuda::ipc::tests::another_process_s_memory_is_read_and_written";
        let program = std::env::current_exe().expect("the test binary has a path");
        let mut owner = Command::new(program)
            .args([name, "--exact", "--nocapture"])
            .env(OWNER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary starts again");
        let mut out = owner.stdout.take().expect("it is piped");
        let mut handle = [0; HANDLE_BYTES];
        after(b"\nHANDLE", &mut out, &mut handle);
        let memory = IpcMemory::open(0, handle).expect("the handle opens");
        assert!(memory.bytes() >= BYTES as u64, "{} bytes", memory.bytes());
        let mut read = vec![0; BYTES - 3];
        memory.read(3, &mut read).expect("it is within the memory");
        assert_eq!(read, pattern(1)[3..]);
        memory.write(5, &pattern(2)[5..100]).expect("it is within the memory");
        for (offset, bytes) in [(memory.bytes(), 1), (u64::MAX, 1), (0, memory.bytes() as usize + 1)] {
            let error = memory.read(offset, &mut vec![0; bytes]).expect_err("it is not within the memory");
            assert!(error.to_string().contains("are not within its"), "{error}");
        }
        owner.stdin.take().expect("it is piped").write_all(b"!").expect("the owner waits");
        let mut held = [0; BYTES];
        after(b"\nHELD", &mut out, &mut held);
        let expected = [&pattern(1)[..5], &pattern(2)[5..100], &pattern(1)[100..]].concat();
        assert_eq!(held.as_slice(), expected);
        drop(memory);
        assert!(owner.wait().expect("the owner ends").success());
    }

    #[test]
    fn a_handle_that_nobody_made_is_refused() {
        let error = IpcMemory::open(0, [0x5a; HANDLE_BYTES]).expect_err("nobody made it").to_string();
        assert!(error.contains("opening the CUDA IPC handle failed"), "{error}");
    }
}
