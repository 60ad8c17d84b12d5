//! Where values lie: memory is used again as soon as what it held has been read last.

use super::bucket::Bucket;
use super::program::{Program, Value};

/// Every value and section begins at a multiple of this: what vector loads and the library ask for, with room to spare.
pub(crate) const ALIGNMENT: usize = 256;

/// Offsets of the values that are not outputs, and the memory of them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Per value; 0 for outputs, which lie elsewhere.
    pub(crate) offsets: Vec<usize>,
    pub(crate) bytes: usize,
}

/// Bytes of a value in batches of a bucket.
pub(crate) fn value_bytes(value: &Value, bucket: &Bucket) -> usize {
    bucket.rows(value.axis) * value.columns * value.stored.bytes()
}

impl Placement {
    /// Places the largest values first, each as low as it fits beside those that live at the same time.
    ///
    /// Smaller buckets use the places of the largest: sizes of axes grow and shrink together or not at all, so places made
    /// for one bucket need not fit another, but shorter values fit wherever longer ones do.
    pub(crate) fn of(program: &Program, largest: &Bucket) -> Placement {
        let sizes: Vec<usize> =
            program.values.iter().map(|value| value_bytes(value, largest).next_multiple_of(ALIGNMENT)).collect();
        let mut order: Vec<usize> = (0..sizes.len()).filter(|index| program.values[*index].output.is_none()).collect();
        order.sort_by_key(|index| (std::cmp::Reverse(sizes[*index]), *index));
        let mut placement = Placement { offsets: vec![0; sizes.len()], bytes: 0 };
        let mut placed: Vec<usize> = Vec::new();
        for index in order {
            let value = &program.values[index];
            let lives_beside = |other: &&usize| {
                let other = &program.values[**other];
                other.first <= value.last && value.first <= other.last
            };
            let mut beside: Vec<(usize, usize)> =
                placed.iter().filter(lives_beside).map(|other| (placement.offsets[*other], sizes[*other])).collect();
            beside.sort_unstable();
            let mut offset = 0;
            for (start, size) in beside {
                if offset + sizes[index] <= start {
                    break;
                }
                offset = offset.max(start + size);
            }
            placement.offsets[index] = offset;
            placement.bytes = placement.bytes.max(offset + sizes[index]);
            placed.push(index);
        }
        placement
    }
}
