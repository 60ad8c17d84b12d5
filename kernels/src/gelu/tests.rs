//! GELU against hand-written values, against its specification, and its refusals.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{bias_gelu, twin};

fn run(x: &[f32], bias: &[f32]) -> Vec<f32> {
    let rows = x.len() / bias.len();
    let x = Tensor::from_slice(x, (rows, bias.len()), &Device::Cpu).unwrap();
    let bias = Tensor::from_slice(bias, bias.len(), &Device::Cpu).unwrap();
    bias_gelu(&x, &bias).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bound(x: f32, bias: f32) -> f64 {
    let sum = f64::from(x) + f64::from(bias);
    4e-7 * sum.abs() + 2e-7 * (f64::from(x).abs() + f64::from(bias).abs())
}

#[test]
fn values_by_hand() {
    // Phi(1) = 0.841344746, Phi(-1) = 0.158655254, Phi(3) = 0.998650102.
    let out = run(&[0.0, 1.0, -2.0, 2.5], &[0.0, 0.0, 1.0, 0.5]);
    let expected = [0.0, 0.841_344_8, -0.158_655_25, 2.995_950_3];
    for (got, want) in out.iter().zip(expected) {
        assert!((got - want).abs() < 1e-6, "{out:?}");
    }
}

#[test]
fn a_fine_grid_agrees_with_the_specification() {
    let x: Vec<f32> = (-150_000..=150_000).map(|i| i as f32 * 1e-4).collect();
    let mut largest = 0f64;
    for (x, got) in x.iter().zip(run(&x, &[0.0])) {
        let error = (f64::from(got) - twin::bias_gelu(*x, 0.0)).abs();
        assert!(error <= bound(*x, 0.0), "{x}: {got}, error {error:e}");
        largest = largest.max(error / f64::from(x.abs()).max(1e-3));
    }
    assert!(largest < 4e-7, "{largest:e}");
}

#[test]
fn extreme_values_have_their_limits() {
    let out = run(&[f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::NAN, -0.0, 1e-40], &[0.0]);
    assert_eq!(out[0], f32::INFINITY);
    assert!((-1e-30..=0.0).contains(&out[1]), "{out:?}");
    assert_eq!(out[2], f32::MAX);
    assert!(out[3].abs() < 1e-30, "{out:?}");
    assert!(out[4].is_nan());
    assert_eq!(out[5].abs(), 0.0);
    assert!(out[6] >= 0.0 && out[6] < 1e-39);
}

#[test]
fn wrong_arguments_are_named() {
    let (x, bias) =
        (Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap(), Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap());
    let text = |result: Result<Tensor, crate::KernelError>| result.unwrap_err().to_string();
    assert_eq!(text(bias_gelu(&x, &bias)), "bias_gelu: argument 'bias' must have shape [3], got [4]");
    assert_eq!(text(bias_gelu(&bias, &bias)), "bias_gelu: argument 'x' must have shape [rows, n], got [4]");
    let long = x.to_dtype(DType::I64).unwrap();
    assert_eq!(text(bias_gelu(&long, &bias)), "bias_gelu: argument 'x' must be F32, got I64");
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification(
        (n, x, bias) in (1usize..50).prop_flat_map(|n| (
            Just(n),
            prop::collection::vec(-12f32..12.0, n * 3),
            prop::collection::vec(-3f32..3.0, n),
        )),
    ) {
        for (index, got) in run(&x, &bias).iter().enumerate() {
            let (x, bias) = (x[index], bias[index % n]);
            let error = (f64::from(*got) - twin::bias_gelu(x, bias)).abs();
            prop_assert!(error <= bound(x, bias), "{x} + {bias}: {got}, error {error:e}");
        }
    }
}
