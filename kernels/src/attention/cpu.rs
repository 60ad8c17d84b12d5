//! Plain attention; the fast version is being written.

use super::{Bias, Heads, Span, Spec};
use crate::team::Team;

pub(super) fn scratch_bytes(_spec: &Spec, _bias: Bias<'_>, _most_keys: usize) -> usize {
    0
}

pub(super) fn attention(
    _team: &Team,
    [query, key, value]: [Heads<'_>; 3],
    spans: &[Span],
    spec: &Spec,
    bias: Bias<'_>,
    output: &mut [f32],
) {
    let size = spec.head_size;
    let part = |heads: Heads<'_>, row: usize, head: usize| {
        heads.values[row * heads.stride + heads.offset + head * size..][..size].to_vec()
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for span in spans {
        for head in 0..spec.heads {
            for (i, row) in span.queries.clone().enumerate() {
                let q = part(query, row, head);
                let mut scores = vec![f32::NEG_INFINITY; span.keys.len()];
                for (j, score) in scores.iter_mut().enumerate() {
                    if (spec.causal && j > i) || spec.window.is_some_and(|window| i.abs_diff(j) > window) {
                        continue;
                    }
                    let k = part(key, span.keys.start + j, head);
                    let mut sum = dot(&q, &k);
                    let distance = i as isize - j as isize;
                    let clamped = |reach: usize| distance.clamp(-(reach as isize), reach as isize);
                    let mut added = 0.0;
                    match bias {
                        Bias::None => {}
                        Bias::Distance { table, reach } => {
                            added = table[head * (2 * reach + 1)..][(reach as isize - clamped(reach)) as usize];
                        }
                        Bias::Disentangled(positions) => {
                            let reach = positions.rows.len() / 2;
                            let index = positions.rows[(reach as isize + clamped(reach)) as usize] as usize;
                            let vector = |table: &[f32]| table[index * spec.heads * size + head * size..][..size].to_vec();
                            sum += positions.keys.map_or(0.0, |table| dot(&q, &vector(table)));
                            sum += positions.queries.map_or(0.0, |table| dot(&k, &vector(table)));
                        }
                    }
                    *score = sum * spec.scale + added;
                }
                let largest = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                let out = &mut output[row * spec.heads * size + head * size..][..size];
                out.fill(0.0);
                if largest == f32::NEG_INFINITY {
                    continue;
                }
                let total: f32 = scores.iter().map(|score| (score - largest).exp()).sum();
                for (j, score) in scores.iter().enumerate() {
                    let weight = (score - largest).exp() / total;
                    for (out, v) in out.iter_mut().zip(part(value, span.keys.start + j, head)) {
                        *out += weight * v;
                    }
                }
            }
        }
    }
}
