//! How an item of work is cut into blocks, and where its intermediate results lie in scratch memory.

use super::tile::{CHUNK, MOST_LANES, MOST_ROWS, STRIDE};
use super::{Bias, Spec};

/// The most columns of a panel.
pub(super) const MOST_WIDTH: usize = 2 * MOST_LANES;
/// In the products of keys and position vectors, where the first query of an item lies: products before are not used.
pub(super) const CROSSED_PAD: usize = 48;
/// Numbers from one key to the next in the products of keys and position vectors.
pub(super) const CROSSED_STRIDE: usize = CROSSED_PAD + DISENTANGLED_QUERIES + CROSSED_PAD;

/// The most queries of an item with disentangled positions.
const DISENTANGLED_QUERIES: usize = 256;

/// The most keys that are packed at a time: fewer where every pair of query and key has intermediate results of its own.
pub(super) fn most_keys(bias: Bias<'_>) -> usize {
    if matches!(bias, Bias::Disentangled(_)) { 256 } else { 512 }
}

/// The most queries of an item whose span has so many keys. All of the items of a span pack the keys anew, so there are
/// several only for long spans.
pub(super) fn most_queries(bias: Bias<'_>, keys: usize) -> usize {
    match bias {
        Bias::Disentangled(_) => DISENTANGLED_QUERIES,
        _ if keys > most_keys(bias) => 256,
        _ => 512,
    }
}

/// Places in scratch memory, in numbers from its beginning, for so many queries per item and so many packed keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Rows of queries, the left operand of scores.
    pub(super) queries: usize,
    /// Scores or weights, the left operand of values.
    pub(super) scores: usize,
    /// The sum of the weights of every query.
    pub(super) totals: usize,
    /// The largest score of every query.
    pub(super) largest: usize,
    /// Panels of keys.
    pub(super) keys: usize,
    /// Panels of values.
    pub(super) values: usize,
    /// For `Distance`, what is added to scores for every distance.
    pub(super) line: usize,
    /// For `Disentangled`, panels of the vectors for queries.
    pub(super) query_positions: usize,
    /// Products of queries with these.
    pub(super) query_products: usize,
    /// Panels of the vectors for keys.
    pub(super) key_positions: usize,
    /// Rows of keys, their left operand.
    pub(super) key_rows: usize,
    /// Their products, for every packed key.
    pub(super) crossed: usize,
    /// Numbers in all.
    pub(super) total: usize,
}

impl Layout {
    /// The layout for at most so many queries of an item and keys packed at a time.
    pub(super) fn new(spec: &Spec, bias: Bias<'_>, queries: usize, keys: usize) -> Layout {
        let mut total = 0;
        let mut place = |count: usize| {
            let start = total;
            total += count.next_multiple_of(MOST_LANES);
            start
        };
        let rows = spec.head_size.div_ceil(CHUNK) * MOST_ROWS * STRIDE;
        let distances = (queries + keys).next_multiple_of(MOST_WIDTH) + MOST_WIDTH;
        let (line, with_queries, with_keys) = match bias {
            Bias::None => (false, false, false),
            Bias::Distance { .. } => (true, false, false),
            Bias::Disentangled(positions) => (false, positions.keys.is_some(), positions.queries.is_some()),
        };
        let only = |condition: bool, count: usize| if condition { count } else { 0 };
        let queries_start = place(rows);
        let scores = place(MOST_ROWS * STRIDE);
        let [totals, largest] = [place(queries), place(queries)];
        let keys_start = place(keys.next_multiple_of(MOST_WIDTH) * spec.head_size);
        Layout {
            queries: queries_start,
            scores,
            totals,
            largest,
            keys: keys_start,
            values: place(keys * spec.head_size.next_multiple_of(MOST_LANES)),
            line: place(only(line, distances)),
            query_positions: place(only(with_queries, distances * spec.head_size)),
            query_products: place(only(with_queries, MOST_ROWS * STRIDE)),
            key_positions: place(only(with_keys, distances * spec.head_size)),
            key_rows: place(only(with_keys, rows)),
            // Products of the last key reach into a row behind it.
            crossed: place(only(with_keys, (keys + 1) * CROSSED_STRIDE)),
            total,
        }
    }
}

/// Scratch memory for spans of at most so many keys.
pub(super) fn scratch_bytes(spec: &Spec, bias: Bias<'_>, keys: usize) -> usize {
    // A span of more keys than are packed at a time has items of fewer queries, so the most of either is taken.
    let queries = most_queries(bias, 0).max(most_queries(bias, keys));
    Layout::new(spec, bias, queries, keys.min(most_keys(bias))).total * size_of::<f32>()
}
