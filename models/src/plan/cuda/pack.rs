//! What the host does with a batch: which sequences run together, and what is written for them.

use std::ops::Range;

use super::bucket::{Bucket, PIECE};
use super::layout::{Layout, covered_bytes};
use super::program::{Program, Section};
use crate::error::ModelError;
use crate::plan::batch::ImageInput;
use crate::plan::{Batch, Input, Sequence};

/// Which sequences run together: in order, whole, as many as the arena holds.
///
/// # Errors
/// A sequence has more tokens than the arena.
pub(crate) fn cut(sequences: &[Sequence], max_tokens: usize, max_items: usize) -> Result<Vec<Range<usize>>, ModelError> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut taken = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        let length = sequence.tokens.len();
        if length > max_tokens {
            return Err(ModelError::BeyondArena { tokens: length, limit: max_tokens });
        }
        match runs.last_mut() {
            Some(run) if taken + length <= max_tokens && run.len() < max_items => run.end = index + 1,
            _ => {
                runs.push(index..index + 1);
                taken = 0;
            }
        }
        taken += length;
    }
    Ok(runs)
}

/// Writes the sections of some sequences of a batch, filling included: ids and positions of the filling are 0, which every
/// table has a row for; rows without an item are none, and give zeros.
///
/// # Panics
/// If the sequences are more than the bucket holds, or `bytes` is shorter than the layout says.
pub(crate) fn fill(
    program: &Program,
    input: &Input,
    (bucket, layout): (&Bucket, &Layout),
    batch: &Batch<'_>,
    sequences: Range<usize>,
    bytes: &mut [u8],
) {
    let packed = Packed { input, batch, sequences: &batch.sequences[sequences.clone()], items: sequences, bucket };
    for (section, range) in program.sections.iter().zip(&layout.sections) {
        packed.write(section, &mut bytes[range.clone()]);
    }
}

/// Copies the pixels that patches cover.
fn covered(input: &ImageInput, image: &[u8], to: &mut [u8]) {
    let (height, width) = input.covered();
    if (height, width) == (input.height, input.width) {
        return to.copy_from_slice(image);
    }
    let (line, stored) = (width * size_of::<f32>(), input.width * size_of::<f32>());
    for (channel, to) in image.chunks_exact(input.height * stored).zip(to.chunks_exact_mut(height * line)) {
        for (from, to) in channel.chunks_exact(stored).zip(to.chunks_exact_mut(line)) {
            to.copy_from_slice(&from[..line]);
        }
    }
}

/// Sequences on their way into a section.
struct Packed<'a, 'b> {
    input: &'a Input,
    batch: &'a Batch<'b>,
    sequences: &'a [Sequence],
    items: Range<usize>,
    bucket: &'a Bucket,
}

impl Packed<'_, '_> {
    fn tokens(&self) -> Range<usize> {
        let start = self.sequences.first().map_or(0, |sequence| sequence.tokens.start);
        start..self.sequences.last().map_or(start, |sequence| sequence.tokens.end)
    }

    fn write(&self, section: &Section, to: &mut [u8]) {
        let tokens = self.tokens();
        match section {
            Section::Ids => numbers(to, self.batch.ids[tokens].iter().copied(), 0),
            Section::Positions => numbers(to, self.batch.positions[tokens].iter().copied(), 0),
            Section::Types if self.batch.types.is_empty() => numbers(to, std::iter::empty(), 0),
            Section::Types => numbers(to, self.batch.types[tokens].iter().copied(), 0),
            Section::Columns => numbers(to, self.batch.columns[tokens].iter().copied(), 0),
            Section::Spans => numbers(to, self.spans().flatten().map(|row| row as u32), 0),
            Section::Probes => {
                let probes = (0..self.bucket.items).flat_map(|item| {
                    // An item of the filling looks at the first row, so that it is no number by chance.
                    let keys = self.sequences.get(item).map_or(0..1, |sequence| self.real(sequence));
                    [item, item + 1, keys.start, keys.end]
                });
                numbers(to, probes.map(|row| row as u32), 0);
            }
            Section::Ranges { skip } => {
                let ranges = self.sequences.iter().flat_map(|sequence| {
                    let real = self.real(sequence);
                    [(real.start + skip).min(real.end), real.end]
                });
                numbers(to, ranges.map(|row| row as u32), 0);
            }
            Section::Rows(taken) => {
                let rows = self.sequences.iter().map(|sequence| {
                    let real = self.real(sequence);
                    let ids = || &self.batch.ids[sequence.tokens.start..][..sequence.real];
                    (real.start + taken.of(sequence.real, ids)) as u32
                });
                numbers(to, rows, u32::MAX);
            }
            Section::Pixels => {
                let Input::Images(input) = self.input else { unreachable!("plans over texts have no pixels") };
                let images = &self.batch.images[self.items.clone()];
                for (to, image) in to.chunks_exact_mut(covered_bytes(input)).zip(images) {
                    covered(input, image, to);
                }
            }
        }
    }

    /// The rows of the tokens of a sequence that are not padding.
    fn real(&self, sequence: &Sequence) -> Range<usize> {
        let start = sequence.tokens.start - self.tokens().start;
        start..start + sequence.real
    }

    /// Every sequence to itself; the filling in pieces; nothing for what is left.
    fn spans(&self) -> impl Iterator<Item = [usize; 4]> {
        let all = self.tokens();
        let filled = all.len()..self.bucket.tokens;
        let sequences = self.sequences.iter().map(move |sequence| {
            let (start, end) = (sequence.tokens.start - all.start, sequence.tokens.end - all.start);
            [start, end, start, start + sequence.real]
        });
        let pieces = filled.clone().step_by(PIECE).map(move |start| {
            let end = (start + PIECE).min(filled.end);
            [start, end, start, end]
        });
        sequences.chain(pieces)
    }
}

/// Writes numbers, and `rest` where there are none left.
///
/// # Panics
/// If there are more than fit.
fn numbers(to: &mut [u8], values: impl Iterator<Item = u32>, rest: u32) {
    let mut places = to.as_chunks_mut::<4>().0.iter_mut();
    for value in values {
        *places.next().expect("a bucket holds its batch") = value.to_le_bytes();
    }
    places.for_each(|place| *place = rest.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_stay_whole_and_in_order() {
        let mut start = 0;
        let sequences: Vec<Sequence> = [5usize, 3, 8, 1, 1, 1, 1]
            .into_iter()
            .map(|len| {
                start += len;
                Sequence { tokens: start - len..start, real: len }
            })
            .collect();
        assert_eq!(cut(&sequences, 8, 3).unwrap(), [0..2, 2..3, 3..6, 6..7]);
        let whole = cut(&sequences, 100, 100).unwrap();
        assert_eq!((whole.len(), &whole[0]), (1, &(0..7)));
        assert!(matches!(cut(&sequences, 7, 3), Err(ModelError::BeyondArena { tokens: 8, limit: 7 })));
        assert!(cut(&[], 7, 3).unwrap().is_empty());
    }
}
