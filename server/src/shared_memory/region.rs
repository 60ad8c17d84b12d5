//! What a region of shared memory can do, whatever memory it is.

use std::fmt;

use crate::error::SharedMemoryError;

/// Bytes of a region that a client registered. All offsets count from the region's first byte, and are within it: the
/// table has seen to that.
pub(super) trait SharedRegion: fmt::Debug + Send + Sync {
    /// Copies from byte `offset` on as many bytes as `into` has.
    ///
    /// # Errors
    /// The memory is gone, or cannot be read.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RegionFault>;

    /// Copies `bytes` to byte `offset`; the client sees them when this returns.
    ///
    /// # Errors
    /// The memory is gone, or cannot be written.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RegionFault>;

    /// Whether a copy of so many bytes may be made on a thread that others need too.
    fn is_quick(&self, bytes: u64) -> bool;
}

/// Why a region cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RegionFault {
    /// Its object ends before what is needed.
    Shrunk {
        /// Bytes of the object that are needed.
        needed: u64,
        /// Bytes that it has now.
        left: u64,
    },
    /// The system says no, with this text.
    Failed(String),
}

impl RegionFault {
    /// The error for a client, with the region's name.
    pub(super) fn of(self, region: &str, access: &'static str) -> SharedMemoryError {
        let region = region.to_owned();
        match self {
            Self::Shrunk { needed, left } => SharedMemoryError::Shrunk { region, needed, left },
            Self::Failed(reason) => SharedMemoryError::Access { access, region, reason },
        }
    }
}
