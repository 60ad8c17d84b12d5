//! Position biases and tables that are computed from what is stored.

use super::resize::resized;
use super::spec::{DisentangledSpec, EncoderSpec, FirstTokens, PatchPositions};
use crate::error::ModelError;
use crate::plan::batch::ImageInput;
use crate::plan::{BiasRecipe, BiasValues, PlanBuilder, VectorId, VectorRecipe};
use crate::weights::Weights;

/// The positions of all tokens of an image, `[tokens, hidden]`: 0 for first tokens without one.
pub(super) fn of_patches(
    plan: &mut PlanBuilder,
    image: &ImageInput,
    first: &[FirstTokens],
    positions: &PatchPositions,
    prefix: &str,
    hidden: usize,
) -> VectorId {
    let (tensor, shape) = (format!("{prefix}{}", positions.tensor), positions.shape.clone());
    let tokens = |first: &FirstTokens| first.shape.iter().product::<usize>() / hidden.max(1);
    let first: Vec<(usize, bool)> = first.iter().map(|first| (tokens(first), first.positioned)).collect();
    let (resize, grid) = (positions.resize, image.grid());
    let read = move |weights: &Weights| {
        let stored = weights.floats(&tensor, &shape)?;
        let mut rest = &stored[..];
        let mut all = Vec::new();
        for (tokens, positioned) in &first {
            if *positioned {
                let (rows, behind) = rest.split_at((tokens * hidden).min(rest.len()));
                all.extend(rows);
                rest = behind;
            } else {
                all.resize(all.len() + tokens * hidden, 0.0);
            }
        }
        match resize {
            Some(resize) => all.extend(resized(rest, hidden, &resize, grid)),
            None => all.extend(rest),
        }
        Ok(all)
    };
    plan.computed_vector(VectorRecipe { len: image.tokens() * hidden, read: Box::new(read) })
}

/// ALiBi: `-slope * |distance|`.
///
/// Source: Press et al. 2022; slopes of head numbers that are no power of two as in the authors' code.
pub(super) fn alibi(heads: usize, longest: usize) -> BiasRecipe {
    let reach = longest.saturating_sub(1);
    let power = 1usize << heads.ilog2();
    let slope = move |head: usize| match head.checked_sub(power) {
        None => 2f64.powf(-8.0 * (head + 1) as f64 / power as f64),
        Some(rest) => 2f64.powf(-8.0 * (2 * rest + 1) as f64 / (2 * power) as f64),
    };
    let read = move |_: &Weights| {
        let row = |head: usize| (0..2 * reach + 1).map(move |at| (-slope(head) * at.abs_diff(reach) as f64) as f32);
        Ok(BiasValues::Distance { table: (0..heads).flat_map(row).collect(), reach })
    };
    BiasRecipe { read: Box::new(read), bytes: heads * (2 * reach + 1) * size_of::<f32>() }
}

/// A number per head and bucket of distances.
pub(super) fn buckets(_tensor: String, _buckets: usize, _heads: usize, _longest: usize) -> BiasRecipe {
    todo!()
}

/// DeBERTa's keys and queries of positions for one layer.
pub(super) fn disentangled(
    _spec: &EncoderSpec,
    _relative: &DisentangledSpec,
    _prefix: &str,
    _layer: &str,
    _weights: &Weights,
) -> Result<BiasRecipe, ModelError> {
    todo!()
}
