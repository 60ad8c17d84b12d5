//! Rows of tensors that move, and numbers that change their type.
//!
//! Owns: `gather`, `scatter` and `convert` on a GPU (`cuda`) and their specification (`twin`). May import: `cuda`. Must never
//! import: other operations, anything that knows models. On the CPU a plan moves rows as it copies them; there is no
//! operation of this kind.
//!
//! # Contract
//! Rows have `n` numbers; numbers of rows are u32, and [`NO_ROW`] stands for none.
//!
//! | operation | result |
//! |---|---|
//! | `gather` | output row `i` is input row `rows[i]`, or zeros |
//! | `scatter` | output row `rows[i]` is input row `i`, or the row goes nowhere; other rows of the output stay. Rows are distinct |
//! | `convert` | every number, in order |
//!
//! Input and output are f32, f16 or bf16 each. Tolerance: none; a number that the output's type does not have is rounded to the
//! nearest one, to even between two, and becomes an infinity beyond the largest. NaN stays NaN.

pub mod cuda;
pub(crate) mod twin;

/// Stands for no row.
pub const NO_ROW: u32 = u32::MAX;
