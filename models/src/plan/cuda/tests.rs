//! What plans become, where it lies, and what it is predicted to take: no GPU is needed for any of it.

use std::collections::HashMap;
use std::path::Path;

use super::bucket::Bucket;
use super::layout::Layout;
use super::lower::{is_fused, lower};
use super::memory::{Bytes, WORKSPACE_BYTES};
use super::pack::fill;
use super::place::{ALIGNMENT, Placement, value_bytes};
use super::program::{Action, Program, Section, Stored};
use super::{Planner, Precision, Room};
use crate::card::{Choice, ModelCard, Task, Tower};
use crate::encoder;
use crate::error::ModelError;
use crate::plan::batch::{Batch, Integers, Texts};
use crate::plan::{Axis, Input, Plan};
use crate::weights::Weights;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

/// Every directory of the fixtures of families, with its towers and tasks.
fn plans() -> Vec<(String, Plan, Weights)> {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(families).unwrap() {
        let dir = entry.unwrap().path();
        for tower in [None, Some(Tower::Text), Some(Tower::Vision)] {
            for task in [None, Some(Task::HiddenStates), Some(Task::FillMask)] {
                let Ok(card) = ModelCard::read_as(&dir, Choice { task, tower }) else { continue };
                let weights = Weights::open(&card.directory).unwrap();
                let Ok(plan) = encoder::plan(&card, &weights) else { continue };
                all.push((format!("{} {tower:?} {task:?}", dir.display()), plan, weights));
            }
        }
    }
    assert!(all.len() > 60, "{} plans", all.len());
    all
}

fn plan(name: &str, task: Option<Task>) -> (Plan, Weights) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let card = ModelCard::read_as(&dir, Choice { task, tower: None }).unwrap();
    let weights = Weights::open(&card.directory).unwrap();
    (encoder::plan(&card, &weights).unwrap(), weights)
}

/// Launches between one attention and the next.
fn launches_of_a_layer(program: &Program) -> Vec<usize> {
    let attentions: Vec<usize> =
        (0..program.actions.len()).filter(|index| matches!(program.actions[*index], Action::Attention { .. })).collect();
    attentions.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn layers_have_seven_launches_and_one_more_for_exact_gelu() {
    for (name, want) in [("bert", 8), ("families/siglip-text", 7), ("families/vit-hidden", 8)] {
        let (plan, _) = plan(name, None);
        // Sizes of the fixtures are no multiples of eight; tests on a device count those of models that are like published ones.
        let layers = launches_of_a_layer(&lower(&plan, Precision::F32));
        assert!(!layers.is_empty() && layers.iter().all(|layer| *layer == want), "{name}: {layers:?}");
    }
}

#[test]
fn types_agree_in_every_launch() {
    for (name, plan, _) in plans() {
        for precision in PRECISIONS {
            let program = lower(&plan, precision);
            let stored = |value: &super::program::ValueId| program.values[value.0].stored;
            for action in &program.actions {
                match action {
                    Action::Multiply { input, weight, bias, activation, residual, output } => {
                        assert_eq!(stored(input), program.matrices[weight.0], "{name}: {action:?}");
                        let is_widened = stored(output) == Stored::F32 && residual.is_none();
                        assert!(stored(output) == stored(input) || is_widened, "{name}: {action:?}");
                        assert!(residual.iter().all(|residual| stored(residual) == stored(output)), "{name}: {action:?}");
                        assert!(is_fused(*activation), "{name}: {action:?}");
                        if let Some(bias) = bias {
                            let wanted = program.vectors[bias.0];
                            assert!(if stored(output) == Stored::F32 { wanted.exact } else { wanted.working }, "{name}");
                        }
                    }
                    Action::Norm { input, residual, output, .. } => {
                        assert!(residual.iter().all(|residual| stored(residual) == stored(input)), "{name}: {action:?}");
                        assert!(stored(output) == stored(input) || stored(output) == Stored::F32, "{name}: {action:?}");
                    }
                    Action::Gate { input, output, .. } | Action::Attention { qkv: input, output, .. } => {
                        assert_eq!(stored(input), stored(output), "{name}: {action:?}");
                    }
                    Action::Probe { kv, output, .. } => assert_eq!(stored(kv), stored(output), "{name}: {action:?}"),
                    Action::Convert { input, output } => assert_ne!(stored(input), stored(output), "{name}: {action:?}"),
                    Action::Normalize { values } => assert_eq!(stored(values), Stored::F32, "{name}: {action:?}"),
                    Action::Pool { output, .. } | Action::Gather { output, .. } => {
                        assert_eq!(stored(output), Stored::F32, "{name}: {action:?}");
                    }
                    Action::Embed { .. }
                    | Action::Patches { .. }
                    | Action::Assemble { .. }
                    | Action::Activate { .. }
                    | Action::Rotary { .. } => {}
                }
            }
            assert_eq!(program.outputs.len(), plan.outputs.len(), "{name}");
            assert!(program.outputs.iter().all(|output| stored(output) == Stored::F32), "{name}");
            let converted = program.actions.iter().filter(|action| matches!(action, Action::Convert { .. })).count();
            let odd =
                plan.recipes.matrices.iter().any(|matrix| !matrix.inputs.is_multiple_of(8) || !matrix.outputs.is_multiple_of(8));
            let most = if precision == Precision::F32 { 0 } else { 2 };
            assert!(converted <= most || odd, "{name}: {converted} conversions");
            for action in &program.actions {
                let Action::Multiply { weight, output, .. } = action else { continue };
                let recipe = &plan.recipes.matrices[weight.0];
                let is_whole = |numbers: usize| numbers.is_multiple_of(8);
                let fits = is_whole(recipe.inputs) && (is_whole(recipe.outputs) || stored(output) == Stored::F32);
                assert!(program.matrices[weight.0] == Stored::F32 || fits, "{name}: {action:?}");
            }
        }
    }
}

#[test]
fn values_that_live_at_once_lie_apart() {
    for (name, plan, _) in plans() {
        let program = lower(&plan, Precision::F16);
        let bucket = Bucket::largest(plan.input(), 700, 33);
        let placement = Placement::of(&program, &bucket);
        let inner: Vec<usize> = (0..program.values.len()).filter(|index| program.values[*index].output.is_none()).collect();
        let range = |index: usize| {
            let start = placement.offsets[index];
            assert_eq!(start % ALIGNMENT, 0, "{name}");
            start..start + value_bytes(&program.values[index], &bucket)
        };
        for (at, a) in inner.iter().enumerate() {
            assert!(range(*a).end <= placement.bytes, "{name}");
            for b in &inner[at + 1..] {
                let (first, second) = (&program.values[*a], &program.values[*b]);
                if first.first <= second.last && second.first <= first.last {
                    let (a, b) = (range(*a), range(*b));
                    assert!(a.end <= b.start || b.end <= a.start, "{name}: {first:?} {second:?}");
                }
            }
        }
        let all: usize = inner.iter().map(|index| range(*index).len()).sum();
        assert!(placement.bytes < all || inner.len() < 4, "{name}: no memory is used twice");
    }
}

#[test]
fn smaller_buckets_fit_into_the_places_of_the_largest() {
    for (name, plan, weights) in plans() {
        let planner = Planner::new(&plan, &weights, Precision::F16).unwrap();
        let program = lower(&plan, Precision::F16);
        let mut last = 0;
        for tokens in [1, 15, 16, 17, 100, 256, 257, 600, 2048, 2049, 5000] {
            let room = Room { max_tokens: tokens, max_items: 64 };
            let memory = planner.lane(room, 0);
            assert!(memory.device() >= last, "{name}: {tokens} tokens take less than fewer");
            last = memory.device();
            let largest = Bucket::largest(plan.input(), tokens, 64);
            let layout = Layout::of(&program, plan.input(), &largest);
            for part in [1, tokens / 2, tokens] {
                let Input::Tokens(_) = plan.input() else { continue };
                let bucket = Bucket::of(plan.input(), part.max(1), 1, part.max(1).min(plan.longest()));
                let smaller = Layout::of(&program, plan.input(), &bucket);
                assert!(smaller.input_bytes <= layout.input_bytes && smaller.output_bytes <= layout.output_bytes, "{name}");
                assert!(bucket.tokens <= largest.tokens && bucket.longest <= largest.longest.max(32), "{name}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_a_batch_that_does() {
    let (plan, weights) = plan("bert", None);
    let planner = Planner::new(&plan, &weights, Precision::F16).unwrap();
    let room = Room { max_tokens: 16384, max_items: 256 };
    let needed = planner.check("m", room, WORKSPACE_BYTES, 1, usize::MAX).unwrap();
    assert_eq!(planner.check("m", room, WORKSPACE_BYTES, 1, needed).unwrap(), needed);
    let free = needed - 1;
    let error = planner.check("m", room, WORKSPACE_BYTES, 1, free).unwrap_err();
    let ModelError::TooLarge { advice, .. } = &error else { panic!("{error}") };
    let tokens: usize = advice.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(tokens < room.max_tokens, "{error}");
    let smaller = Room { max_tokens: tokens, ..room };
    assert!(planner.check("m", smaller, WORKSPACE_BYTES, 1, free).is_ok(), "{error}");
    let larger = Room { max_tokens: tokens + 1, ..room };
    assert!(planner.check("m", larger, WORKSPACE_BYTES, 1, free).is_err(), "{error}");
    let error = planner.check("m", room, WORKSPACE_BYTES, 1, planner.weights()).unwrap_err();
    assert!(error.to_string().contains("not even one item"), "{error}");
}

#[test]
fn bytes_are_written_with_their_unit() {
    let texts = [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 24 << 30].map(|bytes| Bytes(bytes).to_string());
    assert_eq!(texts, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "24.0 GiB"]);
}

#[test]
fn a_batch_is_packed_with_its_filling() {
    let (plan, _) = plan("bert", None);
    let Input::Tokens(input) = plan.input() else { panic!("a model of texts") };
    let program = lower(&plan, Precision::F16);
    let bytes = |values: &[i64]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let (ids, mask) = (bytes(&[5, 6, 7, 8, 9, 5]), bytes(&[1, 1, 1, 1, 0, 1]));
    let mut batch = Batch::new();
    let texts = Texts { rows: 2, width: 3, ids: Integers::new(&ids), mask: Some(Integers::new(&mask)), types: None };
    batch.push_texts(input, &texts).unwrap();
    let bucket = Bucket::of(plan.input(), 5, 2, 3);
    assert_eq!((bucket.tokens, bucket.items, bucket.longest, bucket.spans()), (16, 2, 32, 3));
    let layout = Layout::of(&program, plan.input(), &bucket);
    let mut packed = vec![0xAA; layout.input_bytes];
    fill(&program, plan.input(), (&bucket, &layout), &batch, 0..2, &mut packed);
    let mut sections = HashMap::new();
    for (section, range) in program.sections.iter().zip(&layout.sections) {
        let numbers = packed[range.clone()].as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        sections.insert(format!("{section:?}"), numbers.collect::<Vec<u32>>());
    }
    assert_eq!(sections[&format!("{:?}", Section::Ids)], [5, 6, 7, 8, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sections[&format!("{:?}", Section::Spans)], [0, 3, 0, 3, 3, 5, 3, 5, 5, 16, 5, 16]);
    assert_eq!(sections[&format!("{:?}", Section::Types)], [0; 16]);
    // The second sequence alone begins at row 0.
    let bucket = Bucket::of(plan.input(), 2, 1, 2);
    let layout = Layout::of(&program, plan.input(), &bucket);
    fill(&program, plan.input(), (&bucket, &layout), &batch, 1..2, &mut packed);
    let spans = program.sections.iter().position(|section| *section == Section::Spans).unwrap();
    let numbers: Vec<u32> =
        packed[layout.sections[spans].clone()].as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    assert_eq!(numbers, [0, 2, 0, 2, 2, 16, 2, 16]);
}

#[test]
fn outputs_per_item_and_per_token_are_results_of_their_axis() {
    for (name, plan, _) in plans() {
        let program = lower(&plan, Precision::Bf16);
        for (output, value) in plan.outputs.iter().zip(&program.outputs) {
            let value = &program.values[value.0];
            assert_eq!((value.axis, value.columns), (output.axis, output.columns), "{name}");
            assert_ne!(value.axis, Axis::Patches, "{name}");
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn products_are_asked_for_what_the_library_does() {
    use kernels::activation::Activation::{Gelu, GeluTanh, Identity, QuickGelu, Relu, Sigmoid, Silu, Tanh};
    for activation in [Identity, Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh, Sigmoid] {
        assert_eq!(is_fused(activation), kernels::matmul::cuda::fuses(activation), "{activation:?}");
    }
}
