//! Pinned host memory: kept from the host while copies are under way.
//!
//! An allocation is mapped twice. Copies go through the second mapping; the first, which the application has, loses its rights
//! until the application has synchronized with the copy: writing what a copy still reads, and touching what a copy still
//! writes, end the process with a report.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use super::clock::Stamp;
use super::mapping::{Mapping, OS_PAGE_BYTES};

/// An allocation of pinned memory.
#[derive(Debug)]
pub(crate) struct Pinned {
    /// As asked for.
    pub bytes: usize,
    /// The application's mapping; none for memory of its own that it registered.
    pub view: Option<Mapping>,
    /// The flags it was made with.
    pub flags: u32,
}

/// A copy under way.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    /// The allocation's start.
    pub allocation: usize,
    /// The bytes, from there.
    pub range: std::ops::Range<usize>,
    /// Whether the copy writes them.
    pub writes: bool,
    /// The copy.
    pub stamp: Stamp,
    /// The slot of the table the signal handler reads.
    slot: Option<usize>,
}

/// What of the pages the host may do, from the copies under way.
fn rights(allocation: usize, page: usize, pins: &[Pin]) -> i32 {
    let mut rights = libc::PROT_READ | libc::PROT_WRITE;
    for pin in pins.iter().filter(|pin| pin.allocation == allocation && kept_pages(&pin.range).contains(&page)) {
        rights &= if pin.writes { libc::PROT_NONE } else { libc::PROT_READ };
    }
    rights
}

/// The pages of a range that are kept from the host. A range from the start of a page has all its pages, also the last one
/// that it covers in part: most results are smaller than a page, and who copies the first part of an allocation has no use for
/// the rest meanwhile. Where a range begins within a page, what shares its first and last page cannot be kept from the host.
fn kept_pages(range: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    let end =
        if range.start.is_multiple_of(OS_PAGE_BYTES) { range.end.div_ceil(OS_PAGE_BYTES) } else { range.end / OS_PAGE_BYTES };
    range.start.div_ceil(OS_PAGE_BYTES)..end
}

impl Pinned {
    /// Starts a pin.
    pub(crate) fn pin(&self, pins: &mut Vec<Pin>, mut pin: Pin, name: &str) {
        install_handler();
        pin.slot = IN_FLIGHT.iter().position(|slot| {
            let start = pin.allocation + pin.range.start;
            slot.end.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() && {
                slot.name.store(lasting(name), Ordering::Release);
                slot.start.store(start, Ordering::Release);
                slot.end.store(pin.allocation + pin.range.end, Ordering::Release);
                true
            }
        });
        let pages = kept_pages(&pin.range);
        pins.push(pin);
        self.apply(pages, pins);
    }

    /// What the host may do with each page now.
    fn apply(&self, pages: std::ops::Range<usize>, pins: &[Pin]) {
        let Some(view) = &self.view else { return };
        let mut start = pages.start;
        while start < pages.end {
            let wanted = rights(view.start(), start, pins);
            let stop = (start..pages.end).find(|page| rights(view.start(), *page, pins) != wanted).unwrap_or(pages.end);
            view.protect(start * OS_PAGE_BYTES, (stop - start) * OS_PAGE_BYTES, wanted);
            start = stop;
        }
    }

    /// Ends a pin that was taken out of `pins`.
    pub(crate) fn unpin(&self, ended: &Pin, pins: &[Pin]) {
        ended.forget();
        self.apply(kept_pages(&ended.range), pins);
    }

    /// What the host may do at an offset: rights as `mmap` writes them.
    #[cfg(test)]
    pub(crate) fn rights(&self, offset: usize, pins: &[Pin]) -> i32 {
        self.view.as_ref().map_or(libc::PROT_READ | libc::PROT_WRITE, |view| rights(view.start(), offset / OS_PAGE_BYTES, pins))
    }
}

impl Pin {
    pub(crate) fn new(allocation: usize, range: std::ops::Range<usize>, writes: bool, stamp: Stamp) -> Self {
        Pin { allocation, range, writes, stamp, slot: None }
    }

    fn forget(&self) {
        if let Some(slot) = self.slot {
            IN_FLIGHT[slot].start.store(0, Ordering::Release);
            IN_FLIGHT[slot].end.store(0, Ordering::Release);
        }
    }
}

/// A copy under way, as the signal handler sees it.
struct InFlight {
    start: AtomicUsize,
    /// 0 where the slot is free.
    end: AtomicUsize,
    name: AtomicPtr<String>,
}

/// A name that is never freed: a signal handler may read it at any time. There are few different ones.
fn lasting(name: &str) -> *mut String {
    static NAMES: Mutex<Vec<&'static String>> = Mutex::new(Vec::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = names.iter().find(|known| known.as_str() == name).copied();
    let lasting = known.unwrap_or_else(|| {
        names.push(Box::leak(Box::new(name.to_owned())));
        names[names.len() - 1]
    });
    std::ptr::from_ref(lasting).cast_mut()
}

/// Copies the handler can name; more are protected all the same.
const SLOTS: usize = 128;

static IN_FLIGHT: [InFlight; SLOTS] =
    [const { InFlight { start: AtomicUsize::new(0), end: AtomicUsize::new(0), name: AtomicPtr::new(std::ptr::null_mut()) } };
        SLOTS];

/// What handled the signal before, kept for faults that are not ours.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: zero is a valid sigaction, filled below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: as above.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both are valid for the call; the handler only uses functions that are safe in signal handlers.
        let result = unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, &raw mut previous) };
        assert_eq!(result, 0, "sigaction");
        PREVIOUS.store(Box::into_raw(Box::new(previous)), Ordering::Release);
    });
}

extern "C" fn on_fault(_signal: libc::c_int, details: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to handlers installed with SA_SIGINFO.
    let address = unsafe { (*details).si_addr() } as usize;
    for slot in &IN_FLIGHT {
        let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
        // A fault may lie in the slot's page, before or after the bytes themselves.
        if end > 1 && (start..end).contains(&address) {
            say(b"emulator: the host touches pinned memory that a copy still uses: ");
            // SAFETY: names are leaked, never freed, and stored before the range is.
            if let Some(name) = unsafe { slot.name.load(Ordering::Acquire).as_ref() } {
                say(name.as_bytes());
            }
            say(b"; wait for its event or its stream first\n");
            // SAFETY: ends the process.
            unsafe { libc::abort() };
        }
    }
    // SAFETY: set before this handler could run, and never freed.
    if let Some(previous) = unsafe { PREVIOUS.load(Ordering::Acquire).as_ref() } {
        // SAFETY: gives the signal back; the faulting instruction runs again and meets the former handler.
        unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::from_ref(previous), std::ptr::null_mut()) };
    }
}

fn say(text: &[u8]) {
    // SAFETY: a valid range; write is safe in signal handlers.
    let _ = unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}
