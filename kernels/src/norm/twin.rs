//! The specification of normalization: plain loops in f64.

use super::Norm;

/// The result and, per row, how much precision the subtraction of the mean uses up: `1 + |mean| / deviation`.
pub(crate) fn norm(input: &[f32], residual: Option<&[f32]>, norm: &Norm<'_>) -> (Vec<f64>, Vec<f64>) {
    let n = norm.weight.len();
    let (mut out, mut conditions) = (Vec::new(), Vec::new());
    for row in 0..input.len() / n {
        let at = |values: &[f32], index: usize| f64::from(values[row * n + index]);
        let sum: Vec<f64> = (0..n).map(|index| at(input, index) + residual.map_or(0.0, |residual| at(residual, index))).collect();
        let mean = sum.iter().sum::<f64>() / n as f64;
        let variance = sum.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n as f64;
        let deviation = (variance + f64::from(norm.eps)).sqrt();
        conditions.push(1.0 + mean.abs() / deviation);
        for (index, s) in sum.iter().enumerate() {
            let bias = norm.bias.map_or(0.0, |bias| f64::from(bias[index]));
            out.push((s - mean) / deviation * f64::from(norm.weight[index]) + bias);
        }
    }
    (out, conditions)
}
