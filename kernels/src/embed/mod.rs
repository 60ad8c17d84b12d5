//! Embedding lookup: rows of tables, added up.
//!
//! Owns: [`Lookup`], [`embed`], its specification (`twin`), its fast version (`cpu`) and the one on a GPU (`cuda`), which
//! normalizes the sums in the same launch. May import: the team, the instruction sets, `simd`, `cuda`; its own `cuda` alone:
//! `norm::cuda`. Must never import: other operations, anything that knows models.
//!
//! # Contract
//! `output: [rows, n] f32`: the sum over the given tables, in their order, of row `ids[row]` of the table. A table's bytes may
//! be those of a mapped weight file: they need no alignment and are converted as they are read, so a table is never copied.
//!
//! On a GPU tables are aligned, and the sum is taken in f32 and rounded to the type of the output: by up to 2^-11 of it for f16,
//! 2^-8 for bf16.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;

use crate::team::Team;

/// Element types of tables, stored with the low byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableType {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
}

impl TableType {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            TableType::F32 => 4,
            TableType::F16 | TableType::Bf16 => 2,
        }
    }
}

/// A table of vectors and which of them are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// The vectors, `[entries, n]` in row-major order.
    pub bytes: &'a [u8],
    /// What the bytes are.
    pub dtype: TableType,
    /// Which vector for each row of the output.
    pub ids: Ids<'a>,
}

/// Numbers of vectors.
#[derive(Debug, Clone, Copy)]
pub enum Ids<'a> {
    /// One per row.
    Each(&'a [u32]),
    /// The same for all.
    All(u32),
}

/// Adds up rows of tables of `n` columns. See the [contract](self).
///
/// # Panics
/// If sizes disagree or an id lies outside its table.
pub fn embed(team: &Team, tables: &[Lookup<'_>], n: usize, output: &mut [f32]) {
    assert!(n > 0 && output.len().is_multiple_of(n), "the output and its width disagree");
    for table in tables {
        let entries = table.bytes.len() / (n * table.dtype.size());
        match table.ids {
            Ids::Each(ids) => {
                assert_eq!(ids.len() * n, output.len(), "the ids and the output disagree");
                assert!(ids.iter().all(|id| (*id as usize) < entries), "an id lies outside its table");
            }
            Ids::All(id) => assert!((id as usize) < entries, "an id lies outside its table"),
        }
    }
    cpu::embed(team, tables, n, output);
}
