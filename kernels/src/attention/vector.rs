//! What attention asks of vectors beyond arithmetic: squares to transpose, and the tiles compiled for them.

use super::tile::{self, MOST_LANES};
use crate::simd::{Portable, Simd, math};

/// Vectors that attention is made of.
///
/// # Safety
/// As of [`Simd`]: the instructions of the implementing type are available wherever a function is called.
pub(super) trait Vector: Simd {
    /// The most rows of a tile: with two vectors each, so many sums stay in registers.
    const ROWS: usize;

    /// Writes the square `rows[lane][column..column + columns]`, of [`Simd::LANES`] rows and at most as many columns, with rows
    /// and columns exchanged: `columns` vectors, `step` numbers apart.
    unsafe fn transpose(rows: &[*const f32; MOST_LANES], column: usize, columns: usize, to: *mut f32, step: usize);

    /// `2^self` as [`math::exp2`] for -126 to 126; beyond, it may be 0 or infinity.
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: the caller has the instructions.
        unsafe { math::exp2(self) }
    }

    /// The sums of the lanes of up to [`Simd::LANES`] vectors, at least one, each in the lane of its rank; the sums of others of
    /// them in the remaining lanes. They stay in a register, as reading several stores at once takes long.
    #[inline(always)]
    unsafe fn sums<const R: usize>(rows: &[Self; R]) -> Self {
        // SAFETY: the caller has the instructions, and no vector has more lanes than are stored.
        unsafe {
            let mut sums = [rows[0].sum(); MOST_LANES];
            for (sum, row) in sums.iter_mut().zip(rows).skip(1) {
                *sum = row.sum();
            }
            Self::load(sums.as_ptr())
        }
    }

    /// [`tile::scores`] for these vectors.
    unsafe fn scores<const R: usize>(block: &tile::Scores);
    /// [`tile::values`] for these vectors.
    unsafe fn values<const R: usize>(block: &tile::Values<'_>);
    /// [`tile::products`] for these vectors.
    unsafe fn products<const R: usize>(block: &tile::Products);
}

/// The functions of [`Vector`] that are compiled once per number of rows, with the features of the vectors.
macro_rules! tiles {
    ($(#[$feature:meta])*) => {
        $(#[$feature])*
        unsafe fn scores<const R: usize>(block: &tile::Scores) {
            // SAFETY: the caller has the instructions and promises what `tile::scores` asks.
            unsafe { tile::scores::<Self, R>(block) }
        }
        $(#[$feature])*
        unsafe fn values<const R: usize>(block: &tile::Values<'_>) {
            // SAFETY: the caller has the instructions and promises what `tile::values` asks.
            unsafe { tile::values::<Self, R>(block) }
        }
        $(#[$feature])*
        unsafe fn products<const R: usize>(block: &tile::Products) {
            // SAFETY: the caller has the instructions and promises what `tile::products` asks.
            unsafe { tile::products::<Self, R>(block) }
        }
    };
}

impl Vector for Portable {
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; MOST_LANES], column: usize, columns: usize, to: *mut f32, step: usize) {
        for c in 0..columns {
            for (lane, row) in rows.iter().enumerate().take(Self::LANES) {
                // SAFETY: the caller promises `columns` readable numbers from `column` on in every row, and room for a
                // vector at each of `columns` places.
                unsafe { *to.add(c * step + lane) = *row.add(column + c) };
            }
        }
    }
    tiles!();
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{MOST_LANES, Vector, tile};
    use crate::simd::{Avx2, Avx512, Simd, math};

    // SAFETY of all blocks below: the caller of a `Vector` function has the instructions, and promises the memory behind pointers.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for Avx512 {
        const ROWS: usize = 12;

        #[inline(always)]
        unsafe fn transpose(rows: &[*const f32; MOST_LANES], column: usize, columns: usize, to: *mut f32, step: usize) {
            unsafe {
                let mut a = [_mm512_setzero_ps(); 16];
                if columns == 16 {
                    for (a, row) in a.iter_mut().zip(rows) {
                        *a = _mm512_loadu_ps(row.add(column));
                    }
                } else {
                    for (a, row) in a.iter_mut().zip(rows) {
                        *a = Avx512::load_first(row.add(column), columns).0;
                    }
                }
                // Pairs, then fours within quarters of the registers, then the quarters.
                let mut b = a;
                for i in 0..8 {
                    b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                    b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
                }
                for i in 0..4 {
                    let [p, q, r, s] = [b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]].map(|x| _mm512_castps_pd(x));
                    a[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, r));
                    a[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, r));
                    a[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(q, s));
                    a[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(q, s));
                }
                for i in 0..4 {
                    let low = _mm512_shuffle_f32x4::<0x88>(a[i], a[4 + i]);
                    let high = _mm512_shuffle_f32x4::<0xdd>(a[i], a[4 + i]);
                    let low_rest = _mm512_shuffle_f32x4::<0x88>(a[8 + i], a[12 + i]);
                    let high_rest = _mm512_shuffle_f32x4::<0xdd>(a[8 + i], a[12 + i]);
                    b[i] = _mm512_shuffle_f32x4::<0x88>(low, low_rest);
                    b[4 + i] = _mm512_shuffle_f32x4::<0x88>(high, high_rest);
                    b[8 + i] = _mm512_shuffle_f32x4::<0xdd>(low, low_rest);
                    b[12 + i] = _mm512_shuffle_f32x4::<0xdd>(high, high_rest);
                }
                for (c, b) in b.into_iter().enumerate().take(columns) {
                    _mm512_storeu_ps(to.add(c * step), b);
                }
            }
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            // These two instructions know all exponents, so no bounds are needed.
            unsafe {
                let n = _mm512_roundscale_ps::<0x08>(self.0);
                let power = math::polynomial(&math::EXP2, Avx512(_mm512_sub_ps(self.0, n)));
                Avx512(_mm512_scalef_ps(power.0, n))
            }
        }
        #[inline(always)]
        unsafe fn sums<const R: usize>(rows: &[Self; R]) -> Self {
            unsafe {
                let mut fours = [_mm_setzero_ps(); 4];
                let mut start = 0;
                while start < R {
                    let row = |r: usize| if start + r < R { rows[start + r].0 } else { rows[0].0 };
                    fours[start / 4] = sums_of_four([row(0), row(1), row(2), row(3)]);
                    start += 4;
                }
                let group = |index: usize| if index * 4 < R { fours[index] } else { fours[0] };
                let low = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(group(0)), group(1));
                let high = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(group(2)), group(3));
                Avx512(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high))
            }
        }
        tiles!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]);
    }

    /// The sum of the lanes of each vector.
    #[inline(always)]
    unsafe fn sums_of_four([a, b, c, d]: [__m512; 4]) -> __m128 {
        // SAFETY: the caller has the instructions.
        unsafe {
            // Neighbors, then pairs of neighbors: every quarter has a sum of each vector. Then the quarters.
            let first = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let second = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let [first, second] = [_mm512_castps_pd(first), _mm512_castps_pd(second)];
            let low = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
            let high = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
            let all = _mm512_add_ps(low, high);
            let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
            _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
        }
    }

    // SAFETY of all blocks below: as above.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for Avx2 {
        const ROWS: usize = 6;

        #[inline(always)]
        unsafe fn transpose(rows: &[*const f32; MOST_LANES], column: usize, columns: usize, to: *mut f32, step: usize) {
            unsafe {
                let mut a = [_mm256_setzero_ps(); 8];
                for (a, row) in a.iter_mut().zip(rows) {
                    *a = Avx2::load_first(row.add(column), columns).0;
                }
                // Pairs, then fours within halves of the registers, then the halves.
                let mut b = a;
                for i in 0..4 {
                    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
                }
                for i in 0..2 {
                    let [p, q, r, s] = [b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]].map(|x| _mm256_castps_pd(x));
                    a[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(p, r));
                    a[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(p, r));
                    a[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(q, s));
                    a[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(q, s));
                }
                for i in 0..4 {
                    b[i] = _mm256_permute2f128_ps::<0x20>(a[i], a[4 + i]);
                    b[4 + i] = _mm256_permute2f128_ps::<0x31>(a[i], a[4 + i]);
                }
                for (c, b) in b.into_iter().enumerate().take(columns) {
                    _mm256_storeu_ps(to.add(c * step), b);
                }
            }
        }
        tiles!(#[target_feature(enable = "avx2,fma,f16c")]);
    }
}
