//! Plain rotation; the fast version is being written.

use super::{Pairs, Rotary};
use crate::team::Team;

pub(super) fn rotary(
    _team: &Team,
    values: &mut [f32],
    stride: usize,
    (heads, head_size): (usize, usize),
    positions: &[u32],
    table: &Rotary,
) {
    let half = table.dims / 2;
    for (row, position) in values.chunks_exact_mut(stride).zip(positions) {
        let at = *position as usize * half;
        for head in row.chunks_exact_mut(head_size).take(heads) {
            for pair in 0..half {
                let (first, second) = match table.pairs {
                    Pairs::Halves => (pair, pair + half),
                    Pairs::Adjacent => (2 * pair, 2 * pair + 1),
                };
                let (cos, sin) = (table.cosines[at + pair], table.sines[at + pair]);
                let (a, b) = (head[first], head[second]);
                (head[first], head[second]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
}
