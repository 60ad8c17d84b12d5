//! Products of activations with weights that were packed at load, with everything that follows in the same pass.
//!
//! Owns: [`Packed`] weights, [`matmul`], its specification (`twin`), its fast versions (`cpu`), and products on devices (`cuda`).
//! May import: the team, the instruction sets, `simd`, activations, the CUDA runtime. Must never import: other operations,
//! anything that knows models.
//!
//! # Contract
//! `input: [m, inputs] f32`, weights `[outputs, inputs]` (as `torch.nn.Linear` stores them), result `[m, outputs] f32`:
//! `activation(input W^T + bias) + residual`. Every number of the result is one chain of operations over `inputs` in a fixed
//! order: its bits do not depend on `m`, on the row it stands in, on the other rows, nor on the number of threads.
//!
//! | [`Precision`] | weights | input | sums |
//! |---|---|---|---|
//! | `F32` | f32 | f32 | f32 |
//! | `Bf16` | rounded to bf16 at packing | rounded to bf16 on the way in | f32 |
//! | `Int8` | rounded to integers from -127 to 127, one scale per output | rounded to 255 steps, with a scale and a zero per row | exact |
//!
//! The integers of a row are `round(x / scale) + zero`, with `scale = (high - low) / 255`, `zero = round(-low / scale)`, and
//! `low` and `high` the least and the largest of its numbers and 0. A row, or the weights of an output, with a number that is
//! not finite make NaN. The product of integers has the same bits with all instructions.
//!
//! Tolerance against the twin in f64 (whose inputs are rounded likewise), with `s` the sum of the absolute values of the
//! products: f32 `2^-23 * sqrt(inputs) * s`, the same for bf16, `2^-21` of the sum for integers, and the activation's own.
//! The instructions for bf16 take numbers below the smallest normal one for 0.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod epilogue;
mod kernel;
mod multiply;
mod pack;
mod quantize;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;

use crate::activation::Activation;
use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::team::Team;

/// What weights and inputs are rounded to before they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not at all.
    F32,
    /// To 8 significant bits. Where the processor has no instructions for it, slower but with the same rounding.
    Bf16,
    /// To 8-bit integers, the input as it comes ("dynamic quantization"). Embeddings of MiniLM are ten times as far from those
    /// of `F32` as with `Bf16`, at worst a cosine of 0.993 (not 0.99995), for products in three fifths of the time.
    Int8,
}

impl Precision {
    /// The most inputs of a matrix, so that no sum can overflow.
    pub fn most_inputs(self) -> usize {
        match self {
            Precision::F32 | Precision::Bf16 => usize::MAX,
            Precision::Int8 => quantize::MOST_INPUTS,
        }
    }
}

/// Weights in the order in which the processor reads them.
#[derive(Debug)]
pub struct Packed {
    panels: Aligned,
    inputs: usize,
    outputs: usize,
    precision: Precision,
    isa: Isa,
}

impl Packed {
    /// Packs `weight: [outputs, inputs]` for the instruction set `isa`, which the team that multiplies must have too.
    ///
    /// # Panics
    /// If `weight` is not of that size, or for [`Precision::Int8`] and more than 65,536 inputs.
    pub fn pack(isa: Isa, precision: Precision, weight: &[f32], outputs: usize, inputs: usize) -> Packed {
        assert_eq!(Some(weight.len()), outputs.checked_mul(inputs), "the weights and their sizes disagree");
        Packed { panels: pack::pack(isa, precision, weight, outputs, inputs), inputs, outputs, precision, isa }
    }

    /// Numbers per row of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers per row of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Memory that the packed weights take.
    pub fn bytes(&self) -> usize {
        self.panels.len_bytes()
    }

    /// Scratch memory that each thread of a team needs to multiply with these weights.
    pub fn scratch_bytes(&self) -> usize {
        cpu::scratch_bytes(self)
    }
}

/// What follows the product, in this order, before a number is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to every row, `[outputs]`.
    pub bias: Option<&'a [f32]>,
    /// Applied to the sum.
    pub activation: Activation,
    /// Added last.
    pub residual: Residual<'a>,
}

/// What is added to the result of the activation.
#[derive(Debug, Clone, Copy, Default)]
pub enum Residual<'a> {
    /// Nothing.
    #[default]
    None,
    /// These rows, `[m, outputs]`.
    Add(&'a [f32]),
    /// What the output already holds.
    Accumulate,
}

/// Multiplies the rows of `input: [m, inputs]` with the weights into `output: [m, outputs]`. See the [contract](self).
/// Nothing is allocated.
///
/// # Panics
/// If sizes disagree, the weights were packed for another instruction set, or the team's scratch memory is too small.
pub fn matmul(team: &Team, input: &[f32], weights: &Packed, epilogue: &Epilogue<'_>, output: &mut [f32]) {
    let rows = input.len() / weights.inputs.max(1);
    assert_eq!(input.len(), rows * weights.inputs, "the input and the weights disagree");
    assert_eq!(output.len(), rows * weights.outputs, "the output and the weights disagree");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == weights.outputs), "the bias and the weights disagree");
    if let Residual::Add(residual) = epilogue.residual {
        assert_eq!(residual.len(), output.len(), "the residual and the output disagree");
    }
    assert_eq!(weights.isa, team.isa(), "the weights are packed for other instructions");
    cpu::matmul(team, input, weights, epilogue, output);
}
