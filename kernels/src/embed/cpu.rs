//! Lookup on vectors: the first table's row is written, the others are added while it is in the first-level cache.

use super::{Ids, Lookup, TableType};
use crate::simd::{Simd, with_simd};
use crate::team::Team;

/// How many rows ahead a table's row is asked for: large tables are in memory, not in a cache.
const AHEAD: usize = 4;

const _: () = assert!(cfg!(target_endian = "little"), "tables are read as the processor stores numbers, low byte first");

pub(super) fn embed(team: &Team, tables: &[Lookup<'_>], n: usize, output: &mut [f32]) {
    let isa = team.isa();
    team.rows(output, n, (1 + tables.len()) * output.len(), |rows, output| {
        let first = rows.start;
        with_simd!(isa, each_row(tables: &[Lookup<'_>], first: usize, n: usize, output: &mut [f32]));
    });
}

/// Fills rows of the output from number `first` on.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn each_row<S: Simd>(tables: &[Lookup<'_>], first: usize, n: usize, output: &mut [f32]) {
    let rows = output.len() / n;
    for (row, output) in output.chunks_exact_mut(n).enumerate() {
        if tables.is_empty() {
            output.fill(0.0);
        }
        for (index, table) in tables.iter().enumerate() {
            if row + AHEAD < rows && matches!(table.ids, Ids::Each(_)) {
                prefetch(vector(table, first + row + AHEAD, n));
            }
            let from = vector(table, first + row, n);
            // SAFETY: as of this function.
            unsafe {
                match (table.dtype, index) {
                    (TableType::F32, 0) => one::<S, F32, false>(from, output),
                    (TableType::F32, _) => one::<S, F32, true>(from, output),
                    (TableType::F16, 0) => one::<S, F16, false>(from, output),
                    (TableType::F16, _) => one::<S, F16, true>(from, output),
                    (TableType::Bf16, 0) => one::<S, Bf16, false>(from, output),
                    (TableType::Bf16, _) => one::<S, Bf16, true>(from, output),
                }
            }
        }
    }
}

/// The bytes of the vector that belongs to a row of the output.
#[inline(always)]
fn vector<'a>(table: &Lookup<'a>, row: usize, n: usize) -> &'a [u8] {
    let id = match table.ids {
        Ids::Each(ids) => ids[row],
        Ids::All(id) => id,
    };
    let size = n * table.dtype.size();
    &table.bytes[id as usize * size..][..size]
}

/// Asks for a vector. For all of its lines: the processor takes long to see by itself that they are wanted.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(crate::aligned::LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is one that every processor has, and it may be given any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// How numbers of a table become f32.
trait Stored {
    /// Bytes per number.
    const SIZE: usize;
    /// Reads `LANES` numbers; `from` need not be aligned.
    ///
    /// # Safety
    /// The instructions of `S` are available and the numbers are readable.
    unsafe fn load<S: Simd>(from: *const u8) -> S;
}

struct F32;
struct F16;
struct Bf16;

impl Stored for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S {
        // SAFETY: as of this function.
        unsafe { S::load(from.cast()) }
    }
}

impl Stored for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S {
        // SAFETY: as of this function.
        unsafe { S::load_f16(from) }
    }
}

impl Stored for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S {
        // SAFETY: as of this function.
        unsafe { S::load_bf16(from) }
    }
}

/// Writes one vector to `output`, or with `ADD` adds it.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn one<S: Simd, T: Stored, const ADD: bool>(from: &[u8], output: &mut [f32]) {
    let n = output.len();
    assert_eq!(from.len(), n * T::SIZE);
    // SAFETY: the instructions as of this function. `output` has `n` numbers and `from` has `n` stored ones; vectors begin at
    // columns up to `n - LANES`. The last numbers are read from a copy that is as large as the widest vector.
    unsafe {
        let mut column = 0;
        while column + S::LANES <= n {
            let mut x = T::load::<S>(from.as_ptr().add(column * T::SIZE));
            if ADD {
                x = S::load(output.as_ptr().add(column)).add(x);
            }
            x.store(output.as_mut_ptr().add(column));
            column += S::LANES;
        }
        let rest = n - column;
        if rest > 0 {
            let mut copy = [0u8; crate::aligned::LINE_BYTES];
            copy[..rest * T::SIZE].copy_from_slice(&from[column * T::SIZE..]);
            let mut x = T::load::<S>(copy.as_ptr());
            if ADD {
                x = S::load_first(output.as_ptr().add(column), rest).add(x);
            }
            x.store_first(output.as_mut_ptr().add(column), rest);
        }
    }
}
