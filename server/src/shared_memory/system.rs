//! Regions of POSIX shared memory: objects below `/dev/shm`, by their key.
//!
//! They are read and written through a descriptor, not through a map. Both are one copy of the bytes; on a map, an object
//! that its owner shortens between a check and the copy is a `SIGBUS`, and so is a hole in one when memory is full.
//! Measured on two cores with Linux 6.18, a read through the descriptor takes 3 us for 64 KiB, 77 us for 1 MiB and 2.9 ms
//! for 16 MiB, a copy from a map 0.5 us, 21 us and 0.8 ms: too little of a request to risk the process for it. The same
//! 16 MiB take 156 ms both ways in messages, and 20 ms in shared memory.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::region::{RegionFault, SharedRegion};
use crate::error::SharedMemoryError;

/// Where the objects are.
const FOLDER: &str = "/dev/shm";

/// Keys with this beginning belong to Triton's Python backend. There is none here, but one may run beside this server,
/// and clients know the refusal.
const RESERVED_PREFIX: &str = "triton_python_backend_shm_region_";

/// Longest name of an object, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Copies up to this size are made where they are needed: handing them to another thread takes about as long.
const QUICK_BYTES: u64 = 1 << 20;

/// A part of an object, open for reading and writing.
#[derive(Debug)]
pub(super) struct SystemRegion {
    object: File,
    /// Where the region begins in its object.
    start: u64,
}

impl SystemRegion {
    /// Opens the object `key` for the region `region`, which is `byte_size` bytes of it from `start` on.
    ///
    /// # Errors
    /// [`SharedMemoryError::ReservedKey`] and [`SharedMemoryError::BadKey`] for keys that name no object;
    /// [`SharedMemoryError::Open`], where it is not there, this user may not read and write it, or it is no ordinary
    /// object; [`SharedMemoryError::Unfit`], where the region does not lie within it.
    pub(super) fn open(region: &str, key: &str, start: u64, byte_size: u64) -> Result<Self, SharedMemoryError> {
        let name = object_name(region, key)?;
        let unable = |reason: &str| SharedMemoryError::Open { key: key.to_owned(), reason: reason.to_owned() };
        // A name that is a link could lead out of the folder. Without waiting, a pipe of that name opens as well, and
        // is then seen to be one.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let object = rustix::fs::open(Path::new(FOLDER).join(name), flags, Mode::empty());
        let object = File::from(object.map_err(|error| unable(&io::Error::from(error).to_string()))?);
        let metadata = object.metadata().map_err(|error| unable(&error.to_string()))?;
        if !metadata.is_file() {
            return Err(unable("it is no shared memory object"));
        }
        let unfit = |reason| SharedMemoryError::Unfit { region: region.to_owned(), reason };
        match start.checked_add(byte_size) {
            Some(end) if end <= metadata.len() => Ok(Self { object, start }),
            _ => Err(unfit(format!(
                "offset {start} and byte size {byte_size} reach beyond the end of '{key}', which has {} bytes",
                metadata.len()
            ))),
        }
    }

    /// The first byte of the object behind so many bytes of the region from `offset` on.
    fn end(&self, offset: u64, bytes: usize) -> Result<u64, RegionFault> {
        let end = u64::try_from(bytes).ok().and_then(|bytes| self.start.checked_add(offset)?.checked_add(bytes));
        end.ok_or_else(|| RegionFault::Failed("its end is beyond all numbers".to_owned()))
    }

    fn fault(&self, needed: u64, error: &io::Error) -> RegionFault {
        match self.object.metadata() {
            Ok(metadata) if metadata.len() < needed => RegionFault::Shrunk { needed, left: metadata.len() },
            _ => RegionFault::Failed(error.to_string()),
        }
    }
}

/// The name of the object that a key means: one name, which may begin with slashes.
fn object_name<'a>(region: &str, key: &'a str) -> Result<&'a str, SharedMemoryError> {
    let name = key.trim_start_matches('/');
    if name.starts_with(RESERVED_PREFIX) {
        let (region, key) = (region.to_owned(), key.to_owned());
        return Err(SharedMemoryError::ReservedKey { region, key, prefix: RESERVED_PREFIX });
    }
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(['/', '\0']) || matches!(name, "." | "..") {
        return Err(SharedMemoryError::BadKey { region: region.to_owned(), key: key.to_owned() });
    }
    Ok(name)
}

impl SharedRegion for SystemRegion {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RegionFault> {
        let end = self.end(offset, into.len())?;
        self.object.read_exact_at(into, self.start.saturating_add(offset)).map_err(|error| self.fault(end, &error))
    }

    /// Never makes an object longer that has become shorter, unless that happens between the look and the copy; then
    /// the object ends no later than the region did.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RegionFault> {
        let end = self.end(offset, bytes.len())?;
        let left = self.object.metadata().map_err(|error| RegionFault::Failed(error.to_string()))?.len();
        if left < end {
            return Err(RegionFault::Shrunk { needed: end, left });
        }
        self.object.write_all_at(bytes, self.start.saturating_add(offset)).map_err(|error| match error.kind() {
            ErrorKind::StorageFull => RegionFault::Failed("the memory of shared objects is full".to_owned()),
            _ => self.fault(end, &error),
        })
    }

    fn is_quick(&self, bytes: u64) -> bool {
        bytes <= QUICK_BYTES
    }
}
