//! The inner loops: a few rows of queries times packed keys, and of weights times packed values.
//!
//! Left operands are rows [`STRIDE`] numbers apart. Right operands are packed in panels of two vectors of columns, or of one
//! if no more columns are left: a panel holds one row of columns after the other. Every sum runs over its terms in order, in
//! a lane of its own, so that it does not depend on what else a tile holds.

use std::ops::Range;

use super::vector::Vector;

/// Numbers from one row to the next of queries, scores and products in scratch memory. An odd number of cache lines, so
/// that rows do not share cache sets.
pub(super) const STRIDE: usize = 624;
/// The most numbers of a row of queries that lie together; further numbers follow [`MOST_ROWS`] rows behind.
pub(super) const CHUNK: usize = 512;
/// The most rows of a tile of any instruction set.
pub(super) const MOST_ROWS: usize = 12;
/// The most lanes of a vector of any instruction set.
pub(super) const MOST_LANES: usize = 16;

/// Tiles with no more sums than this are computed as if they had twice as many.
const FEW_SUMS: usize = 6;
/// What scores behind the last packed key begin with where no masks are needed. What lies there is a copy of the last key: either
/// its score is so large that the weights are not trusted, or the weight of the copy is next to nothing and the sum stays as it is.
const UNSEEN: f32 = -1e4;

/// Which keys of a span its queries see: an interval for each, whose ends do not decrease from one query to the next.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    /// Keys of the span.
    pub(super) keys: usize,
    /// Whether later keys are unseen.
    pub(super) causal: bool,
    /// How far a query sees to either side, [`usize::MAX`] for all.
    pub(super) window: usize,
}

impl Sight {
    /// The keys that query `i` sees.
    #[inline(always)]
    pub(super) fn of(self, i: usize) -> Range<usize> {
        let end = if self.causal { self.keys.min(i + 1) } else { self.keys };
        let end = end.min(i.saturating_add(self.window).saturating_add(1));
        i.saturating_sub(self.window).min(end)..end
    }

    /// The keys that any of the queries sees; there is at least one query.
    pub(super) fn of_any(self, queries: &Range<usize>) -> Range<usize> {
        self.of(queries.start).start..self.of(queries.end - 1).end
    }

    /// The keys that all of the queries see; there is at least one query.
    fn of_all(self, queries: &Range<usize>) -> Range<usize> {
        self.of(queries.end - 1).start..self.of(queries.start).end
    }
}

/// What scores begin with, in units of log2, before products of queries and keys are added.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// Zero.
    Zero,
    /// Row `r` and key `j`: `from[r * step + j]`.
    Line {
        /// For row 0 and key 0; one vector behind the last key may be read.
        from: *const f32,
        /// From one row to the next.
        step: isize,
    },
    /// The sum of a line, if there is one, and `crossed[j * crossed_step + r]`.
    Crossed {
        /// As of `Line`.
        line: Option<(*const f32, isize)>,
        /// For row 0 and key 0; whole vectors of rows may be read.
        crossed: *const f32,
        /// From one key to the next.
        crossed_step: usize,
    },
}

/// Scores of a few queries and the keys that are packed at present.
pub(super) struct Scores {
    /// `[rows, depth]`, scaled so that scores are in units of log2.
    pub(super) queries: *const f32,
    /// Panels of keys, `depth` rows each.
    pub(super) keys: *const f32,
    /// Numbers of a head.
    pub(super) depth: usize,
    /// The packed keys, counted in the span.
    pub(super) packed: Range<usize>,
    /// The queries, counted in the span: the rows of the tile.
    pub(super) rows: Range<usize>,
    /// Which of the keys they see.
    pub(super) sight: Sight,
    /// What scores begin with.
    pub(super) start: Start,
    /// Where scores or weights are written, `[rows, keys]`, in whole panels around the seen keys.
    pub(super) to: *mut f32,
    /// Whether to write scores, -infinity where unseen, and no weights.
    pub(super) raw: bool,
    /// Where the sums of the rows' weights are written, as one vector, with sums of some of the rows in the remaining lanes.
    pub(super) totals: *mut f32,
}

/// Weights of a few queries times the values that are packed at present.
pub(super) struct Values<'a> {
    /// `[rows, keys]`, of which the columns `seen` are used.
    pub(super) weights: *const f32,
    /// Panels of values, one row per packed key.
    pub(super) values: *const f32,
    /// How many keys are packed.
    pub(super) packed: usize,
    /// Which of them count.
    pub(super) seen: Range<usize>,
    /// Columns.
    pub(super) head_size: usize,
    /// `[rows, head_size]`.
    pub(super) to: *mut f32,
    /// Numbers from one row of `to` to the next.
    pub(super) step: usize,
    /// What the products of each row are multiplied with.
    pub(super) gain: &'a [f32; MOST_LANES],
    /// What is there is multiplied with this and added; `None` if nothing is there.
    pub(super) keep: Option<&'a [f32; MOST_LANES]>,
}

/// Products of a few rows with panels.
pub(super) struct Products {
    /// `[rows, depth]`.
    pub(super) rows: *const f32,
    /// The first panel; all are two vectors wide.
    pub(super) panels: *const f32,
    /// How many panels.
    pub(super) count: usize,
    /// Numbers per row.
    pub(super) depth: usize,
    /// `[rows, count panels]`.
    pub(super) to: *mut f32,
    /// Numbers from one row of `to` to the next.
    pub(super) step: usize,
}

/// Calls a function of [`Vector`] for a number of rows that is at most `S::ROWS`.
macro_rules! by_rows {
    ($vector:ident :: $function:ident, $rows:expr, $block:expr) => {
        match $rows {
            1 => $vector::$function::<1>($block),
            2 => $vector::$function::<2>($block),
            3 => $vector::$function::<3>($block),
            4 => $vector::$function::<4>($block),
            5 if $vector::ROWS > 4 => $vector::$function::<5>($block),
            6 if $vector::ROWS > 4 => $vector::$function::<6>($block),
            7 if $vector::ROWS > 6 => $vector::$function::<7>($block),
            8 if $vector::ROWS > 6 => $vector::$function::<8>($block),
            9 if $vector::ROWS > 6 => $vector::$function::<9>($block),
            10 if $vector::ROWS > 6 => $vector::$function::<10>($block),
            11 if $vector::ROWS > 6 => $vector::$function::<11>($block),
            12 if $vector::ROWS > 6 => $vector::$function::<12>($block),
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
pub(super) use by_rows;

/// The lanes whose number lies in `seen`, counting from `first`; `otherwise` in the others.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn only<S: Vector>(x: S, first: usize, seen: &Range<usize>, otherwise: S) -> S {
    /// Their own numbers.
    static LANES: [f32; MOST_LANES] = {
        let mut lanes = [0.0; MOST_LANES];
        let mut lane = 0;
        while lane < MOST_LANES {
            lanes[lane] = lane as f32;
            lane += 1;
        }
        lanes
    };
    // SAFETY: no vector has more lanes than `MOST_LANES`; the rest as of this function.
    unsafe {
        let lane = S::load(LANES.as_ptr()).add(S::splat(first as f32));
        let inside = lane.select_less(S::splat(seen.start as f32), otherwise, x);
        lane.select_less(S::splat(seen.end as f32), inside, otherwise)
    }
}

/// Adds `R` rows of `a` times a panel of `C` vectors to the sums, term by term. The sums come and go by value: behind a
/// reference, they would be written to memory in every step.
///
/// Tiles with few sums would wait for each: their terms of even and of odd rank have sums of their own.
///
/// # Safety
/// The instructions of `S` are available; `a` has `R` rows and `b` one panel, `depth` long; `depth <= CHUNK` unless `a` is
/// laid out in chunks.
#[inline(always)]
unsafe fn accumulate<S: Vector, const R: usize, const C: usize>(
    mut sums: [[S; C]; R],
    a: *const f32,
    b: *const f32,
    depth: usize,
) -> [[S; C]; R] {
    // SAFETY: all that is read lies in the rows and the panel.
    unsafe {
        let mut done = 0;
        while done < depth {
            let a = a.add(done / CHUNK * (MOST_ROWS * STRIDE));
            let count = CHUNK.min(depth - done);
            let b = b.add(done * C * S::LANES);
            if R * C <= FEW_SUMS {
                let mut odd = [[S::splat(0.0); C]; R];
                for k in 0..count / 2 {
                    sums = step(sums, a.add(2 * k), b.add(2 * k * C * S::LANES));
                    odd = step(odd, a.add(2 * k + 1), b.add((2 * k + 1) * C * S::LANES));
                }
                if count % 2 == 1 {
                    sums = step(sums, a.add(count - 1), b.add((count - 1) * C * S::LANES));
                }
                for (sums, odd) in sums.iter_mut().zip(odd) {
                    for (sum, odd) in sums.iter_mut().zip(odd) {
                        *sum = sum.add(odd);
                    }
                }
            } else {
                for k in 0..count {
                    sums = step(sums, a.add(k), b.add(k * C * S::LANES));
                }
            }
            done += count;
        }
    }
    sums
}

/// Adds one term to every sum.
#[inline(always)]
unsafe fn step<S: Vector, const R: usize, const C: usize>(mut sums: [[S; C]; R], a: *const f32, b: *const f32) -> [[S; C]; R] {
    // SAFETY: as of `accumulate`.
    unsafe {
        let mut columns = [S::splat(0.0); C];
        for (c, column) in columns.iter_mut().enumerate() {
            *column = S::load(b.add(c * S::LANES));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = S::splat(*a.add(r * STRIDE));
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = x.mul_add(column, *sum);
            }
        }
    }
    sums
}

/// Scores or weights of `R` queries: see [`Scores`].
///
/// # Safety
/// The instructions of `S` are available; the block has `R` rows; its pointers are good for what they are said to hold.
#[inline(always)]
pub(super) unsafe fn scores<S: Vector, const R: usize>(block: &Scores) {
    let within = |seen: Range<usize>| {
        let clamp = |j: usize| j.clamp(block.packed.start, block.packed.end) - block.packed.start;
        clamp(seen.start)..clamp(seen.end)
    };
    const { assert!(S::ROWS <= S::LANES && S::LANES <= MOST_LANES) };
    let (any, all) = (within(block.sight.of_any(&block.rows)), within(block.sight.of_all(&block.rows)));
    let width = 2 * S::LANES;
    let plain = matches!(block.start, Start::Zero) && !block.raw && all == (0..block.packed.len());
    // SAFETY: as of this function.
    unsafe {
        let mut totals = [S::splat(0.0); R];
        let mut key = any.start / width * width;
        while key < any.end {
            let narrow = block.packed.len() - key <= S::LANES;
            match (plain, narrow) {
                (true, false) => plain_panel::<S, R, 2>(block, key, &mut totals),
                (true, true) => plain_panel::<S, R, 1>(block, key, &mut totals),
                (false, false) => panel::<S, R, 2>(block, key, &all, &mut totals),
                (false, true) => panel::<S, R, 1>(block, key, &all, &mut totals),
            }
            key += width;
        }
        S::sums(&totals).store(block.totals);
    }
}

/// One panel of [`scores`], from the packed key `key` on, if every row sees all keys and scores begin with zero.
#[inline(always)]
unsafe fn plain_panel<S: Vector, const R: usize, const C: usize>(block: &Scores, key: usize, totals: &mut [S; R]) {
    // SAFETY: as of `panel`.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        if key + C * S::LANES > block.packed.len() {
            let mut low = [S::splat(0.0); C];
            for (c, low) in low.iter_mut().enumerate() {
                *low = only(*low, key + c * S::LANES, &(0..block.packed.len()), S::splat(UNSEEN));
            }
            sums = [low; R];
        }
        let sums = accumulate(sums, block.queries, block.keys.add(key * block.depth), block.depth);
        weigh(&sums, block.to.add(key), totals);
    }
}

/// Turns scores into weights, writes them and adds them to the rows' totals.
#[inline(always)]
unsafe fn weigh<S: Vector, const R: usize, const C: usize>(scores: &[[S; C]; R], to: *mut f32, totals: &mut [S; R]) {
    for (r, scores) in scores.iter().enumerate() {
        for (c, score) in scores.iter().enumerate() {
            // SAFETY: as of `panel`.
            unsafe {
                let weight = score.exp2();
                totals[r] = totals[r].add(weight);
                weight.store(to.add(r * STRIDE + c * S::LANES));
            }
        }
    }
}

/// One panel of [`scores`], from the packed key `key` on; `all` are the packed keys that every row sees.
#[inline(always)]
unsafe fn panel<S: Vector, const R: usize, const C: usize>(block: &Scores, key: usize, all: &Range<usize>, totals: &mut [S; R]) {
    // SAFETY: as of `scores`: the panel begins behind `key` keys of `depth` numbers, and all stores go to the columns
    // of the panel.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        match block.start {
            Start::Zero => {}
            Start::Line { from, step } => begin(&mut sums, from.add(key), step),
            Start::Crossed { line, crossed, crossed_step } => {
                let mut tile = [0.0f32; MOST_ROWS * 2 * MOST_LANES];
                cross::<S, R, C>(&mut tile, block, crossed.add(key * crossed_step), crossed_step, key);
                if let Some((from, step)) = line {
                    begin(&mut sums, from.add(key), step);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.add(S::load(tile.as_ptr().add((r * C + c) * S::LANES)));
                    }
                }
            }
        }
        let sums = accumulate(sums, block.queries, block.keys.add(key * block.depth), block.depth);
        let to = block.to.add(key);
        if block.raw {
            for (r, sums) in sums.iter().enumerate() {
                let seen = block.sight.of(block.rows.start + r);
                for (c, score) in sums.iter().enumerate() {
                    let first = block.packed.start + key + c * S::LANES;
                    only(*score, first, &seen, S::splat(f32::NEG_INFINITY)).store(to.add(r * STRIDE + c * S::LANES));
                }
            }
        } else if all.start <= key && key + C * S::LANES <= all.end {
            weigh(&sums, to, totals);
        } else {
            for (r, sums) in sums.iter().enumerate() {
                let seen = block.sight.of(block.rows.start + r);
                for (c, score) in sums.iter().enumerate() {
                    let first = block.packed.start + key + c * S::LANES;
                    let weight = only(score.exp2(), first, &seen, S::splat(0.0));
                    totals[r] = totals[r].add(weight);
                    weight.store(to.add(r * STRIDE + c * S::LANES));
                }
            }
        }
    }
}

/// Reads what sums begin with.
#[inline(always)]
unsafe fn begin<S: Vector, const R: usize, const C: usize>(sums: &mut [[S; C]; R], from: *const f32, step: isize) {
    for (r, sums) in sums.iter_mut().enumerate() {
        for (c, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `Start` promises whole vectors for every row of the tile.
            *sum = unsafe { S::load(from.offset(r as isize * step).add(c * S::LANES)) };
        }
    }
}

/// Turns products that lie by key, from the packed key `key` on, into rows of the tile.
#[inline(always)]
unsafe fn cross<S: Vector, const R: usize, const C: usize>(
    tile: &mut [f32; MOST_ROWS * 2 * MOST_LANES],
    block: &Scores,
    crossed: *const f32,
    step: usize,
    key: usize,
) {
    for c in 0..C {
        let mut rows = [crossed; MOST_LANES];
        let count = S::LANES.min((block.packed.len() - key).saturating_sub(c * S::LANES));
        for (lane, row) in rows.iter_mut().enumerate().take(count) {
            // SAFETY: only rows of packed keys are read, of each the `R` numbers of the tile's rows. They are written to
            // `R` rows of `C` vectors, for which there is room in the tile.
            *row = unsafe { crossed.add((c * S::LANES + lane) * step) };
        }
        // SAFETY: as above.
        unsafe { S::transpose(&rows, 0, R, tile.as_mut_ptr().add(c * S::LANES), C * S::LANES) };
    }
}

/// Weighted sums of values for `R` queries: see [`Values`].
///
/// # Safety
/// As of [`scores`].
#[inline(always)]
pub(super) unsafe fn values<S: Vector, const R: usize>(block: &Values<'_>) {
    let mut column = 0;
    while column < block.head_size {
        // SAFETY: as of this function; panels before this one hold `column` columns.
        unsafe {
            if block.head_size - column > S::LANES {
                columns::<S, R, 2>(block, column);
            } else {
                columns::<S, R, 1>(block, column);
            }
        }
        column += 2 * S::LANES;
    }
}

/// One panel of [`values`], from `column` on.
#[inline(always)]
unsafe fn columns<S: Vector, const R: usize, const C: usize>(block: &Values<'_>, column: usize) {
    // SAFETY: as of `values`; stores are masked at the end of the head.
    unsafe {
        let panel = block.values.add(column * block.packed + block.seen.start * C * S::LANES);
        let sums = accumulate([[S::splat(0.0); C]; R], block.weights.add(block.seen.start), panel, block.seen.len());
        let whole = column + C * S::LANES <= block.head_size;
        for (r, sums) in sums.iter().enumerate() {
            let gain = S::splat(block.gain[r]);
            for (c, sum) in sums.iter().enumerate() {
                let from = column + c * S::LANES;
                let to = block.to.add(r * block.step + from);
                let count = if whole { S::LANES } else { S::LANES.min(block.head_size - from) };
                let mut result = sum.mul(gain);
                if let Some(keep) = block.keep {
                    result = S::load_first(to, count).mul_add(S::splat(keep[r]), result);
                }
                if whole {
                    result.store(to);
                } else {
                    result.store_first(to, count);
                }
            }
        }
    }
}

/// Products of `R` rows: see [`Products`].
///
/// # Safety
/// As of [`scores`].
#[inline(always)]
pub(super) unsafe fn products<S: Vector, const R: usize>(block: &Products) {
    for panel in 0..block.count {
        // SAFETY: as of this function.
        unsafe {
            let sums = accumulate(
                [[S::splat(0.0); 2]; R],
                block.rows,
                block.panels.add(panel * 2 * S::LANES * block.depth),
                block.depth,
            );
            for (r, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    sum.store(block.to.add(r * block.step + (panel * 2 + c) * S::LANES));
                }
            }
        }
    }
}
