//! Normalization against hand-written values, against its specification, and its refusals.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{NormSpec, View, add_norm, twin};

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn a_row_by_hand() {
    let (x, bias, residual) = (tensor(&[0.0, 1.0], &[1, 2]), tensor(&[1.0, 1.0], &[2]), tensor(&[0.0, 2.0], &[1, 2]));
    // The sum is [1, 4]: mean 2.5, deviation 1.5.
    let (weight, shift) = (tensor(&[2.0, 3.0], &[2]), tensor(&[10.0, 20.0], &[2]));
    let spec = NormSpec { weight: &weight, shift: &shift, eps: 1e-12 };
    let out: Vec<Vec<f32>> = add_norm(&x, Some(&bias), Some(&residual), spec).unwrap().to_vec2().unwrap();
    assert!((out[0][0] - 8.0).abs() < 1e-5 && (out[0][1] - 23.0).abs() < 1e-5, "{out:?}");
}

#[test]
fn a_constant_row_gives_the_shift_and_never_nan() {
    let (weight, shift) = (tensor(&[1.0; 24], &[24]), tensor(&[0.5; 24], &[24]));
    for value in [0.0, 0.1, 1e4, -3.3e6] {
        let x = tensor(&[value; 24], &[1, 24]);
        let spec = NormSpec { weight: &weight, shift: &shift, eps: 1e-5 };
        let out: Vec<Vec<f32>> = add_norm(&x, None, None, spec).unwrap().to_vec2().unwrap();
        assert!(out[0].iter().all(|v| v.is_finite()), "{value} {out:?}");
        if value == 0.0 {
            assert_eq!(out[0], [0.5; 24]);
        }
    }
}

#[test]
fn wrong_arguments_are_named() {
    let (x, n) = (tensor(&[0.0; 6], &[2, 3]), tensor(&[1.0; 3], &[3]));
    let spec = NormSpec { weight: &n, shift: &n, eps: 1e-5 };
    let text = |result: Result<Tensor, crate::KernelError>| result.unwrap_err().to_string();
    let wide = tensor(&[0.0; 8], &[2, 4]);
    assert_eq!(text(add_norm(&x, None, Some(&wide), spec)), "add_norm: argument 'residual' must have shape [2, 3], got [2, 4]");
    assert_eq!(text(add_norm(&n, None, None, spec)), "add_norm: argument 'x' must have shape [rows, n], got [3]");
    let half = x.to_dtype(DType::F16).unwrap();
    assert_eq!(text(add_norm(&half, None, None, spec)), "add_norm: argument 'x' must be F32, got F16");
    let short = tensor(&[1.0; 2], &[2]);
    let spec = NormSpec { weight: &short, ..spec };
    assert_eq!(text(add_norm(&x, None, None, spec)), "add_norm: argument 'weight' must have shape [3], got [2]");
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification(
        rows in 0usize..4,
        n in 1usize..70,
        parts in (any::<bool>(), any::<bool>()),
        offset in prop::sample::select(vec![0f32, 1.0, 100.0]),
        values in prop::collection::vec(-4f32..4.0, 3 * 70 * 2 + 3 * 70),
    ) {
        let x: Vec<f32> = values[..rows * n].iter().map(|v| v + offset).collect();
        let residual = &values[210..][..rows * n];
        let (bias, weight, shift) = (&values[420..][..n], &values[490..][..n], &values[560..][..n]);
        let view = View {
            x: &x,
            bias: parts.0.then_some(bias),
            residual: parts.1.then_some(residual),
            weight,
            shift,
            eps: 1e-6,
        };
        let (exact, conditions) = twin::add_norm(view);
        let (weight_tensor, shift_tensor) = (tensor(weight, &[n]), tensor(shift, &[n]));
        let (bias, residual) = (tensor(bias, &[n]), tensor(residual, &[rows, n]));
        let spec = NormSpec { weight: &weight_tensor, shift: &shift_tensor, eps: 1e-6 };
        let fast = add_norm(&tensor(&x, &[rows, n]), parts.0.then_some(&bias), parts.1.then_some(&residual), spec);
        let fast: Vec<f32> = fast.unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let largest = weight.iter().fold(1f32, |a, b| a.max(b.abs()));
        for (index, (got, want)) in fast.iter().zip(&exact).enumerate() {
            let bound = 4e-6 * f64::from(largest) * conditions[index / n] * (n as f64).sqrt();
            prop_assert!((f64::from(*got) - want).abs() <= bound, "{index}: {got} for {want}, bound {bound}");
        }
    }
}
