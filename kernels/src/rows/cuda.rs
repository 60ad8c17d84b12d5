//! Moving rows on a GPU.

use crate::cuda::launch::{aligned, code, count, pack_grid};
use crate::cuda::{Arg, DeviceError, DeviceType, Stream, View};

/// Numbers of a pack: as many as 16 bytes of the smaller types hold.
const PACK: usize = 8;

/// Output row `i` becomes input row `rows[i]`. See the [contract](super). `rows: [output rows] u32` lie inside the input, to
/// which whoever writes them sees: kernels do not look.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn gather(stream: &Stream, input: View, n: usize, rows: View, output: View) -> Result<(), DeviceError> {
    assert!(n > 0 && input.len.is_multiple_of(n), "the input and its width disagree");
    assert!(output.len == rows.len * n, "the output and the rows disagree");
    let names = ["gather_rows_wide", "gather_rows_narrow"];
    move_rows(stream, names, input, n, rows, output)
}

/// Output row `rows[i]` becomes input row `i`. See the [contract](super). `rows: [input rows] u32` are distinct and lie inside
/// the output, to which whoever writes them sees: kernels do not look.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn scatter(stream: &Stream, input: View, n: usize, rows: View, output: View) -> Result<(), DeviceError> {
    assert!(n > 0 && output.len.is_multiple_of(n), "the output and its width disagree");
    assert!(input.len == rows.len * n, "the input and the rows disagree");
    let names = ["scatter_rows_wide", "scatter_rows_narrow"];
    move_rows(stream, names, input, n, rows, output)
}

/// Either of them, by the kernels for wide and for narrow accesses.
fn move_rows(
    stream: &Stream,
    [wide_name, narrow_name]: [&'static str; 2],
    input: View,
    n: usize,
    rows: View,
    output: View,
) -> Result<(), DeviceError> {
    assert!(rows.dtype == DeviceType::U32, "rows are u32");
    let wide = n.is_multiple_of(PACK) && aligned(&[Some(input), Some(output)]);
    let packs = rows.len * n / if wide { PACK } else { 1 };
    let args = [
        input.into(),
        Arg::U32(code(input.dtype)),
        rows.into(),
        output.into(),
        Arg::U32(code(output.dtype)),
        Arg::U32(count(n)),
        Arg::U32(count(packs)),
    ];
    stream.launch("rows", if wide { wide_name } else { narrow_name }, pack_grid(packs), &args)
}

/// Every number of `input` in the type of `output`. See the [contract](super).
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree.
pub fn convert(stream: &Stream, input: View, output: View) -> Result<(), DeviceError> {
    assert!(input.len == output.len, "the input and the output disagree");
    let wide = aligned(&[Some(input), Some(output)]);
    let packs = if wide { input.len.div_ceil(PACK) } else { input.len };
    let args =
        [input.into(), Arg::U32(code(input.dtype)), output.into(), Arg::U32(code(output.dtype)), Arg::U64(input.len as u64)];
    stream.launch("rows", if wide { "convert_wide" } else { "convert_narrow" }, pack_grid(packs), &args)
}
