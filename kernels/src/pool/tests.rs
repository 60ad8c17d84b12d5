//! Pooling against hand-written values, against its specification, and its refusals.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{PoolSpec, Pooling, View, pool, twin};
use crate::error::KernelError;

const ALL: [Pooling; 6] = [Pooling::Cls, Pooling::Max, Pooling::Mean, Pooling::MeanSqrtLen, Pooling::WeightedMean, Pooling::Last];

fn run(hidden: &[f32], mask: &[i64], shape: (usize, usize, usize), modes: &[Pooling], normalize: bool) -> Vec<Vec<f32>> {
    let hidden = Tensor::from_slice(hidden, shape, &Device::Cpu).unwrap();
    let mask = Tensor::from_slice(mask, (shape.0, shape.1), &Device::Cpu).unwrap();
    pool(&hidden, &mask, &PoolSpec { modes: modes.to_vec(), normalize }).unwrap().to_vec2().unwrap()
}

#[test]
fn each_mode_by_hand() {
    // One row of four positions, of which the second and the fourth do not count.
    let hidden = [1.0, -2.0, 90.0, 90.0, 5.0, -8.0, f32::NAN, f32::INFINITY];
    let mask = [1, 0, 1, 0];
    let one = |mode| run(&hidden, &mask, (1, 4, 2), &[mode], false)[0].clone();
    assert_eq!(one(Pooling::Cls), [1.0, -2.0]);
    assert_eq!(one(Pooling::Last), [5.0, -8.0]);
    assert_eq!(one(Pooling::Max), [5.0, -2.0]);
    assert_eq!(one(Pooling::Mean), [3.0, -5.0]);
    // Weights 1 and 3: the gap between the two positions keeps its place.
    assert_eq!(one(Pooling::WeightedMean), [4.0, -6.5]);
    let root = one(Pooling::MeanSqrtLen);
    assert!((root[0] - 6.0 / 2f32.sqrt()).abs() < 1e-6 && (root[1] + 10.0 / 2f32.sqrt()).abs() < 1e-6, "{root:?}");
}

#[test]
fn modes_are_joined_in_order_and_normalized_together() {
    let joined = run(&[3.0, 0.0, 0.0, 4.0], &[1, 1], (1, 2, 2), &[Pooling::Cls, Pooling::Last], true);
    let expected = [0.6, 0.0, 0.0, 0.8];
    for (got, want) in joined[0].iter().zip(expected) {
        assert!((got - want).abs() < 1e-7, "{joined:?}");
    }
}

#[test]
fn a_row_where_nothing_counts_gives_zeros() {
    let hidden = [f32::NAN, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
    for mode in ALL {
        for normalize in [false, true] {
            let out = run(&hidden, &[0, 0, 1, 1], (2, 2, 2), &[mode], normalize);
            assert_eq!(out[0], [0.0, 0.0], "{mode:?}");
            assert!(out[1].iter().all(|v| v.is_finite() && *v != 0.0), "{mode:?} {out:?}");
        }
    }
}

#[test]
fn empty_dimensions_give_empty_or_zero_results() {
    assert!(run(&[], &[], (0, 3, 2), &ALL, true).is_empty());
    assert_eq!(run(&[], &[], (2, 0, 2), &[Pooling::Mean], true), [[0.0; 2], [0.0; 2]]);
}

#[test]
fn a_large_row_normalizes_without_overflow() {
    let out = run(&[3e30, 4e30], &[1], (1, 1, 2), &[Pooling::Mean], true);
    assert!((out[0][0] - 0.6).abs() < 1e-6 && (out[0][1] - 0.8).abs() < 1e-6, "{out:?}");
}

#[test]
fn views_with_an_offset_and_strides_are_read_right() {
    let base = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((2, 4, 3)).unwrap();
    let hidden = base.narrow(1, 1, 2).unwrap();
    let mask = Tensor::new(&[[1i64, 1], [0, 1]], &Device::Cpu).unwrap().t().unwrap();
    let spec = PoolSpec { modes: vec![Pooling::Mean], normalize: false };
    let out: Vec<Vec<f32>> = pool(&hidden, &mask, &spec).unwrap().to_vec2().unwrap();
    // The transposed mask is [[1, 0], [1, 1]].
    assert_eq!(out, [[3.0, 4.0, 5.0], [16.5, 17.5, 18.5]]);
}

#[test]
fn wrong_arguments_are_named() {
    let hidden = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap();
    let mask = Tensor::ones((2, 3), DType::I64, &Device::Cpu).unwrap();
    let spec = PoolSpec { modes: vec![Pooling::Mean], normalize: true };
    let text = |result: Result<Tensor, KernelError>| result.unwrap_err().to_string();
    let half = hidden.to_dtype(DType::F16).unwrap();
    assert_eq!(text(pool(&half, &mask, &spec)), "pool: argument 'hidden' must be F32, got F16");
    let flat = hidden.flatten(0, 1).unwrap();
    assert_eq!(text(pool(&flat, &mask, &spec)), "pool: argument 'hidden' must have shape [rows, width, n], got [6, 4]");
    let turned = mask.t().unwrap();
    assert_eq!(text(pool(&hidden, &turned, &spec)), "pool: argument 'mask' must have shape [2, 3], got [3, 2]");
    let none = PoolSpec { modes: vec![], normalize: true };
    assert_eq!(text(pool(&hidden, &mask, &none)), "pool: argument 'modes' must name at least one entry");
}

/// Random rows: values of one of several magnitudes, any mask, any mode.
fn case() -> impl Strategy<Value = (usize, usize, usize, Vec<f32>, Vec<i64>, Vec<Pooling>, bool)> {
    (1usize..5, 1usize..40, 1usize..36, prop::sample::select(vec![1e-3f32, 1.0, 1e4])).prop_flat_map(
        |(rows, width, n, magnitude)| {
            (
                Just(rows),
                Just(width),
                Just(n),
                prop::collection::vec((-1f32..1.0).prop_map(move |v| v * magnitude), rows * width * n),
                prop::collection::vec(prop::sample::select(vec![0i64, 1, 1, 7]), rows * width),
                prop::sample::subsequence(ALL.to_vec(), 1..=ALL.len()).prop_shuffle(),
                any::<bool>(),
            )
        },
    )
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification((rows, width, n, hidden, mask, modes, normalize) in case()) {
        let fast = run(&hidden, &mask, (rows, width, n), &modes, normalize);
        let view = View { hidden: &hidden, mask: &mask, rows, width, n };
        let plain = twin::pool(view, &PoolSpec { modes: modes.clone(), normalize: false });
        let exact = twin::pool(view, &PoolSpec { modes, normalize });
        for row in 0..rows {
            let length = plain[row].iter().map(|v| v * v).sum::<f64>().sqrt();
            let largest = hidden[row * width * n..][..width * n].iter().fold(0f32, |a, b| a.max(b.abs()));
            let bound = match normalize {
                true if length < 1e-3 * f64::from(largest) => continue,
                true => 2e-6,
                false => 2e-6 * f64::from(largest.max(1.0)) * (width as f64).sqrt(),
            };
            for (got, want) in fast[row].iter().zip(&exact[row]) {
                prop_assert!((f64::from(*got) - want).abs() <= bound, "row {row}: {got} for {want}, bound {bound}");
            }
        }
    }

    #[test]
    fn padding_and_neighbors_change_nothing((rows, width, n, hidden, mask, modes, normalize) in case(), extra in 1usize..9) {
        let together = run(&hidden, &mask, (rows, width, n), &modes, normalize);
        for row in 0..rows {
            let mut alone = hidden[row * width * n..][..width * n].to_vec();
            let mut alone_mask = mask[row * width..][..width].to_vec();
            alone.resize((width + extra) * n, f32::NAN);
            alone_mask.resize(width + extra, 0);
            let alone = run(&alone, &alone_mask, (1, width + extra, n), &modes, normalize);
            prop_assert_eq!(&alone[0], &together[row]);
        }
    }
}
