//! Plain lookup; the fast version is being written.

use super::{Ids, Lookup, TableType};
use crate::team::Team;

pub(super) fn embed(_team: &Team, tables: &[Lookup<'_>], n: usize, output: &mut [f32]) {
    for (row, output) in output.chunks_exact_mut(n).enumerate() {
        output.fill(0.0);
        for table in tables {
            let id = match table.ids {
                Ids::Each(ids) => ids[row],
                Ids::All(id) => id,
            };
            let size = n * table.dtype.size();
            let bytes = &table.bytes[id as usize * size..][..size];
            for (index, out) in output.iter_mut().enumerate() {
                *out += match table.dtype {
                    TableType::F32 => f32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[index * 4 + byte])),
                    TableType::F16 => half::f16::from_le_bytes([0, 1].map(|byte| bytes[index * 2 + byte])).to_f32(),
                    TableType::Bf16 => half::bf16::from_le_bytes([0, 1].map(|byte| bytes[index * 2 + byte])).to_f32(),
                };
            }
        }
    }
}
