//! Lookup.

use super::Check;
use super::trial::{Outcome, REAL, Tensor, encode, indices, numbers, rounding};
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::embed::cuda::{DeviceIds, DeviceLookup, embed};
use crate::embed::{Ids, Lookup, TableType, twin};
use crate::norm::cuda::DeviceNorm;
use crate::norm::{self, Norm};

/// Vectors of a table.
const ENTRIES: u32 = 37;

/// A comparison's sizes.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    n: usize,
    /// How many numbers behind an aligned address the output begins.
    offset: usize,
    /// What the tables are. The last of three has the same vector for all rows.
    tables: &'static [DeviceType],
    norm: bool,
}

pub(super) fn checks() -> Vec<Check> {
    use DeviceType::{Bf16, F16, F32};
    const SAME: [&[DeviceType]; 3] = [&[F32, F32, F32], &[F16, F16, F16], &[Bf16, Bf16, Bf16]];
    let mut checks = Vec::new();
    for dtype in REAL {
        let mut shapes = Vec::new();
        for tables in SAME {
            for (rows, n) in [(0, 8), (1, 1), (5, 7), (70, 96), (9, 384), (3, 513), (7, 1024), (3, 1032), (2, 4104)] {
                shapes.push(Shape { rows, n, offset: 0, tables, norm: true });
            }
            shapes.push(Shape { rows: 9, n: 384, offset: 0, tables, norm: false });
            shapes.push(Shape { rows: 3, n: 1032, offset: 0, tables: &tables[..2], norm: false });
            shapes.push(Shape { rows: 5, n: 40, offset: 1, tables: &tables[..1], norm: true });
            shapes.push(Shape { rows: 2, n: 5000, offset: 1, tables: &tables[..1], norm: false });
        }
        shapes.push(Shape { rows: 6, n: 96, offset: 0, tables: &[F32, F16, Bf16], norm: true });
        shapes.push(Shape { rows: 3, n: 2064, offset: 0, tables: &[Bf16, F32], norm: true });
        shapes.push(Shape { rows: 16_390, n: 8, offset: 0, tables: &[F16, F16], norm: true });
        for shape in shapes {
            let Shape { rows, n, offset, tables, norm } = shape;
            let tables: Vec<_> = tables.iter().map(|table| table.suffix()).collect();
            let name = format!("[{rows}, {n}] offset {offset} from {}{}", tables.join(" + "), if norm { " norm" } else { "" });
            checks.push(Check::new("embed", dtype, name, move |stream| compare(stream, dtype, shape)));
        }
    }
    checks
}

fn compare(stream: &Stream, dtype: DeviceType, shape: Shape) -> Result<Outcome, DeviceError> {
    let Shape { rows, n, offset, tables, norm } = shape;
    let contents: Vec<Vec<f32>> = (0..tables.len() as u64).map(|table| numbers(10 + table, ENTRIES as usize * n)).collect();
    let bytes: Vec<Vec<u8>> = contents.iter().zip(tables).map(|(contents, dtype)| encode(*dtype, contents)).collect();
    let ids: Vec<Vec<u32>> = (0..tables.len() as u64).map(|table| indices(20 + table, rows, ENTRIES)).collect();
    let lookups: Vec<Lookup<'_>> = (0..tables.len())
        .map(|table| Lookup {
            bytes: &bytes[table],
            dtype: match tables[table] {
                DeviceType::F16 => TableType::F16,
                DeviceType::Bf16 => TableType::Bf16,
                _ => TableType::F32,
            },
            ids: if table == 2 { Ids::All(ENTRIES - 1) } else { Ids::Each(&ids[table]) },
        })
        .collect();
    let mut want = twin::embed(&lookups, n, rows);
    let (weight, bias) = (numbers(31, n), numbers(32, n));
    let mut conditions = Vec::new();
    if norm {
        let sums: Vec<f32> = want.iter().map(|x| *x as f32).collect();
        (want, conditions) = norm::twin::norm(&sums, None, &Norm { weight: &weight, bias: Some(&bias), eps: 1e-5 });
    }

    let on_device = |table: usize| Tensor::new(stream, tables[table], &contents[table], 0);
    let device_tables = (0..tables.len()).map(on_device).collect::<Result<Vec<_>, _>>()?;
    let device_ids = ids.iter().map(|ids| Tensor::indices(stream, ids)).collect::<Result<Vec<_>, _>>()?;
    let lookups: Vec<DeviceLookup> = (0..tables.len())
        .map(|table| DeviceLookup {
            table: device_tables[table].view(),
            ids: if table == 2 { DeviceIds::All(ENTRIES - 1) } else { DeviceIds::Each(device_ids[table].view()) },
        })
        .collect();
    let weight = Tensor::new(stream, DeviceType::F32, &weight, 0)?;
    let bias = Tensor::new(stream, DeviceType::F32, &bias, 0)?;
    let parameters = DeviceNorm { weight: weight.view(), bias: Some(bias.view()), eps: 1e-5 };
    let result = Tensor::output(stream, dtype, rows * n, offset)?;
    embed(stream, &lookups, n, norm.then_some(&parameters), result.view())?;

    result.compare(stream, &want, |index, want| {
        // Three numbers up to 1 are added up, with two roundings.
        let exact = if norm { 2e-6 * conditions[index / n] } else { 4e-7 };
        exact + rounding(dtype, want)
    })
}
