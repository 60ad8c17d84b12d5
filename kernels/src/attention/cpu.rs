//! Attention on vectors: spans and heads are items of work, blocks of queries go over packed keys and values.
//!
//! The keys of an item are packed once, transposed, and used by all of its queries; at most [`layout::most_keys`] at a time.
//! For a block of up to [`Vector::ROWS`] queries, scores are computed in units of log2 and turned into weights in registers,
//! then weights times values are added to the output, which is divided by the sum of the weights in the end.
//!
//! Softmax does not depend on what is subtracted from all scores of a row; subtracting the largest only keeps the weights in
//! range. So an item is tried without ([`Weights::Plain`]), which saves a pass over the scores. If the sum of some row's weights
//! tells that they have left the range in which nothing is lost, all of the item is computed again with the largest score
//! subtracted ([`Weights::Shifted`]). Which of the two it is follows from the numbers of the item alone.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::layout::{self, Layout};
use super::pack::{self, Rows};
use super::position::{self, Place};
use super::tile::{MOST_LANES, STRIDE, Scores, Sight, Values, by_rows};
use super::vector::Vector;
use super::{Bias, Heads, Span, Spec};
use crate::isa::Isa;
use crate::simd::with_simd;
use crate::team::{Share, Team};

pub(super) use super::layout::scratch_bytes;

/// The sums of plain weights that are trusted. Weights end at 2^126: beyond the upper bound scores may lie behind that. Weights
/// below 2^-126 are not told apart: with the lower bound they make up nothing of the sum. Either leaves room for the values.
const TRUSTED: std::ops::RangeInclusive<f32> = 1.0 / (1u64 << 40) as f32..=(1u64 << 60) as f32;

/// How weights are made of scores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    /// `2^score`.
    Plain,
    /// `2^(score - largest)`.
    Shifted,
}

/// The arguments of [`attention`](super::attention).
struct Call<'a> {
    parts: [Heads<'a>; 3],
    spans: &'a [Span],
    spec: &'a Spec,
    bias: Bias<'a>,
    output: *mut f32,
}

// SAFETY: `output` is written by the owner of an item alone: items have different rows or different heads, as spans do not
// overlap. All else is shared for reading.
unsafe impl Sync for Call<'_> {}

/// Some queries of a span and one head.
struct Item<'a> {
    span: &'a Span,
    sight: Sight,
    queries: Range<usize>,
    head: usize,
    layout: Layout,
}

pub(super) fn attention(team: &Team, parts: [Heads<'_>; 3], spans: &[Span], spec: &Spec, bias: Bias<'_>, output: &mut [f32]) {
    let call = Call { parts, spans, spec, bias, output: output.as_mut_ptr() };
    let call = &call;
    team.run(|share, scratch| run(team.isa(), call, share, scratch.as_mut_slice()));
}

fn run(isa: Isa, call: &Call<'_>, share: Share, memory: &mut [f32]) {
    with_simd!(isa, items(call: &Call<'_>, share: Share, memory: &mut [f32]));
}

/// The range of queries of every item of a span and one head.
fn cuts(call: &Call<'_>, span: &Span) -> impl Iterator<Item = Range<usize>> + use<> {
    let (queries, most) = (span.queries.len(), layout::most_queries(call.bias, span.keys.len()));
    (0..queries).step_by(most).map(move |start| start..queries.min(start + most))
}

fn sight(spec: &Spec, span: &Span) -> Sight {
    Sight { keys: span.keys.len(), causal: spec.causal, window: spec.window.unwrap_or(usize::MAX) }
}

/// About how long an item takes: pairs of queries and keys, and what is packed.
fn cost(call: &Call<'_>, span: &Span, queries: &Range<usize>) -> u64 {
    let (count, seen) = (queries.len() as u64, sight(call.spec, span).of_any(queries).len() as u64);
    count * seen + 16 * (count + seen) + 1
}

/// One member's part: items in order, cut where their costs add up to the shares.
#[inline(always)]
unsafe fn items<S: Vector>(call: &Call<'_>, share: Share, memory: &mut [f32]) {
    let heads = call.spec.heads as u64;
    let total = match share.count {
        1 => 0,
        _ => heads * call.spans.iter().flat_map(|span| cuts(call, span).map(|cut| cost(call, span, &cut))).sum::<u64>(),
    };
    let mut before = 0;
    for span in call.spans {
        for queries in cuts(call, span) {
            let sight = sight(call.spec, span);
            let keys = sight.of_any(&queries).len().min(layout::most_keys(call.bias));
            let layout = Layout::new(call.spec, call.bias, queries.len(), keys);
            assert!(layout.total <= memory.len(), "the scratch memory of a team is smaller than attention needs");
            for head in 0..call.spec.heads {
                let owner = (before * share.count as u64).checked_div(total).unwrap_or(0);
                if share.count > 1 {
                    before += cost(call, span, &queries);
                }
                if owner != share.index as u64 {
                    continue;
                }
                let item = Item { span, sight, queries: queries.clone(), head, layout };
                // SAFETY: the instructions of `S` are available, as of this function.
                unsafe {
                    if !attend::<S>(call, &item, memory, Weights::Plain) {
                        attend::<S>(call, &item, memory, Weights::Shifted);
                    }
                }
            }
        }
    }
}

/// Computes an item; false if the weights left their range, and what was written is to be written again.
#[inline(always)]
unsafe fn attend<S: Vector>(call: &Call<'_>, item: &Item<'_>, memory: &mut [f32], weights: Weights) -> bool {
    let (spec, bias) = (call.spec, call.bias);
    let (seen, layout) = (item.sight.of_any(&item.queries), &item.layout);
    let most = layout::most_keys(bias);
    let memory = memory.as_mut_ptr();
    let [key, value] = [call.parts[1], call.parts[2]].map(|heads| rows(heads, spec, item.head, item.span.keys.start));
    let factor = spec.scale * LOG2_E;
    let mut start = seen.start;
    // Runs once if nothing is seen: rows of zeros are written then.
    loop {
        let place = Place { queries: item.queries.clone(), keys: start..seen.end.min(start + most), head: item.head };
        let block = Block { call, item, place: &place, factor, memory, weights };
        // SAFETY: the caller of `attention` has checked that rows lie in their slices and tables are complete; the memory has
        // room for the layout, which is that of at least these queries and keys.
        unsafe {
            if !place.keys.is_empty() {
                let [key, value] = [key, value].map(|rows| Rows { first: rows.first.add(start * rows.stride), ..rows });
                pack::transposed::<S>(
                    |j| key.first.wrapping_add(j * key.stride),
                    place.keys.len(),
                    spec.head_size,
                    false,
                    memory.add(layout.keys),
                );
                pack::straight::<S>(value, place.keys.len(), memory.add(layout.values));
                position::prepare::<S>(spec, bias, &place, key, factor, layout, memory);
            }
            if !block.all::<S>() {
                return false;
            }
        }
        start = place.keys.end;
        if start >= seen.end {
            return true;
        }
    }
}

/// One head of rows from `row` on.
fn rows(heads: Heads<'_>, spec: &Spec, head: usize, row: usize) -> Rows {
    let first = heads.values.as_ptr().wrapping_add(row * heads.stride + heads.offset + head * spec.head_size);
    Rows { first, stride: heads.stride, size: spec.head_size }
}

/// The queries of an item and the keys that are packed at present.
struct Block<'a> {
    call: &'a Call<'a>,
    item: &'a Item<'a>,
    place: &'a Place,
    factor: f32,
    memory: *mut f32,
    weights: Weights,
}

impl Block<'_> {
    /// Goes over all queries, in blocks of nearly the same size; false as of [`attend`].
    ///
    /// # Safety
    /// The instructions of `S` are available, and keys, values and positions are packed.
    #[inline(always)]
    unsafe fn all<S: Vector>(&self) -> bool {
        let queries = self.item.queries.len();
        let count = queries.div_ceil(S::ROWS);
        for index in 0..count {
            let rows = Share { index, count }.of(queries);
            let rows = self.item.queries.start + rows.start..self.item.queries.start + rows.end;
            // SAFETY: as of this function.
            if !unsafe { self.rows::<S>(rows) } {
                return false;
            }
        }
        true
    }

    /// One block of queries, counted in the span.
    #[inline(always)]
    unsafe fn rows<S: Vector>(&self, rows: Range<usize>) -> bool {
        let spec = self.call.spec;
        let width = spec.heads * spec.head_size;
        let seen = self.item.sight.of_any(&rows);
        let keys = &self.place.keys;
        let first = self.item.span.queries.start + rows.start;
        // SAFETY: the span's rows lie in the output, as the caller of `attention` has checked; the rest as of `all`.
        unsafe {
            let to = self.call.output.add(first * width + self.item.head * spec.head_size);
            if seen.is_empty() {
                for r in 0..rows.len() {
                    std::slice::from_raw_parts_mut(to.add(r * width), spec.head_size).fill(0.0);
                }
                return true;
            }
            if seen.start >= keys.end || seen.end <= keys.start {
                return true;
            }
            let query = self::rows(self.call.parts[0], spec, self.item.head, first);
            pack::left::<S>(query, rows.len(), self.factor, self.memory.add(self.item.layout.queries));
            let start = position::start::<S>(spec, self.call.bias, self.place, &rows, &self.item.layout, self.memory);
            let mut factors = Factors { totals: [0.0; MOST_LANES], keep: [1.0; MOST_LANES], gain: [1.0; MOST_LANES] };
            let scores = Scores {
                queries: self.memory.add(self.item.layout.queries),
                keys: self.memory.add(self.item.layout.keys),
                depth: spec.head_size,
                packed: keys.clone(),
                rows: rows.clone(),
                sight: self.item.sight,
                start,
                to: self.memory.add(self.item.layout.scores),
                raw: self.weights == Weights::Shifted,
                totals: factors.totals.as_mut_ptr(),
            };
            by_rows!(S::scores, rows.len(), &scores);
            let ends = Ends { first: seen.start >= keys.start, last: seen.end <= keys.end };
            let here = seen.start.max(keys.start) - keys.start..seen.end.min(keys.end) - keys.start;
            if !self.weigh::<S>(&rows, &here, ends, &mut factors) {
                return false;
            }
            let values = Values {
                weights: self.memory.add(self.item.layout.scores),
                values: self.memory.add(self.item.layout.values),
                packed: keys.len(),
                seen: here,
                head_size: spec.head_size,
                to,
                step: width,
                gain: &factors.gain,
                keep: if ends.first { None } else { Some(&factors.keep) },
            };
            by_rows!(S::values, rows.len(), &values);
        }
        true
    }

    /// Brings the sums of the rows' weights up to date and finds the other factors; false if plain weights have left their range.
    #[inline(always)]
    unsafe fn weigh<S: Vector>(&self, rows: &Range<usize>, here: &Range<usize>, ends: Ends, factors: &mut Factors) -> bool {
        if self.weights == Weights::Plain && ends.first && ends.last && !self.item.sight.of(rows.end - 1).is_empty() {
            // What nearly always is the case, without state from one set of packed keys to the next. If the last query sees
            // something, all do.
            // SAFETY: the instructions of `S` are available, and factors have room for a vector.
            unsafe {
                let total = S::load(factors.totals.as_ptr());
                S::splat(1.0).div(total).store(factors.gain.as_mut_ptr());
                let (zero, one) = (S::splat(0.0), S::splat(1.0));
                let above = S::splat(*TRUSTED.start()).select_less(total, one, zero);
                let inside = total.select_less(S::splat(*TRUSTED.end()), above, zero);
                return inside.sum() == S::LANES as f32;
            }
        }
        for (r, row) in rows.clone().enumerate() {
            let index = row - self.item.queries.start;
            // SAFETY: the layout has room for the totals of all queries of the item, and for the scores of the block, which
            // were written in whole vectors around `here`.
            unsafe {
                let total = self.memory.add(self.item.layout.totals + index);
                if ends.first {
                    *total = 0.0;
                }
                match self.weights {
                    Weights::Plain => *total += factors.totals[r],
                    Weights::Shifted => {
                        let largest = self.memory.add(self.item.layout.largest + index);
                        if ends.first {
                            *largest = f32::NEG_INFINITY;
                        }
                        let scores = self.memory.add(self.item.layout.scores + r * STRIDE);
                        let (new, sum) = shift::<S>(scores, here, *largest);
                        factors.keep[r] = if new > *largest { (*largest - new).exp2() } else { 1.0 };
                        *total = *total * factors.keep[r] + sum;
                        *largest = new;
                    }
                }
                let total = *total;
                let blind = self.item.sight.of(row).is_empty();
                let least = if ends.last && !blind { *TRUSTED.start() } else { 0.0 };
                // Not a number is in no range.
                if self.weights == Weights::Plain && !(least..=*TRUSTED.end()).contains(&total) {
                    return false;
                }
                if ends.last {
                    let inverse = if blind { 0.0 } else { 1.0 / total };
                    factors.keep[r] *= inverse;
                    factors.gain[r] = inverse;
                }
            }
        }
        true
    }
}

/// Numbers of the rows of a block.
struct Factors {
    /// The sums of the weights of the packed keys.
    totals: [f32; MOST_LANES],
    /// What the output so far is multiplied with.
    keep: [f32; MOST_LANES],
    /// What weights times values are multiplied with.
    gain: [f32; MOST_LANES],
}

/// Whether the packed keys are the first and the last that a block of queries sees.
#[derive(Clone, Copy)]
struct Ends {
    first: bool,
    last: bool,
}

/// Turns the scores of one row into weights; returns the largest of the scores and `before`, and the sum of the weights.
///
/// # Safety
/// The instructions of `S` are available; scores are there in whole vectors around `seen`, -infinity where unseen.
#[inline(always)]
unsafe fn shift<S: Vector>(scores: *mut f32, seen: &Range<usize>, before: f32) -> (f32, f32) {
    let start = seen.start / S::LANES * S::LANES;
    // SAFETY: as of this function.
    unsafe {
        let mut largest = S::splat(before);
        let mut j = start;
        while j < seen.end {
            largest = S::load(scores.add(j)).max(largest);
            j += S::LANES;
        }
        let largest = largest.largest();
        if largest == f32::NEG_INFINITY {
            // Nothing is seen yet; without this, infinities would be subtracted from each other.
            std::slice::from_raw_parts_mut(scores.add(seen.start), seen.len()).fill(0.0);
            return (largest, 0.0);
        }
        let mut total = S::splat(0.0);
        let mut j = start;
        while j < seen.end {
            let score = S::load(scores.add(j)).sub(S::splat(largest));
            let weight = score.select_less(S::splat(-126.0), S::splat(0.0), score.exp2());
            total = total.add(weight);
            weight.store(scores.add(j));
            j += S::LANES;
        }
        (largest, total.sum())
    }
}
