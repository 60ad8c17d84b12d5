//! Position biases and tables that are computed from what is stored.

use kernels::isa::Isa;
use kernels::matmul::{Epilogue, Packed, Precision, matmul};
use kernels::norm::Norm;
use kernels::team::Team;

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
    let name = tensor.clone();
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
    plan.computed_vector(VectorRecipe { name, len: image.tokens() * hidden, read: Box::new(read) })
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

/// The smallest distances of the buckets from [`EXACT_BUCKETS`] on: `8 * 16^(n / 8)`, rounded up. Compared as whole
/// numbers, so that no rounding of logarithms decides.
const BUCKET_STARTS: [usize; 8] = [8, 12, 16, 23, 32, 46, 64, 91];
/// Distances below this have a bucket of their own.
const EXACT_BUCKETS: usize = 8;
/// Buckets of one direction.
const DIRECTION_BUCKETS: usize = 16;

/// The bucket of MPNet for a key `distance` rows from its query: before it or in its place `true`, behind it `false`.
fn bucket(distance: usize, before: bool) -> usize {
    let bucket = match distance {
        0..EXACT_BUCKETS => distance,
        far => EXACT_BUCKETS - 1 + BUCKET_STARTS.iter().filter(|start| **start <= far).count(),
    };
    bucket + if before { 0 } else { DIRECTION_BUCKETS }
}

/// A number per head and bucket of distances, from `tensor: [buckets, heads]`.
///
/// Source: Raffel et al. 2020 (T5's buckets, with 32 of them up to distance 128).
pub(super) fn buckets(tensor: String, buckets: usize, heads: usize, longest: usize) -> BiasRecipe {
    // Farther keys are all in the last bucket.
    let reach = longest.saturating_sub(1).min(BUCKET_STARTS[BUCKET_STARTS.len() - 1]);
    let read = move |weights: &Weights| {
        let stored = weights.floats(&tensor, &[buckets, heads])?;
        let of = |at: usize| bucket(at.abs_diff(reach), at <= reach);
        let row = |head: usize| {
            let stored = &stored;
            (0..2 * reach + 1).map(move |at| stored[of(at) * heads + head])
        };
        Ok(BiasValues::Distance { table: (0..heads).flat_map(row).collect(), reach })
    };
    BiasRecipe { read: Box::new(read), bytes: heads * (2 * reach + 1) * size_of::<f32>() }
}

/// The row of DeBERTa's table for a query `distance` rows behind its key.
///
/// Source: He et al. 2023, the released code: distances beyond half of the buckets grow by their logarithm.
fn relative_row(distance: i64, span: usize, buckets: Option<(usize, usize)>) -> u32 {
    let far = distance.unsigned_abs();
    let bucket = match buckets {
        Some((buckets, largest)) if far > buckets as u64 / 2 => {
            let middle = (buckets / 2) as f64;
            let share = (far as f64 / middle).ln() / ((largest - 1) as f64 / middle).ln();
            distance.signum() * (middle + (share * (middle - 1.0)).ceil()) as i64
        }
        _ => distance,
    };
    let span = span as i64;
    (bucket + span).clamp(0, 2 * span - 1) as u32
}

/// DeBERTa's keys and queries of positions for one layer: the table of positions through the layer's projections, which
/// are the same for all texts and so computed once, in f32.
pub(super) fn disentangled(spec: &EncoderSpec, relative: &DisentangledSpec, prefix: &str, layer: &str) -> BiasRecipe {
    let (hidden, eps, span, buckets) = (spec.hidden_size, spec.norm.eps as f32, relative.span, relative.buckets);
    // Without buckets, farther distances share the last row.
    let reach = spec.input.longest().saturating_sub(1);
    let reach = if buckets.is_none() { reach.min(span) } else { reach };
    let table = format!("{prefix}{}", relative.table);
    let norm = relative.norm.as_ref().map(|norm| format!("{prefix}{norm}"));
    let projection = |name: Option<&str>| name.map(|name| format!("{layer}{name}"));
    let (key, query) = (projection(relative.key), projection(relative.query));
    let vectors = usize::from(key.is_some()) + usize::from(query.is_some());
    let bytes = (vectors * 2 * span * hidden + 2 * reach + 1) * size_of::<f32>();
    let read = move |weights: &Weights| {
        let mut positions = weights.floats(&table, &[2 * span, hidden])?;
        let team = Team::single(0);
        if let Some(name) = &norm {
            let (weight, bias) = (weights.norm(name, 0, hidden)?, weights.norm(name, 1, hidden)?);
            let stored = std::mem::take(&mut positions);
            positions.resize(stored.len(), 0.0);
            kernels::norm::norm(&team, &stored, None, &Norm { weight: &weight, bias: Some(&bias), eps }, &mut positions);
        }
        let project = |name: &Option<String>| name.as_ref().map(|name| projected(weights, name, &positions, hidden)).transpose();
        let (keys, queries) = (project(&key)?, project(&query)?);
        let reach = reach as i64;
        let rows = (-reach..=reach).map(|distance| relative_row(distance, span, buckets)).collect();
        Ok(BiasValues::Disentangled { keys, queries, rows })
    };
    BiasRecipe { read: Box::new(read), bytes }
}

/// The linear layer `name` on `rows: [n, hidden]`.
fn projected(weights: &Weights, name: &str, rows: &[f32], hidden: usize) -> Result<Vec<f32>, ModelError> {
    let weight = weights.floats(&format!("{name}.weight"), &[hidden, hidden])?;
    let bias = weights.floats(&format!("{name}.bias"), &[hidden])?;
    let packed = Packed::pack(Isa::detect(), Precision::F32, &weight, hidden, hidden);
    let mut result = vec![0.0; rows.len()];
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
    matmul(&Team::single(packed.scratch_bytes()), rows, &packed, &epilogue, &mut result);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_the_formula() {
        for distance in 0..2000usize {
            let far = (distance as f64 / 8.0).ln() / 16f64.ln() * 8.0;
            let want = if distance < 8 { distance } else { (8 + far.floor() as usize).min(15) };
            assert_eq!(bucket(distance, true), want, "{distance}");
            assert_eq!(bucket(distance, false), want + 16, "{distance}");
        }
    }

    #[test]
    fn alibi_slopes_are_powers_of_two_and_halves_between_them() {
        let BiasValues::Distance { table, reach } = (alibi(6, 3).read)(&no_weights()).unwrap() else { panic!("another bias") };
        let slopes: Vec<f32> = (0..6).map(|head| -table[head * 5 + reach + 1]).collect();
        let want = [-2.0, -4.0, -6.0, -8.0, -1.0, -3.0].map(f32::exp2);
        assert_eq!((slopes, reach), (want.to_vec(), 2));
        assert_eq!(table[..5], [-0.5, -0.25, 0.0, -0.25, -0.5]);
    }

    #[test]
    fn relative_rows_grow_by_the_logarithm_beyond_the_middle() {
        // 16 buckets up to distance 80: 8 of each direction are exact.
        let row = |distance| relative_row(distance, 16, Some((16, 80)));
        assert_eq!([-8, -1, 0, 1, 8].map(row), [8, 15, 16, 17, 24]);
        assert_eq!([9, 79, 80, 1000].map(row), [25, 31, 31, 31]);
        assert_eq!([-9, -79, -80, -1000].map(row), [7, 1, 0, 0]);
        let plain = |distance| relative_row(distance, 20, None);
        assert_eq!([-1000, -20, -19, 19, 20, 1000].map(plain), [0, 0, 1, 39, 39, 39]);
    }

    #[test]
    fn memory_is_known_before_values_are_read() {
        let families = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families");
        for (name, count) in
            [("mpnet-embedding", 1), ("jina-bert-embedding", 1), ("deberta-v2-hidden", 3), ("deberta-v2-labels", 3)]
        {
            let card = crate::ModelCard::read(&families.join(name)).unwrap();
            let weights = Weights::open(&card.directory).unwrap();
            let plan = crate::encoder::plan(&card, &weights).unwrap();
            assert_eq!(plan.recipes.biases.len(), count, "{name}");
            for bias in &plan.recipes.biases {
                let bytes = match (bias.read)(&weights).unwrap() {
                    BiasValues::Distance { table, .. } => size_of_val(&table[..]),
                    BiasValues::Disentangled { keys, queries, rows } => {
                        let vectors = [keys, queries].into_iter().flatten();
                        size_of_val(&rows[..]) + vectors.map(|values| size_of_val(&values[..])).sum::<usize>()
                    }
                };
                assert_eq!(bytes, bias.bytes, "{name}");
            }
        }
    }

    /// Weights without tensors.
    fn no_weights() -> Weights {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.safetensors");
        std::fs::write(&path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
        Weights::open_file(&path).unwrap()
    }
}
