//! The memory of one device as operations find it when they run, and the pinned memory they copy from and to.
//!
//! Only the executor's thread holds it, so nothing here is locked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::{Stamp, VectorClock};
use super::mapping::Mapping;
use super::names::Names;
use super::shadow::{Found, PAGE_BYTES, Shadow};

/// One live allocation.
#[derive(Debug)]
pub(crate) struct Region {
    /// Its first address, as applications see it.
    pub start: u64,
    /// Its length.
    pub bytes: usize,
    /// Its bytes.
    pub mapping: Mapping,
    /// Whether pages become NaN at their first touch: what nobody wrote must not look like zeros.
    pub fill: bool,
    /// Who touched it.
    pub shadow: Shadow,
}

impl Region {
    pub(crate) fn new(start: u64, bytes: usize, mapping: Mapping, fill: bool) -> Self {
        Region { start, bytes, mapping, fill, shadow: Shadow::new(bytes) }
    }

    /// Fills all pages that nobody touched yet.
    pub(crate) fn fill_rest(&mut self) {
        for page in (0..self.shadow.pages()).filter(|page| self.fill && !self.shadow.is_touched(*page)) {
            fill_page(&self.mapping, page);
        }
        self.fill = false;
    }
}

/// The operation at hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running<'a> {
    pub stamp: Stamp,
    pub known: &'a VectorClock,
}

/// Why an access is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No live allocation holds the bytes.
    Outside(String),
    /// Nothing orders it after an earlier operation.
    Unordered(String),
}

/// Live allocations by address, and those that were freed.
#[derive(Debug)]
pub(crate) struct World {
    /// Sorted by address.
    regions: Vec<Region>,
    freed: BTreeMap<u64, (usize, String)>,
    /// The regions touched last.
    recent: [usize; 4],
    names: Arc<Names>,
}

/// Freed allocations that a report can still name.
const REMEMBERED: usize = 65_536;

impl World {
    pub(crate) fn new(names: Arc<Names>) -> Self {
        World { regions: Vec::new(), freed: BTreeMap::new(), recent: [0; 4], names }
    }

    pub(crate) fn insert(&mut self, region: Region) {
        let place = self.regions.partition_point(|other| other.start < region.start);
        // Pinned memory may come back at an address that was given up.
        self.freed.remove(&region.start);
        self.regions.insert(place, region);
        self.recent = [0; 4];
    }

    /// The live allocation that starts at `address`.
    pub(crate) fn region_mut(&mut self, address: u64) -> Option<&mut Region> {
        let index = self.regions.binary_search_by_key(&address, |region| region.start).ok()?;
        Some(&mut self.regions[index])
    }

    /// Takes an allocation away; says so if it may still be in use.
    pub(crate) fn remove(&mut self, address: u64, running: Running<'_>) -> (Option<Region>, Option<Refusal>) {
        let Ok(index) = self.regions.binary_search_by_key(&address, |region| region.start) else {
            let text = format!("{} of 0x{address:x}, where no allocation starts", self.names.describe(running.stamp));
            return (None, Some(Refusal::Outside(text)));
        };
        let region = self.regions.remove(index);
        self.recent = [0; 4];
        let refusal = region.shadow.in_use(running.known).map(|found| {
            Refusal::Unordered(format!(
                "{} of the allocation 0x{:x} ({} bytes) is not ordered after {} at offset {}",
                self.names.describe(running.stamp),
                region.start,
                region.bytes,
                self.earlier(found),
                found.offset
            ))
        });
        if self.freed.len() >= REMEMBERED {
            self.freed.pop_first();
        }
        self.freed.insert(region.start, (region.bytes, self.names.describe(running.stamp)));
        (Some(region), refusal)
    }

    /// Makes an allocation usable from the operation at hand on.
    pub(crate) fn begin(&mut self, address: u64, running: Running<'_>) -> Option<Refusal> {
        let index = self.regions.binary_search_by_key(&address, |region| region.start).ok()?;
        let bytes = self.regions[index].bytes;
        let found = self.regions[index].shadow.begin(running.stamp, running.known)?;
        Some(self.unordered(index, 0, bytes, running, true, found))
    }

    fn earlier(&self, found: Found) -> String {
        let verb = if found.conflict.earlier_writes { "the write" } else { "the read" };
        format!("{verb} by {}", self.names.describe(found.conflict.earlier))
    }

    #[inline]
    fn find(&mut self, address: u64, bytes: usize) -> Option<usize> {
        for slot in 0..self.recent.len() {
            let index = self.recent[slot];
            if let Some(region) = self.regions.get(index)
                && address >= region.start
                && address - region.start + bytes as u64 <= region.bytes as u64
            {
                return Some(index);
            }
        }
        let index = self.regions.partition_point(|region| region.start <= address).checked_sub(1)?;
        let region = &self.regions[index];
        if address - region.start > region.bytes as u64 || (region.bytes as u64 - (address - region.start)) < bytes as u64 {
            return None;
        }
        self.recent.rotate_right(1);
        self.recent[0] = index;
        Some(index)
    }

    /// Notes that the operation at hand touches `bytes` from `address`, and says where they are.
    ///
    /// # Errors
    /// Outside every allocation, or not ordered after an earlier operation; then the second value is where they are all the same.
    #[inline]
    pub(crate) fn touch(
        &mut self,
        address: u64,
        bytes: usize,
        running: Running<'_>,
        writes: bool,
    ) -> Result<*mut u8, (Refusal, Option<*mut u8>)> {
        let Some(index) = self.find(address, bytes) else { return Err((self.outside(address, bytes, running, writes), None)) };
        let region = &mut self.regions[index];
        let offset = (address - region.start) as usize;
        let place = (region.mapping.start() + offset) as *mut u8;
        if bytes == 0 {
            return Ok(place);
        }
        let (mapping, fill) = (&region.mapping, region.fill);
        let found = region.shadow.touch(offset, bytes, running.stamp, running.known, writes, |page| {
            if fill {
                fill_page(mapping, page);
            }
        });
        match found {
            None => Ok(place),
            Some(found) => Err((self.unordered(index, offset, bytes, running, writes, found), Some(place))),
        }
    }

    #[cold]
    fn unordered(&self, index: usize, offset: usize, bytes: usize, running: Running<'_>, writes: bool, found: Found) -> Refusal {
        let region = &self.regions[index];
        Refusal::Unordered(format!(
            "the {} of bytes {offset}..{} of the allocation 0x{:x} ({} bytes) by {} is not ordered after {} at offset {}",
            if writes { "write" } else { "read" },
            offset + bytes,
            region.start,
            region.bytes,
            self.names.describe(running.stamp),
            self.earlier(found),
            found.offset
        ))
    }

    #[cold]
    fn outside(&self, address: u64, bytes: usize, running: Running<'_>, writes: bool) -> Refusal {
        let verb = if writes { "write" } else { "read" };
        let who = self.names.describe(running.stamp);
        let mut text = format!("the {verb} of {bytes} bytes at 0x{address:x} by {who} is outside every allocation");
        let before = self.regions.partition_point(|region| region.start <= address).checked_sub(1).map(|i| &self.regions[i]);
        let freed = self.freed.range(..=address).next_back();
        if let Some((start, (length, by))) = freed
            && address < start + *length as u64
        {
            text += &format!(": offset {} of the allocation 0x{start:x} ({length} bytes), freed by {by}", address - start);
        } else if let Some(region) = before {
            let past = (address - region.start).saturating_sub(region.bytes as u64);
            text += &format!(": {past} bytes past the end of the allocation 0x{:x} ({} bytes)", region.start, region.bytes);
        }
        Refusal::Outside(text)
    }
}

fn fill_page(mapping: &Mapping, page: usize) {
    let offset = page * PAGE_BYTES;
    let bytes = PAGE_BYTES.min(mapping.bytes() - offset);
    // SAFETY: a page of the mapping, which its region owns and only the executor's thread writes.
    unsafe { std::ptr::write_bytes((mapping.start() + offset) as *mut u8, 0xFF, bytes) };
}
