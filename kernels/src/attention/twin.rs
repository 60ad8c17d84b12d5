//! The specification of attention: plain loops in f64.

use super::{Bias, Heads, Span, Spec};

/// As [`attention`](super::attention), with every sum in f64.
pub(crate) fn attention([query, key, value]: [Heads<'_>; 3], spans: &[Span], spec: &Spec, bias: Bias<'_>, output: &mut [f64]) {
    let width = spec.heads * spec.head_size;
    for span in spans {
        for head in 0..spec.heads {
            for i in 0..span.queries.len() {
                let row = span.queries.start + i;
                let scores: Vec<_> = (0..span.keys.len())
                    .map(|j| score(part(query, spec, row, head), key, span, spec, bias, head, i, j))
                    .collect();
                let out = &mut output[row * width + head * spec.head_size..][..spec.head_size];
                weigh(&scores, |j| part(value, spec, span.keys.start + j, head), out);
            }
        }
    }
}

/// The largest absolute score of a span and head, for the contract's tolerance.
pub(crate) fn largest_score([query, key]: [Heads<'_>; 2], span: &Span, head: usize, spec: &Spec, bias: Bias<'_>) -> f64 {
    let rows = span.queries.clone().enumerate();
    let scores = rows.flat_map(|(i, row)| {
        let q = part(query, spec, row, head);
        (0..span.keys.len()).filter_map(move |j| score(q, key, span, spec, bias, head, i, j))
    });
    scores.fold(0.0, |largest, score| largest.max(score.abs()))
}

/// One head of a row.
pub(crate) fn part<'a>(heads: Heads<'a>, spec: &Spec, row: usize, head: usize) -> &'a [f32] {
    &heads.values[row * heads.stride + heads.offset + head * spec.head_size..][..spec.head_size]
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The score of one key for one query, `None` if the query does not see the key.
#[allow(clippy::too_many_arguments, reason = "a specification names everything that a score depends on")]
fn score(q: &[f32], key: Heads<'_>, span: &Span, spec: &Spec, bias: Bias<'_>, head: usize, i: usize, j: usize) -> Option<f64> {
    if (spec.causal && j > i) || spec.window.is_some_and(|window| i.abs_diff(j) > window) {
        return None;
    }
    let k = part(key, spec, span.keys.start + j, head);
    let scale = f64::from(spec.scale);
    let clamped = |distance: isize, reach: usize| distance.clamp(-(reach as isize), reach as isize) + reach as isize;
    let (i, j) = (i as isize, j as isize);
    let added = match bias {
        Bias::None => 0.0,
        Bias::Distance { table, reach } => f64::from(table[head * (2 * reach + 1)..][clamped(j - i, reach) as usize]),
        Bias::Disentangled(positions) => {
            let row = positions.rows[clamped(i - j, positions.rows.len() / 2) as usize] as usize;
            let vector = |table: &'_ [f32]| table[(row * spec.heads + head) * spec.head_size..][..spec.head_size].to_vec();
            let with_query = positions.keys.map_or(0.0, |table| dot(q, &vector(table)));
            let with_key = positions.queries.map_or(0.0, |table| dot(k, &vector(table)));
            scale * (with_query + with_key)
        }
    };
    Some(scale * dot(q, k) + added)
}

/// The softmax of the scores times the values; zeros if there is no score.
fn weigh<'a>(scores: &[Option<f64>], value: impl Fn(usize) -> &'a [f32], out: &mut [f64]) {
    out.fill(0.0);
    let largest = scores.iter().flatten().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let total: f64 = scores.iter().flatten().map(|score| (score - largest).exp()).sum();
    for (j, score) in scores.iter().enumerate() {
        let Some(score) = score else { continue };
        let weight = (score - largest).exp() / total;
        for (out, v) in out.iter_mut().zip(value(j)) {
            *out += weight * f64::from(*v);
        }
    }
}
