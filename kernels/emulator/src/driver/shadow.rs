//! Who touched which bytes of an allocation last, and whether the next one may.
//!
//! Bytes are watched exactly: each line of 64 bytes keeps its last writes and the reads since, as masks of bytes. A page of 64
//! lines that was only ever touched as a whole keeps one such line for all.

use super::clock::{Stamp, VectorClock};

const LINE_BYTES: usize = 64;
const LINES: usize = 64;
/// Bytes of a page of lines.
pub(crate) const PAGE_BYTES: usize = LINE_BYTES * LINES;

/// One operation's accesses to a line.
#[derive(Debug, Clone, Copy, Default)]
struct Touch {
    stamp: Stamp,
    bytes: u64,
}

#[derive(Debug, Clone, Default)]
struct Line {
    write: Touch,
    read: Touch,
    /// Further touches that neither the last write nor the last read stands for; the flag tells writes.
    #[allow(clippy::box_collection, reason = "a line is held by the million, and nearly all have none")]
    more: Option<Box<Vec<(bool, Touch)>>>,
}

/// A page that has been touched.
#[derive(Debug)]
enum Page {
    Whole(Line),
    Lines(Box<[Line; LINES]>),
}

/// An access that nothing orders after an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The earlier operation.
    pub earlier: Stamp,
    /// Whether the earlier one wrote.
    pub earlier_writes: bool,
    /// The first byte of the line that both touch.
    pub byte: usize,
}

impl Line {
    fn touch(&mut self, stamp: Stamp, known: &VectorClock, writes: bool, bytes: u64) -> Option<Conflict> {
        if writes {
            if self.write.stamp == stamp
                && self.write.bytes & bytes == bytes
                && self.read.bytes & bytes == 0
                && self.more.is_none()
            {
                return None;
            }
            return self.write(stamp, known, bytes);
        }
        if self.read.stamp == stamp && self.read.bytes & bytes == bytes {
            return None;
        }
        self.read(stamp, known, bytes)
    }

    fn conflict(&self, stamp: Stamp, known: &VectorClock, bytes: u64, with_reads: bool) -> Option<Conflict> {
        let unordered = |touch: &Touch| touch.bytes & bytes != 0 && touch.stamp != stamp && !known.covers(touch.stamp);
        let conflict = |touch: &Touch, earlier_writes: bool| {
            let byte = (touch.bytes & bytes).trailing_zeros() as usize;
            Some(Conflict { earlier: touch.stamp, earlier_writes, byte })
        };
        if unordered(&self.write) {
            return conflict(&self.write, true);
        }
        if with_reads && unordered(&self.read) {
            return conflict(&self.read, false);
        }
        let (writes, touch) = self.more.as_deref()?.iter().find(|(writes, touch)| (*writes || with_reads) && unordered(touch))?;
        conflict(touch, *writes)
    }

    fn write(&mut self, stamp: Stamp, known: &VectorClock, bytes: u64) -> Option<Conflict> {
        let conflict = self.conflict(stamp, known, bytes, true);
        self.read.bytes &= !bytes;
        self.forget(bytes, None);
        if self.write.stamp == stamp {
            self.write.bytes |= bytes;
        } else {
            let old = Touch { bytes: self.write.bytes & !bytes, ..self.write };
            self.keep(true, old);
            self.write = Touch { stamp, bytes };
        }
        conflict
    }

    fn read(&mut self, stamp: Stamp, known: &VectorClock, bytes: u64) -> Option<Conflict> {
        let conflict = self.conflict(stamp, known, bytes, false);
        if self.read.stamp == stamp {
            self.read.bytes |= bytes;
            return conflict;
        }
        // A later read of the same component stands for its earlier ones.
        self.forget(bytes, Some(stamp.component));
        let kept = if self.read.stamp.component == stamp.component { self.read.bytes & !bytes } else { self.read.bytes };
        let old = Touch { bytes: kept, ..self.read };
        self.keep(false, old);
        self.read = Touch { stamp, bytes };
        conflict
    }

    fn keep(&mut self, writes: bool, touch: Touch) {
        if touch.bytes != 0 {
            self.more.get_or_insert_default().push((writes, touch));
        }
    }

    /// Takes `bytes` from the further touches: all of them, or the reads of one component.
    fn forget(&mut self, bytes: u64, reads_of: Option<u16>) {
        let Some(more) = self.more.as_deref_mut() else { return };
        more.retain_mut(|(writes, touch)| {
            if reads_of.is_none_or(|component| !*writes && touch.stamp.component == component) {
                touch.bytes &= !bytes;
            }
            touch.bytes != 0
        });
        if more.is_empty() {
            self.more = None;
        }
    }
}

/// The touches of one allocation.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pages: Vec<Option<Page>>,
    /// The operation that made the memory usable, for all pages that nothing touched since.
    born: Stamp,
}

/// What an access found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where, from the start of the allocation.
    pub offset: usize,
    /// What.
    pub conflict: Conflict,
}

impl Shadow {
    /// Nothing is touched yet.
    pub(crate) fn new(bytes: usize) -> Self {
        Shadow { pages: (0..bytes.div_ceil(PAGE_BYTES)).map(|_| None).collect(), born: Stamp::default() }
    }

    /// Notes an access and says whether it conflicts; `first` is called with the number of each page touched for the first time.
    #[inline]
    pub(crate) fn touch(
        &mut self,
        offset: usize,
        bytes: usize,
        stamp: Stamp,
        known: &VectorClock,
        writes: bool,
        first: impl FnMut(usize),
    ) -> Option<Found> {
        let (page, line, byte) = (offset / PAGE_BYTES, offset / LINE_BYTES % LINES, offset % LINE_BYTES);
        if byte + bytes <= LINE_BYTES
            && let Some(Page::Lines(lines)) = &mut self.pages[page]
        {
            let conflict = lines[line].touch(stamp, known, writes, mask(byte, byte + bytes))?;
            return Some(Found { offset: offset - byte + conflict.byte, conflict });
        }
        self.touch_range(offset, bytes, stamp, known, writes, first)
    }

    #[inline(never)]
    fn touch_range(
        &mut self,
        offset: usize,
        bytes: usize,
        stamp: Stamp,
        known: &VectorClock,
        writes: bool,
        mut first: impl FnMut(usize),
    ) -> Option<Found> {
        let mut found = None;
        let born = Line { write: Touch { stamp: self.born, bytes: u64::MAX }, ..Line::default() };
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let page = at / PAGE_BYTES;
            let stop = end.min((page + 1) * PAGE_BYTES);
            let slot = &mut self.pages[page];
            let entry = slot.get_or_insert_with(|| {
                first(page);
                Page::Whole(born.clone())
            });
            let hit = touch_page(entry, at % PAGE_BYTES, stop - page * PAGE_BYTES, stamp, known, writes);
            found = found.or(hit.map(|(offset, conflict)| Found { offset: page * PAGE_BYTES + offset, conflict }));
            at = stop;
        }
        found
    }

    /// Notes that an operation made the memory usable; what was touched already was touched too early.
    pub(crate) fn begin(&mut self, stamp: Stamp, known: &VectorClock) -> Option<Found> {
        self.born = stamp;
        let mut found = None;
        for (number, page) in self.pages.iter_mut().enumerate() {
            let Some(page) = page else { continue };
            let hit = touch_page(page, 0, PAGE_BYTES, stamp, known, true);
            found = found.or(hit.map(|(offset, conflict)| Found { offset: number * PAGE_BYTES + offset, conflict }));
        }
        found
    }

    /// The first touch that `known` does not cover.
    pub(crate) fn in_use(&self, known: &VectorClock) -> Option<Found> {
        let nobody = Stamp::default();
        if !known.covers(self.born) {
            let conflict = Conflict { earlier: self.born, earlier_writes: true, byte: 0 };
            return Some(Found { offset: 0, conflict });
        }
        for (number, page) in self.pages.iter().enumerate() {
            let lines: &[Line] = match page {
                None => continue,
                Some(Page::Whole(line)) => std::slice::from_ref(line),
                Some(Page::Lines(lines)) => &lines[..],
            };
            for (index, line) in lines.iter().enumerate() {
                if let Some(conflict) = line.conflict(nobody, known, u64::MAX, true) {
                    return Some(Found { offset: number * PAGE_BYTES + index * LINE_BYTES + conflict.byte, conflict });
                }
            }
        }
        None
    }

    /// Whether a page was ever touched.
    pub(crate) fn is_touched(&self, page: usize) -> bool {
        self.pages[page].is_some()
    }

    /// Pages.
    pub(crate) fn pages(&self) -> usize {
        self.pages.len()
    }
}

/// Touches bytes `start..end` of a page; gives where the first conflict is.
fn touch_page(
    page: &mut Page,
    start: usize,
    end: usize,
    stamp: Stamp,
    known: &VectorClock,
    writes: bool,
) -> Option<(usize, Conflict)> {
    if start == 0 && end == PAGE_BYTES {
        return match page {
            Page::Whole(line) => line.touch(stamp, known, writes, u64::MAX).map(|conflict| (conflict.byte, conflict)),
            Page::Lines(lines) => {
                let mut found = None;
                for (index, line) in lines.iter_mut().enumerate() {
                    let hit = line.touch(stamp, known, writes, u64::MAX);
                    found = found.or(hit.map(|conflict| (index * LINE_BYTES + conflict.byte, conflict)));
                }
                if writes {
                    // A write of the whole page stands for all that came before.
                    *page = Page::Whole(Line { write: Touch { stamp, bytes: u64::MAX }, ..Line::default() });
                }
                found
            }
        };
    }
    if let Page::Whole(line) = page {
        *page = Page::Lines(Box::new(std::array::from_fn(|_| line.clone())));
    }
    let Page::Lines(lines) = page else { unreachable!("it was split") };
    let mut found = None;
    for index in start / LINE_BYTES..end.div_ceil(LINE_BYTES) {
        let from = start.saturating_sub(index * LINE_BYTES);
        let to = (end - index * LINE_BYTES).min(LINE_BYTES);
        let hit = lines[index].touch(stamp, known, writes, mask(from, to));
        found = found.or(hit.map(|conflict| (index * LINE_BYTES + conflict.byte, conflict)));
    }
    found
}

/// Bits `from..to` of a line.
#[inline]
fn mask(from: usize, to: usize) -> u64 {
    (u64::MAX >> (LINE_BYTES - (to - from))) << from
}
