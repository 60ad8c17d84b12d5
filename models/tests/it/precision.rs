//! How far results in bf16 are from those in f32, for every family.

use models::plan::Executor;
use models::{Precision, Task};

use crate::families::executor;
use crate::recorded::{DIRECTORIES, Fixture, batch, items, part};

/// The smallest cosine between an embedding in bf16 and in f32.
const LEAST_COSINE: f64 = 0.9999;
/// The largest distance of other results in bf16 from those in f32, relative to the length of an item's values.
const MOST_DISTANCE: f64 = 0.03;

/// The cosine of the angle between two vectors.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The length of the difference over the length of `want`.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let difference: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
    (dot(&difference, &difference) / dot(want, want)).sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn bf16_results_are_close_to_those_of_f32() {
    let (mut least, mut most) = (1f64, 0f64);
    for (name, choice) in DIRECTORIES {
        let fixture = Fixture::read(name);
        let (card, mut exact) = executor(&fixture.directory, *choice, 1, Precision::F32);
        let (_, mut rounded) = executor(&fixture.directory, *choice, 1, Precision::Bf16);
        let items = items(&fixture, &card.encoder.input);
        let batch = batch(&card.encoder.input, &items);
        let (want, got) = (exact.enqueue(&batch).unwrap().remove(0), rounded.enqueue(&batch).unwrap().remove(0));
        assert_ne!(want, got, "{name}: nothing was rounded");
        for index in 0..items.len() {
            let (want, got) = (part(&card, &batch, &want, index), part(&card, &batch, &got, index));
            if card.task == Task::Embedding {
                let cosine = cosine(got, want);
                assert!(cosine >= LEAST_COSINE, "{name}, item {index}: cosine {cosine}");
                least = least.min(cosine);
            } else {
                let distance = distance(got, want);
                assert!(distance <= MOST_DISTANCE, "{name}, item {index}: distance {distance}");
                most = most.max(distance);
            }
        }
    }
    // Shown by `cargo test -- --nocapture`.
    println!("least cosine of embeddings {least:.6}, largest relative distance of others {most:.4}");
}
