//! Rotation on a GPU.

use super::Pairs;
use crate::cuda::launch::{aligned, count, kernel_name, pack, pack_grid};
use crate::cuda::{Arg, DeviceError, DeviceType, Stream, View};

/// The tables of a [`Rotary`](super::Rotary) on the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceRotary {
    /// Its [`cosines`](super::Rotary::cosines), f32.
    pub cos: View,
    /// Its [`sines`](super::Rotary::sines), f32.
    pub sin: View,
    /// Numbers of each head that are turned.
    pub dims: usize,
    /// Which of them form pairs.
    pub pairs: Pairs,
}

/// Turns the first `heads` heads of every row by the angles of its position, in f32. See the [contract](super). `values` is
/// f32, f16 or bf16; `positions: [rows] u32` lie inside the tables, to which whoever writes them sees: kernels do not look.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn rotary(
    stream: &Stream,
    values: View,
    stride: usize,
    (heads, head_size): (usize, usize),
    positions: View,
    table: &DeviceRotary,
) -> Result<(), DeviceError> {
    let DeviceRotary { cos, sin, dims, pairs } = *table;
    assert!(positions.dtype == DeviceType::U32, "positions are u32");
    assert!(values.len == positions.len * stride, "the values and the positions disagree");
    assert!(dims > 0 && dims.is_multiple_of(2), "rotary dimensions come in pairs");
    assert!(heads * head_size <= stride && dims <= head_size, "the heads and the values disagree");
    let width = if pairs == Pairs::Halves { dims / 2 } else { dims };
    let right = |table: View| table.dtype == DeviceType::F32 && table.len == cos.len && table.len.is_multiple_of(width);
    assert!(right(cos) && right(sin), "the tables are not [positions, {width}] f32");
    let numbers = pack(values.dtype);
    let wide = [width, head_size, stride].iter().all(|size| size.is_multiple_of(numbers))
        && aligned(&[Some(values), Some(cos), Some(sin)]);
    let packs_of_head = match (pairs, wide) {
        (_, true) => width / numbers,
        (_, false) => dims / 2,
    };
    let packs = positions.len * heads * packs_of_head;
    let name = match pairs {
        Pairs::Halves => kernel_name!("rotary_halves", values.dtype, wide),
        Pairs::Adjacent => kernel_name!("rotary_adjacent", values.dtype, wide),
    };
    let sizes = [stride, heads, head_size, dims / 2, packs].map(|size| Arg::U32(count(size)));
    let mut args = vec![values.into(), positions.into(), cos.into(), sin.into()];
    args.extend(sizes);
    stream.launch("rotary", name, pack_grid(packs), &args)
}
