//! One product: D = act(alpha * op(A) * op(B) + beta * C + bias), once for each matrix of a batch.

use half::{bf16, f16};

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// Bytes of one.
    pub(crate) fn bytes(self) -> usize {
        if self == Element::F32 { 4 } else { 2 }
    }

    fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
        }
    }
}

/// A matrix, or a batch of matrices one stride apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub address: u64,
    pub element: Element,
    pub rows: usize,
    pub columns: usize,
    /// Elements between columns, or between rows where `is_row_major`.
    pub leading: usize,
    pub is_row_major: bool,
    /// Elements between matrices.
    pub stride: usize,
}

impl Matrix {
    fn step(&self) -> (usize, usize) {
        if self.is_row_major { (self.leading, 1) } else { (1, self.leading) }
    }

    /// Bytes from the first element to the last of a batch.
    fn extent(&self, batch: usize) -> usize {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        let (row, column) = self.step();
        let last = (self.rows - 1) * row + (self.columns - 1) * column;
        ((batch - 1) * self.stride + last + 1) * self.element.bytes()
    }
}

/// What is applied to each element at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Relu,
    /// The one with tanh.
    Gelu,
}

impl Activation {
    fn apply(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::Gelu => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
        }
    }
}

/// A product as enqueued.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub a: Matrix,
    pub transpose_a: bool,
    pub b: Matrix,
    pub transpose_b: bool,
    /// Whether f32 operands are rounded to TF32 first.
    pub is_rounded: bool,
    /// Only read where `beta` is not zero.
    pub c: Matrix,
    pub d: Matrix,
    pub batch: usize,
    pub alpha: f32,
    pub beta: f32,
    /// One value for each row of D.
    pub bias: Option<(u64, Element)>,
    pub activation: Activation,
    /// Parts in which the sums over k are taken; the workspace holds them.
    pub parts: usize,
    pub workspace: (u64, usize),
}

/// Bytes a product touches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub address: u64,
    pub bytes: usize,
    pub writes: bool,
}

impl Product {
    fn k(&self) -> usize {
        if self.transpose_a { self.a.rows } else { self.a.columns }
    }

    /// Its shape and epilogue, as counters name it.
    pub(crate) fn describe(&self) -> String {
        let Matrix { rows, columns, element, .. } = self.d;
        let act = match self.activation {
            Activation::None => "",
            Activation::Relu => " relu",
            Activation::Gelu => " gelu",
        };
        let bias = if self.bias.is_some() { " bias" } else { "" };
        let batch = if self.batch == 1 { String::new() } else { format!(" batch={}", self.batch) };
        format!("m={rows} n={columns} k={}{batch} {}->{}{bias}{act}", self.k(), self.a.element.name(), element.name())
    }

    /// What it touches: A, B, D, then C, bias and workspace where there are any.
    pub(crate) fn ranges(&self) -> Vec<Range> {
        let read = |matrix: &Matrix| Range { address: matrix.address, bytes: matrix.extent(self.batch), writes: false };
        let mut ranges = vec![read(&self.a), read(&self.b), Range { writes: true, ..read(&self.d) }];
        if self.beta != 0.0 {
            ranges.push(read(&self.c));
        }
        if let Some((address, element)) = self.bias {
            ranges.push(Range { address, bytes: self.d.rows * element.bytes(), writes: false });
        }
        if self.workspace.1 > 0 {
            ranges.push(Range { address: self.workspace.0, bytes: self.workspace.1, writes: true });
        }
        ranges
    }

    /// Computes it; `places` are where [`Self::ranges`] are in this process.
    pub(crate) fn run(&self, places: &[*mut u8]) {
        let (m, n, k) = (self.d.rows, self.d.columns, self.k());
        let mut rest = places[3..].iter().copied();
        let c = if self.beta != 0.0 { rest.next() } else { None };
        let bias = self
            .bias
            .and_then(|(_, element)| rest.next().map(|place| (0..m).map(|i| load(place, element, i)).collect::<Vec<f32>>()));
        let (row, column) = self.d.step();
        for batch in 0..self.batch {
            let a = pack::<ROWS>(places[0], &self.a, batch, self.transpose_a, m, k);
            let b = pack::<COLUMNS>(places[1], &self.b, batch, !self.transpose_b, n, k);
            let (a, b) = if self.is_rounded { (rounded(a), rounded(b)) } else { (a, b) };
            for (j, b) in panels(&b, COLUMNS * k, n.div_ceil(COLUMNS)).enumerate() {
                for (i, a) in panels(&a, ROWS * k, m.div_ceil(ROWS)).enumerate() {
                    let tile = sums(a, b, self.parts, k);
                    for (y, column_sums) in tile.iter().enumerate().take(n.saturating_sub(j * COLUMNS)) {
                        for (x, sum) in column_sums.iter().enumerate().take(m.saturating_sub(i * ROWS)) {
                            let (at, of) = (i * ROWS + x, j * COLUMNS + y);
                            let mut value = self.alpha * sum;
                            if let Some(c) = c {
                                let (row, column) = self.c.step();
                                value += self.beta * load(c, self.c.element, batch * self.c.stride + at * row + of * column);
                            }
                            value = self.activation.apply(value + bias.as_ref().map_or(0.0, |bias| bias[at]));
                            store(places[2], self.d.element, batch * self.d.stride + at * row + of * column, value);
                        }
                    }
                }
            }
        }
    }
}

/// Panels of `length` values; `count` empty ones where a product sums over nothing.
fn panels(packed: &[f32], length: usize, count: usize) -> impl Iterator<Item = &[f32]> {
    (0..count).map(move |index| &packed[index * length..(index + 1) * length])
}

/// Values with the ten bits of fraction that TF32 has.
fn rounded(mut values: Vec<f32>) -> Vec<f32> {
    for value in values.iter_mut().filter(|value| value.is_finite()) {
        *value = f32::from_bits((value.to_bits() + 0x1000) & !0x1fff);
    }
    values
}

/// Rows of a tile.
const ROWS: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = 6;

/// A matrix in f32 as panels of `WIDTH` rows (columns, for B), each `[k][WIDTH]`, padded with zeros. `is_turned` says that the
/// matrix as stored has k along its rows.
fn pack<const WIDTH: usize>(place: *mut u8, matrix: &Matrix, batch: usize, is_turned: bool, width: usize, k: usize) -> Vec<f32> {
    let (row, column) = matrix.step();
    let (along, across) = if is_turned { (row, column) } else { (column, row) };
    let mut packed = vec![0.0; width.div_ceil(WIDTH) * WIDTH * k];
    let base = batch * matrix.stride;
    for (index, panel) in packed.chunks_exact_mut((WIDTH * k).max(1)).enumerate() {
        for lane in 0..WIDTH.min(width - index * WIDTH) {
            let start = base + (index * WIDTH + lane) * across;
            for p in 0..k {
                panel[p * WIDTH + lane] = load(place, matrix.element, start + p * along);
            }
        }
    }
    packed
}

#[inline]
fn load(place: *mut u8, element: Element, index: usize) -> f32 {
    // SAFETY: `place` holds the matrix's whole extent, which `ranges` computed from the same shape, and the index is inside it;
    // reads may be unaligned.
    unsafe {
        match element {
            Element::F32 => place.cast::<f32>().add(index).read_unaligned(),
            Element::F16 => f16::from_bits(place.cast::<u16>().add(index).read_unaligned()).to_f32(),
            Element::Bf16 => bf16::from_bits(place.cast::<u16>().add(index).read_unaligned()).to_f32(),
        }
    }
}

#[inline]
fn store(place: *mut u8, element: Element, index: usize, value: f32) {
    // SAFETY: as for `load`; D is not packed any more once it is written, and C is read at the same element just before.
    unsafe {
        match element {
            Element::F32 => place.cast::<f32>().add(index).write_unaligned(value),
            Element::F16 => place.cast::<u16>().add(index).write_unaligned(f16::from_f32(value).to_bits()),
            Element::Bf16 => place.cast::<u16>().add(index).write_unaligned(bf16::from_f32(value).to_bits()),
        }
    }
}

type Tile = [[f32; ROWS]; COLUMNS];

/// The sums over k of one tile, in `parts` parts.
fn sums(a: &[f32], b: &[f32], parts: usize, k: usize) -> Tile {
    let mut tile = [[0.0; ROWS]; COLUMNS];
    let length = k.div_ceil(parts.max(1)).max(1);
    for (a, b) in a.chunks(length * ROWS).zip(b.chunks(length * COLUMNS)) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the features were found.
            let part = unsafe { sums_wide(a, b) };
            add(&mut tile, &part);
            continue;
        }
        let part = sums_of(a, b, |a, b, sum| a * b + sum);
        add(&mut tile, &part);
    }
    tile
}

fn add(tile: &mut Tile, part: &Tile) {
    for (sum, part) in tile.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
        *sum += part;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sums_wide(a: &[f32], b: &[f32]) -> Tile {
    sums_of(a, b, |a: f32, b, sum| a.mul_add(b, sum))
}

#[inline(always)]
fn sums_of(a: &[f32], b: &[f32], step: impl Fn(f32, f32, f32) -> f32) -> Tile {
    let mut tile = [[0.0; ROWS]; COLUMNS];
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
        for (sums, b) in tile.iter_mut().zip(b) {
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum = step(*a, *b, *sum);
            }
        }
    }
    tile
}
