//! Plain normalization; the fast version is being written.

use super::Norm;
use crate::team::Team;

pub(super) fn norm(_team: &Team, input: &[f32], residual: Option<&[f32]>, norm: &Norm<'_>, output: &mut [f32]) {
    let n = norm.weight.len();
    for (row, (input, output)) in input.chunks_exact(n).zip(output.chunks_exact_mut(n)).enumerate() {
        for (index, out) in output.iter_mut().enumerate() {
            *out = input[index] + residual.map_or(0.0, |residual| residual[row * n + index]);
        }
        let mean = output.iter().sum::<f32>() / n as f32;
        let variance = output.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n as f32;
        let scale = 1.0 / (variance + norm.eps).sqrt();
        for (index, out) in output.iter_mut().enumerate() {
            *out = (*out - mean) * scale * norm.weight[index] + norm.bias.map_or(0.0, |bias| bias[index]);
        }
    }
}
