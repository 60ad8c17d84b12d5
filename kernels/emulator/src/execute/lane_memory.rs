//! Loads, stores, atomics and asynchronous copies of lanes.

use std::collections::HashMap;

use super::AccessKind;
use super::block::{Grid, Trouble};
use super::shared::{Use, Who};
use super::warp::{Copy, lanes};
use crate::ptx::element::Element;
use crate::ptx::instruction::{
    Address, AtomicKind, LOCAL_WINDOW, Operation, PARAMETER_WINDOW, Place, Register, SHARED_WINDOW, Several, WINDOW_MASK,
};
use crate::ptx::operation::{
    BinaryHalf, BinaryInteger, Lanes, bfloat_to_single, half_to_single, single_to_bfloat, single_to_half,
};

/// Which block wrote which global bytes, two bytes at a time, in pages of 4096. Single bytes are not watched.
#[derive(Debug, Default)]
pub(super) struct BlockWrites {
    pages: Vec<Box<[u32; 2048]>>,
    places: HashMap<u64, usize>,
    /// The page of the last write: neighbors are written together.
    last: (u64, usize),
}

impl BlockWrites {
    fn page(&mut self, number: u64) -> &mut [u32; 2048] {
        if self.pages.is_empty() || self.last.0 != number {
            let next = self.pages.len();
            let place = *self.places.entry(number).or_insert(next);
            if place == next {
                self.pages.push(Box::new([0; 2048]));
            }
            self.last = (number, place);
        }
        &mut self.pages[self.last.1]
    }

    /// Remembers a write of `block`, within one page; another block that wrote there, if one did.
    fn write(&mut self, block: u32, address: u64, bytes: u64) -> Option<u32> {
        if bytes < 2 {
            return None;
        }
        let page = self.page(address >> 12);
        // Accesses are aligned to their size, so none leaves its page.
        for unit in (address & 4095) >> 1..((address & 4095) + bytes).min(4096) >> 1 {
            let last = &mut page[unit as usize];
            if *last != 0 && *last != block + 1 {
                return Some(*last - 1);
            }
            *last = block + 1;
        }
        None
    }
}

/// Lanes of an access to one place.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) warp: usize,
    pub(super) mask: u32,
    pub(super) line: u32,
    pub(super) bytes: usize,
    pub(super) kind: AccessKind,
}

fn resolve(place: Place, address: u64) -> (Place, u64) {
    if place != Place::Generic {
        return (place, address);
    }
    match address & WINDOW_MASK {
        SHARED_WINDOW => (Place::Shared, address - SHARED_WINDOW),
        LOCAL_WINDOW => (Place::Local, address - LOCAL_WINDOW),
        PARAMETER_WINDOW => (Place::Parameter, address - PARAMETER_WINDOW),
        _ => (Place::Global, address),
    }
}

/// Reads up to 8 bytes.
///
/// # Safety
/// `bytes` bytes from `from` on can be read.
#[inline(always)]
unsafe fn read(from: *const u8, bytes: u8) -> u64 {
    // SAFETY: the caller says that so many bytes can be read; nothing is assumed of their alignment.
    unsafe {
        match bytes {
            1 => u64::from(from.read()),
            2 => u64::from(from.cast::<u16>().read_unaligned()),
            4 => u64::from(from.cast::<u32>().read_unaligned()),
            _ => from.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes up to 8 bytes.
///
/// # Safety
/// `bytes` bytes from `to` on can be written.
#[inline(always)]
unsafe fn write(to: *mut u8, value: u64, bytes: u8) {
    // SAFETY: the caller says that so many bytes can be written; nothing is assumed of their alignment.
    unsafe {
        match bytes {
            1 => to.write(value as u8),
            2 => to.cast::<u16>().write_unaligned(value as u16),
            4 => to.cast::<u32>().write_unaligned(value as u32),
            _ => to.cast::<u64>().write_unaligned(value),
        }
    }
}

impl Grid<'_> {
    pub(super) fn addresses(&self, warp: usize, address: &Address) -> Lanes {
        let mut values = *self.warps[warp].read(&self.constants, address.base);
        // An address in shared memory is 32 bits wide, in whatever register it is.
        let keep = if matches!(address.place, Place::Shared) { 0xFFFF_FFFF } else { u64::MAX };
        values.iter_mut().for_each(|value| *value = value.wrapping_add_signed(address.offset) & keep);
        values
    }

    /// Where each lane's bytes are in this process, every access checked.
    pub(super) fn locate(&mut self, access: Access, place: Place, addresses: &Lanes) -> Result<[*mut u8; 32], Trouble> {
        let mut found = [std::ptr::null_mut(); 32];
        let mut global = if place == Place::Global { access.mask } else { 0 };
        if place != Place::Global {
            for lane in lanes(access.mask) {
                match resolve(place, addresses[lane]) {
                    (Place::Global, _) => global |= 1 << lane,
                    (inner, offset) => found[lane] = self.locate_inside(access, lane, inner, offset)?,
                }
            }
        }
        if global != 0 {
            self.locate_global(access, global, addresses, &mut found)?;
        }
        Ok(found)
    }

    /// A lane's bytes in shared or local memory or in the parameters.
    fn locate_inside(&mut self, access: Access, lane: usize, place: Place, offset: u64) -> Result<*mut u8, Trouble> {
        let Access { warp, line, bytes, kind, .. } = access;
        let trouble = |reason: String| Trouble::of(lane, reason);
        if place == Place::Shared {
            let what = match kind {
                AccessKind::Read => Use::Read,
                AccessKind::Write => Use::Write,
                AccessKind::Atomic => Use::Atomic,
            };
            self.shared.check(Who { warp, lane, line }, offset, bytes, what).map_err(trouble)?;
            return Ok(self.shared.bytes[offset as usize..].as_mut_ptr());
        }
        let (size, name) = match place {
            Place::Local => (self.kernel.local_bytes as usize, "local memory"),
            _ => (self.parameters.len(), "the parameters"),
        };
        if !offset.is_multiple_of(bytes as u64) {
            return Err(trouble(format!("offset {offset} of {name} is not aligned to an access of {bytes} bytes")));
        }
        if offset.checked_add(bytes as u64).is_none_or(|end| end > size as u64) {
            return Err(trouble(format!("an access of {bytes} bytes at offset {offset} is outside the {size} bytes of {name}")));
        }
        match place {
            Place::Local => Ok(self.warps[warp].local[lane * size + offset as usize..].as_mut_ptr()),
            _ if kind == AccessKind::Read => Ok(self.parameters[offset as usize..].as_mut_ptr()),
            _ => Err(trouble("a kernel's parameters are written".to_owned())),
        }
    }

    /// Lanes' bytes in global memory; neighbors are asked for at once.
    fn locate_global(&mut self, access: Access, mask: u32, addresses: &Lanes, found: &mut [*mut u8; 32]) -> Result<(), Trouble> {
        let bytes = access.bytes as u64;
        if let Some(lane) = lanes(mask).find(|&lane| !addresses[lane].is_multiple_of(bytes)) {
            let reason = format!("address {:#x} is not aligned to an access of {bytes} bytes", addresses[lane]);
            return Err(Trouble::of(lane, reason));
        }
        if access.kind == AccessKind::Write && self.options.watch_blocks {
            self.watch_blocks(mask, addresses, bytes)?;
        }
        let counter =
            if access.kind == AccessKind::Read { &mut self.counts.global_read } else { &mut self.counts.global_written };
        *counter += bytes * u64::from(mask.count_ones());
        let mut left = mask;
        while left != 0 {
            let first = left.trailing_zeros() as usize;
            let (start, mut end, mut run) = (addresses[first], addresses[first].wrapping_add(bytes), 1u32 << first);
            for lane in lanes(left & !(1 << first)) {
                let address = addresses[lane];
                if address < start || address > end {
                    break;
                }
                end = end.max(address.wrapping_add(bytes));
                run |= 1 << lane;
            }
            match self.memory.access(start, end.wrapping_sub(start) as usize, access.kind) {
                Ok(place) => lanes(run).for_each(|lane| found[lane] = place.wrapping_add((addresses[lane] - start) as usize)),
                // One of several lanes is to blame: ask for each.
                Err(_) if run.count_ones() > 1 => {
                    for lane in lanes(run) {
                        let place = self.memory.access(addresses[lane], access.bytes, access.kind);
                        found[lane] = place.map_err(|reason| Trouble::of(lane, reason))?;
                    }
                }
                Err(reason) => return Err(Trouble::of(first, reason)),
            }
            left &= !run;
        }
        Ok(())
    }

    fn watch_blocks(&mut self, mask: u32, addresses: &Lanes, bytes: u64) -> Result<(), Trouble> {
        for lane in lanes(mask) {
            if let Some(other) = self.block_writes.write(self.block_number, addresses[lane], bytes) {
                let index = self.block_index(other);
                let reason = format!(
                    "address {:#x} is written, which block {index:?} wrote in the same launch, and blocks run in no order",
                    addresses[lane]
                );
                return Err(Trouble::of(lane, reason));
            }
        }
        Ok(())
    }

    pub(super) fn load(&mut self, access: Access, to: Several, address: &Address, signed_width: u8) -> Result<(), Trouble> {
        let addresses = self.addresses(access.warp, address);
        let (mask, bytes) = (access.mask, (access.bytes / usize::from(to.count)) as u8);
        let places = self.locate(access, address.place, &addresses)?;
        let warp = &mut self.warps[access.warp];
        for (part, register) in to.list().iter().enumerate() {
            let values = &mut warp.registers[*register as usize];
            for lane in lanes(mask) {
                // SAFETY: `locate` found `access.bytes` bytes to read at the place, and `part + 1` parts of `bytes` are no
                // more; no reference to them is alive, and blocks run one after another on this thread.
                let value = unsafe { read(places[lane].add(part * usize::from(bytes)), bytes) };
                values[lane] = if signed_width == 0 { value } else { extended(value, bytes, signed_width) };
            }
        }
        Ok(())
    }

    pub(super) fn store(&mut self, access: Access, from: Several, address: &Address) -> Result<(), Trouble> {
        let addresses = self.addresses(access.warp, address);
        let (mask, bytes) = (access.mask, (access.bytes / usize::from(from.count)) as u8);
        let places = self.locate(access, address.place, &addresses)?;
        let warp = &self.warps[access.warp];
        for (part, register) in from.list().iter().enumerate() {
            let values = warp.read(&self.constants, *register);
            for lane in lanes(mask) {
                // SAFETY: `locate` found `access.bytes` bytes to write at the place, and `part + 1` parts of `bytes` are no
                // more; no reference to them is alive, and registers are elsewhere.
                unsafe { write(places[lane].add(part * usize::from(bytes)), values[lane], bytes) };
            }
        }
        Ok(())
    }

    pub(super) fn atomic(&mut self, access: Access, operation: &Operation) -> Result<(), Trouble> {
        let Operation::Atomic { kind, element, to, address, inputs } = operation else { return Ok(()) };
        let addresses = self.addresses(access.warp, address);
        let places = self.locate(access, address.place, &addresses)?;
        let warp = &self.warps[access.warp];
        let (first, second) = (*warp.read(&self.constants, inputs[0]), *warp.read(&self.constants, inputs[1]));
        let bytes = element.bytes() as u8;
        let mut before = [0; 32];
        for lane in lanes(access.mask) {
            // SAFETY: `locate` found as many bytes as the element has at the place, to read and to write; no reference to
            // them is alive, and lanes follow each other.
            unsafe {
                before[lane] = read(places[lane], bytes);
                write(places[lane], changed(*kind, *element, before[lane], first[lane], second[lane]), bytes);
            }
        }
        self.warps[access.warp].write(*to, &before, access.mask);
        Ok(())
    }

    pub(super) fn copy_async(
        &mut self,
        access: Access,
        to: &Address,
        from: &Address,
        source: Option<Register>,
    ) -> Result<(), Trouble> {
        let (targets, sources) = (self.addresses(access.warp, to), self.addresses(access.warp, from));
        let sizes = source.map(|register| *self.warps[access.warp].read(&self.constants, register));
        for lane in lanes(access.mask) {
            let size = sizes.map_or(access.bytes, |sizes| sizes[lane] as u32 as usize);
            if size > access.bytes {
                return Err(Trouble::of(lane, format!("cp.async of {} bytes is told to read {size}", access.bytes)));
            }
            let mut data = [0; 16];
            if !sources[lane].is_multiple_of(access.bytes as u64) {
                let reason = format!("address {:#x} is not aligned to a cp.async of {} bytes", sources[lane], access.bytes);
                return Err(Trouble::of(lane, reason));
            }
            if size > 0 {
                let place = self.memory.access(sources[lane], size, AccessKind::Read);
                let place = place.map_err(|reason| Trouble::of(lane, reason))?;
                // SAFETY: the memory said that `size` bytes can be read at the place; `data` is this function's own 16
                // bytes, of which `size` is no more.
                unsafe { std::ptr::copy_nonoverlapping(place, data.as_mut_ptr(), size) };
                self.counts.global_read += size as u64;
            }
            let who = Who { warp: access.warp, lane, line: access.line };
            self.shared.start_copy(who, targets[lane], access.bytes).map_err(|reason| Trouble::of(lane, reason))?;
            let warp = &mut self.warps[access.warp];
            let (batch, line, bytes) = (warp.batches[lane], access.line, access.bytes as u8);
            warp.copies.push(Copy { lane: lane as u32, batch, to: targets[lane], bytes, data, line });
        }
        Ok(())
    }

    /// Ends the copies of the lanes but for the last `pending` groups that they committed; all, without a number.
    pub(super) fn wait_copies(&mut self, warp: usize, mask: u32, pending: Option<u32>) -> Result<(), Trouble> {
        let batches = self.warps[warp].batches;
        let copies = std::mem::take(&mut self.warps[warp].copies);
        let (done, left): (Vec<Copy>, Vec<Copy>) = copies.into_iter().partition(|copy| {
            let committed = batches[copy.lane as usize];
            mask >> copy.lane & 1 == 1 && pending.is_none_or(|pending| copy.batch + pending < committed)
        });
        self.warps[warp].copies = left;
        for copy in done {
            let who = Who { warp, lane: copy.lane as usize, line: copy.line };
            let finished = self.shared.finish_copy(who, copy.to, &copy.data[..usize::from(copy.bytes)]);
            finished.map_err(|reason| Trouble::of(copy.lane as usize, reason))?;
        }
        Ok(())
    }
}

/// A value of `bytes` bytes with its sign up to `width` bits.
fn extended(value: u64, bytes: u8, width: u8) -> u64 {
    let shift = 64 - 8 * u32::from(bytes);
    let signed = (((value << shift) as i64) >> shift) as u64;
    if width >= 64 { signed } else { signed & ((1 << width) - 1) }
}

/// What an atomic leaves in memory.
fn changed(kind: AtomicKind, element: Element, old: u64, a: u64, b: u64) -> u64 {
    let signed = element.is_signed();
    let compare = |x: u64, y: u64| match (signed, element.bits()) {
        (true, 32) => (x as i32).cmp(&(y as i32)),
        (true, _) => (x as i64).cmp(&(y as i64)),
        (false, 32) => (x as u32).cmp(&(y as u32)),
        (false, _) => x.cmp(&y),
    };
    match kind {
        AtomicKind::Add => sum(element, old, a),
        AtomicKind::Min => {
            if compare(a, old).is_lt() {
                a
            } else {
                old
            }
        }
        AtomicKind::Max => {
            if compare(a, old).is_gt() {
                a
            } else {
                old
            }
        }
        AtomicKind::And => old & a,
        AtomicKind::Or => old | a,
        AtomicKind::Xor => old ^ a,
        AtomicKind::Exchange => a,
        AtomicKind::CompareAndSwap => {
            if old == a {
                b
            } else {
                old
            }
        }
        AtomicKind::Increment => {
            if old as u32 >= a as u32 {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Decrement => {
            if old as u32 == 0 || old as u32 > a as u32 {
                a
            } else {
                old - 1
            }
        }
    }
}

fn sum(element: Element, old: u64, a: u64) -> u64 {
    match element {
        Element::F32 => u64::from((f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits()),
        Element::F64 => (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
        Element::F16 => u64::from(single_to_half(half_to_single(old as u16) + half_to_single(a as u16))),
        Element::Bf16 => u64::from(single_to_bfloat(bfloat_to_single(old as u16) + bfloat_to_single(a as u16))),
        Element::F16x2 | Element::Bf16x2 => {
            let half = if element == Element::F16x2 { BinaryHalf::AddPair } else { BinaryHalf::AddBfloatPair };
            let mut out = [0; 32];
            half.apply(&[old; 32], &[a; 32], &mut out);
            out[0]
        }
        _ => {
            let mut out = [0; 32];
            let add = if element.bits() == 64 { BinaryInteger::Add64 } else { BinaryInteger::Add32 };
            add.apply(&[old; 32], &[a; 32], &mut out);
            out[0]
        }
    }
}
