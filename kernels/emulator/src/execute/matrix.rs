//! Matrix products of warps, and their loads and stores.

use super::AccessKind;
use super::block::{Grid, Trouble};
use super::lane_memory::Access;
use super::warp::Warp;
use crate::ptx::instruction::{Address, MatrixElement, MatrixProduct, Place, Several};
use crate::ptx::operation::{Lanes, bfloat_to_single, half_to_single, single_to_half};

/// Rows of A and of the results.
const ROWS: usize = 16;
/// Columns of B and of the results.
const COLUMNS: usize = 8;
/// The deepest product.
const DEEPEST: usize = 32;

/// The element of A, as row and depth, that lane `lane` has as its `item`th, where a register holds `pack` of them.
#[inline(always)]
fn place_in_a(lane: usize, item: usize, pack: usize) -> (usize, usize) {
    let (register, inside) = (item / pack, item % pack);
    (lane / 4 + 8 * (register % 2), (lane % 4) * pack + inside + 4 * pack * (register / 2))
}

/// The element of B, as depth and column.
#[inline(always)]
fn place_in_b(lane: usize, item: usize, pack: usize) -> (usize, usize) {
    let (register, inside) = (item / pack, item % pack);
    ((lane % 4) * pack + inside + 4 * pack * register, lane / 4)
}

/// The result, as row and column, that a lane has as its `item`th of four.
#[inline(always)]
fn place_in_sum(lane: usize, item: usize) -> (usize, usize) {
    (lane / 4 + 8 * (item / 2), (lane % 4) * 2 + item % 2)
}

type FragmentA = [[f32; DEEPEST]; ROWS];
type FragmentB = [[f32; COLUMNS]; DEEPEST];

/// Reads both inputs, with registers of `PACK` elements.
#[inline(always)]
fn read_inputs<const PACK: usize>(
    warp: &Warp,
    constants: &[Lanes],
    product: &MatrixProduct,
    of_a: impl Fn(u64, usize) -> f32,
    of_b: impl Fn(u64, usize) -> f32,
) -> (FragmentA, FragmentB) {
    let (mut a, mut b) = ([[0f32; DEEPEST]; ROWS], [[0f32; COLUMNS]; DEEPEST]);
    for (index, register) in product.a.iter().enumerate() {
        for (lane, word) in warp.read(constants, *register).iter().enumerate() {
            for inside in 0..PACK {
                let (row, depth) = place_in_a(lane, index * PACK + inside, PACK);
                a[row % ROWS][depth % DEEPEST] = of_a(*word, inside);
            }
        }
    }
    for (index, register) in product.b.iter().enumerate() {
        for (lane, word) in warp.read(constants, *register).iter().enumerate() {
            for inside in 0..PACK {
                let (depth, column) = place_in_b(lane, index * PACK + inside, PACK);
                b[depth % DEEPEST][column % COLUMNS] = of_b(*word, inside);
            }
        }
    }
    (a, b)
}

#[inline(always)]
fn half(word: u64, inside: usize) -> f32 {
    half_to_single((word >> (16 * inside)) as u16)
}

#[inline(always)]
fn bfloat(word: u64, inside: usize) -> f32 {
    bfloat_to_single((word >> (16 * inside)) as u16)
}

/// Bytes and their products are exact in f32; their sums are made of integers.
fn byte(word: u64, inside: usize, signed: bool) -> f32 {
    let byte = (word >> (8 * inside)) as u8;
    if signed { f32::from(byte as i8) } else { f32::from(byte) }
}

/// Multiplies, with the fragments of the registers. `wide` comes from `has_wide`.
pub(super) fn multiply(warp: &mut Warp, constants: &[Lanes], product: &MatrixProduct, wide: bool) {
    #[cfg(target_arch = "x86_64")]
    if wide {
        // SAFETY: `has_wide` found every feature that this version is built for.
        return unsafe { multiply_wide(warp, constants, product) };
    }
    let _ = wide;
    multiply_any(warp, constants, product);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi2")]
fn multiply_wide(warp: &mut Warp, constants: &[Lanes], product: &MatrixProduct) {
    multiply_any(warp, constants, product);
}

#[inline(always)]
fn multiply_any(warp: &mut Warp, constants: &[Lanes], product: &MatrixProduct) {
    let (a, b) = match product.element {
        MatrixElement::Half => read_inputs::<2>(warp, constants, product, half, half),
        MatrixElement::Bfloat => read_inputs::<2>(warp, constants, product, bfloat, bfloat),
        MatrixElement::Byte { a_signed, b_signed } => {
            let of_a = |word, inside| byte(word, inside, a_signed);
            let of_b = |word, inside| byte(word, inside, b_signed);
            let (a, b) = read_inputs::<4>(warp, constants, product, of_a, of_b);
            multiply_bytes(warp, constants, product, &a, &b);
            return;
        }
    };
    let mut sums = read_sums(warp, constants, product);
    for (sums, a) in sums.iter_mut().zip(&a) {
        for (a, b) in a[..product.depth].iter().zip(&b) {
            // Products of halves are exact in f32, so this rounds once, as a fused one would.
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    write_sums(warp, product, &sums);
}

fn multiply_bytes(warp: &mut Warp, constants: &[Lanes], product: &MatrixProduct, a: &FragmentA, b: &FragmentB) {
    for item in 0..4 {
        let mut out = *warp.read(constants, product.c[item]);
        for (lane, out) in out.iter_mut().enumerate() {
            let (row, column) = place_in_sum(lane, item);
            let sum =
                (0..product.depth).fold(*out as i32, |sum, depth| sum.wrapping_add((a[row][depth] * b[depth][column]) as i32));
            *out = u64::from(sum as u32);
        }
        warp.write(product.to[item], &out, u32::MAX);
    }
}

#[inline(always)]
fn read_sums(warp: &Warp, constants: &[Lanes], product: &MatrixProduct) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0f32; COLUMNS]; ROWS];
    for item in 0..4 {
        let words = warp.read(constants, product.c[if product.wide_in { item } else { item / 2 }]);
        for (lane, word) in words.iter().enumerate() {
            let (row, column) = place_in_sum(lane, item);
            sums[row][column] =
                if product.wide_in { f32::from_bits(*word as u32) } else { half_to_single((word >> (16 * (item % 2))) as u16) };
        }
    }
    sums
}

#[inline(always)]
fn write_sums(warp: &mut Warp, product: &MatrixProduct, sums: &[[f32; COLUMNS]; ROWS]) {
    let at = |lane: usize, item: usize| {
        let (row, column) = place_in_sum(lane, item);
        sums[row][column]
    };
    for (index, register) in product.to.iter().enumerate() {
        let out: Lanes = std::array::from_fn(|lane| {
            if product.wide_out {
                return u64::from(at(lane, index).to_bits());
            }
            let (low, high) = (at(lane, 2 * index), at(lane, 2 * index + 1));
            u64::from(single_to_half(low)) | u64::from(single_to_half(high)) << 16
        });
        warp.write(*register, &out, u32::MAX);
    }
}

/// The lane and half of a register that hold column `column` of row `row` of a matrix of 8 x 8.
fn holder(row: usize, column: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = if transposed { (column, row) } else { (row, column) };
    (row * 4 + column / 2, column % 2)
}

impl Grid<'_> {
    /// `ldmatrix`, or `stmatrix`: lane `8 m + r` gives the address of row `r` of matrix `m`.
    pub(super) fn matrix_move(
        &mut self,
        warp: usize,
        line: u32,
        registers: Several,
        address: &Address,
        transposed: bool,
        kind: AccessKind,
    ) -> Result<(), Trouble> {
        let count = usize::from(registers.count);
        let mask = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        let addresses = self.addresses(warp, address);
        let places = self.locate(Access { warp, mask, line, bytes: 16, kind }, Place::Shared, &addresses)?;
        let mut words = [[0u64; 32]; 4];
        if kind == AccessKind::Write {
            for (words, register) in words.iter_mut().zip(registers.list()) {
                *words = *self.warps[warp].read(&self.constants, *register);
            }
        }
        for (matrix, words) in words.iter_mut().enumerate().take(count) {
            for row in 0..8 {
                let place = places[8 * matrix + row].cast::<u16>();
                for column in 0..8 {
                    let (lane, half) = holder(row, column, transposed);
                    // SAFETY: `locate` found 16 bytes of shared memory for each row, which are its 8 elements; no
                    // reference to them is alive, and rows that overlap are read or written one after another.
                    unsafe {
                        if kind == AccessKind::Read {
                            words[lane] |= u64::from(place.add(column).read_unaligned()) << (16 * half);
                        } else {
                            place.add(column).write_unaligned((words[lane] >> (16 * half)) as u16);
                        }
                    }
                }
            }
        }
        if kind == AccessKind::Read {
            for (words, register) in words.iter().zip(registers.list()) {
                self.warps[warp].write(*register, words, u32::MAX);
            }
        }
        Ok(())
    }
}
