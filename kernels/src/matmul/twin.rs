//! The specification of products, in f64.

use half::bf16;

use super::Precision;
#[cfg(test)]
use super::Residual;
use crate::activation::{self, Activation};

/// A result and how much a fast version may differ from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) value: f64,
    pub(crate) tolerance: f64,
}

/// What a row is multiplied as: `scale` times these, which are integers if the precision is.
struct Rounded {
    numbers: Vec<f64>,
    scale: f64,
}

fn unscaled(precision: Precision, row: &[f32]) -> Rounded {
    let number = |x: &f32| if precision == Precision::Bf16 { bf16::from_f32(*x).to_f64() } else { f64::from(*x) };
    Rounded { numbers: row.iter().map(number).collect(), scale: 1.0 }
}

/// A row of the input.
fn rounded_input(precision: Precision, row: &[f32]) -> Rounded {
    if precision != Precision::Int8 {
        return unscaled(precision, row);
    }
    let (low, high) = row.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
    if high == low {
        return Rounded { numbers: vec![0.0; row.len()], scale: 0.0 };
    }
    let inverse = 255.0 / (high - low);
    let zero = (-low * inverse).round_ties_even();
    let integer = |x: &f32| f64::from(((x * inverse).round_ties_even() + zero).clamp(0.0, 255.0) - zero);
    Rounded { numbers: row.iter().map(integer).collect(), scale: f64::from((high - low) / 255.0) }
}

/// The weights of an output.
fn rounded_weight(precision: Precision, row: &[f32]) -> Rounded {
    if precision != Precision::Int8 {
        return unscaled(precision, row);
    }
    let largest = row.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    if largest == 0.0 {
        return Rounded { numbers: vec![0.0; row.len()], scale: 0.0 };
    }
    let integer = |x: &f32| f64::from((x * (127.0 / largest)).round_ties_even());
    Rounded { numbers: row.iter().map(integer).collect(), scale: f64::from(largest / 127.0) }
}

/// One number of the result: of a row of the input, the weights and the bias of one output, and the residual, which is 0 if
/// there is none.
pub(crate) fn number(
    precision: Precision,
    input: &[f32],
    weight: &[f32],
    bias: f32,
    activation: Activation,
    residual: f32,
) -> Expected {
    let (input, weight) = (rounded_input(precision, input), rounded_weight(precision, weight));
    let (mut sum, mut size) = (0f64, 0f64);
    for (x, w) in input.numbers.iter().zip(&weight.numbers) {
        sum += x * w;
        size += (x * w).abs();
    }
    // Scaled afterwards, so that sums of integers are exact, and 0 where they are 0.
    sum *= input.scale * weight.scale;
    sum += f64::from(bias);
    size += f64::from(bias).abs();
    let active = activation::twin::apply(activation, sum);
    let value = active + f64::from(residual);
    // No activation is steeper than 1.2; the last term is the rounding of the two additions that follow the products.
    // Sums of integers are exact; what is rounded is the sum itself, the two scales and their products.
    let chain = match precision {
        Precision::Int8 => 4.0 * sum.abs() + f64::from(bias).abs(),
        Precision::F32 | Precision::Bf16 => (input.numbers.len() as f64).sqrt() * size,
    };
    let tolerance = 1.2 * f64::from(f32::EPSILON) * chain
        + if activation == Activation::Identity { 0.0 } else { 4e-7 * sum.abs().max(active.abs()) }
        + f64::from(f32::EPSILON) * (sum.abs() + value.abs());
    Expected { value, tolerance }
}

/// The residual of every number of the result.
#[cfg(test)]
pub(super) fn residual(residual: Residual<'_>, before: &[f32]) -> Vec<f32> {
    match residual {
        Residual::None => vec![0.0; before.len()],
        Residual::Add(rows) => rows.to_vec(),
        Residual::Accumulate => before.to_vec(),
    }
}
