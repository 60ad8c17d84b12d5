//! Lookup on a GPU.

use crate::cuda::launch::{RowTeam, aligned, code, count, kernel_name, pack};
use crate::cuda::{Arg, DeviceError, DeviceType, Stream, View};
use crate::norm::cuda::DeviceNorm;

/// Most tables that one launch adds up: words, positions, kinds of text.
pub const MAX_LOOKUPS: usize = 3;

/// A table of vectors on the device, and which of them are wanted.
#[derive(Debug, Clone, Copy)]
pub struct DeviceLookup {
    /// The vectors, `[entries, n]`: f32, f16 or bf16.
    pub table: View,
    /// Which vector for each row of the output.
    pub ids: DeviceIds,
}

/// Numbers of vectors.
#[derive(Debug, Clone, Copy)]
pub enum DeviceIds {
    /// One per row, `[rows] u32`. Whoever writes them sees to it that they lie inside the table; kernels do not look.
    Each(View),
    /// The same for all.
    All(u32),
}

/// Adds up rows of one to [`MAX_LOOKUPS`] tables of `n` columns, in f32, and normalizes the sums where a norm is given. See the
/// [contract](super). `output: [rows, n]` is f32, f16 or bf16, whatever the tables are.
///
/// # Errors
/// The device fails, or it has no such kernel.
///
/// # Panics
/// If sizes or types disagree, or an id that is the same for all lies outside its table.
pub fn embed(
    stream: &Stream,
    lookups: &[DeviceLookup],
    n: usize,
    norm: Option<&DeviceNorm>,
    output: View,
) -> Result<(), DeviceError> {
    assert!((1..=MAX_LOOKUPS).contains(&lookups.len()), "{} tables are looked into", lookups.len());
    assert!(n > 0 && output.len.is_multiple_of(n), "the output and its width disagree");
    let rows = output.len / n;
    if let Some(norm) = norm {
        norm.check(n);
    }
    let dtype = lookups[0].table.dtype;
    let mut wide =
        n.is_multiple_of(pack(dtype)) && aligned(&[Some(output), norm.map(|norm| norm.weight), norm.and_then(|norm| norm.bias)]);
    let mut args = Vec::with_capacity(4 * MAX_LOOKUPS + 7);
    for DeviceLookup { table, ids } in lookups {
        assert!(table.len.is_multiple_of(n), "a table and its width disagree");
        let (each, id) = match *ids {
            DeviceIds::Each(ids) => {
                assert!(ids.len == rows && ids.dtype == DeviceType::U32, "the ids are not [{rows}] u32");
                (Some(ids), 0)
            }
            DeviceIds::All(id) => {
                assert!((id as usize) < table.len / n, "an id lies outside its table");
                (None, id)
            }
        };
        wide &= table.dtype == dtype && aligned(&[Some(*table)]);
        args.extend([(*table).into(), each.into(), Arg::U32(id), Arg::U32(code(table.dtype))]);
    }
    for _ in lookups.len()..MAX_LOOKUPS {
        args.extend([Arg::Address(0), Arg::Address(0), Arg::U32(0), Arg::U32(0)]);
    }
    let (weight, bias) = (norm.map(|norm| norm.weight), norm.and_then(|norm| norm.bias));
    args.extend::<[Arg; 2]>([weight.into(), bias.into()]);
    args.extend([Arg::F32(norm.map_or(0.0, |norm| norm.eps)), output.into(), Arg::U32(code(output.dtype))]);
    args.extend([Arg::U32(count(rows)), Arg::U32(count(n))]);
    let team = RowTeam::new(n, wide);
    let name = match (team, wide) {
        (RowTeam::Warp, true) => kernel_name!("embed_warp", dtype, true),
        (RowTeam::Block, true) => kernel_name!("embed_block", dtype, true),
        (RowTeam::Warp, false) => "embed_warp_any_narrow",
        (RowTeam::Block, false) => "embed_block_any_narrow",
    };
    stream.launch("embed", name, team.grid(rows), &args)
}
