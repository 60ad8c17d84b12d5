//! Pooling on a GPU.

use super::{PoolSpec, Pooling};
use crate::cuda::launch::{aligned, count, kernel_name, pack};
use crate::cuda::{Arg, DeviceError, DeviceType, Grid, Stream, View};

/// Most modes that one launch joins.
pub const MAX_MODES: usize = 16;

/// Threads of a block.
const THREADS: u32 = 256;

/// The number that kernels know a mode by; as `Mode` in pool.cu has it.
fn code(mode: Pooling) -> u64 {
    match mode {
        Pooling::Cls => 0,
        Pooling::Max => 1,
        Pooling::Mean => 2,
        Pooling::MeanSqrtLen => 3,
        Pooling::WeightedMean => 4,
        Pooling::Last => 5,
    }
}

/// Pools the rows of every sequence, all modes and the normalization in one launch. See the [contract](super).
/// `hidden: [rows, n]` is f32, f16 or bf16; `ranges: [items, 2] u32` are the first row of each item and the one behind its last;
/// `columns: [rows] u32`; `output: [items, modes * n] f32`. Whoever writes ranges sees to it that they lie inside the rows:
/// kernels do not look. A range that ends before it starts is empty.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree, or there is no mode or more than [`MAX_MODES`].
#[allow(clippy::too_many_arguments)] // Those of the contract.
pub fn pool(
    stream: &Stream,
    hidden: View,
    n: usize,
    ranges: View,
    items: usize,
    columns: View,
    spec: &PoolSpec,
    output: View,
) -> Result<(), DeviceError> {
    let modes = spec.modes.len();
    assert!((1..=MAX_MODES).contains(&modes), "pooling joins {modes} modes");
    assert!(n > 0 && hidden.len == columns.len * n, "hidden and the columns disagree");
    assert!(columns.dtype == DeviceType::U32 && ranges.dtype == DeviceType::U32, "columns and ranges are u32");
    assert!(ranges.len == 2 * items, "the ranges are not [{items}, 2]");
    assert!(output.len == items * modes * n && output.dtype == DeviceType::F32, "the output is not [{items}, modes * n] f32");
    let wide = n.is_multiple_of(pack(hidden.dtype)) && aligned(&[Some(hidden)]);
    let list = spec.modes.iter().rev().fold(0, |list, mode| list << 4 | code(*mode));
    let args = [
        hidden.into(),
        Arg::U32(count(n)),
        ranges.into(),
        columns.into(),
        Arg::U32(count(modes)),
        Arg::U64(list),
        Arg::U32(u32::from(spec.normalize)),
        output.into(),
    ];
    let grid = Grid { blocks: (count(items), 1, 1), threads: (THREADS, 1, 1), shared_bytes: 0 };
    stream.launch("pool", kernel_name!("pool", hidden.dtype, wide), grid, &args)
}

/// Scales every row of `values: [rows, n] f32` to unit length, as [`pool`] does.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn normalize(stream: &Stream, values: View, n: usize) -> Result<(), DeviceError> {
    assert!(n > 0 && values.len.is_multiple_of(n) && values.dtype == DeviceType::F32, "the values are not [rows, {n}] f32");
    let rows = values.len / n;
    let grid = Grid { blocks: (rows.min(i32::MAX as usize) as u32, 1, 1), threads: (THREADS, 1, 1), shared_bytes: 0 };
    stream.launch("pool", "normalize_f32", grid, &[values.into(), Arg::U32(count(rows)), Arg::U32(count(n))])
}
