//! The specification of pooling: plain loops in f64.

use super::{NORMALIZE_EPSILON, PoolSpec, Pooling, View};

/// The rows of the result, each `modes * n` values, computed in f64.
pub(super) fn pool(view: View<'_>, spec: &PoolSpec) -> Vec<Vec<f64>> {
    (0..view.rows)
        .map(|row| {
            let mut joined: Vec<f64> = Vec::new();
            for mode in &spec.modes {
                for component in 0..view.n {
                    joined.push(one(view, row, component, *mode));
                }
            }
            if spec.normalize {
                let length = joined.iter().map(|v| v * v).sum::<f64>().sqrt();
                for value in &mut joined {
                    *value /= length.max(f64::from(NORMALIZE_EPSILON));
                }
            }
            joined
        })
        .collect()
}

/// One component of one row.
fn one(view: View<'_>, row: usize, component: usize, mode: Pooling) -> f64 {
    let positions: Vec<usize> = (0..view.width).filter(|p| view.mask[row * view.width + p] != 0).collect();
    let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else { return 0.0 };
    let at = |p: usize| f64::from(view.hidden[(row * view.width + p) * view.n + component]);
    let count = positions.len() as f64;
    match mode {
        Pooling::Cls => at(first),
        Pooling::Last => at(last),
        Pooling::Max => positions.iter().map(|&p| at(p)).fold(f64::NEG_INFINITY, f64::max),
        Pooling::Mean => positions.iter().map(|&p| at(p)).sum::<f64>() / count,
        Pooling::MeanSqrtLen => positions.iter().map(|&p| at(p)).sum::<f64>() / count.sqrt(),
        Pooling::WeightedMean => {
            let weight = |p: usize| (p - first + 1) as f64;
            let total: f64 = positions.iter().map(|&p| weight(p)).sum();
            positions.iter().map(|&p| at(p) * weight(p)).sum::<f64>() / total
        }
    }
}
