//! Copies of rows in the order in which the tiles read them.

use super::tile::{CHUNK, MOST_LANES, MOST_ROWS, STRIDE};
use super::vector::Vector;

/// Rows somewhere in memory, one head of each.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The first row.
    pub(super) first: *const f32,
    /// Numbers from one row to the next.
    pub(super) stride: usize,
    /// Numbers per row.
    pub(super) size: usize,
}

/// Copies `count` rows times a factor, as left operands of tiles.
///
/// # Safety
/// The instructions of `S` are available; so many rows are readable, and `to` has room for them in the layout of [`STRIDE`]
/// and [`CHUNK`], whole vectors each.
#[inline(always)]
pub(super) unsafe fn left<S: Vector>(rows: Rows, count: usize, factor: f32, to: *mut f32) {
    // SAFETY: as of this function.
    unsafe {
        let factor = S::splat(factor);
        let mut start = 0;
        while start < rows.size {
            let end = rows.size.min(start + CHUNK);
            let to = to.add(start / CHUNK * (MOST_ROWS * STRIDE));
            for r in 0..count {
                let (from, to) = (rows.first.add(r * rows.stride), to.add(r * STRIDE));
                let mut k = start;
                while k + S::LANES <= end {
                    S::load(from.add(k)).mul(factor).store(to.add(k - start));
                    k += S::LANES;
                }
                if k < end {
                    S::load_first(from.add(k), end - k).mul(factor).store(to.add(k - start));
                }
            }
            start = end;
        }
    }
}

/// Packs rows as columns of panels: the transpose, two vectors of rows a panel, or one vector if no more rows are left and
/// not `wide`. Rows behind the last are copies of the last.
///
/// # Safety
/// The instructions of `S` are available; `row` gives the beginnings of `count` readable rows of `size` numbers, and `to` has
/// room for the panels.
#[inline(always)]
pub(super) unsafe fn transposed<S: Vector>(
    row: impl Fn(usize) -> *const f32,
    count: usize,
    size: usize,
    wide: bool,
    to: *mut f32,
) {
    let width = 2 * S::LANES;
    let mut start = 0;
    while start < count {
        let step = if wide || count - start > S::LANES { width } else { S::LANES };
        // SAFETY: as of this function: the panels before this one hold `start` rows.
        let panel = unsafe { to.add(start * size) };
        let mut half = 0;
        while half < step {
            let mut rows = [std::ptr::null(); MOST_LANES];
            for (lane, pointer) in rows.iter_mut().enumerate().take(S::LANES) {
                *pointer = row((start + half + lane).min(count - 1));
            }
            let mut k = 0;
            while k < size {
                let columns = S::LANES.min(size - k);
                // SAFETY: only numbers of real rows are read; they become rows `k` and following of the panel.
                unsafe { S::transpose(&rows, k, columns, panel.add(k * step + half), step) };
                k += S::LANES;
            }
            half += S::LANES;
        }
        start += width;
    }
}

/// Packs rows as rows of panels: two vectors of columns a panel, or one if no more columns are left. Columns behind the
/// last are zeros.
///
/// # Safety
/// The instructions of `S` are available; `count` rows are readable, and `to` has room for the panels.
#[inline(always)]
pub(super) unsafe fn straight<S: Vector>(rows: Rows, count: usize, to: *mut f32) {
    let mut column = 0;
    while column < rows.size {
        let vectors = if rows.size - column > S::LANES { 2 } else { 1 };
        // SAFETY: as of this function: the panels before this one hold `column` columns.
        unsafe {
            let panel = to.add(column * count);
            if column + vectors * S::LANES <= rows.size {
                for r in 0..count {
                    let from = rows.first.add(r * rows.stride + column);
                    for c in 0..vectors {
                        S::load(from.add(c * S::LANES)).store(panel.add((r * vectors + c) * S::LANES));
                    }
                }
            } else {
                for r in 0..count {
                    let from = rows.first.add(r * rows.stride + column);
                    for c in 0..vectors {
                        let real = S::LANES.min(rows.size - column - c * S::LANES);
                        S::load_first(from.add(c * S::LANES), real).store(panel.add((r * vectors + c) * S::LANES));
                    }
                }
            }
        }
        column += 2 * S::LANES;
    }
}
