//! Normalization on vectors: memory is read and written once, the passes over a row find it in the first-level cache.

use super::Norm;
use crate::simd::{Simd, with_simd};
use crate::team::Team;

/// Independent partial sums, so that additions need not wait for each other.
const CHAINS: usize = 4;

pub(super) fn norm(team: &Team, input: &[f32], residual: Option<&[f32]>, norm: &Norm<'_>, output: &mut [f32]) {
    let n = norm.weight.len();
    let (isa, norm) = (team.isa(), *norm);
    team.rows(output, n, 3 * input.len(), |rows, output| {
        let part = rows.start * n..rows.end * n;
        let (input, residual) = (&input[part.clone()], residual.map(|residual| &residual[part]));
        with_simd!(isa, each_row(input: &[f32], residual: Option<&[f32]>, norm: Norm<'_>, output: &mut [f32]));
    });
}

/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn each_row<S: Simd>(input: &[f32], residual: Option<&[f32]>, norm: Norm<'_>, output: &mut [f32]) {
    let n = norm.weight.len();
    for (row, (input, output)) in input.chunks_exact(n).zip(output.chunks_exact_mut(n)).enumerate() {
        // SAFETY: as of this function.
        unsafe {
            let mean = match residual {
                None => sum_into::<S, false>(input, input, output),
                Some(residual) => sum_into::<S, true>(input, &residual[row * n..][..n], output),
            } / n as f32;
            let variance = squares::<S>(output, mean) / n as f32;
            let scale = 1.0 / (variance + norm.eps).sqrt();
            match norm.bias {
                None => scale_in::<S, false>(output, mean, scale, norm.weight, norm.weight),
                Some(bias) => scale_in::<S, true>(output, mean, scale, norm.weight, bias),
            }
        }
    }
}

/// Writes `a + b`, or `a` without `ADD`, to `out`, all of the same length, and returns the sum over it.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn sum_into<S: Simd, const ADD: bool>(a: &[f32], b: &[f32], out: &mut [f32]) -> f32 {
    let n = out.len();
    assert!(a.len() == n && b.len() == n);
    // SAFETY: the instructions as of this function; vectors of `LANES` numbers begin at columns up to `n - LANES`, the
    // partial one has the numbers that are left up to `n`.
    unsafe {
        let mut sums = [S::splat(0.0); CHAINS];
        let mut column = 0;
        while column + CHAINS * S::LANES <= n {
            for sum in &mut sums {
                let mut x = S::load(a.as_ptr().add(column));
                if ADD {
                    x = x.add(S::load(b.as_ptr().add(column)));
                }
                x.store(out.as_mut_ptr().add(column));
                *sum = sum.add(x);
                column += S::LANES;
            }
        }
        while column < n {
            let count = (n - column).min(S::LANES);
            let mut x = S::load_first(a.as_ptr().add(column), count);
            if ADD {
                x = x.add(S::load_first(b.as_ptr().add(column), count));
            }
            x.store_first(out.as_mut_ptr().add(column), count);
            sums[0] = sums[0].add(x);
            column += count;
        }
        total(sums)
    }
}

/// The sum of the squares of the differences from `mean`.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn squares<S: Simd>(row: &[f32], mean: f32) -> f32 {
    let n = row.len();
    // SAFETY: as in `sum_into`.
    unsafe {
        let mean = S::splat(mean);
        let mut sums = [S::splat(0.0); CHAINS];
        let mut column = 0;
        while column + CHAINS * S::LANES <= n {
            for sum in &mut sums {
                let difference = S::load(row.as_ptr().add(column)).sub(mean);
                *sum = difference.mul_add(difference, *sum);
                column += S::LANES;
            }
        }
        while column < n {
            let count = (n - column).min(S::LANES);
            // The lanes behind the row's end must not count as differences from the mean: 0 - 0 there.
            let mean = mean.first(count);
            let difference = S::load_first(row.as_ptr().add(column), count).sub(mean);
            sums[0] = difference.mul_add(difference, sums[0]);
            column += count;
        }
        total(sums)
    }
}

/// Writes `(x - mean) * scale * weight + bias`, the last only with `ADD`, over `row`.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn scale_in<S: Simd, const ADD: bool>(row: &mut [f32], mean: f32, scale: f32, weight: &[f32], bias: &[f32]) {
    let n = row.len();
    assert!(weight.len() == n && bias.len() == n);
    // SAFETY: as in `sum_into`.
    unsafe {
        let (mean, scale) = (S::splat(mean), S::splat(scale));
        let mut column = 0;
        while column + S::LANES <= n {
            let x = S::load(row.as_ptr().add(column)).sub(mean).mul(scale);
            let w = S::load(weight.as_ptr().add(column));
            let y = if ADD { x.mul_add(w, S::load(bias.as_ptr().add(column))) } else { x.mul(w) };
            y.store(row.as_mut_ptr().add(column));
            column += S::LANES;
        }
        let count = n - column;
        if count > 0 {
            let x = S::load_first(row.as_ptr().add(column), count).sub(mean).mul(scale);
            let w = S::load_first(weight.as_ptr().add(column), count);
            let y = if ADD { x.mul_add(w, S::load_first(bias.as_ptr().add(column), count)) } else { x.mul(w) };
            y.store_first(row.as_mut_ptr().add(column), count);
        }
    }
}

/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn total<S: Simd>([a, b, c, d]: [S; CHAINS]) -> f32 {
    // SAFETY: as of this function.
    unsafe { a.add(b).add(c.add(d)).sum() }
}
