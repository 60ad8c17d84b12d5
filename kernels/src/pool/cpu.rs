//! Plain pooling; the fast version is being written.

use std::ops::Range;

use super::{NORMALIZE_EPSILON, PoolSpec, Pooling};
use crate::team::Team;

pub(super) fn pool(
    team: &Team,
    hidden: &[f32],
    n: usize,
    sequences: &[Range<usize>],
    columns: &[u32],
    spec: &PoolSpec,
    output: &mut [f32],
) {
    output.fill(0.0);
    let joined = spec.modes.len() * n;
    for (rows, output) in sequences.iter().zip(output.chunks_exact_mut(joined)) {
        for (mode, output) in spec.modes.iter().zip(output.chunks_exact_mut(n)) {
            one(hidden, rows.clone(), columns, *mode, output);
        }
    }
    if spec.normalize {
        normalize(team, output, joined);
    }
}

/// One sequence and one mode; `out` holds zeros.
fn one(hidden: &[f32], rows: Range<usize>, columns: &[u32], mode: Pooling, out: &mut [f32]) {
    let n = out.len();
    let token = |row: usize| &hidden[row * n..][..n];
    if rows.is_empty() {
        return;
    }
    match mode {
        Pooling::Cls => out.copy_from_slice(token(rows.start)),
        Pooling::Last => out.copy_from_slice(token(rows.end - 1)),
        Pooling::Max => {
            out.copy_from_slice(token(rows.start));
            for row in rows.skip(1) {
                for (o, &x) in out.iter_mut().zip(token(row)) {
                    *o = if x > *o { x } else { *o };
                }
            }
        }
        Pooling::Mean | Pooling::MeanSqrtLen | Pooling::WeightedMean => {
            let weighted = mode == Pooling::WeightedMean;
            let (count, mut total) = (rows.len() as f32, 0f32);
            for row in rows.clone() {
                let weight = if weighted { (columns[row] - columns[rows.start] + 1) as f32 } else { 1.0 };
                total += weight;
                for (o, &x) in out.iter_mut().zip(token(row)) {
                    *o += x * weight;
                }
            }
            let scale = if mode == Pooling::MeanSqrtLen { 1.0 / count.sqrt() } else { 1.0 / total };
            out.iter_mut().for_each(|o| *o *= scale);
        }
    }
}

/// The square of the length is summed in f64, so large rows do not overflow.
pub(super) fn normalize(_team: &Team, values: &mut [f32], n: usize) {
    for row in values.chunks_exact_mut(n) {
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let scale = 1.0 / square.sqrt().max(f64::from(NORMALIZE_EPSILON));
        row.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
}
