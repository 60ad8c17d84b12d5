//! Normalization on a GPU.

use crate::cuda::launch::{RowTeam, aligned, code, count, kernel_name, pack};
use crate::cuda::{Arg, DeviceError, DeviceType, Stream, View};

/// The parameters of [`norm`], on the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceNorm {
    /// Factors, `[n] f32`.
    pub weight: View,
    /// Summands, `[n] f32`.
    pub bias: Option<View>,
    /// What is added to the variance, greater than 0.
    pub eps: f32,
}

impl DeviceNorm {
    /// Asserts what kernels rely on, for rows of `n` numbers.
    pub(crate) fn check(&self, n: usize) {
        let right = |view: View| view.len == n && view.dtype == DeviceType::F32;
        assert!(right(self.weight), "the weight is not [{n}] f32");
        assert!(self.bias.is_none_or(right), "the bias is not [{n}] f32");
    }
}

/// Normalizes the rows of `input + residual` into `output`, and puts the sums into `sum` where they are asked for. See the
/// [contract](super). `input`, `residual` and `sum` have one type, f32, f16 or bf16, and `output` that type or f32. `sum` may be
/// `residual` or `input`; otherwise memory must not be shared.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn norm(
    stream: &Stream,
    input: View,
    residual: Option<View>,
    norm: &DeviceNorm,
    sum: Option<View>,
    output: View,
) -> Result<(), DeviceError> {
    let n = norm.weight.len;
    norm.check(n);
    assert!(n > 0 && input.len.is_multiple_of(n), "the input and the weight disagree");
    let like_input = |view: View| view.len == input.len && view.dtype == input.dtype;
    assert!(residual.is_none_or(like_input), "the residual and the input disagree");
    assert!(sum.is_none_or(like_input), "the sum and the input disagree");
    assert!(output.len == input.len, "the output and the input disagree");
    assert!(output.dtype == input.dtype || output.dtype == DeviceType::F32, "the output is neither like the input nor f32");
    let rows = input.len / n;
    let wide =
        n.is_multiple_of(pack(input.dtype)) && aligned(&[Some(input), residual, Some(norm.weight), norm.bias, sum, Some(output)]);
    let team = RowTeam::new(n, wide);
    let name = match team {
        RowTeam::Warp => kernel_name!("norm_warp", input.dtype, wide),
        RowTeam::Block => kernel_name!("norm_block", input.dtype, wide),
    };
    let args = [
        input.into(),
        residual.into(),
        norm.weight.into(),
        norm.bias.into(),
        Arg::F32(norm.eps),
        sum.into(),
        output.into(),
        Arg::U32(code(output.dtype)),
        Arg::U32(count(rows)),
        Arg::U32(count(n)),
    ];
    stream.launch("norm", name, team.grid(rows), &args)
}
