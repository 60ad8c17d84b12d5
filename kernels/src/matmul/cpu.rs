//! The order in which tiles are computed, and who computes them.
//!
//! A member of the team takes some rows and some panels. It goes through its rows in blocks that stay in the second cache,
//! for each block through its panels, and for each panel through the tiles of the block: so weights, the larger part, come
//! from memory once per block, and are asked for a block ahead. Panels with many inputs are cut into blocks of steps that
//! stay in that cache too; the sums of a tile then pass through memory, which changes no bit.

use super::epilogue::{Finish, Quantized, finish};
use super::kernel::{Input, Kernel};
use super::pack;
use super::tile::Tile;
use super::{Epilogue, Packed, Residual, quantize};
use crate::aligned::Aligned;
use crate::team::{Share, Team};

/// Bytes of a block of rows, which stays in the second cache of a core beside the panels.
const ROWS_BYTES: usize = 384 << 10;

/// Bytes of a block of a panel, which passes from the second cache through the first for every tile.
const PANEL_BYTES: usize = 96 << 10;

/// Sizes that depend on the weights alone.
struct Blocks {
    kernel: &'static Kernel,
    /// Steps over all inputs.
    steps: usize,
    /// Steps of a block of a panel.
    block_steps: usize,
    /// The most rows of a block.
    block_rows: usize,
    /// Words from one row of the input to the next, as the kernel reads them.
    stride: usize,
    /// Whether rows are copied before they are read.
    converts: bool,
}

impl Blocks {
    fn of(weights: &Packed) -> Blocks {
        let kernel = Kernel::of(weights.isa, weights.precision);
        let steps = weights.inputs.div_ceil(kernel.weights_per_step);
        // Blocks of even sizes, of which a short last one would make the most of the cost of keeping sums.
        let count = steps.div_ceil((PANEL_BYTES / (4 * kernel.width)).max(1)).max(1);
        let block_steps = steps.div_ceil(count).max(1);
        let words = pack::row_words(kernel, weights.inputs);
        // Rows that lie a multiple of 4 KB apart fall into the same few lines of the first cache.
        let converts = kernel.input != Input::F32 || words.is_multiple_of(1024);
        let stride = match words.next_multiple_of(16) {
            lines if converts && lines.is_multiple_of(1024) => lines + 16,
            lines if converts => lines,
            _ => words,
        };
        let block_rows = (ROWS_BYTES / (4 * stride.max(1))).max(4 * kernel.rows());
        Blocks { kernel, steps, block_steps, block_rows, stride, converts }
    }

    /// Words for the sums of one panel.
    fn sums_words(&self) -> usize {
        let rows = if self.block_steps < self.steps { self.block_rows } else { self.kernel.rows() };
        rows * self.kernel.width
    }

    fn scratch_words(&self) -> usize {
        self.sums_words() + if self.converts { self.block_rows * self.stride } else { 0 }
    }
}

pub(super) fn scratch_bytes(weights: &Packed) -> usize {
    4 * Blocks::of(weights).scratch_words()
}

/// The result of a product, of which every member of a team writes another part.
struct Output(*mut f32);

// SAFETY: members write to the tiles of their own share only, and shares have no tile in common (`Cut`).
unsafe impl Sync for Output {}

pub(super) fn matmul(team: &Team, input: &[f32], weights: &Packed, epilogue: &Epilogue<'_>, output: &mut [f32]) {
    if output.is_empty() {
        return;
    }
    let blocks = Blocks::of(weights);
    let rows = output.len() / weights.outputs;
    let panels = weights.outputs.div_ceil(blocks.kernel.width);
    let cut = Cut::of(team.threads(), rows.div_ceil(blocks.kernel.rows()), panels);
    let product = Product { blocks, input, weights, epilogue, output: Output(output.as_mut_ptr()) };
    team.run(|share, scratch| {
        if let Some((by_rows, by_panels)) = cut.share(share) {
            product.part(by_rows.of(rows), by_panels.of(panels), scratch);
        }
    });
}

/// How a product is cut among the members of a team.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    by_rows: usize,
    by_panels: usize,
}

impl Cut {
    /// The cut whose largest part is smallest; of several, the one with the fewest cuts through the rows, because members
    /// that share panels read the same weights.
    fn of(threads: usize, tiles: usize, panels: usize) -> Cut {
        let cuts = (1..=threads).map(|by_rows| Cut { by_rows, by_panels: threads / by_rows });
        let largest = |cut: &Cut| tiles.div_ceil(cut.by_rows) * panels.div_ceil(cut.by_panels);
        cuts.min_by_key(largest).unwrap_or(Cut { by_rows: 1, by_panels: 1 })
    }

    /// A member's share of the rows and of the panels, if there is work for it.
    fn share(&self, share: Share) -> Option<(Share, Share)> {
        (share.index < self.by_rows * self.by_panels).then(|| {
            let rows = Share { index: share.index / self.by_panels, count: self.by_rows };
            (rows, Share { index: share.index % self.by_panels, count: self.by_panels })
        })
    }
}

/// A product in the middle of being computed.
struct Product<'a> {
    blocks: Blocks,
    input: &'a [f32],
    weights: &'a Packed,
    epilogue: &'a Epilogue<'a>,
    output: Output,
}

/// A block of rows as the kernel reads it.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// The first row's index in the input.
    first: usize,
    count: usize,
    words: &'a [f32],
}

/// What is added to the sums of one tile at a time.
struct Part<'a> {
    /// Rows of the tile.
    rows: usize,
    /// The tile's rows, from the first step of the block of the panel on.
    input: &'a [f32],
    /// The block of the panel.
    weights: &'a [f32],
    /// Whether there are sums of the steps before.
    resume: bool,
    /// Which tile it is of those that read this block.
    tile: Share,
}

impl Rows<'_> {
    /// The rows of each tile, counted from the block's first: as even as possible, because short tiles are slower.
    fn tiles(self, kernel: &Kernel) -> impl Iterator<Item = (Share, std::ops::Range<usize>)> {
        let count = self.count.div_ceil(kernel.rows());
        (0..count).map(move |index| Share { index, count }).map(move |share| (share, share.of(self.count)))
    }
}

impl Product<'_> {
    /// The outputs of these panels for these rows.
    fn part(&self, rows: std::ops::Range<usize>, panels: std::ops::Range<usize>, scratch: &mut Aligned) {
        let (blocks, k) = (&self.blocks, self.weights.inputs);
        let scratch = scratch.as_mut_slice::<f32>();
        assert!(scratch.len() >= blocks.scratch_words(), "the team's scratch memory is too small for these weights");
        let (sums, converted) = scratch.split_at_mut(blocks.sums_words());
        let count = rows.len().div_ceil(blocks.block_rows);
        for block in 0..count {
            let part = Share { index: block, count }.of(rows.len());
            let (first, count) = (rows.start + part.start, part.len());
            let mut words = &self.input[first * k..][..count * k];
            if blocks.converts {
                let converted = &mut converted[..count * blocks.stride];
                pack::convert(self.weights.isa, blocks.kernel, words, k, converted, blocks.stride);
                words = converted;
            }
            for panel in panels.clone() {
                self.panel(Rows { first, count, words }, panel, sums);
            }
        }
    }

    /// The outputs of one panel for a block of rows.
    fn panel(&self, rows: Rows<'_>, panel: usize, sums: &mut [f32]) {
        let Blocks { kernel, steps, block_steps, .. } = self.blocks;
        let words = steps * kernel.width;
        let weights = &self.weights.panels.as_slice::<f32>()[panel * words..][..words];
        // Whether sums wait in memory for further steps.
        let kept = block_steps < steps;
        for block in 0..steps.div_ceil(block_steps) {
            let start = block * block_steps;
            let end = (start + block_steps).min(steps);
            for (share, tile) in rows.tiles(kernel) {
                let at = if kept { tile.start * kernel.width } else { 0 };
                let sums = &mut sums[at..][..tile.len() * kernel.width];
                let input = &rows.words[tile.start * self.blocks.stride + start * kernel.input_words..];
                let weights = &weights[start * kernel.width..end * kernel.width];
                self.add(Part { rows: tile.len(), input, weights, resume: start > 0, tile: share }, sums);
                if end == steps {
                    self.finish(rows, tile, panel, sums);
                }
            }
        }
    }

    /// Adds the products of a tile with a block of a panel to its sums.
    fn add(&self, part: Part<'_>, sums: &mut [f32]) {
        let Part { rows, input, weights, resume, tile } = part;
        let Blocks { kernel, stride, .. } = self.blocks;
        let steps = weights.len() / kernel.width;
        // Every tile asks for its part of what follows these weights in memory: the next block, or the next panel's first.
        let soon_words = kernel.width.div_ceil(tile.count);
        assert!(input.len() >= (rows - 1) * stride + steps * kernel.input_words && sums.len() >= rows * kernel.width);
        let tile = Tile {
            input: input.as_ptr(),
            stride,
            weights: weights.as_ptr(),
            steps,
            resume,
            sums: sums.as_mut_ptr(),
            soon: weights.as_ptr().wrapping_add(weights.len() + tile.index * steps * soon_words),
            soon_words,
        };
        // SAFETY: the instructions are those of the team, which the processor has; the lengths were just checked, and the sums
        // are borrowed for this call alone.
        unsafe { kernel.add(rows, &tile) }
    }

    /// Writes the results of a tile whose sums are complete.
    fn finish(&self, block: Rows<'_>, tile: std::ops::Range<usize>, panel: usize, sums: &[f32]) {
        let (row, rows) = (block.first + tile.start, tile.len());
        let (width, n) = (self.blocks.kernel.width, self.weights.outputs);
        let column = panel * width;
        let columns = (n - column).min(width);
        assert!(sums.len() >= rows * width);
        let at = row * n + column;
        let output = self.output.0.wrapping_add(at);
        let tile = Finish {
            sums: sums.as_ptr(),
            width,
            rows,
            columns,
            bias: self.epilogue.bias.map_or(std::ptr::null(), |bias| bias[column..][..columns].as_ptr()),
            residual: match self.epilogue.residual {
                Residual::None => std::ptr::null(),
                Residual::Add(residual) => residual[at..][..(rows - 1) * n + columns].as_ptr(),
                Residual::Accumulate => output,
            },
            output,
            stride: n,
            activation: self.epilogue.activation,
            quantized: self.quantized(block, tile, panel),
        };
        // SAFETY: `sums`, bias and residual are as long as the tile needs (just checked or sliced so). The tile lies inside
        // the output, which has `row + rows` rows at least and `column + columns` columns, and belongs to this member's share
        // alone; the residual that is the output is read before the same numbers are written.
        unsafe { finish(self.weights.isa, tile) }
    }

    /// The parameters of a tile of integers.
    fn quantized(&self, block: Rows<'_>, tile: std::ops::Range<usize>, panel: usize) -> Option<Quantized> {
        let Blocks { kernel, steps, stride, .. } = self.blocks;
        if !matches!(kernel.input, Input::Bytes | Input::Wide) {
            return None;
        }
        // Behind the integers of a row, and behind all panels.
        let integers = steps * kernel.input_words;
        let rows = &block.words[tile.start * stride + integers..][..(tile.len() - 1) * stride + quantize::ROW_WORDS];
        let panels = self.weights.outputs.div_ceil(kernel.width);
        let words = quantize::parameter_words(kernel.width);
        let parameters = &self.weights.panels.as_slice::<f32>()[panels * steps * kernel.width..];
        Some(Quantized { rows: rows.as_ptr(), stride, outputs: parameters[panel * words..][..words].as_ptr() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tile of every panel belongs to exactly one member, and no member has more than its part.
    #[test]
    fn a_cut_covers_everything_once() {
        for threads in 1..10 {
            for (tiles, panels) in [(1, 1), (1, 12), (20, 12), (20, 36), (3, 1), (7, 5), (40, 2)] {
                let cut = Cut::of(threads, tiles, panels);
                let mut done = vec![0; tiles * panels];
                for index in 0..threads {
                    let Some((rows, columns)) = cut.share(Share { index, count: threads }) else { continue };
                    for tile in rows.of(tiles) {
                        columns.of(panels).for_each(|panel| done[tile * panels + panel] += 1);
                    }
                }
                assert!(done.iter().all(|count| *count == 1), "{threads} threads, {tiles} tiles, {panels} panels: {done:?}");
            }
        }
    }

    #[test]
    fn panels_are_cut_before_rows() {
        assert_eq!(Cut::of(2, 20, 12), Cut { by_rows: 1, by_panels: 2 });
        assert_eq!(Cut::of(1, 20, 12), Cut { by_rows: 1, by_panels: 1 });
        // Three panels are too few for four members.
        assert_eq!(Cut::of(4, 20, 3), Cut { by_rows: 4, by_panels: 1 });
    }
}
