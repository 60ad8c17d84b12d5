//! The fast version against the specification, and what must not change a result.

use std::num::NonZeroUsize;
use std::ops::Range;

use proptest::prelude::*;

use super::{Bias, Disentangled, Heads, Span, Spec, attention, scratch_bytes, twin};
use crate::isa::Isa;
use crate::team::Team;

/// Numbers from -1 to 1 that follow from a seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Which positions a case has.
#[derive(Debug, Clone, Copy)]
enum Kind {
    None,
    Distance,
    Disentangled { keys: bool, queries: bool },
}

/// Queries, keys and values in one buffer, as a fused product leaves them, with everything else that attention takes.
#[derive(Debug, Clone)]
struct Case {
    spans: Vec<Span>,
    spec: Spec,
    kind: Kind,
    reach: usize,
    /// Rows between the distances of `Disentangled`.
    buckets: usize,
    rows: Vec<u32>,
    table: Vec<f32>,
    position_keys: Vec<f32>,
    position_queries: Vec<f32>,
    input: Vec<f32>,
    stride: usize,
}

impl Case {
    /// `lengths` are queries and keys of every span; `size` is how large products of a query and a key get.
    fn new(spec: Spec, kind: Kind, reach: usize, lengths: &[(usize, usize)], size: f32, seed: u64) -> Case {
        let width = spec.heads * spec.head_size;
        let stride = 3 * width + 5;
        let (mut row, mut spans) = (1, Vec::new());
        for &(queries, keys) in lengths {
            spans.push(Span { queries: row..row + queries, keys: row..row + keys });
            row += queries.max(keys) + 1;
        }
        let buckets = reach / 2 + 1;
        let rows = (0..=2 * reach).map(|index| (index * (2 * buckets) / (2 * reach + 1)) as u32).collect();
        let mut input = numbers(seed, row * stride);
        let factor = (size / (spec.head_size as f32).sqrt() / spec.scale.abs().max(1e-3)).sqrt();
        for row in input.chunks_mut(stride) {
            row[2..2 + 2 * width].iter_mut().for_each(|x| *x *= factor);
        }
        Case {
            spans,
            table: numbers(seed + 1, spec.heads * (2 * reach + 1)),
            position_keys: numbers(seed + 2, 2 * buckets * width),
            position_queries: numbers(seed + 3, 2 * buckets * width),
            spec,
            kind,
            reach,
            buckets,
            rows,
            input,
            stride,
        }
    }

    fn parts(&self) -> [Heads<'_>; 3] {
        let width = self.spec.heads * self.spec.head_size;
        [2, 2 + width, 2 + 2 * width].map(|offset| Heads { values: &self.input, stride: self.stride, offset })
    }

    fn bias(&self) -> Bias<'_> {
        match self.kind {
            Kind::None => Bias::None,
            Kind::Distance => Bias::Distance { table: &self.table, reach: self.reach },
            Kind::Disentangled { keys, queries } => Bias::Disentangled(Disentangled {
                keys: keys.then_some(&self.position_keys),
                queries: queries.then_some(&self.position_queries),
                rows: &self.rows,
            }),
        }
    }

    fn output_len(&self) -> usize {
        self.input.len() / self.stride * self.spec.heads * self.spec.head_size
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let most = self.spans.iter().map(|span| span.keys.len()).max().unwrap_or(0);
        let bytes = scratch_bytes(&self.spec, self.bias(), most);
        let team = Team::new("attention", NonZeroUsize::new(threads).unwrap(), bytes).unwrap().with_isa(isa);
        let mut output = vec![7.0; self.output_len()];
        attention(&team, self.parts(), &self.spans, &self.spec, self.bias(), &mut output);
        output
    }

    /// Compares all instruction sets with the specification.
    fn check(&self) {
        let mut expected = vec![7.0; self.output_len()];
        twin::attention(self.parts(), &self.spans, &self.spec, self.bias(), &mut expected);
        let tolerances: Vec<f64> = self.tolerances().collect();
        for isa in Isa::available() {
            let output = self.run(isa, 1);
            for (index, (got, expected)) in output.iter().zip(&expected).enumerate() {
                let (row, column) = (index / self.width(), index % self.width());
                let head = column / self.spec.head_size;
                let span = self.spans.iter().position(|span| span.queries.contains(&row));
                let tolerance = span.map_or(0.0, |span| tolerances[span * self.spec.heads + head]);
                let error = (f64::from(*got) - expected).abs();
                assert!(
                    error <= tolerance,
                    "{isa:?}, row {row}, column {column}: got {got}, expected {expected}, differs by {error:e} of {tolerance:e}"
                );
            }
        }
    }

    fn width(&self) -> usize {
        self.spec.heads * self.spec.head_size
    }

    /// The contract's tolerance of every span and head.
    fn tolerances(&self) -> impl Iterator<Item = f64> {
        let [query, key, value] = self.parts();
        self.spans.iter().flat_map(move |span| {
            (0..self.spec.heads).map(move |head| {
                let score = twin::largest_score([query, key], span, head, &self.spec, self.bias());
                let values = span.keys.clone().flat_map(|row| twin::part(value, &self.spec, row, head));
                4e-6 * score.max(1.0) * f64::from(values.fold(0.0f32, |largest, x| largest.max(x.abs())))
            })
        })
    }
}

fn spec(heads: usize, head_size: usize) -> Spec {
    Spec { heads, head_size, scale: 1.0 / (head_size as f32).sqrt(), causal: false, window: None }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::None),
        3 => Just(Kind::Distance),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(keys, queries)| Kind::Disentangled { keys, queries }),
    ]
}

fn specs() -> impl Strategy<Value = Spec> {
    let sizes = prop_oneof![1usize..70, Just(8), Just(32), Just(64), Just(80)];
    let windows = prop_oneof![2 => Just(None), 1 => (0usize..40).prop_map(Some)];
    let scales = prop_oneof![Just(None), Just(Some(-0.3f32)), Just(Some(1.0))];
    (1usize..4, sizes, any::<bool>(), windows, scales).prop_map(|(heads, size, causal, window, scale)| {
        let plain = spec(heads, size);
        Spec { causal, window, scale: scale.unwrap_or(plain.scale), ..plain }
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let lengths = prop::collection::vec((0usize..70, 0usize..70, any::<bool>()), 0..4);
    let sizes = prop_oneof![Just(0.0f32), Just(3.0), Just(30.0), Just(400.0)];
    (specs(), kinds(), 0usize..80, lengths, sizes, any::<u32>()).prop_map(|(spec, kind, reach, lengths, size, seed)| {
        // Most spans attend to themselves; some have other numbers of queries and keys.
        let lengths: Vec<_> = lengths.iter().map(|&(a, b, same)| (a, if same { a } else { b })).collect();
        Case::new(spec, kind, reach, &lengths, size, u64::from(seed))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn agrees_with_the_specification(case in cases()) {
        case.check();
    }

    #[test]
    fn threads_change_nothing(case in cases()) {
        for isa in Isa::available() {
            prop_assert_eq!(bits(&case.run(isa, 1)), bits(&case.run(isa, 3)));
        }
    }

    /// A span alone, and at another place of memory, gives the same bits.
    #[test]
    fn other_spans_change_nothing(case in cases(), moved in 0usize..5) {
        for isa in Isa::available() {
            let whole = case.run(isa, 1);
            for span in &case.spans {
                let mut alone = case.clone();
                alone.input = vec![f32::NAN; case.input.len() + moved * case.stride];
                alone.input[moved * case.stride..].copy_from_slice(&case.input);
                alone.spans = vec![Span { queries: later(&span.queries, moved), keys: later(&span.keys, moved) }];
                let result = alone.run(isa, 1);
                let part = |output: &[f32], rows: Range<usize>| bits(&output[rows.start * case.width()..rows.end * case.width()]);
                prop_assert_eq!(part(&result, alone.spans[0].queries.clone()), part(&whole, span.queries.clone()));
            }
        }
    }
}

fn later(rows: &Range<usize>, by: usize) -> Range<usize> {
    rows.start + by..rows.end + by
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Spans of more keys than are packed at a time, with scores for both ways to make weights.
#[test]
fn long_spans_agree_with_the_specification() {
    let all = Kind::Disentangled { keys: true, queries: true };
    for (kind, lengths) in [(Kind::None, [(530, 530)]), (Kind::Distance, [(300, 1100)]), (all, [(300, 300)])] {
        for size in [2.0, 300.0] {
            for (causal, window) in [(false, None), (true, None), (false, Some(50)), (true, Some(270))] {
                let spec = Spec { causal, window, ..spec(1, 16) };
                Case::new(spec, kind, 90, &lengths, size, 5).check();
            }
        }
    }
}

/// The sum of a row's weights leaves the trusted range only behind the first keys that are packed.
#[test]
fn large_scores_behind_small_ones() {
    for factor in [40.0, -40.0] {
        let mut case = Case::new(spec(1, 8), Kind::None, 0, &[(20, 700)], 1.0, 9);
        for row in 601..701 {
            let key = &mut case.input[row * case.stride + 2 + 8..][..8];
            key.iter_mut().for_each(|x| *x *= factor);
        }
        case.check();
    }
}

/// All scores are so low that the sum of weights is nothing, which shows only behind the last keys.
#[test]
fn low_scores_over_several_packs() {
    let mut case = Case::new(spec(1, 8), Kind::None, 0, &[(20, 700)], 1.0, 9);
    for row in case.input.chunks_exact_mut(case.stride) {
        row[2..10].iter_mut().for_each(|x| *x = 6.0 + x.abs());
        row[10..18].iter_mut().for_each(|x| *x = -6.0 - x.abs());
    }
    case.check();
}

/// Every head size around the widths of vectors and chunks.
#[test]
fn unusual_head_sizes() {
    for size in [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 96, 127, 128, 160, 255, 256, 511, 512, 513, 1030] {
        let all = Kind::Disentangled { keys: true, queries: true };
        for kind in [Kind::None, all] {
            Case::new(spec(2, size), kind, 6, &[(21, 21)], 4.0, size as u64).check();
        }
    }
}

/// Every number of queries and keys up to two blocks and three panels.
#[test]
fn every_small_size() {
    for queries in 0..=25 {
        let lengths: Vec<_> = (0..100).step_by(1 + queries % 3).map(|keys| (queries, keys)).collect();
        Case::new(spec(1, 5), Kind::None, 0, &lengths, 2.0, queries as u64).check();
    }
}

#[test]
fn two_keys_by_hand() {
    // The first query scores ln 3 and 0, so its weights are 3/4 and 1/4; the second scores both 0.
    let spec = Spec { heads: 1, head_size: 1, scale: 2.0, causal: false, window: None };
    let (query, key) = ([3f32.ln() / 2.0, 0.0], [1.0, 0.0]);
    let part = |values| Heads { values, stride: 1, offset: 0 };
    let span = Span { queries: 0..2, keys: 0..2 };
    for isa in Isa::available() {
        let team = Team::single(scratch_bytes(&spec, Bias::None, 2)).with_isa(isa);
        let mut output = [0.0; 3];
        attention(
            &team,
            [part(&query), part(&key), part(&[8.0, 16.0])],
            std::slice::from_ref(&span),
            &spec,
            Bias::None,
            &mut output,
        );
        assert!((output[0] - 10.0).abs() < 1e-5 && (output[1] - 12.0).abs() < 1e-5 && output[2] == 0.0, "{output:?}");
    }
}

/// A query that sees no key gives zeros, and other rows are left alone.
#[test]
fn nothing_seen_gives_zeros() {
    for size in [1.0, 400.0] {
        let spec = Spec { window: Some(3), ..spec(2, 9) };
        let case = Case::new(spec, Kind::None, 0, &[(30, 10), (4, 0)], size, 1);
        for isa in Isa::available() {
            let output = case.run(isa, 1);
            let row = |row: usize| &output[row * 18..][..18];
            assert!(row(0).iter().all(|x| *x == 7.0) && row(31).iter().all(|x| *x == 7.0));
            assert!((1 + 13..31).chain(32..36).all(|index| row(index).iter().all(|x| *x == 0.0)));
            assert!((1..1 + 13).all(|index| row(index).iter().all(|x| *x != 0.0 && *x != 7.0)));
        }
    }
}

/// A number that is none in a query makes the query's result none and leaves the others alone.
#[test]
fn nan_stays_in_its_row() {
    let mut case = Case::new(spec(1, 4), Kind::None, 0, &[(40, 40)], 1.0, 3);
    let healthy: Vec<_> = Isa::available().map(|isa| case.run(isa, 1)).collect();
    case.input[21 * case.stride + 2] = f32::NAN;
    for (isa, healthy) in Isa::available().zip(healthy) {
        let output = case.run(isa, 1);
        assert!(output[21 * 4..22 * 4].iter().all(|x| x.is_nan()));
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(
            output[..21 * 4].iter().zip(&healthy[..]).all(close) && output[22 * 4..].iter().zip(&healthy[22 * 4..]).all(close)
        );
    }
}

/// The scratch memory that is asked for is bounded, whatever the length.
#[test]
fn scratch_memory_is_bounded() {
    let case = Case::new(spec(2, 64), Kind::Disentangled { keys: true, queries: true }, 300, &[], 1.0, 1);
    for bias in [Bias::None, Bias::Distance { table: &case.table, reach: 300 }, case.bias()] {
        assert_eq!(scratch_bytes(&case.spec, bias, 8192), scratch_bytes(&case.spec, bias, 1 << 40));
        assert!(scratch_bytes(&case.spec, bias, 8192) < 1 << 20);
        assert!(scratch_bytes(&case.spec, bias, 10) <= scratch_bytes(&case.spec, bias, 8192));
    }
    assert_eq!(case.buckets, 151);
}
