//! What launches of operations have in common: names of kernels, the width of accesses, sizes of grids.

use super::{DeviceType, Grid, View};

/// Threads of a block in which each takes packs of numbers for itself.
const PACK_THREADS: u32 = 256;

/// Blocks beyond which such a grid has its threads take several packs.
const MAX_PACK_BLOCKS: usize = 1 << 11;

/// Blocks beyond which a grid has its teams take several rows.
const MAX_ROW_BLOCKS: usize = 1 << 12;

/// The name of a kernel for a type of numbers and a width of accesses: `<operation>_<type>_<wide or narrow>`.
macro_rules! kernel_name {
    ($operation:literal, $dtype:expr, $wide:expr) => {
        match ($dtype, $wide) {
            ($crate::cuda::DeviceType::F32, true) => concat!($operation, "_f32_wide"),
            ($crate::cuda::DeviceType::F32, false) => concat!($operation, "_f32_narrow"),
            ($crate::cuda::DeviceType::F16, true) => concat!($operation, "_f16_wide"),
            ($crate::cuda::DeviceType::F16, false) => concat!($operation, "_f16_narrow"),
            ($crate::cuda::DeviceType::Bf16, true) => concat!($operation, "_bf16_wide"),
            ($crate::cuda::DeviceType::Bf16, false) => concat!($operation, "_bf16_narrow"),
            (other, _) => panic!("{} does not work on {other:?}", $operation),
        }
    };
}

pub(crate) use kernel_name;

/// The number that kernels know a type of real numbers by; as `Type` in numbers.cuh has it.
///
/// # Panics
/// If the numbers are not real.
pub(crate) fn code(dtype: DeviceType) -> u32 {
    match dtype {
        DeviceType::F32 => 0,
        DeviceType::F16 => 1,
        DeviceType::Bf16 => 2,
        DeviceType::U32 | DeviceType::U8 => panic!("{dtype:?} are not real numbers"),
    }
}

/// How many numbers of a type 16 bytes hold.
pub(crate) fn pack(dtype: DeviceType) -> usize {
    16 / dtype.bytes()
}

/// Whether all views begin where accesses of 16 bytes may.
pub(crate) fn aligned(views: &[Option<View>]) -> bool {
    views.iter().flatten().all(|view| view.address.is_multiple_of(16))
}

/// A number as kernels count.
///
/// # Panics
/// If it has more than 32 bits.
pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).expect("kernels count in 32 bits")
}

/// A grid whose threads take `packs` packs one behind the other.
pub(crate) fn pack_grid(packs: usize) -> Grid {
    let blocks = packs.div_ceil(PACK_THREADS as usize).min(MAX_PACK_BLOCKS);
    Grid { blocks: (blocks as u32, 1, 1), threads: (PACK_THREADS, 1, 1), shared_bytes: 0 }
}

/// How rows of `n` numbers are shared between threads, as row.cuh does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowTeam {
    /// A warp has a row, and a block four.
    Warp,
    /// A block has a row.
    Block,
}

impl RowTeam {
    /// The team for rows of `n` numbers. A warp keeps a row in registers, 32 numbers a lane, or 16 where they are loaded one
    /// by one.
    pub(crate) fn new(n: usize, wide: bool) -> Self {
        if n <= 32 * if wide { 32 } else { 16 } { RowTeam::Warp } else { RowTeam::Block }
    }

    /// The grid for so many rows.
    pub(crate) fn grid(self, rows: usize) -> Grid {
        let (together, threads) = match self {
            RowTeam::Warp => (4, 128),
            RowTeam::Block => (1, 256),
        };
        let blocks = rows.div_ceil(together).min(MAX_ROW_BLOCKS) as u32;
        Grid { blocks: (blocks, 1, 1), threads: (threads, 1, 1), shared_bytes: 0 }
    }
}
