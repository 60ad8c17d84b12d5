//! Device memory as the application's calls see it: what is allocated, how much is free, what pools hold.

use std::collections::BTreeMap;

use super::status::Status;

/// Allocations are rounded up to this.
const GRANULE: u64 = 512;
/// Pools take memory from the device in pieces of this.
const POOL_GRANULE: u64 = 2 << 20;
/// Device addresses start here: no address of a process is that high, so neither passes for the other.
const FIRST_ADDRESS: u64 = 0x0100_0000_0000_0000;
/// The room of addresses of one device.
const DEVICE_SPAN: u64 = 1 << 52;
/// Unused addresses between allocations, so that an access past the end of one never meets the next.
const GAP: u64 = 1 << 20;

/// What an allocation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `cuMemAlloc`.
    Plain,
    /// A pool.
    Pool(u64),
    /// A variable of a module.
    Module,
    /// Another process, whose device counts it.
    Imported,
}

/// One allocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// As asked for.
    pub bytes: u64,
    /// Who gave it.
    pub origin: Origin,
    /// Whether a free is on its way.
    pub freeing: bool,
}

/// A memory pool.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pool {
    /// Free memory above this is given back at synchronizations.
    pub release_threshold: u64,
    /// Allocated bytes, rounded.
    pub used: u64,
    /// Bytes taken from the device.
    pub reserved: u64,
    /// The largest `used` so far.
    pub used_high: u64,
    /// The largest `reserved` so far.
    pub reserved_high: u64,
}

impl Pool {
    fn floor(&self) -> u64 {
        self.used.next_multiple_of(POOL_GRANULE)
    }

    /// Gives back what is free above `keep`; how much that was.
    pub(crate) fn trim(&mut self, keep: u64) -> u64 {
        let target = self.floor().max(keep.min(self.reserved)).min(self.reserved);
        std::mem::replace(&mut self.reserved, target) - target
    }
}

/// One device's memory.
#[derive(Debug)]
pub(crate) struct Ledger {
    total: u64,
    /// Bytes taken: plain allocations, rounded, and what pools hold.
    taken: u64,
    next: u64,
    entries: BTreeMap<u64, Entry>,
    pools: BTreeMap<u64, Pool>,
}

impl Ledger {
    /// An empty device.
    pub(crate) fn new(device: u32, total: u64) -> Self {
        let next = FIRST_ADDRESS + u64::from(device) * DEVICE_SPAN;
        Ledger { total, taken: 0, next, entries: BTreeMap::new(), pools: BTreeMap::new() }
    }

    /// Which device an address would be of.
    pub(crate) fn device_of(address: u64) -> Option<u32> {
        let device = address.checked_sub(FIRST_ADDRESS)? / DEVICE_SPAN;
        u32::try_from(device).ok()
    }

    /// Free and total bytes.
    pub(crate) fn info(&self) -> (u64, u64) {
        (self.total - self.taken.min(self.total), self.total)
    }

    /// Adds a pool under a handle.
    pub(crate) fn add_pool(&mut self, handle: u64) {
        self.pools.insert(handle, Pool::default());
    }

    /// Takes a pool away that nothing is allocated from.
    pub(crate) fn remove_pool(&mut self, handle: u64) -> Result<(), Status> {
        let pool = self.pools.get(&handle).ok_or(Status::INVALID_VALUE)?;
        if pool.used != 0 {
            return Err(Status::ILLEGAL_STATE);
        }
        self.taken -= pool.reserved;
        self.pools.remove(&handle);
        Ok(())
    }

    /// A pool.
    pub(crate) fn pool(&mut self, handle: u64) -> Option<&mut Pool> {
        self.pools.get_mut(&handle)
    }

    /// Gives what a pool holds above `keep` back to the device.
    pub(crate) fn trim(&mut self, handle: u64, keep: u64) -> Result<(), Status> {
        let pool = self.pools.get_mut(&handle).ok_or(Status::INVALID_VALUE)?;
        self.taken -= pool.trim(keep);
        Ok(())
    }

    /// What a synchronization does: pools fall to their thresholds.
    pub(crate) fn synchronized(&mut self) {
        for pool in self.pools.values_mut() {
            self.taken -= pool.trim(pool.release_threshold);
        }
    }

    /// Makes room: what pools only keep warm is given up before an allocation fails.
    fn make_room(&mut self, bytes: u64) {
        if self.total - self.taken < bytes {
            for pool in self.pools.values_mut() {
                self.taken -= pool.trim(0);
            }
        }
    }

    fn take(&mut self, bytes: u64) -> Result<(), Status> {
        if self.total - self.taken < bytes {
            return Err(Status::OUT_OF_MEMORY);
        }
        self.taken += bytes;
        Ok(())
    }

    fn take_for_pool(&mut self, handle: u64, rounded: u64) -> Result<(), Status> {
        let missing = |pool: &Pool| (pool.used + rounded).next_multiple_of(POOL_GRANULE).saturating_sub(pool.reserved);
        self.make_room(missing(self.pools.get(&handle).ok_or(Status::INVALID_VALUE)?));
        // Making room may have taken from this pool too.
        let bytes = missing(&self.pools[&handle]);
        self.take(bytes)?;
        let pool = self.pools.get_mut(&handle).ok_or(Status::INVALID_VALUE)?;
        pool.used += rounded;
        pool.reserved += bytes;
        pool.used_high = pool.used_high.max(pool.used);
        pool.reserved_high = pool.reserved_high.max(pool.reserved);
        Ok(())
    }

    /// Allocates; gives the address.
    pub(crate) fn allocate(&mut self, bytes: u64, origin: Origin) -> Result<u64, Status> {
        let rounded = bytes.checked_next_multiple_of(GRANULE).ok_or(Status::OUT_OF_MEMORY)?;
        if rounded > self.total {
            return Err(Status::OUT_OF_MEMORY);
        }
        match origin {
            Origin::Plain | Origin::Module => {
                self.make_room(rounded);
                self.take(rounded)?;
            }
            Origin::Imported => {}
            Origin::Pool(handle) => self.take_for_pool(handle, rounded)?,
        }
        let address = self.next;
        self.next += (bytes + GAP).next_multiple_of(GAP) + GAP;
        self.entries.insert(address, Entry { bytes, origin, freeing: false });
        Ok(address)
    }

    /// Marks an allocation as being freed.
    pub(crate) fn start_free(&mut self, address: u64) -> Result<Entry, Status> {
        let entry = self.entries.get_mut(&address).filter(|entry| !entry.freeing).ok_or(Status::INVALID_VALUE)?;
        entry.freeing = true;
        Ok(*entry)
    }

    /// Takes the mark back: the free was refused after all.
    pub(crate) fn cancel_free(&mut self, address: u64) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.freeing = false;
        }
    }

    /// Takes an allocation off the books.
    pub(crate) fn finish_free(&mut self, address: u64) -> Option<Entry> {
        let entry = self.entries.remove(&address)?;
        let rounded = entry.bytes.next_multiple_of(GRANULE);
        match entry.origin {
            Origin::Plain | Origin::Module => self.taken -= rounded,
            Origin::Imported => {}
            Origin::Pool(handle) => {
                if let Some(pool) = self.pools.get_mut(&handle) {
                    pool.used -= rounded;
                }
            }
        }
        Some(entry)
    }

    /// The allocation that holds an address, and where it starts.
    pub(crate) fn find(&self, address: u64) -> Option<(u64, Entry)> {
        let (start, entry) = self.entries.range(..=address).next_back()?;
        (address - start <= entry.bytes).then_some((*start, *entry))
    }

    /// Whether all of `bytes` from `address` lie in one allocation.
    pub(crate) fn holds(&self, address: u64, bytes: u64) -> bool {
        self.find(address).is_some_and(|(start, entry)| bytes <= entry.bytes - (address - start))
    }

    /// Whether frees are on their way.
    pub(crate) fn is_freeing(&self) -> bool {
        self.entries.values().any(|entry| entry.freeing)
    }

    /// Addresses of all allocations.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        self.entries.keys().copied().collect()
    }

    /// Live allocations and their bytes, as asked for.
    pub(crate) fn live(&self) -> (u64, u64) {
        (self.entries.len() as u64, self.entries.values().map(|entry| entry.bytes).sum())
    }
}
