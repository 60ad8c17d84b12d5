//! Pooling on the CPU: one pass over the positions that count, vectors of components in the inner loop.

use super::{NORMALIZE_EPSILON, PoolSpec, Pooling, View};

/// Fills `out: [rows, modes * n]`, which must hold zeros.
pub(super) fn pool(view: View<'_>, spec: &PoolSpec, out: &mut [f32]) {
    let View { rows, width, n, .. } = view;
    let joined = spec.modes.len() * n;
    assert_eq!(view.hidden.len(), rows * width * n, "hidden and its sizes disagree");
    assert_eq!(view.mask.len(), rows * width, "mask and its sizes disagree");
    assert_eq!(out.len(), rows * joined, "the result and its sizes disagree");
    if width == 0 || n == 0 {
        return;
    }
    let rows_in = view.hidden.chunks_exact(width * n).zip(view.mask.chunks_exact(width));
    for ((hidden, mask), out) in rows_in.zip(out.chunks_exact_mut(joined)) {
        for (mode, out) in spec.modes.iter().zip(out.chunks_exact_mut(n)) {
            one_row(hidden, mask, *mode, out);
        }
        if spec.normalize {
            normalize(out);
        }
    }
}

/// One row and one mode: `hidden: [width, n]`, `mask: [width]`, `out: [n]` holding zeros.
fn one_row(hidden: &[f32], mask: &[i64], mode: Pooling, out: &mut [f32]) {
    let n = out.len();
    let token = |position: usize| &hidden[position * n..][..n];
    let Some(first) = mask.iter().position(|&m| m != 0) else { return };
    let kept = || mask.iter().enumerate().skip(first).filter(|(_, m)| **m != 0).map(|(position, _)| position);
    match mode {
        Pooling::Cls => out.copy_from_slice(token(first)),
        Pooling::Last => out.copy_from_slice(token(kept().next_back().unwrap_or(first))),
        Pooling::Max => {
            out.copy_from_slice(token(first));
            for position in kept().skip(1) {
                for (o, &x) in out.iter_mut().zip(token(position)) {
                    *o = if x > *o { x } else { *o };
                }
            }
        }
        Pooling::Mean | Pooling::MeanSqrtLen | Pooling::WeightedMean => {
            let weighted = mode == Pooling::WeightedMean;
            let (mut count, mut total) = (0f32, 0f32);
            for position in kept() {
                let weight = if weighted { (position - first + 1) as f32 } else { 1.0 };
                count += 1.0;
                total += weight;
                for (o, &x) in out.iter_mut().zip(token(position)) {
                    *o += x * weight;
                }
            }
            let scale = if mode == Pooling::MeanSqrtLen { 1.0 / count.sqrt() } else { 1.0 / total };
            out.iter_mut().for_each(|o| *o *= scale);
        }
    }
}

/// Scales a row to unit length. The square of the length is summed in f64, so large rows do not overflow.
fn normalize(row: &mut [f32]) {
    let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let length = square.sqrt().max(f64::from(NORMALIZE_EPSILON));
    let scale = 1.0 / length;
    row.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
}
