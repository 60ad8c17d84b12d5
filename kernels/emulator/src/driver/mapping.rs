//! Memory of this process from the operating system: reserved without being used up, and shared under two addresses.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Pages of the operating system, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: usize,
    bytes: usize,
    /// What backs a mapping that others may map too.
    file: Option<OwnedFd>,
}

/// The operating system's page size, which these tests only know as 4 KiB.
pub(crate) const OS_PAGE_BYTES: usize = 4096;

fn map(bytes: usize, at: Option<usize>, flags: i32, file: RawFd) -> io::Result<usize> {
    let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
    let hint = at.unwrap_or(0) as *mut libc::c_void;
    // SAFETY: without `at` the kernel picks free addresses; with it the caller owns the mapping of the same length there, which
    // is replaced whole. The file, if any, is open and at least `bytes` long.
    let start = unsafe { libc::mmap(hint, bytes, libc::PROT_READ | libc::PROT_WRITE, flags | fixed, file, 0) };
    if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(start as usize) }
}

impl Mapping {
    /// Private memory of at least `bytes`, zeroed, that takes room only where it is touched.
    pub(crate) fn private(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(OS_PAGE_BYTES);
        let start = map(bytes, None, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1)?;
        Ok(Mapping { start, bytes, file: None })
    }

    /// Memory that [`Self::alias`] maps again.
    pub(crate) fn shared(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(OS_PAGE_BYTES);
        let file = memory_file(bytes)?;
        let start = map(bytes, None, libc::MAP_SHARED, file.as_raw_fd())?;
        Ok(Mapping { start, bytes, file: Some(file) })
    }

    /// The same bytes under another address.
    pub(crate) fn alias(&self) -> io::Result<Self> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        Self::of_file(file.try_clone()?, self.bytes)
    }

    /// The first `bytes` of a file in memory.
    pub(crate) fn of_file(file: OwnedFd, bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(OS_PAGE_BYTES);
        let start = map(bytes, None, libc::MAP_SHARED, file.as_raw_fd())?;
        Ok(Mapping { start, bytes, file: Some(file) })
    }

    /// Turns private memory into shared memory at the same address, keeping its bytes. Gives the file's descriptor.
    pub(crate) fn share(&mut self) -> io::Result<RawFd> {
        if let Some(file) = &self.file {
            return Ok(file.as_raw_fd());
        }
        let file = memory_file(self.bytes)?;
        let copy = map(self.bytes, None, libc::MAP_SHARED, file.as_raw_fd())?;
        // SAFETY: both mappings are `bytes` long and apart; only the caller, who holds this one exclusively, touches them.
        unsafe { std::ptr::copy_nonoverlapping(self.start as *const u8, copy as *mut u8, self.bytes) };
        // SAFETY: the mapping made above, which nothing else knows.
        unsafe { libc::munmap(copy as *mut libc::c_void, self.bytes) };
        map(self.bytes, Some(self.start), libc::MAP_SHARED, file.as_raw_fd())?;
        Ok(self.file.insert(file).as_raw_fd())
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// How long it is: a whole number of pages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets the pages from `offset` be read, written, or neither.
    pub(crate) fn protect(&self, offset: usize, bytes: usize, protection: i32) {
        assert!(offset.is_multiple_of(OS_PAGE_BYTES) && offset + bytes <= self.bytes, "pages of this mapping");
        // SAFETY: pages of this mapping, as asserted; taking rights away makes accesses fault, never undefined.
        let result = unsafe { libc::mprotect((self.start + offset) as *mut libc::c_void, bytes, protection) };
        assert_eq!(result, 0, "mprotect: {}", io::Error::last_os_error());
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping, whole; who held pointers into it has given them up with it.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
    }
}

fn memory_file(bytes: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is terminated; the result is checked before it is owned.
    let file = unsafe { libc::memfd_create(c"emulated-device".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    // SAFETY: an open descriptor.
    if unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
