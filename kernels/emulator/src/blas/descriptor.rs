//! Descriptors: what applications set attribute by attribute before a product.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::product::{Activation, Element, Matrix, Product};

/// A cublasStatus_t.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Status(pub u32);

impl Status {
    pub(crate) const SUCCESS: Status = Status(0);
    pub(crate) const NOT_INITIALIZED: Status = Status(1);
    pub(crate) const INVALID_VALUE: Status = Status(7);
    pub(crate) const EXECUTION_FAILED: Status = Status(13);
    pub(crate) const INTERNAL_ERROR: Status = Status(14);
    pub(crate) const NOT_SUPPORTED: Status = Status(15);
}

/// A matrix layout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub kind: u32,
    pub rows: u64,
    pub columns: u64,
    pub leading: i64,
    pub order: u32,
    pub batch: i32,
    pub stride: i64,
}

/// A product's description.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Description {
    pub compute: u32,
    pub scale: u32,
    pub pointer_mode: u32,
    pub transpose: [u32; 3],
    pub epilogue: u32,
    pub bias: u64,
    /// As the application set it; the type of D where it did not.
    pub bias_kind: Option<u32>,
}

/// What the application asks of algorithms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Preference {
    pub workspace_bytes: u64,
    /// Alignments of A, B, C and D that algorithms may rely on.
    pub alignments: [u32; 4],
}

/// All descriptors.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    next: u64,
    pub handles: HashMap<u64, ()>,
    pub layouts: HashMap<u64, Layout>,
    pub descriptions: HashMap<u64, Description>,
    pub preferences: HashMap<u64, Preference>,
}

impl Descriptors {
    /// A number no other descriptor has.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 0x10;
        0x2000_0000 + self.next
    }
}

/// Runs with the descriptors.
pub(crate) fn with<R>(run: impl FnOnce(&mut Descriptors) -> R) -> R {
    static ALL: Mutex<Option<Descriptors>> = Mutex::new(None);
    run(ALL.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// A way to compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Algorithm {
    /// Its number in what applications hold; 0 is none.
    pub number: u64,
    /// Parts in which it sums over k.
    pub parts: usize,
}

/// All ways, the likely fastest first.
pub(crate) const ALGORITHMS: [Algorithm; 4] = [
    Algorithm { number: 0xA1, parts: 1 },
    Algorithm { number: 0xA2, parts: 2 },
    Algorithm { number: 0xA3, parts: 4 },
    Algorithm { number: 0xA4, parts: 16 },
];

impl Algorithm {
    /// Workspace it needs for a product: its partial sums.
    pub(crate) fn workspace_bytes(self, d: &Layout) -> u64 {
        if self.parts == 1 { 0 } else { self.parts as u64 * d.rows * d.columns * 4 * d.batch.max(1) as u64 }
    }
}

fn element(kind: u32) -> Result<Element, Status> {
    match kind {
        0 => Ok(Element::F32),
        2 => Ok(Element::F16),
        14 => Ok(Element::Bf16),
        _ => Err(Status::NOT_SUPPORTED),
    }
}

impl Layout {
    fn matrix(&self, address: u64) -> Result<Matrix, Status> {
        let element = element(self.kind)?;
        let is_row_major = match self.order {
            0 => false,
            1 => true,
            _ => return Err(Status::NOT_SUPPORTED),
        };
        let shortest = if is_row_major { self.columns } else { self.rows };
        let leading = u64::try_from(self.leading).map_err(|_| Status::INVALID_VALUE)?;
        let stride = u64::try_from(self.stride).map_err(|_| Status::INVALID_VALUE)?;
        if leading < shortest || self.rows == 0 || self.columns == 0 || self.batch < 1 {
            return Err(Status::INVALID_VALUE);
        }
        Ok(Matrix {
            address,
            element,
            rows: self.rows as usize,
            columns: self.columns as usize,
            leading: leading as usize,
            is_row_major,
            stride: stride as usize,
        })
    }
}

/// A product's parts as the application names them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    pub description: Description,
    pub a: Layout,
    pub b: Layout,
    pub c: Layout,
    pub d: Layout,
}

impl Operands {
    /// The product, with all checks that do not need pointers; addresses are zero.
    ///
    /// # Errors
    /// What the library refuses: shapes that do not fit (invalid value), combinations it has no kernel for (not supported).
    pub(crate) fn product(&self) -> Result<Product, Status> {
        let Description { compute, scale, pointer_mode, transpose, epilogue, bias_kind, .. } = self.description;
        if !matches!(compute, 68 | 69 | 77) || scale != 0 || pointer_mode != 0 || transpose[2] != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let (a, b, c, d) = (self.a.matrix(0)?, self.b.matrix(0)?, self.c.matrix(0)?, self.d.matrix(0)?);
        let turned = |value: u32| match value {
            0 => Ok(false),
            1 | 2 => Ok(true),
            _ => Err(Status::INVALID_VALUE),
        };
        let (transpose_a, transpose_b) = (turned(transpose[0])?, turned(transpose[1])?);
        let (m, k) = if transpose_a { (a.columns, a.rows) } else { (a.rows, a.columns) };
        let (k_of_b, n) = if transpose_b { (b.columns, b.rows) } else { (b.rows, b.columns) };
        let batch = self.d.batch;
        let fits = k == k_of_b && (d.rows, d.columns) == (m, n) && (c.rows, c.columns) == (m, n);
        if !fits || [self.a, self.b, self.c].iter().any(|layout| layout.batch != batch) {
            return Err(Status::INVALID_VALUE);
        }
        if a.element != b.element || c.element != d.element || (d.element != Element::F32 && d.element != a.element) {
            return Err(Status::NOT_SUPPORTED);
        }
        let (with_bias, activation) = match epilogue {
            1 => (false, Activation::None),
            2 => (false, Activation::Relu),
            4 => (true, Activation::None),
            6 => (true, Activation::Relu),
            32 => (false, Activation::Gelu),
            36 => (true, Activation::Gelu),
            _ => return Err(Status::NOT_SUPPORTED),
        };
        let bias_element = bias_kind.map_or(Ok(d.element), element)?;
        if with_bias && bias_element != d.element {
            return Err(Status::NOT_SUPPORTED);
        }
        // Kernels for 16-bit operands load 16 bytes at once.
        if [&a, &b, &c, &d].iter().any(|matrix| matrix.element.bytes() == 2 && !(matrix.leading * 2).is_multiple_of(16)) {
            return Err(Status::NOT_SUPPORTED);
        }
        Ok(Product {
            a,
            transpose_a,
            b,
            transpose_b,
            is_rounded: compute == 77 && a.element == Element::F32,
            c,
            d,
            batch: batch as usize,
            alpha: 1.0,
            beta: 0.0,
            bias: with_bias.then_some((0, bias_element)),
            activation,
            parts: 1,
            workspace: (0, 0),
        })
    }
}
