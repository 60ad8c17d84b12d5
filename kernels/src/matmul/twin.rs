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

/// What a number is multiplied as.
pub(super) fn rounded(precision: Precision, x: f32) -> f64 {
    match precision {
        Precision::F32 => f64::from(x),
        Precision::Bf16 => bf16::from_f32(x).to_f64(),
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
    for (x, w) in input.iter().zip(weight) {
        let product = rounded(precision, *x) * rounded(precision, *w);
        sum += product;
        size += product.abs();
    }
    sum += f64::from(bias);
    size += f64::from(bias).abs();
    let active = activation::twin::apply(activation, sum);
    let value = active + f64::from(residual);
    // No activation is steeper than 1.2; the last term is the rounding of the two additions that follow the products.
    let tolerance = 1.2 * f64::from(f32::EPSILON) * (input.len() as f64).sqrt() * size
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
