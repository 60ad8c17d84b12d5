//! Activations, and gates.

use super::Check;
use super::trial::{Outcome, REAL, Tensor, numbers, rounded, rounding};
use crate::activation::cuda::activate;
use crate::activation::{Activation, twin};
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::gate::cuda::gate;
use crate::gate::twin as gate_twin;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for dtype in REAL {
        for activation in Activation::ALL {
            let shapes = [(1, 3000, 0, false), (3, 40, 1, true), (7, 33, 0, true), (5, 384, 0, true)];
            for (rows, n, offset, bias) in shapes {
                let bias_name = if bias { " bias" } else { "" };
                let name = format!("{activation:?} [{rows}, {n}] offset {offset}{bias_name}");
                checks.push(Check::new("activation", dtype, name, move |stream| {
                    compare(stream, dtype, activation, (rows, n), offset, bias)
                }));
            }
            for (rows, n, offset) in [(5, 7, 0), (3, 384, 0), (3, 40, 1)] {
                let name = format!("{activation:?} [{rows}, 2 * {n}] offset {offset}");
                checks.push(Check::new("gate", dtype, name, move |stream| {
                    compare_gate(stream, dtype, activation, (rows, n), offset)
                }));
            }
        }
        checks.push(Check::new("activation", dtype, "Relu [0, 8] offset 0 bias".to_owned(), move |stream| {
            compare(stream, dtype, Activation::Relu, (0, 8), 0, true)
        }));
        checks.push(Check::new("gate", dtype, "Silu [0, 2 * 8] offset 0".to_owned(), move |stream| {
            compare_gate(stream, dtype, Activation::Silu, (0, 8), 0)
        }));
    }
    // More packs than a grid has threads.
    checks.push(Check::new("activation", DeviceType::F32, "Relu [1, 530001] offset 1".to_owned(), |stream| {
        compare(stream, DeviceType::F32, Activation::Relu, (1, 530_001), 1, false)
    }));
    checks
}

/// Numbers from where activations bend to where they are at their limits, with infinities, NaN, zeros and the largest numbers
/// first.
fn inputs(seed: u64, count: usize) -> Vec<f32> {
    let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0, 60000.0, -60000.0, -80.0, 1e-7, -1e-7];
    let scales = [1.0, 4.0, 12.0, 0.01, 60.0];
    let mut values: Vec<f32> = numbers(seed, count).into_iter().enumerate().map(|(i, x)| x * scales[i % scales.len()]).collect();
    let count = special.len().min(count);
    values[..count].copy_from_slice(&special[..count]);
    values
}

/// What is tolerated at an input before the result is rounded.
fn bound(activation: Activation, x: f64, want: f64) -> f64 {
    let against = match activation {
        Activation::Tanh | Activation::Sigmoid => want.abs(),
        _ => want.abs().max(x.abs()),
    };
    // An infinity's result is exact or not finite, either way not measured.
    6e-7 * if against.is_finite() { against } else { 0.0 } + 1.2e-38
}

fn compare(
    stream: &Stream,
    dtype: DeviceType,
    activation: Activation,
    (rows, n): (usize, usize),
    offset: usize,
    bias: bool,
) -> Result<Outcome, DeviceError> {
    let values = rounded(dtype, &inputs(1, rows * n));
    let bias = bias.then(|| rounded(dtype, &numbers(2, n)));
    let added: Vec<f32> =
        values.iter().enumerate().map(|(index, x)| x + bias.as_ref().map_or(0.0, |bias| bias[index % n])).collect();
    let want: Vec<f64> = added.iter().map(|x| twin::apply(activation, f64::from(*x))).collect();

    let tensor = Tensor::new(stream, dtype, &values, offset)?;
    let bias = bias.map(|bias| Tensor::new(stream, dtype, &bias, 0)).transpose()?;
    activate(stream, tensor.view(), bias.as_ref().map(|bias| (bias.view(), n)), activation)?;
    tensor.compare(stream, &want, |index, want| bound(activation, f64::from(added[index]), want) + rounding(dtype, want))
}

fn compare_gate(
    stream: &Stream,
    dtype: DeviceType,
    activation: Activation,
    (rows, n): (usize, usize),
    offset: usize,
) -> Result<Outcome, DeviceError> {
    let scaled: Vec<f32> = numbers(3, rows * 2 * n).into_iter().map(|x| 6.0 * x).collect();
    let values = rounded(dtype, &scaled);
    let want = gate_twin::gate(&values, n, activation);

    let input = Tensor::new(stream, dtype, &values, offset)?;
    let output = Tensor::output(stream, dtype, rows * n, offset)?;
    gate(stream, input.view(), n, activation, output.view())?;
    output.compare(stream, &want, |index, want| {
        let (row, column) = (index / n, index % n);
        let (x, other) = (f64::from(values[row * 2 * n + column]), f64::from(values[row * 2 * n + n + column]));
        let of_activation = bound(activation, x, twin::apply(activation, x)) * other.abs();
        of_activation + rounding(DeviceType::F32, want) + rounding(dtype, want)
    })
}
