//! What crosses the C interface: pointers that an application promises are valid for the length of a call.
//!
//! Exported functions take these types instead of raw pointers, so that the promise is used in one place.

use std::ffi::{CStr, c_char, c_void};

use super::status::Status;

/// Where the application wants a result.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    ///
    /// # Errors
    /// A null pointer.
    pub(crate) fn put(self, value: T) -> Result<(), Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and by CUDA's contract valid for a write of a `T` during the call; nobody else uses it meanwhile.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes the result where the application wants it.
    pub(crate) fn put_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `put`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Reads what is there.
    pub(crate) fn read(self) -> Option<T>
    where
        T: Copy,
    {
        // SAFETY: where not null, by the contract of each function that reads, an initialized `T`.
        (!self.0.is_null()).then(|| unsafe { self.0.read_unaligned() })
    }
}

#[cfg(test)]
impl<T> From<&mut T> for Out<T> {
    fn from(target: &mut T) -> Self {
        Out(target)
    }
}

/// Text of the application's.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    /// The text.
    ///
    /// # Errors
    /// A null pointer, or bytes that are not UTF-8.
    pub(crate) fn read<'a>(self) -> Result<&'a str, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and by contract terminated and unchanged during the call, which is as long as callers keep it.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| Status::INVALID_VALUE)
    }

    /// The bytes up to the end, for images that may not be text.
    pub(crate) fn bytes<'a>(self) -> Result<&'a [u8], Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: as in `read`; binary images too hold a zero byte within their header.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }
}

#[cfg(test)]
impl From<&'static CStr> for Text {
    fn from(text: &'static CStr) -> Self {
        Text(text.as_ptr())
    }
}

#[cfg(test)]
impl Text {
    pub(crate) fn of(text: &CStr) -> Self {
        Text(text.as_ptr())
    }
}

/// Bytes of the host's, of a length that comes apart.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct HostBytes(*mut c_void);

impl HostBytes {
    /// Their address.
    pub(crate) fn address(self) -> usize {
        self.0 as usize
    }

    /// A copy of `bytes` of them.
    ///
    /// # Errors
    /// A null pointer.
    pub(crate) fn copy(self, bytes: usize) -> Result<Vec<u8>, Status> {
        if self.0.is_null() && bytes > 0 {
            return Err(Status::INVALID_VALUE);
        }
        let mut copy = vec![0; bytes];
        // SAFETY: not null and by contract readable for `bytes`; the copy is that long and new.
        unsafe { std::ptr::copy_nonoverlapping(self.0.cast::<u8>().cast_const(), copy.as_mut_ptr(), bytes) };
        Ok(copy)
    }

    /// Writes over the first bytes.
    ///
    /// # Errors
    /// A null pointer.
    pub(crate) fn put(self, value: &[u8]) -> Result<(), Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null and by contract writable for the value's length.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), self.0.cast(), value.len()) };
        Ok(())
    }

    /// Writes a plain value at its start.
    ///
    /// # Errors
    /// A null pointer.
    pub(crate) fn put_value<T: Copy>(self, value: T) -> Result<(), Status> {
        Out(self.0.cast::<T>()).put(value)
    }

    /// A plain value at its start.
    pub(crate) fn value<T: Copy>(self) -> Result<T, Status> {
        Out(self.0.cast::<T>()).read().ok_or(Status::INVALID_VALUE)
    }
}

impl From<usize> for HostBytes {
    fn from(address: usize) -> Self {
        HostBytes(address as *mut c_void)
    }
}

/// Pointers to a launch's parameters, one each.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Parameters(*mut *mut c_void);

impl Parameters {
    /// Copies parameters of the given offsets and sizes into one block.
    ///
    /// # Errors
    /// A null pointer where there are parameters.
    pub(crate) fn gather(self, layout: &[(usize, usize)]) -> Result<Vec<u8>, Status> {
        let length = layout.iter().map(|(offset, bytes)| offset + bytes).max().unwrap_or(0);
        let mut block = vec![0; length];
        if self.0.is_null() && !layout.is_empty() {
            return Err(Status::INVALID_VALUE);
        }
        for (index, (offset, bytes)) in layout.iter().enumerate() {
            // SAFETY: by contract one pointer for each parameter of the kernel.
            let parameter = HostBytes(unsafe { self.0.add(index).read() });
            block[*offset..offset + bytes].copy_from_slice(&parameter.copy(*bytes)?);
        }
        Ok(block)
    }
}

#[cfg(test)]
impl Parameters {
    pub(crate) fn of(pointers: &mut [*mut c_void]) -> Self {
        Parameters(pointers.as_mut_ptr())
    }
}

/// Runs the body of an exported function: its status, and no panic across the interface.
pub(crate) fn run(body: impl FnOnce() -> Result<(), Status>) -> Status {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => Status::UNKNOWN,
    }
}
