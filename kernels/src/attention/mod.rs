//! Attention over packed sequences: every sequence of a batch attends to itself alone, without padding.
//!
//! Owns: [`attention`], its specification (`twin`), its fast version (`cpu`) and its launch on a GPU (`cuda`). May import: the
//! team, the instruction sets, `simd`, the device. Must never import: other operations, anything that knows models.
//!
//! # Contract
//! Queries, keys and values are `[rows, stride] f32` each, of which head `h` of a row takes `head_size` numbers from
//! `offset + h * head_size` on; they may be three parts of one buffer. For every [`Span`] and head, with `i` counted from the
//! first query and `j` from the first key of the span:
//! ```text
//! score[i][j] = scale * (query[i] . key[j]) + bias(i, j), over the j that query i may see
//! output[i]   = sum over j of softmax(score[i])[j] * value[j]
//! ```
//! `output: [rows of the queries, heads * head_size] f32`; rows that no span covers are left as they are. With `causal` a
//! query sees `j <= i`, with a `window` it sees `|i - j| <= window`; a query that sees nothing gives zeros. A span's result
//! does not depend on other spans or on the number of threads, bit for bit. Scores beyond what `exp` can represent cannot
//! arise: the largest of a row is subtracted first.
//!
//! | [`Bias`] | `bias(i, j)` |
//! |---|---|
//! | `None` | 0 |
//! | `Distance` | `table[head][reach + clamp(j - i, -reach, reach)]` |
//! | `Disentangled` | `scale * (query[i] . position_key[index(i - j)] + key[j] . position_query[index(i - j)])`, either term may be absent |
//!
//! Tolerance against the twin in f64, with the largest |score| and the largest |value| of the span and head, and what rounding
//! 1 to the type may change, 2^-11 for f16 and 2^-8 for bf16:
//!
//! | numbers | tolerance |
//! |---|---|
//! | f32, on the CPU and on GPUs | 4e-6 * max(1, score) * value |
//! | f16 and bf16, on GPUs | (4e-6 * max(1, score) + 2 * rounding) * value: once for weights, once for the output |
//!
//! Source: Vaswani et al. 2017; Press et al. 2022 (ALiBi), Song et al. 2020 (MPNet's relative bias), He et al. 2021
//! (DeBERTa's disentangled attention), Warner et al. 2024 (alternating windows).

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod layout;
mod pack;
mod position;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;
mod vector;

use std::ops::Range;

use crate::team::Team;

/// Rows of which a part belongs to each head.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// `[rows, stride] f32`.
    pub values: &'a [f32],
    /// Numbers from one row to the next.
    pub stride: usize,
    /// Where the first head begins in a row.
    pub offset: usize,
}

/// Which rows attend to which: one sequence of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Rows of the queries and of the output.
    pub queries: Range<usize>,
    /// Rows of the keys and the values.
    pub keys: Range<usize>,
}

/// How scores are made, the same for all heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// Heads.
    pub heads: usize,
    /// Numbers per head.
    pub head_size: usize,
    /// Factor of the products.
    pub scale: f32,
    /// Whether a query sees no later keys.
    pub causal: bool,
    /// How far a query sees to either side; `None` for all keys.
    pub window: Option<usize>,
}

/// What is added to scores for the positions of query and key.
#[derive(Debug, Clone, Copy)]
pub enum Bias<'a> {
    /// Nothing.
    None,
    /// A number that depends on head and distance: `table: [heads, 2 * reach + 1] f32`.
    Distance {
        /// The numbers, from key far before the query to key far behind it.
        table: &'a [f32],
        /// The largest distance told apart.
        reach: usize,
    },
    /// Products with vectors that depend on the distance.
    Disentangled(Disentangled<'a>),
}

/// Vectors of relative positions, `[rows, heads * head_size] f32` each.
#[derive(Debug, Clone, Copy)]
pub struct Disentangled<'a> {
    /// Multiplied with the query; `None` if the model has no such term.
    pub keys: Option<&'a [f32]>,
    /// Multiplied with the key; `None` if the model has no such term.
    pub queries: Option<&'a [f32]>,
    /// The row of the vectors for `i - j` from `-reach` to `reach`: `[2 * reach + 1]`; distances beyond take the ends.
    pub rows: &'a [u32],
}

/// Attends within every span. See the [contract](self). Nothing is allocated.
///
/// # Panics
/// If sizes disagree, a span lies outside its rows, two spans share output rows, or the team's scratch memory is smaller
/// than [`scratch_bytes`] says.
pub fn attention(
    team: &Team,
    [query, key, value]: [Heads<'_>; 3],
    spans: &[Span],
    spec: &Spec,
    bias: Bias<'_>,
    output: &mut [f32],
) {
    let width = spec.heads * spec.head_size;
    let mut end = 0;
    for span in spans {
        assert!(span.queries.start >= end && span.queries.start <= span.queries.end, "spans overlap");
        end = span.queries.end;
        for (heads, rows) in [(query, &span.queries), (key, &span.keys), (value, &span.keys)] {
            let inside = rows.start <= rows.end && rows.end.saturating_mul(heads.stride) <= heads.values.len();
            assert!(inside && heads.offset + width <= heads.stride, "a span lies outside its rows");
        }
    }
    assert!(end.saturating_mul(width) <= output.len(), "a span lies outside the output");
    match bias {
        Bias::None => {}
        Bias::Distance { table, reach } => {
            assert_eq!(table.len(), spec.heads * (2 * reach + 1), "the bias table and the heads disagree")
        }
        Bias::Disentangled(Disentangled { keys, queries, rows }) => {
            assert!(rows.len() % 2 == 1, "the rows of relative positions must be for -reach to reach");
            let last = rows.iter().max().map_or(0, |row| *row as usize);
            for table in [keys, queries].into_iter().flatten() {
                assert!((last + 1) * width <= table.len(), "a relative position lies outside its table");
            }
        }
    }
    cpu::attention(team, [query, key, value], spans, spec, bias, output);
}

/// Scratch memory that each thread of a team needs for spans of at most so many keys.
pub fn scratch_bytes(spec: &Spec, bias: Bias<'_>, most_keys: usize) -> usize {
    cpu::scratch_bytes(spec, bias, most_keys)
}
