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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Aligned, LINE_BYTES};

    #[test]
    fn no_bytes_are_no_numbers() {
        let mut none = Aligned::zeroed(0);
        assert_eq!(none.len_bytes(), 0);
        assert!(none.as_slice::<f32>().is_empty() && none.as_mut_slice::<u8>().is_empty());
        assert_eq!(format!("{none:?}"), "Aligned(0 bytes)");
    }

    #[test]
    fn a_copy_has_its_own_memory() {
        let mut first = Aligned::zeroed(12);
        first.as_mut_slice::<u32>().copy_from_slice(&[1, 2, 3]);
        let copy = first.clone();
        first.as_mut_slice::<u32>().fill(9);
        assert_eq!(copy.as_slice::<u32>(), [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn memory_is_zero_on_a_cache_line_and_as_long_as_asked(bytes in 0usize..5000) {
            let mut memory = Aligned::zeroed(bytes);
            prop_assert_eq!(memory.len_bytes(), bytes);
            prop_assert_eq!(memory.as_slice::<u8>(), &vec![0u8; bytes][..]);
            prop_assert!(bytes == 0 || memory.as_slice::<u8>().as_ptr().addr().is_multiple_of(LINE_BYTES));
            prop_assert_eq!(memory.as_slice::<f32>().len(), bytes / 4);
            prop_assert_eq!(memory.as_slice::<u16>().len(), bytes / 2);
            memory.as_mut_slice::<u8>().iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
            let whole = memory.as_slice::<u32>();
            let want = |index: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| (4 * index + byte) as u8));
            prop_assert!(whole.iter().enumerate().all(|(index, value)| *value == want(index)));
        }
    }
}
