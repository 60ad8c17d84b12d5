//! How the weights of a plan are made from the tensors of files, so that any device can make its own form of them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kernels::embed::TableType;
use kernels::mapped::MappedFile;
use kernels::rotary::{Pairs, Rotary};

use crate::error::ModelError;
use crate::weights::Weights;

/// Reads values from weight files.
pub(crate) type Read<T> = Box<dyn Fn(&Weights) -> Result<T, ModelError> + Send + Sync>;

/// Rows of a weight matrix, or elements of a vector, that come from one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MatrixPart {
    /// The layer's name, or the tensor's once it has its suffix.
    pub(crate) name: String,
    /// Rows, or elements of a vector.
    pub(crate) rows: usize,
    /// The stored shape of a matrix where it is not `[rows, inputs]`, such as that of a convolution.
    pub(crate) shape: Option<Vec<usize>>,
    /// A tensor `[rows]` that every row is multiplied with.
    pub(crate) scale: Option<String>,
}

impl MatrixPart {
    /// All rows of the layer `name`.
    pub(crate) fn rows(name: &str, rows: usize) -> Self {
        MatrixPart { name: name.to_owned(), rows, shape: None, scale: None }
    }

    /// The same part of the tensor `{name}.{suffix}`.
    pub(crate) fn suffixed(&self, suffix: &str) -> Self {
        MatrixPart { name: format!("{}.{suffix}", self.name), ..self.clone() }
    }

    fn scales(&self, weights: &Weights) -> Result<Option<Vec<f32>>, ModelError> {
        self.scale.as_ref().map(|name| weights.floats(name, &[self.rows])).transpose()
    }
}

/// The rows of all parts, `[sum of rows, inputs]`.
///
/// # Errors
/// Those of [`Weights::floats`].
pub(crate) fn read_matrix(weights: &Weights, parts: &[MatrixPart], inputs: usize) -> Result<Vec<f32>, ModelError> {
    let mut all: Vec<f32> = Vec::new();
    for part in parts {
        let plain = vec![part.rows, inputs];
        let mut rows = weights.floats(&part.name, part.shape.as_ref().unwrap_or(&plain))?;
        if let Some(scales) = part.scales(weights)? {
            for (row, scale) in rows.chunks_exact_mut(inputs).zip(scales) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
        // The usual single part is passed on as it is.
        if all.is_empty() { all = rows } else { all.extend(rows) }
    }
    Ok(all)
}

/// The elements of all parts.
///
/// # Errors
/// Those of [`Weights::floats`].
pub(crate) fn read_vector(weights: &Weights, parts: &[MatrixPart]) -> Result<Vec<f32>, ModelError> {
    let mut all = Vec::new();
    for part in parts {
        let values = weights.floats(&part.name, &[part.rows])?;
        match part.scales(weights)? {
            Some(scales) => all.extend(values.iter().zip(scales).map(|(value, scale)| value * scale)),
            None => all.extend(values),
        }
    }
    Ok(all)
}

/// A weight matrix, `[outputs, inputs]` in row-major order.
pub(crate) struct MatrixRecipe {
    /// What it is called where a number of it is refused: the tensor that it comes from, or the first of them.
    pub(crate) name: String,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Small matrices of heads are multiplied in f32 whatever the model runs in: they cost nothing and decide the answer.
    pub(crate) exact: bool,
    pub(crate) read: Read<Vec<f32>>,
}

/// A weight vector, or a small matrix that is read as one.
pub(crate) struct VectorRecipe {
    /// What it is called where a number of it is refused: the tensor that it comes from, or the first of them.
    pub(crate) name: String,
    pub(crate) len: usize,
    pub(crate) read: Read<Vec<f32>>,
}

/// A lookup table that stays in its file.
#[derive(Debug, Clone)]
pub(crate) struct TableRecipe {
    pub(crate) tensor: String,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// A table of angles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RotaryRecipe {
    pub(crate) positions: usize,
    pub(crate) dims: usize,
    pub(crate) base: f64,
    pub(crate) pairs: Pairs,
}

impl RotaryRecipe {
    pub(crate) fn make(self) -> Rotary {
        Rotary::new(self.positions, self.dims, self.base, self.pairs)
    }
}

/// A position bias of attention.
pub(crate) struct BiasRecipe {
    pub(crate) read: Read<BiasValues>,
    /// Memory of the values, known before they are read.
    pub(crate) bytes: usize,
}

/// The values of a position bias; see `kernels::attention::Bias`.
#[derive(Debug, Clone)]
pub(crate) enum BiasValues {
    /// A number per head and distance.
    Distance { table: Vec<f32>, reach: usize },
    /// Vectors per distance.
    Disentangled { keys: Option<Vec<f32>>, queries: Option<Vec<f32>>, rows: Vec<u32> },
}

impl BiasValues {
    /// As the kernel takes them.
    pub(crate) fn as_bias(&self) -> kernels::attention::Bias<'_> {
        use kernels::attention::{Bias, Disentangled};
        match self {
            BiasValues::Distance { table, reach } => Bias::Distance { table, reach: *reach },
            BiasValues::Disentangled { keys, queries, rows } => {
                Bias::Disentangled(Disentangled { keys: keys.as_deref(), queries: queries.as_deref(), rows })
            }
        }
    }
}

/// All weights of a plan.
#[derive(Default)]
pub(crate) struct Recipes {
    pub(crate) matrices: Vec<MatrixRecipe>,
    pub(crate) vectors: Vec<VectorRecipe>,
    pub(crate) tables: Vec<TableRecipe>,
    pub(crate) rotaries: Vec<RotaryRecipe>,
    pub(crate) biases: Vec<BiasRecipe>,
}

impl fmt::Debug for Recipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matrix = |matrix: &MatrixRecipe| (matrix.name.clone(), [matrix.outputs, matrix.inputs]);
        let matrices: Vec<_> = self.matrices.iter().map(matrix).collect();
        let vectors: Vec<_> = self.vectors.iter().map(|vector| (&vector.name, vector.len)).collect();
        let mut all = f.debug_struct("Recipes");
        all.field("matrices", &matrices).field("vectors", &vectors).field("tables", &self.tables).finish_non_exhaustive()
    }
}

/// A lookup table in a mapped weight file: never copied, and counted once however many models and instances read it.
#[derive(Debug, Clone)]
pub struct MappedTable {
    file: Arc<MappedFile>,
    bytes: Range<usize>,
    dtype: TableType,
}

impl MappedTable {
    /// The tensor at `bytes` of `file`, which the caller has checked to lie inside.
    pub(crate) fn new(file: Arc<MappedFile>, bytes: Range<usize>, dtype: TableType) -> Self {
        MappedTable { file, bytes, dtype }
    }

    /// The numbers as they are stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.file.as_bytes()[self.bytes.clone()]
    }

    /// What the bytes are.
    pub fn dtype(&self) -> TableType {
        self.dtype
    }
}
