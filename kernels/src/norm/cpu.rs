//! Normalization on the CPU: sum, mean, variance and scaling while a row is in the cache.

use super::View;

/// Independent partial sums, so that additions need not wait for each other and fill vector registers.
const LANES: usize = 16;

/// Fills `out`, of as many elements as `x`.
pub(super) fn add_norm(view: View<'_>, out: &mut [f32]) {
    let n = view.weight.len();
    assert_eq!(out.len(), view.x.len(), "x and the result disagree");
    assert_eq!(n, view.shift.len(), "weight and shift disagree");
    if n == 0 {
        return;
    }
    for (row, out) in out.chunks_exact_mut(n).enumerate() {
        out.copy_from_slice(&view.x[row * n..][..n]);
        if let Some(bias) = view.bias {
            out.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
        }
        if let Some(residual) = view.residual {
            out.iter_mut().zip(&residual[row * n..][..n]).for_each(|(o, r)| *o += r);
        }
        let mean = sum(out, |x| x) / n as f32;
        out.iter_mut().for_each(|o| *o -= mean);
        let variance = sum(out, |x| x * x) / n as f32;
        let scale = 1.0 / (variance + view.eps).sqrt();
        for ((o, w), s) in out.iter_mut().zip(view.weight).zip(view.shift) {
            *o = *o * scale * w + s;
        }
    }
}

/// The sum of `f` over a row, in [`LANES`] partial sums.
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest
}
