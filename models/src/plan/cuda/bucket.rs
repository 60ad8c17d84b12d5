//! Sizes that batches are filled up to, so that few shapes come back often: products are tuned and graphs recorded per shape.

use crate::plan::{Axis, Input};

/// Tokens of a piece of the filling behind a batch: it attends within pieces, so that it costs next to nothing.
pub(crate) const PIECE: usize = 32;
/// The shortest of the lengths that the longest sequence of a batch is rounded to.
const SHORTEST: usize = 32;

/// The size of a batch on the device, filling included. Everything that launches depend on, addresses among it, follows from
/// the program and this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bucket {
    pub(crate) tokens: usize,
    pub(crate) items: usize,
    pub(crate) patches: usize,
    /// At least as long as any sequence.
    pub(crate) longest: usize,
}

impl Bucket {
    /// The bucket of so many tokens and items. Images are not filled up: each costs too much, and batches have few sizes.
    pub(crate) fn of(input: &Input, tokens: usize, items: usize, longest: usize) -> Bucket {
        match input {
            Input::Tokens(_) => Bucket {
                tokens: round_tokens(tokens),
                items: round_items(items),
                patches: 0,
                longest: longest.max(SHORTEST).next_power_of_two(),
            },
            Input::Images(image) => {
                let tokens = image.tokens();
                Bucket { tokens: items * tokens, items, patches: items * image.patches(), longest: tokens }
            }
        }
    }

    /// The largest bucket of a lane for so many tokens and items; at least one item.
    pub(crate) fn largest(input: &Input, max_tokens: usize, max_items: usize) -> Bucket {
        match input {
            Input::Tokens(tokens) => {
                let most = max_tokens.max(1);
                Bucket::of(input, most, max_items.clamp(1, most), tokens.positions.min(most))
            }
            Input::Images(image) => {
                let items = (max_tokens / image.tokens().max(1)).min(max_items).max(1);
                Bucket::of(input, items * image.tokens(), items, image.tokens())
            }
        }
    }

    /// Rows of an axis, filling included.
    pub(crate) fn rows(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tokens => self.tokens,
            Axis::Patches => self.patches,
            Axis::Items => self.items,
        }
    }

    /// Spans of self-attention: one per sequence, and those of the filling.
    pub(crate) fn spans(&self) -> usize {
        self.items + if self.patches > 0 { 0 } else { (step(self.tokens) - 1).div_ceil(PIECE) }
    }
}

/// By how much numbers of tokens grow from one bucket to the next.
fn step(tokens: usize) -> usize {
    match tokens {
        0..=256 => 16,
        257..=2048 => 64,
        _ => 256,
    }
}

fn round_tokens(tokens: usize) -> usize {
    tokens.max(1).next_multiple_of(step(tokens))
}

fn round_items(items: usize) -> usize {
    match items {
        0..=8 => items.max(1).next_power_of_two(),
        9..=64 => items.next_multiple_of(8),
        65..=256 => items.next_multiple_of(32),
        _ => items.next_multiple_of(128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_close_above_what_they_hold() {
        for tokens in 1..5000usize {
            let rounded = round_tokens(tokens);
            assert!(rounded >= tokens && rounded - tokens < step(rounded), "{tokens}: {rounded}");
            assert_eq!(round_tokens(rounded), rounded, "{tokens}");
        }
        for items in 1..2000usize {
            let rounded = round_items(items);
            assert!(rounded >= items && (rounded == 1 || rounded <= 2 * items), "{items}: {rounded}");
            assert_eq!(round_items(rounded), rounded, "{items}");
        }
    }
}
