//! Rotation on vectors, in place.

use super::{Pairs, Rotary};
use crate::simd::{Simd, with_simd};
use crate::team::Team;

/// Which part of a row is turned.
#[derive(Clone, Copy)]
struct Layout {
    stride: usize,
    heads: usize,
    head_size: usize,
}

pub(super) fn rotary(
    team: &Team,
    values: &mut [f32],
    stride: usize,
    (heads, head_size): (usize, usize),
    positions: &[u32],
    table: &Rotary,
) {
    if values.is_empty() {
        return;
    }
    let (isa, layout) = (team.isa(), Layout { stride, heads, head_size });
    team.rows(values, stride, 2 * positions.len() * heads * table.dims, |rows, values| {
        let positions = &positions[rows];
        with_simd!(isa, each_row(values: &mut [f32], layout: Layout, positions: &[u32], table: &Rotary));
    });
}

/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn each_row<S: Simd>(values: &mut [f32], layout: Layout, positions: &[u32], table: &Rotary) {
    let width = table.width();
    for (row, position) in values.chunks_exact_mut(layout.stride).zip(positions) {
        let at = *position as usize * width;
        let (cosines, sines) = (&table.cosines[at..][..width], &table.sines[at..][..width]);
        for head in row.chunks_exact_mut(layout.head_size).take(layout.heads) {
            let head = &mut head[..table.dims];
            // SAFETY: as of this function.
            unsafe {
                match table.pairs {
                    Pairs::Halves => halves::<S>(head, cosines, sines),
                    Pairs::Adjacent => neighbors::<S>(head, cosines, sines),
                }
            }
        }
    }
}

/// One head, as long as both tables together.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn halves<S: Simd>(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let half = cosines.len();
    assert!(head.len() == 2 * half && sines.len() == half);
    let (first, second) = head.split_at_mut(half);
    let mut at = 0;
    while at < half {
        let count = (half - at).min(S::LANES);
        // SAFETY: the instructions as of this function; all four slices have `half >= at + count` numbers.
        unsafe {
            let (cos, sin) = (S::load_first(cosines.as_ptr().add(at), count), S::load_first(sines.as_ptr().add(at), count));
            let (a, b) = (S::load_first(first.as_ptr().add(at), count), S::load_first(second.as_ptr().add(at), count));
            a.mul(cos).sub(b.mul(sin)).store_first(first.as_mut_ptr().add(at), count);
            b.mul(cos).add(a.mul(sin)).store_first(second.as_mut_ptr().add(at), count);
        }
        at += count;
    }
}

/// One head, as long as each table.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
unsafe fn neighbors<S: Simd>(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let dims = head.len();
    assert!(cosines.len() == dims && sines.len() == dims && dims.is_multiple_of(2));
    let mut at = 0;
    while at < dims {
        let count = (dims - at).min(S::LANES);
        // SAFETY: the instructions as of this function; all three slices have `dims >= at + count` numbers. `count` is even,
        // as `dims` and `LANES` are, so no pair is torn.
        unsafe {
            let (cos, sin) = (S::load_first(cosines.as_ptr().add(at), count), S::load_first(sines.as_ptr().add(at), count));
            let x = S::load_first(head.as_ptr().add(at), count);
            x.mul(cos).add(x.swap_pairs().mul(sin)).store_first(head.as_mut_ptr().add(at), count);
        }
        at += count;
    }
}
