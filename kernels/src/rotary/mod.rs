//! Rotary position embedding: pairs of numbers of queries and keys are turned by an angle that grows with the position.
//!
//! Owns: [`Rotary`] tables, [`rotary`], its specification (`twin`), its fast version (`cpu`) and the one on a GPU (`cuda`). May
//! import: the team, the instruction sets, `simd`, `cuda`. Must never import: other operations, anything that knows models.
//!
//! # Contract
//! `values: [rows, stride] f32`, of which the first `heads * head_size` numbers of a row are turned: of each head the first
//! `dims` (even). Pair `p` of `dims / 2` is turned by `position * base^(-2p / dims)`; it consists of numbers `p` and
//! `p + dims / 2` ([`Pairs::Halves`]) or `2p` and `2p + 1` ([`Pairs::Adjacent`]): `(a, b)` becomes
//! `(a cos - b sin, b cos + a sin)`.
//!
//! Tolerance against the twin in f64: 3e-7 * max(|a|, |b|). Angles are computed in f64, their sines and cosines rounded to f32.
//! On a GPU values are f32, f16 or bf16, turned in f32 and rounded to their type.
//!
//! Source: Su et al. 2021, section 3.2.2.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;

use crate::team::Team;

/// Which numbers of a head form pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairs {
    /// One of the first half and one of the second.
    Halves,
    /// Neighbors.
    Adjacent,
}

/// Cosines and sines of every position.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[positions, width]`. For halves `width` is the number of pairs. For neighbors it is `dims`: both numbers of a pair
    /// have its cosine, and its sine, the first one negated, so that vectors need only be swapped in pairs.
    cosines: Vec<f32>,
    sines: Vec<f32>,
    dims: usize,
    pairs: Pairs,
}

impl Rotary {
    /// The tables for positions below `positions` and heads of which the first `dims` numbers are turned.
    ///
    /// # Panics
    /// If `dims` is odd or 0.
    pub fn new(positions: usize, dims: usize, base: f64, pairs: Pairs) -> Rotary {
        assert!(dims > 0 && dims.is_multiple_of(2), "rotary dimensions come in pairs");
        let speeds: Vec<f64> = (0..dims / 2).map(|pair| base.powf(-2.0 * pair as f64 / dims as f64)).collect();
        let copies = if pairs == Pairs::Adjacent { 2 } else { 1 };
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        cosines.reserve_exact(positions * speeds.len() * copies);
        sines.reserve_exact(positions * speeds.len() * copies);
        for position in 0..positions {
            for speed in &speeds {
                let (sine, cosine) = (position as f64 * speed).sin_cos();
                match pairs {
                    Pairs::Halves => {
                        cosines.push(cosine as f32);
                        sines.push(sine as f32);
                    }
                    Pairs::Adjacent => {
                        cosines.extend([cosine as f32; 2]);
                        sines.extend([-sine as f32, sine as f32]);
                    }
                }
            }
        }
        Rotary { cosines, sines, dims, pairs }
    }

    /// Numbers of each table for one position.
    fn width(&self) -> usize {
        match self.pairs {
            Pairs::Halves => self.dims / 2,
            Pairs::Adjacent => self.dims,
        }
    }

    /// Numbers of each head that are turned.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Which numbers of a head form pairs.
    pub fn pairs(&self) -> Pairs {
        self.pairs
    }

    /// The cosines, `[positions, width]`: of every pair where pairs are [`Pairs::Halves`], of every number where they are
    /// [`Pairs::Adjacent`].
    pub fn cosines(&self) -> &[f32] {
        &self.cosines
    }

    /// The sines, like [`Rotary::cosines`]; of neighbors the first one has its sine negated.
    pub fn sines(&self) -> &[f32] {
        &self.sines
    }

    /// Positions that there are angles for.
    pub fn positions(&self) -> usize {
        self.cosines.len() / self.width()
    }

    /// Memory of the tables.
    pub fn bytes(&self) -> usize {
        2 * size_of_val(&self.cosines[..])
    }
}

/// Turns the first `heads` heads of every row by the angles of its position. See the [contract](self).
///
/// # Panics
/// If sizes disagree or a position has no angle.
pub fn rotary(
    team: &Team,
    values: &mut [f32],
    stride: usize,
    (heads, head_size): (usize, usize),
    positions: &[u32],
    table: &Rotary,
) {
    assert_eq!(values.len(), positions.len() * stride, "the values and the positions disagree");
    assert!(heads * head_size <= stride && table.dims <= head_size, "the heads and the values disagree");
    assert!(positions.iter().all(|position| (*position as usize) < table.positions()), "a position has no angle");
    cpu::rotary(team, values, stride, (heads, head_size), positions, table);
}
