//! Where the weights of a model lie in their one allocation on the device.

use std::ops::Range;

use kernels::embed::TableType;
use kernels::rotary::Pairs;

use super::place::ALIGNMENT;
use super::program::{Program, Stored};
use crate::error::ModelError;
use crate::plan::{Plan, RotaryRecipe};
use crate::weights::Weights;

/// Byte ranges of all weights, each aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shelf {
    /// In the type that the program says.
    pub(crate) matrices: Vec<Range<usize>>,
    /// In f32, where wanted.
    pub(crate) exact: Vec<Option<Range<usize>>>,
    /// In the type of activations, where wanted.
    pub(crate) working: Vec<Option<Range<usize>>>,
    /// As in their files.
    pub(crate) tables: Vec<(Range<usize>, Stored)>,
    /// Cosines and sines in f32.
    pub(crate) rotaries: Vec<[Range<usize>; 2]>,
    /// Up to three arrays each, aligned as they are written.
    pub(crate) biases: Vec<Range<usize>>,
    pub(crate) bytes: usize,
}

impl Shelf {
    /// Places the weights of a plan. `weights` tells what tables are stored in; no number is read.
    ///
    /// # Errors
    /// A table is missing, or has another shape or type than the plan expects.
    pub(crate) fn of(plan: &Plan, program: &Program, weights: &Weights) -> Result<Shelf, ModelError> {
        let recipes = &plan.recipes;
        let mut end = 0;
        let mut place = |bytes: usize| {
            let start = usize::next_multiple_of(end, ALIGNMENT);
            end = start + bytes;
            start..end
        };
        let matrices = recipes.matrices.iter().zip(&program.matrices);
        let matrices = matrices.map(|(recipe, stored)| place(recipe.outputs * recipe.inputs * stored.bytes())).collect();
        let (mut exact, mut working) = (Vec::new(), Vec::new());
        for (recipe, wanted) in recipes.vectors.iter().zip(&program.vectors) {
            exact.push(wanted.exact.then(|| place(recipe.len * size_of::<f32>())));
            working.push(wanted.working.then(|| place(recipe.len * program.working.bytes())));
        }
        let mut tables = Vec::with_capacity(recipes.tables.len());
        for recipe in &recipes.tables {
            let stored = match weights.table(&recipe.tensor, &[recipe.rows, recipe.columns])?.dtype() {
                TableType::F32 => Stored::F32,
                TableType::F16 => Stored::F16,
                TableType::Bf16 => Stored::Bf16,
            };
            tables.push((place(recipe.rows * recipe.columns * stored.bytes()), stored));
        }
        let rotaries = recipes.rotaries.iter().map(|recipe| [(); 2].map(|()| place(angles_bytes(recipe)))).collect();
        let biases = recipes.biases.iter().map(|recipe| place(recipe.bytes + 2 * ALIGNMENT)).collect();
        Ok(Shelf { matrices, exact, working, tables, rotaries, biases, bytes: end })
    }
}

/// Memory of the cosines, or of the sines, of a table of angles.
fn angles_bytes(recipe: &RotaryRecipe) -> usize {
    let width = match recipe.pairs {
        Pairs::Halves => recipe.dims / 2,
        Pairs::Adjacent => recipe.dims,
    };
    recipe.positions * width * size_of::<f32>()
}
