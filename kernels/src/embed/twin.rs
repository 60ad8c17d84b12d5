//! The specification of lookup: plain loops in f64.

use super::{Ids, Lookup, TableType};

/// The result, `[rows, n]`.
pub(crate) fn embed(tables: &[Lookup<'_>], n: usize, rows: usize) -> Vec<f64> {
    let number = |table: &Lookup<'_>, index: usize| {
        let bytes = &table.bytes[index * table.dtype.size()..];
        match table.dtype {
            TableType::F32 => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            TableType::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
            TableType::Bf16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        }
    };
    let id = |table: &Lookup<'_>, row: usize| match table.ids {
        Ids::Each(ids) => ids[row] as usize,
        Ids::All(id) => id as usize,
    };
    let one = |row: usize, column: usize| tables.iter().map(|table| number(table, id(table, row) * n + column)).sum();
    (0..rows).flat_map(|row| (0..n).map(move |column| one(row, column))).collect()
}
