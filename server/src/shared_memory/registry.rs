//! The table of registered regions, and windows on them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::region::{RegionFault, SharedRegion};
use super::system::SystemRegion;
use crate::error::SharedMemoryError;

/// Most regions at a time, whatever the limits of the process.
const MAX_REGIONS: usize = 4096;

/// Of the descriptors that the process may have, regions take at most this part: connections need them too.
const DESCRIPTOR_SHARE: u64 = 4;

/// What clients may register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// System shared memory.
    pub system: bool,
    /// Memory of GPUs.
    pub cuda: bool,
}

/// Kinds of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// POSIX objects of the machine.
    System,
    /// Memory of a GPU, handed over by CUDA.
    Cuda,
}

impl Kind {
    /// As error texts write it.
    fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Cuda => "CUDA",
        }
    }
}

/// A region as its client registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// A part of a POSIX object.
    System {
        /// The object's key.
        key: String,
        /// Where it begins in the object.
        offset: u64,
        /// How long it is.
        byte_size: u64,
    },
    /// Memory of a GPU.
    Cuda {
        /// The GPU.
        device: u64,
        /// How long it is.
        byte_size: u64,
    },
}

impl Description {
    fn kind(&self) -> Kind {
        match self {
            Self::System { .. } => Kind::System,
            Self::Cuda { .. } => Kind::Cuda,
        }
    }

    fn byte_size(&self) -> u64 {
        match self {
            Self::System { byte_size, .. } | Self::Cuda { byte_size, .. } => *byte_size,
        }
    }
}

/// Where a tensor lies, as a request says it; nothing of it has been looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the region.
    pub region: String,
    /// Where in the region it begins.
    pub offset: u64,
    /// How many bytes it has, or may have.
    pub byte_size: u64,
}

/// The regions of all clients. Clones share them; the default allows none.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    allowed: Allowed,
    /// Most regions at a time.
    limit: usize,
    table: Arc<Mutex<BTreeMap<String, Registered>>>,
}

#[derive(Debug)]
struct Registered {
    region: Arc<dyn SharedRegion>,
    description: Description,
    /// Windows that requests have on it.
    windows: usize,
    /// Unregistered, but still used.
    is_leaving: bool,
}

impl Regions {
    /// An empty table for these kinds.
    pub fn new(allowed: Allowed) -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let share = descriptors.map_or(u64::MAX, |descriptors| descriptors / DESCRIPTOR_SHARE);
        let limit = usize::try_from(share).unwrap_or(usize::MAX).min(MAX_REGIONS);
        Self::limited(allowed, limit)
    }

    /// The same for at most so many regions.
    pub(super) fn limited(allowed: Allowed, limit: usize) -> Self {
        Self { allowed, limit, table: Arc::default() }
    }

    /// What clients may register.
    pub fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// Registers `byte_size` bytes of the POSIX object `key`, from `offset` on.
    ///
    /// # Errors
    /// The kind is off, the name is taken, there are too many, or the object cannot be used.
    pub fn register_system(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<(), SharedMemoryError> {
        self.admit(Kind::System, name)?;
        let region = SystemRegion::open(name, key, offset, byte_size)?;
        self.insert(name, Arc::new(region), Description::System { key: key.to_owned(), offset, byte_size })
    }

    /// Registers `byte_size` bytes of a GPU's memory that another process has made a handle for. May wait for the GPU.
    ///
    /// # Errors
    /// The kind is off, the name is taken, there are too many, there is no such GPU or build, or the handle cannot be
    /// used.
    pub fn register_cuda(&self, name: &str, handle: &[u8], device: i64, byte_size: u64) -> Result<(), SharedMemoryError> {
        self.admit(Kind::Cuda, name)?;
        let unfit = |reason| SharedMemoryError::Unfit { region: name.to_owned(), reason };
        let ordinal =
            u32::try_from(device).map_err(|_| unfit(format!("device_id {device} is no device; devices count from 0")))?;
        let region = open_cuda(name, handle, ordinal, byte_size)?;
        self.insert(name, region, Description::Cuda { device: u64::from(ordinal), byte_size })
    }

    /// Forgets a region, or with an empty name all of the kind. One that requests use goes with the last of them.
    /// A name that nobody registered is forgotten already.
    ///
    /// # Errors
    /// The kind is off.
    pub fn unregister(&self, kind: Kind, name: &str) -> Result<(), SharedMemoryError> {
        self.refuse_disabled(kind)?;
        let mut gone = Vec::new();
        let mut table = self.lock();
        table.retain(|known, registered| {
            let is_meant = registered.description.kind() == kind && (name.is_empty() || name == known);
            if !is_meant {
                return true;
            }
            registered.is_leaving = true;
            if registered.windows == 0 {
                gone.push(Arc::clone(&registered.region));
            }
            registered.windows > 0
        });
        // Closing may take time; nobody else waits for it.
        drop(table);
        drop(gone);
        Ok(())
    }

    /// A region, or with an empty name all of the kind, in the order of their names.
    ///
    /// # Errors
    /// There is no such region, or it is of the other kind.
    pub fn status(&self, kind: Kind, name: &str) -> Result<Vec<(String, Description)>, SharedMemoryError> {
        let table = self.lock();
        if name.is_empty() {
            let of_kind = table.iter().filter(|(_, registered)| registered.description.kind() == kind);
            return Ok(of_kind.map(|(name, registered)| (name.clone(), registered.description.clone())).collect());
        }
        let region = name.to_owned();
        match table.get(name).map(|registered| &registered.description) {
            Some(description) if description.kind() == kind => Ok(vec![(region, description.clone())]),
            Some(other) => Err(SharedMemoryError::OtherKind { region, found: other.kind().as_str(), wanted: kind.as_str() }),
            None => {
                let kind = match kind {
                    Kind::System => "system ",
                    Kind::Cuda => "cuda ",
                };
                Err(SharedMemoryError::Unknown { kind, region })
            }
        }
    }

    /// A window on what a request names. The region stays as long as the window.
    ///
    /// # Errors
    /// All shared memory is off, there is no such region, or the place does not lie within it.
    pub fn window(&self, place: &Place) -> Result<Window, SharedMemoryError> {
        if self.allowed == Allowed::default() {
            return Err(SharedMemoryError::Disabled { what: "shared memory" });
        }
        let Place { region: name, offset, byte_size } = place;
        let region = || name.clone();
        let mut table = self.lock();
        let Some(registered) = table.get_mut(name) else {
            return Err(SharedMemoryError::Unknown { kind: "", region: region() });
        };
        let size = registered.description.byte_size();
        if *offset > size.saturating_sub(1) {
            return Err(SharedMemoryError::Offset { region: region() });
        }
        match offset.checked_add(*byte_size) {
            None => Err(SharedMemoryError::Overflow { region: region(), byte_size: *byte_size, offset: *offset }),
            Some(end) if end > size => Err(SharedMemoryError::Range { region: region() }),
            Some(_) => {
                registered.windows += 1;
                Ok(Window { regions: self.clone(), place: place.clone(), region: Arc::clone(&registered.region) })
            }
        }
    }

    /// Lets a region of this kind and name be opened. What is looked at may change until it is in the table, and is
    /// looked at again then; this look keeps what is refused anyway from being opened.
    fn admit(&self, kind: Kind, name: &str) -> Result<(), SharedMemoryError> {
        self.refuse_disabled(kind)?;
        if name.is_empty() {
            let reason = "a region needs a name".to_owned();
            return Err(SharedMemoryError::Unfit { region: String::new(), reason });
        }
        self.refuse_taken(&self.lock(), name)
    }

    fn refuse_disabled(&self, kind: Kind) -> Result<(), SharedMemoryError> {
        let what = match (kind, self.allowed) {
            (_, Allowed { system: false, cuda: false }) => "shared memory",
            (Kind::System, Allowed { system: false, .. }) => "system shared memory",
            (Kind::Cuda, Allowed { cuda: false, .. }) => "CUDA shared memory",
            _ => return Ok(()),
        };
        Err(SharedMemoryError::Disabled { what })
    }

    fn refuse_taken(&self, table: &BTreeMap<String, Registered>, name: &str) -> Result<(), SharedMemoryError> {
        if table.contains_key(name) {
            Err(SharedMemoryError::Exists { region: name.to_owned() })
        } else if table.len() >= self.limit {
            Err(SharedMemoryError::TooMany { region: name.to_owned(), limit: self.limit })
        } else {
            Ok(())
        }
    }

    pub(super) fn insert(
        &self,
        name: &str,
        region: Arc<dyn SharedRegion>,
        description: Description,
    ) -> Result<(), SharedMemoryError> {
        let mut table = self.lock();
        self.refuse_taken(&table, name)?;
        table.insert(name.to_owned(), Registered { region, description, windows: 0, is_leaving: false });
        Ok(())
    }

    fn release(&self, name: &str) {
        let mut table = self.lock();
        let gone = table.get_mut(name).is_some_and(|registered| {
            registered.windows = registered.windows.saturating_sub(1);
            registered.is_leaving && registered.windows == 0
        });
        let gone = if gone { table.remove(name) } else { None };
        drop(table);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Registered>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(name: &str, handle: &[u8], device: u32, byte_size: u64) -> Result<Arc<dyn SharedRegion>, SharedMemoryError> {
    super::cuda::CudaRegion::open(name, handle, device, byte_size).map(|region| Arc::new(region) as Arc<dyn SharedRegion>)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(name: &str, _: &[u8], _: u32, _: u64) -> Result<Arc<dyn SharedRegion>, SharedMemoryError> {
    let reason = "this build has no CUDA support: build with scripts/build-cuda".to_owned();
    Err(SharedMemoryError::NoGpu { region: name.to_owned(), reason })
}

/// The part of a region that a tensor of a request lies in. The region is not given up before its windows.
pub struct Window {
    regions: Regions,
    place: Place,
    region: Arc<dyn SharedRegion>,
}

impl Window {
    /// What the request said.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A copy of all its bytes.
    ///
    /// # Errors
    /// The memory cannot be read.
    pub fn read(&self) -> Result<Bytes, SharedMemoryError> {
        let Place { region, offset, byte_size } = &self.place;
        let bytes = usize::try_from(*byte_size).map_err(|error| RegionFault::Failed(error.to_string()));
        let contents = bytes.and_then(|bytes| {
            let mut contents = vec![0; bytes];
            self.region.read(*offset, &mut contents)?;
            Ok(contents)
        });
        contents.map(Bytes::from).map_err(|fault| fault.of(region, "read"))
    }

    /// Writes an output to its beginning.
    ///
    /// # Errors
    /// The output is larger than the window, or the memory cannot be written.
    pub fn write(&self, output: &str, bytes: &[u8]) -> Result<(), SharedMemoryError> {
        self.refuse_larger(output, bytes.len())?;
        self.region.write(self.place.offset, bytes).map_err(|fault| fault.of(&self.place.region, "write"))
    }

    /// Looks whether an output of so many bytes has room.
    ///
    /// # Errors
    /// [`SharedMemoryError::OutputTooLarge`].
    pub fn refuse_larger(&self, output: &str, bytes: usize) -> Result<(), SharedMemoryError> {
        let needed = u64::try_from(bytes).unwrap_or(u64::MAX);
        if needed > self.place.byte_size {
            return Err(SharedMemoryError::OutputTooLarge { output: output.to_owned(), given: self.place.byte_size, needed });
        }
        Ok(())
    }

    /// Whether so many bytes may be copied on a thread that others need too.
    pub fn is_quick(&self, bytes: u64) -> bool {
        self.region.is_quick(bytes)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.regions.release(&self.place.region);
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("place", &self.place).finish_non_exhaustive()
    }
}
