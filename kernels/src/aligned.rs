//! Memory that starts on a cache line, zeroed by the operating system and untouched until it is used.

use bytemuck::{Pod, Zeroable};

/// Bytes of a cache line, which is also the widest vector register.
pub const LINE_BYTES: usize = 64;

/// One cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE_BYTES / 4]);

/// Zeroed memory that starts on a cache line. Pages that nothing has written to yet are not resident.
#[derive(Clone)]
pub struct Aligned {
    lines: Vec<Line>,
    bytes: usize,
}

impl Aligned {
    /// So many bytes of zeros. An allocation that fails ends the process, as everywhere in Rust's standard library.
    pub fn zeroed(bytes: usize) -> Self {
        Aligned { lines: bytemuck::zeroed_vec(bytes.div_ceil(LINE_BYTES)), bytes }
    }

    /// The length asked for.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// The memory as numbers of type `T`; trailing bytes that make up no whole number are left out.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        let values: &[T] = bytemuck::cast_slice(&self.lines);
        &values[..self.bytes / size_of::<T>()]
    }

    /// As [`Aligned::as_slice`], for writing.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        let values: &mut [T] = bytemuck::cast_slice_mut(&mut self.lines);
        &mut values[..self.bytes / size_of::<T>()]
    }
}

impl std::fmt::Debug for Aligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Aligned({} bytes)", self.bytes)
    }
}
