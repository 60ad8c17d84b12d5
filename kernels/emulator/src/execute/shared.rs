//! The shared memory of a block, and the watch for races on it.
//!
//! Every warp counts its synchronizations; an access is stamped with the count of its warp. A warp knows how far the others
//! were when it last met them at a barrier, so an access is ordered after another if its warp knows of the other's stamp.
//! Within a warp, lanes know of each other's accesses only after the warp has synchronized.

use super::warp::lanes;

/// Marks what nothing has written.
const NOBODY: u16 = u16::MAX;

#[derive(Debug, Clone, Copy)]
struct Mark {
    stamp: u32,
    line: u32,
    thread: u16,
}

#[derive(Debug, Clone, Copy)]
struct Written {
    /// The last store.
    plain: Mark,
    /// The last atomic.
    atomic: Mark,
    /// Whether a copy to it is under way.
    pending: bool,
}

impl Mark {
    fn warp(self) -> usize {
        usize::from(self.thread >> 5)
    }

    fn lane(self) -> usize {
        usize::from(self.thread & 31)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Reads {
    stamp: u32,
    lanes: u32,
    line: u32,
}

/// What a thread does with shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    Atomic,
}

/// Who accesses, and where in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub(super) warp: usize,
    pub(super) lane: usize,
    pub(super) line: u32,
}

/// Shared memory with its watch.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) bytes: Vec<u8>,
    warps: usize,
    shift: u32,
    written: Vec<Written>,
    /// By granule, then by warp.
    reads: Vec<Reads>,
    /// What each warp knows of each: its own count is on the diagonal.
    clocks: Vec<u32>,
    /// The count since which all lanes of a warp know of each other.
    together: Vec<u32>,
    /// What lanes know of each other after synchronizations of only some; by warp.
    some: Vec<Option<Box<[[u32; 32]; 32]>>>,
    /// Stamps below belong to blocks that have ended.
    base: u32,
}

impl Shared {
    pub(super) fn new(bytes: usize, warps: usize, granule_bytes: u32) -> Self {
        let shift = granule_bytes.max(1).trailing_zeros();
        let granules = bytes.div_ceil(1 << shift);
        let nobody = Mark { stamp: 0, line: 0, thread: NOBODY };
        Self {
            bytes: vec![0xFF; bytes],
            warps,
            shift,
            written: vec![Written { plain: nobody, atomic: nobody, pending: false }; granules],
            reads: vec![Reads::default(); granules * warps],
            clocks: vec![0; warps * warps],
            together: vec![0; warps],
            some: (0..warps).map(|_| None).collect(),
            base: 0,
        }
    }

    /// Makes the memory new for another block.
    pub(super) fn start(&mut self) {
        self.bytes.fill(0xFF);
        self.base = self.clocks.iter().copied().max().unwrap_or(0) + 1;
        self.clocks.fill(0);
        for warp in 0..self.warps {
            self.clocks[warp * self.warps + warp] = self.base;
            self.together[warp] = self.base;
            self.some[warp] = None;
        }
        self.written.iter_mut().for_each(|written| written.pending = false);
    }

    fn own(&self, warp: usize) -> u32 {
        self.clocks[warp * self.warps + warp]
    }

    /// Lanes `mask` of a warp, of which `alive` are left, have synchronized.
    pub(super) fn meet(&mut self, warp: usize, mask: u32, alive: u32) {
        let now = self.own(warp);
        if mask & alive == alive {
            self.clocks[warp * self.warps + warp] = now + 1;
            self.together[warp] = now + 1;
            self.some[warp] = None;
            return;
        }
        let known = self.some[warp].get_or_insert_with(|| Box::new([[0; 32]; 32]));
        let mut joined = [0; 32];
        for lane in lanes(mask) {
            joined.iter_mut().zip(&known[lane]).for_each(|(joined, known)| *joined = (*joined).max(*known));
        }
        lanes(mask).for_each(|lane| joined[lane] = now);
        lanes(mask).for_each(|lane| known[lane] = joined);
        self.clocks[warp * self.warps + warp] = now + 1;
    }

    /// What a warp passes on when it arrives at a barrier.
    pub(super) fn pass_on(&mut self, warp: usize, clock: &mut Vec<u32>) {
        clock.resize(self.warps, 0);
        let known = &self.clocks[warp * self.warps..(warp + 1) * self.warps];
        clock.iter_mut().zip(known).for_each(|(clock, known)| *clock = (*clock).max(*known));
        self.clocks[warp * self.warps + warp] += 1;
    }

    /// What a warp learns when a barrier completes.
    pub(super) fn learn(&mut self, warp: usize, clock: &[u32]) {
        let own = self.own(warp);
        let known = &mut self.clocks[warp * self.warps..(warp + 1) * self.warps];
        known.iter_mut().zip(clock).for_each(|(known, clock)| *known = (*known).max(*clock));
        known[warp] = own + 1;
        self.together[warp] = own + 1;
        self.some[warp] = None;
    }

    /// Whether `who` knows of an access that another thread stamped.
    #[inline(always)]
    fn knows(&self, who: Who, stamp: u32, warp: usize, lane: usize) -> bool {
        if stamp < self.base {
            return true;
        }
        if warp != who.warp {
            return self.clocks[who.warp * self.warps + warp] >= stamp;
        }
        lane == who.lane
            || stamp < self.together[warp]
            || self.some[warp].as_ref().is_some_and(|known| known[who.lane][lane] >= stamp)
    }

    fn thread(&self, warp: usize, lane: usize) -> String {
        format!("lane {lane} of warp {warp}")
    }

    /// Why an access is outside or not aligned, if it is.
    pub(super) fn bounds(&self, address: u64, bytes: usize) -> Result<(), String> {
        if !address.is_multiple_of(bytes as u64) {
            return Err(format!("shared memory at offset {address} is not aligned to an access of {bytes} bytes"));
        }
        let size = self.bytes.len() as u64;
        if address.checked_add(bytes as u64).is_none_or(|end| end > size) {
            return Err(format!("an access of {bytes} bytes at offset {address} is outside the {size} bytes of shared memory"));
        }
        Ok(())
    }

    /// Checks an access against those before it and remembers it.
    pub(super) fn check(&mut self, who: Who, address: u64, bytes: usize, what: Use) -> Result<(), String> {
        self.bounds(address, bytes)?;
        let first = address as usize >> self.shift;
        let last = (address as usize + bytes - 1) >> self.shift;
        for granule in first..=last {
            self.check_granule(who, granule, what)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn check_granule(&mut self, who: Who, granule: usize, what: Use) -> Result<(), String> {
        let written = self.written[granule];
        if written.pending {
            return Err(self.pending_reason(granule, written.plain, what));
        }
        let stamp = self.own(who.warp);
        self.check_writer(who, granule, what, written.plain)?;
        if what != Use::Atomic {
            self.check_writer(who, granule, what, written.atomic)?;
        }
        if what == Use::Read {
            let reads = &mut self.reads[granule * self.warps + who.warp];
            if reads.stamp != stamp {
                *reads = Reads { stamp, lanes: 0, line: who.line };
            }
            reads.lanes |= 1 << who.lane;
            return Ok(());
        }
        self.check_readers(who, granule, what)?;
        let thread = (who.warp as u16) << 5 | who.lane as u16;
        let mark = Mark { stamp, line: who.line, thread };
        if what == Use::Atomic {
            self.written[granule].atomic = mark;
        } else {
            self.written[granule].plain = mark;
        }
        Ok(())
    }

    #[inline(always)]
    fn check_writer(&self, who: Who, granule: usize, what: Use, mark: Mark) -> Result<(), String> {
        if mark.thread == NOBODY || self.knows(who, mark.stamp, mark.warp(), mark.lane()) {
            return Ok(());
        }
        Err(self.race_reason(granule, what, "wrote", mark.warp(), mark.lane(), mark.line))
    }

    fn check_readers(&self, who: Who, granule: usize, what: Use) -> Result<(), String> {
        for warp in 0..self.warps {
            let reads = self.reads[granule * self.warps + warp];
            // What a warp read before it was last together, every lane of it knows.
            let own = warp == who.warp && reads.stamp < self.together[warp];
            if reads.stamp < self.base || own || (warp != who.warp && self.knows(who, reads.stamp, warp, 0)) {
                continue;
            }
            let others = if warp == who.warp { reads.lanes & !(1 << who.lane) } else { reads.lanes };
            if let Some(lane) = lanes(others).find(|&lane| !self.knows(who, reads.stamp, warp, lane)) {
                return Err(self.race_reason(granule, what, "read", warp, lane, reads.line));
            }
        }
        Ok(())
    }

    fn race_reason(&self, granule: usize, what: Use, before: &str, warp: usize, lane: usize, line: u32) -> String {
        let now = match what {
            Use::Read => "is read",
            Use::Write => "is written",
            Use::Atomic => "is changed by an atomic",
        };
        let offset = granule << self.shift;
        let other = self.thread(warp, lane);
        format!(
            "a race: shared memory at offset {offset} {now}, but {other} {before} it (line {line}) and no barrier is in between"
        )
    }

    fn pending_reason(&self, granule: usize, mark: Mark, what: Use) -> String {
        let offset = granule << self.shift;
        let other = self.thread(mark.warp(), mark.lane());
        let now = if what == Use::Read { "read" } else { "written" };
        format!(
            "shared memory at offset {offset} is {now} while the cp.async into it (line {}, by {other}) has not been waited for",
            mark.line
        )
    }

    /// An asynchronous copy starts.
    pub(super) fn start_copy(&mut self, who: Who, address: u64, bytes: usize) -> Result<(), String> {
        self.check(who, address, bytes, Use::Write)?;
        for granule in address as usize >> self.shift..=(address as usize + bytes - 1) >> self.shift {
            self.written[granule].pending = true;
        }
        Ok(())
    }

    /// An asynchronous copy has been waited for: its bytes are as if written now.
    pub(super) fn finish_copy(&mut self, who: Who, address: u64, data: &[u8]) -> Result<(), String> {
        for granule in address as usize >> self.shift..=(address as usize + data.len() - 1) >> self.shift {
            self.written[granule].pending = false;
        }
        self.check(who, address, data.len(), Use::Write)?;
        self.bytes[address as usize..address as usize + data.len()].copy_from_slice(data);
        Ok(())
    }
}
