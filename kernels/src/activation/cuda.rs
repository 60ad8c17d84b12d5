//! Activations on a GPU, where the matmul before them has no epilogue that computes them.

use super::Activation;
use crate::cuda::launch::{aligned, count, kernel_name, pack, pack_grid};
use crate::cuda::{Arg, DeviceError, Stream, View};

/// The number that kernels know an activation by; as `Activation` in activation.cuh has it.
pub(crate) fn code(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::QuickGelu => 3,
        Activation::Relu => 4,
        Activation::Silu => 5,
        Activation::Tanh => 6,
        Activation::Sigmoid => 7,
    }
}

/// Replaces every number of `values` by its activation, in f32, once the bias is added: `[n]` numbers of the type of the
/// values, for rows of `n`. `values` is f32, f16 or bf16. See the [contract](super).
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn activate(stream: &Stream, values: View, bias: Option<(View, usize)>, activation: Activation) -> Result<(), DeviceError> {
    let (bias, n) = bias.map_or((None, 1), |(bias, n)| (Some(bias), n));
    if let Some(bias) = bias {
        assert!(n > 0 && bias.len == n && values.len.is_multiple_of(n), "the values and the bias disagree");
        assert!(bias.dtype == values.dtype, "the bias and the values have different types");
    }
    let numbers = pack(values.dtype);
    let fits = if bias.is_some() { n.is_multiple_of(numbers) } else { values.len.is_multiple_of(numbers) };
    let wide = fits && aligned(&[Some(values), bias]);
    let packs = if wide { values.len / numbers } else { values.len };
    let args = [values.into(), bias.into(), Arg::U32(count(n)), Arg::U32(code(activation)), Arg::U32(count(packs))];
    stream.launch("activation", kernel_name!("activate", values.dtype, wide), pack_grid(packs), &args)
}
