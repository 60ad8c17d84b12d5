//! The specification of normalization: plain loops in f64.

use super::View;

/// The result and, per row, how much precision the subtraction of the mean uses up: `1 + |mean| / deviation`.
pub(super) fn add_norm(view: View<'_>) -> (Vec<f64>, Vec<f64>) {
    let n = view.weight.len();
    let (mut out, mut conditions) = (Vec::new(), Vec::new());
    for row in 0..view.x.len() / n {
        let sum: Vec<f64> = (0..n)
            .map(|i| {
                let bias = view.bias.map_or(0.0, |bias| f64::from(bias[i]));
                let residual = view.residual.map_or(0.0, |residual| f64::from(residual[row * n + i]));
                f64::from(view.x[row * n + i]) + bias + residual
            })
            .collect();
        let mean = sum.iter().sum::<f64>() / n as f64;
        let variance = sum.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n as f64;
        let deviation = (variance + f64::from(view.eps)).sqrt();
        conditions.push(1.0 + mean.abs() / deviation);
        for (i, s) in sum.iter().enumerate() {
            out.push((s - mean) / deviation * f64::from(view.weight[i]) + f64::from(view.shift[i]));
        }
    }
    (out, conditions)
}
