//! Every family on the device against outputs recorded from the original framework.

use models::cuda::{Graphs, Precision};
use models::plan::{Executor, Input};
use models::{Choice, Task, Tower};

use crate::device::{assert_clean, gpu, lane, load};
use crate::recorded::{DIRECTORIES, Fixture, batch, difference, items, part};

/// How far results may be from the recorded double-precision ones, relative to the size of the values where that is above 1.
/// Activations of 16 bits are rounded some fifteen times per layer, each time by up to 2^-11 (f16) or 2^-8 (bf16).
const TOLERANCES: [(Precision, f32); 3] = [(Precision::F32, 5e-6), (Precision::F16, 5e-3), (Precision::Bf16, 4e-2)];

/// Compares what was recorded as `recorded`, for so many items at least: the largest difference.
fn check(name: &str, choice: Choice, recorded: &str, least: usize, precision: Precision, tolerance: f32) -> f32 {
    let gpu = gpu();
    let fixture = Fixture::read(name);
    let (card, model) = load(&gpu, &fixture.directory, choice, precision, name);
    let items = items(&fixture, &card.encoder.input);
    let together = batch(&card.encoder.input, &items);
    let mut lane = lane(&model, together.tokens(), items.len(), Graphs::Off);
    let results = lane.enqueue(&together).unwrap();
    let (mut compared, mut largest) = (0, 0f32);
    for (index, item) in items.iter().enumerate() {
        let got = part(&card, &together, &results[0], index);
        assert!(got.iter().all(|value| value.is_finite()), "{name}, item {index}: not finite");
        // Of a few, as this takes long on the emulated device.
        if index < 2 {
            let single = batch(&card.encoder.input, [item]);
            let alone = lane.enqueue(&single).unwrap();
            // The library may choose another way for another number of rows, so bits may differ, by less than from the recording.
            let apart = difference(got, part(&card, &single, &alone[0], 0));
            assert!(apart <= tolerance, "{name}, {precision:?}, item {index}: {apart:e} alone from in a batch");
        }
        let Some(want) = fixture.values(&format!("{recorded}.{index}")) else { continue };
        let difference = difference(got, &want);
        assert!(difference <= tolerance, "{name}, {precision:?}, {recorded}.{index}: {difference:e}");
        largest = largest.max(difference);
        compared += 1;
    }
    assert!(compared >= least, "{name}: {compared} results of {recorded} compared");
    largest
}

fn check_all(precision: Precision) {
    let tolerance = TOLERANCES.iter().find(|(known, _)| *known == precision).unwrap().1;
    let mut worst = (0f32, "");
    for (name, choice) in DIRECTORIES {
        let of_images = choice.tower == Some(Tower::Vision);
        let recorded = if of_images { "image_output" } else { "output" };
        let mut largest = check(name, *choice, recorded, 3, precision, tolerance);
        if choice.task != Some(Task::HiddenStates) {
            let recorded = if of_images { "image_hidden" } else { "hidden" };
            let choice = Choice { task: Some(Task::HiddenStates), ..*choice };
            largest = largest.max(check(name, choice, recorded, 1, precision, tolerance));
        }
        println!("{name} {choice:?} {}: {largest:.1e}", precision.name());
        if largest > worst.0 {
            worst = (largest, name);
        }
    }
    println!("{}: at most {:.1e} ({}), allowed {tolerance:.0e}", precision.name(), worst.0, worst.1);
    assert_clean();
}

#[test]
fn outputs_in_f32_are_those_of_the_original_models() {
    check_all(Precision::F32);
}

#[test]
fn outputs_in_f16_are_those_of_the_original_models() {
    check_all(Precision::F16);
}

#[test]
fn outputs_in_bf16_are_those_of_the_original_models() {
    check_all(Precision::Bf16);
}

#[test]
fn numbers_are_rounded_in_16_bits() {
    let gpu = gpu();
    let fixture = Fixture::read("bert-tokens");
    let outputs = [Precision::F32, Precision::F16, Precision::Bf16].map(|precision| {
        let (card, model) = load(&gpu, &fixture.directory, Choice::default(), precision, "rounding");
        let items = items(&fixture, &card.encoder.input);
        let Input::Tokens(_) = &card.encoder.input else { panic!("a model of texts") };
        let batch = batch(&card.encoder.input, &items);
        lane(&model, batch.tokens(), items.len(), Graphs::Off).enqueue(&batch).unwrap().remove(0).values.to_vec()
    });
    assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2] && outputs[0] != outputs[2], "nothing was rounded");
    assert_clean();
}
