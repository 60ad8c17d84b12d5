//! What comes with a batch in one copy and leaves in one copy: where each part lies, and how the host writes it.

use std::ops::Range;

use super::bucket::{Bucket, PIECE};
use super::place::ALIGNMENT;
use super::program::{Program, Section};
use crate::plan::batch::ImageInput;
use crate::plan::{Batch, Input, Sequence, Taken};

/// Where sections and outputs lie in batches of a bucket, in bytes from the start of their region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Per section of the program.
    pub(crate) sections: Vec<Range<usize>>,
    pub(crate) input_bytes: usize,
    /// Per output of the plan: f32.
    pub(crate) outputs: Vec<Range<usize>>,
    pub(crate) output_bytes: usize,
}

impl Layout {
    pub(crate) fn of(program: &Program, input: &Input, bucket: &Bucket) -> Layout {
        let number = size_of::<u32>();
        let pixels = match input {
            Input::Tokens(_) => 0,
            Input::Images(image) => covered_bytes(image),
        };
        let bytes = |section: &Section| match section {
            Section::Ids | Section::Positions | Section::Types | Section::Columns => bucket.tokens * number,
            Section::Spans => bucket.spans() * 4 * number,
            Section::Probes => bucket.items * 4 * number,
            Section::Ranges { .. } => bucket.items * 2 * number,
            Section::Rows(_) => bucket.items * number,
            Section::Pixels => bucket.items * pixels,
        };
        let (sections, input_bytes) = stacked(program.sections.iter().map(bytes));
        let output = |value: &super::program::ValueId| {
            let value = &program.values[value.0];
            bucket.rows(value.axis) * value.columns * size_of::<f32>()
        };
        let (outputs, output_bytes) = stacked(program.outputs.iter().map(output));
        Layout { sections, input_bytes, outputs, output_bytes }
    }
}

/// Ranges one behind the other, aligned, and where the last of them ends.
fn stacked(sizes: impl Iterator<Item = usize>) -> (Vec<Range<usize>>, usize) {
    let mut end: usize = 0;
    let ranges: Vec<Range<usize>> = sizes
        .map(|size| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + size;
            start..end
        })
        .collect();
    (ranges, end)
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

/// Bytes of the pixels of an image that patches cover.
fn covered_bytes(image: &ImageInput) -> usize {
    let (height, width) = image.covered();
    image.channels * height * width * size_of::<f32>()
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
                    (real.start + self.taken(*taken, sequence)) as u32
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

    /// Which token of a sequence stands for it.
    fn taken(&self, taken: Taken, sequence: &Sequence) -> usize {
        let ids = || &self.batch.ids[sequence.tokens.start..sequence.tokens.start + sequence.real];
        match taken {
            Taken::First => 0,
            Taken::Last => sequence.real - 1,
            Taken::Id(id) => ids().iter().position(|other| *other == id).unwrap_or(0),
            Taken::LargestId => {
                let largest = ids().iter().max();
                ids().iter().position(|id| Some(id) == largest).unwrap_or(0)
            }
        }
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
