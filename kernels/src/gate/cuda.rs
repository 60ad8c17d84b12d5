//! Gating on a GPU.

use crate::activation::{self, Activation};
use crate::cuda::launch::{aligned, count, kernel_name, pack, pack_grid};
use crate::cuda::{Arg, DeviceError, Stream, View};

/// Multiplies the activated first half of every row with its second, in f32. See the [contract](super). `input` and `output`
/// have one type, f32, f16 or bf16, and do not share memory; `n` is the width of the output.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn gate(stream: &Stream, input: View, n: usize, activation: Activation, output: View) -> Result<(), DeviceError> {
    assert!(n > 0 && input.len.is_multiple_of(2 * n), "the input and its width disagree");
    assert!(output.len * 2 == input.len && output.dtype == input.dtype, "the output and the input disagree");
    let numbers = pack(input.dtype);
    let wide = n.is_multiple_of(numbers) && aligned(&[Some(input), Some(output)]);
    let packs = if wide { output.len / numbers } else { output.len };
    let kind = Arg::U32(activation::cuda::code(activation));
    let args = [input.into(), output.into(), Arg::U32(count(n)), kind, Arg::U32(count(packs))];
    stream.launch("gate", kernel_name!("gate", input.dtype, wide), pack_grid(packs), &args)
}
