//! Pooling against hand-written values and against its specification, with every instruction set and team.

use std::ops::Range;

use proptest::prelude::*;

use super::{PoolSpec, Pooling, normalize, pool, twin};
use crate::team::Team;

const ALL: [Pooling; 6] = [Pooling::Cls, Pooling::Max, Pooling::Mean, Pooling::MeanSqrtLen, Pooling::WeightedMean, Pooling::Last];

/// Sequences of a packed batch.
#[derive(Debug, Clone)]
struct Batch {
    hidden: Vec<f32>,
    n: usize,
    sequences: Vec<Range<usize>>,
    columns: Vec<u32>,
}

fn run(team: &Team, batch: &Batch, modes: &[Pooling], normalize: bool) -> Vec<Vec<f32>> {
    let joined = modes.len() * batch.n;
    let mut output = vec![f32::NAN; batch.sequences.len() * joined];
    let spec = PoolSpec { modes: modes.to_vec(), normalize };
    pool(team, &batch.hidden, batch.n, &batch.sequences, &batch.columns, &spec, &mut output);
    output.chunks(joined).map(<[f32]>::to_vec).collect()
}

fn one_sequence(hidden: &[f32], n: usize, columns: &[u32]) -> Batch {
    Batch { hidden: hidden.to_vec(), n, sequences: std::iter::once(0..columns.len()).collect(), columns: columns.to_vec() }
}

#[test]
fn each_mode_by_hand() {
    // Two rows, between which one was masked.
    let batch = one_sequence(&[1.0, -2.0, 5.0, -8.0], 2, &[0, 2]);
    for team in Team::all() {
        let one = |mode| run(team, &batch, &[mode], false)[0].clone();
        assert_eq!(one(Pooling::Cls), [1.0, -2.0]);
        assert_eq!(one(Pooling::Last), [5.0, -8.0]);
        assert_eq!(one(Pooling::Max), [5.0, -2.0]);
        assert_eq!(one(Pooling::Mean), [3.0, -5.0]);
        // Weights 1 and 3: the gap between the two positions keeps its place.
        assert_eq!(one(Pooling::WeightedMean), [4.0, -6.5]);
        let root = one(Pooling::MeanSqrtLen);
        assert!((root[0] - 6.0 / 2f32.sqrt()).abs() < 1e-6 && (root[1] + 10.0 / 2f32.sqrt()).abs() < 1e-6, "{root:?}");
    }
}

#[test]
fn modes_are_joined_in_order_and_normalized_together() {
    let batch = one_sequence(&[3.0, 0.0, 0.0, 4.0], 2, &[0, 1]);
    for team in Team::all() {
        let joined = run(team, &batch, &[Pooling::Cls, Pooling::Last], true);
        for (got, want) in joined[0].iter().zip([0.6, 0.0, 0.0, 0.8]) {
            assert!((got - want).abs() < 1e-7, "{joined:?}");
        }
    }
}

#[test]
fn a_sequence_without_rows_gives_zeros() {
    let mut batch = one_sequence(&[4.0, 5.0, 6.0, 7.0], 2, &[0, 1]);
    batch.sequences.insert(0, 0..0);
    for team in Team::all() {
        for (mode, normalize) in ALL.iter().flat_map(|mode| [(mode, false), (mode, true)]) {
            let out = run(team, &batch, &[*mode], normalize);
            assert_eq!(out[0], [0.0, 0.0], "{mode:?}");
            assert!(out[1].iter().all(|v| v.is_finite() && *v != 0.0), "{mode:?} {out:?}");
        }
        assert!(run(team, &Batch { sequences: vec![], ..batch.clone() }, &ALL, true).is_empty());
    }
}

#[test]
fn rows_of_zeros_stay_zeros_and_large_rows_do_not_overflow() {
    for team in Team::all() {
        let mut values = [0.0, 0.0, 3e30, 4e30, 3e-30, 4e-30];
        normalize(team, &mut values, 2);
        let want = [0.0, 0.0, 0.6, 0.8, 3e-18, 4e-18];
        for (got, want) in values.iter().zip(want) {
            assert!((got - want).abs() <= 1e-6 * want, "{values:?}");
        }
        normalize(team, &mut [], 3);
    }
}

#[test]
fn nan_reaches_only_its_own_sequence() {
    let mut batch = one_sequence(&[1.0; 6 * 20], 20, &[0, 1, 2, 0, 1, 2]);
    batch.sequences = vec![0..3, 3..6];
    batch.hidden[20 + 7] = f32::NAN;
    for team in Team::all() {
        for mode in [Pooling::Mean, Pooling::MeanSqrtLen, Pooling::WeightedMean] {
            let out = run(team, &batch, &[mode], true);
            let nan: Vec<bool> = out.iter().map(|row| row.iter().all(|x| x.is_nan())).collect();
            assert_eq!(nan, [true, false], "{mode:?} {out:?}");
            assert!(out[1].iter().all(|x| x.is_finite()), "{mode:?} {out:?}");
        }
    }
}

/// Sequences of random lengths with gaps, values of one of several magnitudes, any mode.
fn case() -> impl Strategy<Value = (Batch, Vec<Pooling>, bool)> {
    let lengths = prop::collection::vec(0usize..30, 0..5);
    (lengths, 1usize..150, prop::sample::select(vec![1e-3f32, 1.0, 1e4])).prop_flat_map(|(lengths, n, magnitude)| {
        let rows: usize = lengths.iter().sum();
        let hidden = prop::collection::vec((-1f32..1.0).prop_map(move |v| v * magnitude), rows * n);
        let steps = prop::collection::vec(prop::sample::select(vec![1u32, 1, 1, 2, 5]), rows);
        let batch = (hidden, steps).prop_map(move |(hidden, steps)| {
            let mut start = 0;
            let ranges = lengths.iter().map(|length| {
                start += length;
                start - length..start
            });
            let sequences: Vec<Range<usize>> = ranges.collect();
            let within = |range: &Range<usize>| {
                let mut column = 0;
                let columns = steps[range.clone()].iter().map(move |step| {
                    column += step;
                    column
                });
                columns.collect::<Vec<u32>>()
            };
            let columns = sequences.iter().flat_map(within).collect();
            Batch { hidden, n, sequences, columns }
        });
        (batch, prop::sample::subsequence(ALL.to_vec(), 1..=ALL.len()).prop_shuffle(), any::<bool>())
    })
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification((batch, modes, normalize) in case()) {
        let Batch { hidden, n, sequences, columns } = &batch;
        let exact = |rows: &Range<usize>, normalize| {
            twin::pool(hidden, *n, rows.clone(), columns, &PoolSpec { modes: modes.clone(), normalize })
        };
        let exact: Vec<[Vec<f64>; 2]> = sequences.iter().map(|rows| [false, normalize].map(|normalize| exact(rows, normalize))).collect();
        for team in Team::all() {
            let fast = run(team, &batch, &modes, normalize);
            for ((rows, [plain, exact]), fast) in sequences.iter().zip(&exact).zip(fast) {
                let length = plain.iter().map(|v| v * v).sum::<f64>().sqrt();
                let largest = hidden[rows.start * n..rows.end * n].iter().fold(0f32, |a, b| a.max(b.abs()));
                let bound = match normalize {
                    true if length < 1e-3 * f64::from(largest) => continue,
                    true => 2e-6,
                    false => 2e-6 * f64::from(largest.max(1.0)) * (rows.len() as f64).sqrt(),
                };
                for (got, want) in fast.iter().zip(exact) {
                    prop_assert!((f64::from(*got) - want).abs() <= bound, "{rows:?}: {got} for {want}, bound {bound}");
                }
            }
        }
    }

    #[test]
    fn neighbors_and_threads_change_nothing((batch, modes, normalize) in case()) {
        for teams in Team::all().chunks(2) {
            let together = run(&teams[0], &batch, &modes, normalize);
            prop_assert_eq!(&together, &run(&teams[1], &batch, &modes, normalize));
            for (rows, want) in batch.sequences.iter().zip(together) {
                let hidden = &batch.hidden[rows.start * batch.n..rows.end * batch.n];
                let alone = run(&teams[1], &one_sequence(hidden, batch.n, &batch.columns[rows.clone()]), &modes, normalize);
                prop_assert_eq!(&alone[0], &want);
            }
        }
    }
}
