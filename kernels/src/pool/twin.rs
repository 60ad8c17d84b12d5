//! The specification of pooling: plain loops in f64.

use std::ops::Range;

use super::{NORMALIZE_EPSILON, PoolSpec, Pooling};

/// The vector of one sequence, `modes * n` values. `hidden: [rows, n]`, `columns: [rows]`.
pub(crate) fn pool(hidden: &[f32], n: usize, rows: Range<usize>, columns: &[u32], spec: &PoolSpec) -> Vec<f64> {
    let mut joined: Vec<f64> = Vec::new();
    for mode in &spec.modes {
        joined.extend((0..n).map(|component| one(|row| f64::from(hidden[row * n + component]), rows.clone(), columns, *mode)));
    }
    if spec.normalize {
        let length = joined.iter().map(|v| v * v).sum::<f64>().sqrt();
        for value in &mut joined {
            *value /= length.max(f64::from(NORMALIZE_EPSILON));
        }
    }
    joined
}

/// One component.
fn one(at: impl Fn(usize) -> f64, rows: Range<usize>, columns: &[u32], mode: Pooling) -> f64 {
    if rows.is_empty() {
        return 0.0;
    }
    let count = rows.len() as f64;
    match mode {
        Pooling::Cls => at(rows.start),
        Pooling::Last => at(rows.end - 1),
        Pooling::Max => rows.map(at).fold(f64::NEG_INFINITY, f64::max),
        Pooling::Mean => rows.map(at).sum::<f64>() / count,
        Pooling::MeanSqrtLen => rows.map(at).sum::<f64>() / count.sqrt(),
        Pooling::WeightedMean => {
            let weight = |row: usize| f64::from(columns[row] - columns[rows.start] + 1);
            let total: f64 = rows.clone().map(weight).sum();
            rows.clone().map(|row| at(row) * weight(row)).sum::<f64>() / total
        }
    }
}
