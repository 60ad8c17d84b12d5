//! What positions add to scores, prepared for the queries of an item and the keys that are packed at present.
//!
//! With `i` and `j` counted from the first query of the item and the first packed key, distances are told apart by
//! `j - i + queries - 1`, which counts from 0 and grows with `j`: for one query, the keys in order lie side by side.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::layout::{CROSSED_PAD, CROSSED_STRIDE, Layout};
use super::pack::{self, Rows};
use super::tile::{Products, STRIDE, Start, by_rows};
use super::vector::Vector;
use super::{Bias, Disentangled, Spec};

/// The queries of an item and the keys that are packed at present, counted in the span, and one of the heads.
#[derive(Clone)]
pub(super) struct Place {
    /// Queries of the item.
    pub(super) queries: Range<usize>,
    /// Packed keys.
    pub(super) keys: Range<usize>,
    /// The head.
    pub(super) head: usize,
}

impl Place {
    /// How many distances there are.
    fn distances(&self) -> usize {
        self.queries.len() + self.keys.len() - 1
    }

    /// `j - i` of the first distance, counted in the span.
    fn first_distance(&self) -> isize {
        self.keys.start as isize - (self.queries.end as isize - 1)
    }
}

/// Prepares what depends on the item and the packed keys alone.
///
/// # Safety
/// The instructions of `S` are available; `memory` has room for the layout, made for at least these queries and keys; `key`
/// are the packed keys' rows and `factor` turns products into scores in units of log2.
#[inline(always)]
pub(super) unsafe fn prepare<S: Vector>(
    spec: &Spec,
    bias: Bias<'_>,
    place: &Place,
    key: Rows,
    factor: f32,
    layout: &Layout,
    memory: *mut f32,
) {
    // SAFETY: as of this function.
    unsafe {
        match bias {
            Bias::None => {}
            Bias::Distance { table, reach } => {
                let table = &table[place.head * (2 * reach + 1)..][..2 * reach + 1];
                line::<S>(table, place, memory.add(layout.line));
            }
            Bias::Disentangled(Disentangled { keys, queries, rows }) => {
                let row = |distance: isize| {
                    let reach = (rows.len() / 2) as isize;
                    let row = rows[(distance.clamp(-reach, reach) + reach) as usize] as usize;
                    (row * spec.heads + place.head) * spec.head_size
                };
                if let Some(table) = keys {
                    let first = place.first_distance();
                    // Tables have rows for the distance `i - j`.
                    let vector = |index: usize| table[row(-(first + index as isize))..].as_ptr();
                    let to = memory.add(layout.query_positions);
                    pack::transposed::<S>(vector, place.distances(), spec.head_size, true, to);
                }
                if let Some(table) = queries {
                    // In the other order: for one key, the queries in order lie side by side.
                    let last = place.first_distance() + place.distances() as isize - 1;
                    let vector = |index: usize| table[row(-(last - index as isize))..].as_ptr();
                    let to = memory.add(layout.key_positions);
                    pack::transposed::<S>(vector, place.distances(), spec.head_size, true, to);
                    cross::<S>(place, key, factor, layout, memory);
                }
            }
        }
    }
}

/// The table of one head for all distances, in units of log2.
#[inline(always)]
unsafe fn line<S: Vector>(table: &[f32], place: &Place, to: *mut f32) {
    let reach = (table.len() / 2) as isize;
    let first = place.first_distance();
    let count = place.distances();
    // Distances below -reach, then those of the table, then those above.
    let before = (-reach - first).clamp(0, count as isize) as usize;
    let inside = (reach + 1 - first).clamp(before as isize, count as isize) as usize;
    // SAFETY: as of `prepare`, there is room for all distances and a vector more; the inner loop reads the part of the
    // table between the ends.
    unsafe {
        let fill = |value: f32, range: Range<usize>| {
            for index in range {
                *to.add(index) = value * LOG2_E;
            }
        };
        fill(table[0], 0..before);
        fill(table[table.len() - 1], inside..count);
        let from = table.as_ptr().wrapping_offset(first + reach);
        let mut index = before;
        while index + S::LANES <= inside {
            S::load(from.wrapping_add(index)).mul(S::splat(LOG2_E)).store(to.add(index));
            index += S::LANES;
        }
        while index < inside {
            *to.add(index) = *from.wrapping_add(index) * LOG2_E;
            index += 1;
        }
    }
}

/// Products of all packed keys with the position vectors of all queries: query `i` at `CROSSED_PAD + i` of the key's row.
#[inline(always)]
unsafe fn cross<S: Vector>(place: &Place, key: Rows, factor: f32, layout: &Layout, memory: *mut f32) {
    let width = 2 * S::LANES;
    let (keys, queries) = (place.keys.len(), place.queries.len());
    let mut start = 0;
    while start < keys {
        let rows = S::ROWS.min(keys - start);
        // The column of query 0 and key `j` is `keys - 1 - j`; columns needed are those of the last row's first query to the
        // first row's last query.
        let first_panel = (keys - start - rows) / width;
        let end_panel = (keys - 1 - start + queries).div_ceil(width);
        // SAFETY: as of `prepare`: the panels hold all distances. Products begin at most `width + ROWS` before query 0 and end
        // as much behind the last query, which the padding of rows allows.
        unsafe {
            let left = memory.add(layout.key_rows);
            let group = Rows { first: key.first.add(start * key.stride), ..key };
            pack::left::<S>(group, rows, factor, left);
            let column = (first_panel * width + CROSSED_PAD + 1 + start) - keys;
            let block = Products {
                rows: left,
                panels: memory.add(layout.key_positions + first_panel * width * key.size),
                count: end_panel - first_panel,
                depth: key.size,
                to: memory.add(layout.crossed + start * CROSSED_STRIDE + column),
                step: CROSSED_STRIDE + 1,
            };
            by_rows!(S::products, rows, &block);
        }
        start += rows;
    }
}

/// What the scores of some rows begin with; `rows` are counted in the span, and their queries packed.
///
/// # Safety
/// As of [`prepare`], which has been called for the same place.
#[inline(always)]
pub(super) unsafe fn start<S: Vector>(
    spec: &Spec,
    bias: Bias<'_>,
    place: &Place,
    rows: &Range<usize>,
    layout: &Layout,
    memory: *mut f32,
) -> Start {
    let width = 2 * S::LANES;
    let row = rows.start - place.queries.start;
    // The distance of the first row's first key.
    let first = place.queries.len() - 1 - row;
    // SAFETY: as of this function.
    unsafe {
        match bias {
            Bias::None => Start::Zero,
            Bias::Distance { .. } => Start::Line { from: memory.add(layout.line + first), step: -1 },
            Bias::Disentangled(positions) => {
                let line = positions.keys.map(|_| {
                    let first_panel = (first + 1 - rows.len()) / width;
                    let end_panel = (first + place.keys.len()).div_ceil(width);
                    let to = memory.add(layout.query_products);
                    let block = Products {
                        rows: memory.add(layout.queries),
                        panels: memory.add(layout.query_positions + first_panel * width * spec.head_size),
                        count: end_panel - first_panel,
                        depth: spec.head_size,
                        to,
                        step: STRIDE,
                    };
                    by_rows!(S::products, rows.len(), &block);
                    (to.add(first - first_panel * width).cast_const(), STRIDE as isize - 1)
                });
                match (positions.queries, line) {
                    (Some(_), line) => {
                        let crossed = memory.add(layout.crossed + CROSSED_PAD + row);
                        Start::Crossed { line, crossed, crossed_step: CROSSED_STRIDE }
                    }
                    (None, Some((from, step))) => Start::Line { from, step },
                    (None, None) => Start::Zero,
                }
            }
        }
    }
}
