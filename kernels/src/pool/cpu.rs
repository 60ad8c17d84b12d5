//! Pooling on vectors: some columns of all rows of a sequence at a time, so that sums stay in registers.

use std::ops::Range;

use super::{NORMALIZE_EPSILON, PoolSpec, Pooling};
use crate::simd::{Simd, with_simd};
use crate::team::Team;

/// Vectors of columns that are taken together: independent sums, on whole cache lines.
const TOGETHER: usize = 4;

/// The token vectors of a batch and where they stood.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    hidden: &'a [f32],
    n: usize,
    columns: &'a [u32],
}

pub(super) fn pool(
    team: &Team,
    hidden: &[f32],
    n: usize,
    sequences: &[Range<usize>],
    columns: &[u32],
    spec: &PoolSpec,
    output: &mut [f32],
) {
    let (isa, tokens) = (team.isa(), Tokens { hidden, n, columns });
    team.rows(output, spec.modes.len() * n, spec.modes.len() * hidden.len(), |part, output| {
        let part = &sequences[part];
        with_simd!(isa, each(tokens: Tokens<'_>, part: &[Range<usize>], spec: &PoolSpec, output: &mut [f32]));
    });
}

pub(super) fn normalize(team: &Team, values: &mut [f32], n: usize) {
    let (isa, numbers) = (team.isa(), 2 * values.len());
    team.rows(values, n, numbers, |_, values| {
        with_simd!(isa, each_normalized(values: &mut [f32], n: usize));
    });
}

/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn each<S: Simd>(tokens: Tokens<'_>, sequences: &[Range<usize>], spec: &PoolSpec, output: &mut [f32]) {
    let joined = spec.modes.len() * tokens.n;
    for (rows, output) in sequences.iter().zip(output.chunks_exact_mut(joined)) {
        if rows.is_empty() {
            output.fill(0.0);
            continue;
        }
        for (mode, output) in spec.modes.iter().zip(output.chunks_exact_mut(tokens.n)) {
            // SAFETY: as of this function.
            unsafe { one::<S>(tokens, rows.clone(), *mode, output) };
        }
        if spec.normalize {
            // SAFETY: as of this function.
            unsafe { each_normalized::<S>(output, joined) };
        }
    }
}

/// One sequence with at least one row, and one mode.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn one<S: Simd>(tokens: Tokens<'_>, rows: Range<usize>, mode: Pooling, out: &mut [f32]) {
    let token = |row: usize| &tokens.hidden[row * tokens.n..][..tokens.n];
    let count = rows.len() as f32;
    // SAFETY: as of this function.
    unsafe {
        match mode {
            Pooling::Cls => out.copy_from_slice(token(rows.start)),
            Pooling::Last => out.copy_from_slice(token(rows.end - 1)),
            Pooling::Max => fold::<S, Largest>(tokens, rows, 1.0, out),
            Pooling::Mean => fold::<S, Sum>(tokens, rows, 1.0 / count, out),
            Pooling::MeanSqrtLen => fold::<S, Sum>(tokens, rows, 1.0 / count.sqrt(), out),
            Pooling::WeightedMean => {
                let total: f32 = rows.clone().map(|row| weight(tokens.columns, rows.start, row)).sum();
                fold::<S, WeightedSum>(tokens, rows, 1.0 / total, out);
            }
        }
    }
}

/// One more than the distance from the first row, before masked ones were left out.
#[inline(always)]
fn weight(columns: &[u32], first: usize, row: usize) -> f32 {
    (columns[row] - columns[first] + 1) as f32
}

/// How a further row enters a result.
trait Fold {
    /// Whether rows have weights.
    const WEIGHTED: bool;
    /// # Safety
    /// The instructions of `S` are available.
    unsafe fn next<S: Simd>(so_far: S, x: S, weight: S) -> S;
}

struct Largest;
struct Sum;
struct WeightedSum;

impl Fold for Largest {
    const WEIGHTED: bool = false;
    #[inline(always)]
    unsafe fn next<S: Simd>(so_far: S, x: S, _weight: S) -> S {
        // SAFETY: as of this function. Where `x` is NaN, what was found before stays.
        unsafe { x.max(so_far) }
    }
}

impl Fold for Sum {
    const WEIGHTED: bool = false;
    #[inline(always)]
    unsafe fn next<S: Simd>(so_far: S, x: S, _weight: S) -> S {
        // SAFETY: as of this function.
        unsafe { so_far.add(x) }
    }
}

impl Fold for WeightedSum {
    const WEIGHTED: bool = true;
    #[inline(always)]
    unsafe fn next<S: Simd>(so_far: S, x: S, weight: S) -> S {
        // SAFETY: as of this function.
        unsafe { x.mul_add(weight, so_far) }
    }
}

/// Folds the rows of a sequence, of which the first has weight 1, and multiplies the result with `scale`.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn fold<S: Simd, F: Fold>(tokens: Tokens<'_>, rows: Range<usize>, scale: f32, out: &mut [f32]) {
    let n = tokens.n;
    let values = &tokens.hidden[rows.start * n..rows.end * n];
    assert_eq!(out.len(), n);
    let weight_of = |row: usize| if F::WEIGHTED { weight(tokens.columns, rows.start, rows.start + row) } else { 1.0 };
    // SAFETY: the instructions as of this function. `values` has `rows.len()` rows of `n` numbers and `out` one; vectors of
    // `LANES` numbers begin at columns up to `n - LANES`, a partial one has the numbers that are left up to `n`.
    unsafe {
        let scale = S::splat(scale);
        let mut column = 0;
        while column + TOGETHER * S::LANES <= n {
            let mut sums = [S::splat(0.0); TOGETHER];
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(values.as_ptr().add(column + index * S::LANES));
            }
            for row in 1..rows.len() {
                let (from, weight) = (values.as_ptr().add(row * n + column), S::splat(weight_of(row)));
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum = F::next(*sum, S::load(from.add(index * S::LANES)), weight);
                }
            }
            for (index, sum) in sums.into_iter().enumerate() {
                sum.mul(scale).store(out.as_mut_ptr().add(column + index * S::LANES));
            }
            column += TOGETHER * S::LANES;
        }
        while column < n {
            let count = (n - column).min(S::LANES);
            let mut sum = S::load_first(values.as_ptr().add(column), count);
            for row in 1..rows.len() {
                let x = S::load_first(values.as_ptr().add(row * n + column), count);
                sum = F::next(sum, x, S::splat(weight_of(row)));
            }
            sum.mul(scale).store_first(out.as_mut_ptr().add(column), count);
            column += count;
        }
    }
}

/// Scales rows to unit length. Squares are summed in f64, so large numbers do not overflow; the loops are plain, and compiled
/// for the instructions of `S` where they are called.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn each_normalized<S: Simd>(values: &mut [f32], n: usize) {
    /// Independent partial sums, so that additions need not wait for each other and fill registers.
    const SUMS: usize = 16;
    for row in values.chunks_exact_mut(n) {
        let mut sums = [0f64; SUMS];
        let mut chunks = row.chunks_exact(SUMS);
        for chunk in &mut chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
        for (sum, x) in sums.iter_mut().zip(chunks.remainder()) {
            *sum += f64::from(*x) * f64::from(*x);
        }
        let (length, least) = (sums.iter().sum::<f64>().sqrt(), f64::from(NORMALIZE_EPSILON));
        // In this order a length that is NaN makes the whole row NaN, instead of one that only looks right.
        let scale = 1.0 / if length < least { least } else { length };
        row.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
}
