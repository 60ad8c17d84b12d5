//! The specification of products, in f64.

use half::bf16;

use super::{Precision, Residual};
use crate::activation::{self, Activation};

/// A result and how much a fast version may differ from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) value: f64,
    pub(super) tolerance: f64,
}

/// What the numbers of a row of the input are multiplied as.
fn rounded_input(precision: Precision, row: &[f32]) -> Vec<f64> {
    match precision {
        Precision::F32 => row.iter().map(|x| f64::from(*x)).collect(),
        Precision::Bf16 => row.iter().map(|x| bf16::from_f32(*x).to_f64()).collect(),
        Precision::Int8 => {
            let (low, high) = row.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
            if high == low {
                return vec![0.0; row.len()];
            }
            let (scale, inverse) = ((high - low) / 255.0, 255.0 / (high - low));
            let zero = (-low * inverse).round_ties_even();
            let integer = |x: &f32| ((x * inverse).round_ties_even() + zero).clamp(0.0, 255.0) - zero;
            row.iter().map(|x| f64::from(integer(x)) * f64::from(scale)).collect()
        }
    }
}

/// What the weights of an output are multiplied as.
fn rounded_weight(precision: Precision, row: &[f32]) -> Vec<f64> {
    let largest = row.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    match precision {
        Precision::Int8 if largest == 0.0 => vec![0.0; row.len()],
        Precision::Int8 => {
            let integer = |x: &f32| f64::from((x * (127.0 / largest)).round_ties_even());
            row.iter().map(|x| integer(x) * f64::from(largest / 127.0)).collect()
        }
        _ => rounded_input(precision, row),
    }
}

/// One number of the result: of a row of the input, the weights and the bias of one output, and the residual, which is 0 if
/// there is none.
pub(super) fn number(
    precision: Precision,
    input: &[f32],
    weight: &[f32],
    bias: f32,
    activation: Activation,
    residual: f32,
) -> Expected {
    let (mut sum, mut size) = (0.0, 0.0);
    for (x, w) in rounded_input(precision, input).iter().zip(rounded_weight(precision, weight)) {
        let product = x * w;
        sum += product;
        size += product.abs();
    }
    sum += f64::from(bias);
    size += f64::from(bias).abs();
    let active = activation::twin::apply(activation, sum);
    let value = active + f64::from(residual);
    // No activation is steeper than 1.2; the last term is the rounding of the two additions that follow the products.
    // Sums of integers are exact; what is rounded is the sum itself, the two scales and their products.
    let chain = match precision {
        Precision::Int8 => 4.0 * sum.abs() + f64::from(bias).abs(),
        Precision::F32 | Precision::Bf16 => (input.len() as f64).sqrt() * size,
    };
    let tolerance = 1.2 * f64::from(f32::EPSILON) * chain
        + if activation == Activation::Identity { 0.0 } else { 4e-7 * sum.abs().max(active.abs()) }
        + f64::from(f32::EPSILON) * (sum.abs() + value.abs());
    Expected { value, tolerance }
}

/// The residual of every number of the result.
pub(super) fn residual(residual: Residual<'_>, before: &[f32]) -> Vec<f32> {
    match residual {
        Residual::None => vec![0.0; before.len()],
        Residual::Add(rows) => rows.to_vec(),
        Residual::Accumulate => before.to_vec(),
    }
}
