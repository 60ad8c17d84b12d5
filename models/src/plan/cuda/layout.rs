//! What comes with a batch in one copy and leaves in one copy: where each part lies.

use std::ops::Range;

use super::bucket::Bucket;
use super::place::ALIGNMENT;
use super::program::{Program, Section, Stored};
use crate::plan::Input;
use crate::plan::batch::ImageInput;

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
        let number = Stored::U32.bytes();
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

/// Bytes of the pixels of an image that patches cover.
pub(super) fn covered_bytes(image: &ImageInput) -> usize {
    let (height, width) = image.covered();
    image.channels * height * width * size_of::<f32>()
}
