//! What is predicted of a plan's memory against what is there.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::card::{Choice, ModelCard, Task, Tower};
use crate::encoder;

/// Directories of texts and of images, among them towers, registers, a learned query and a gate.
const DIRECTORIES: [(&str, Option<Tower>); 8] = [
    ("clip", Some(Tower::Text)),
    ("clip", Some(Tower::Vision)),
    ("dinov2-labels", None),
    ("dinov2-registers-labels", None),
    ("modernbert-embedding", None),
    ("siglip", Some(Tower::Vision)),
    ("vit-hidden", None),
    ("xlm-roberta-embedding", None),
];

fn model(name: &str, choice: Choice) -> Arc<CpuModel> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name);
    let card = ModelCard::read_as(&dir, choice).unwrap();
    let weights = Weights::open(&card.directory).unwrap();
    Arc::new(CpuModel::load(encoder::plan(&card, &weights).unwrap(), &weights, Precision::F32).unwrap())
}

#[test]
fn the_memory_of_a_plan_is_predicted_to_the_byte() {
    for (name, tower) in DIRECTORIES {
        for task in [None, Some(Task::HiddenStates)] {
            let model = model(name, Choice { task, tower });
            let matrices: usize = model.matrices.iter().map(Packed::bytes).sum();
            let vectors: usize = model.vectors.iter().map(|vector| size_of_val(&vector[..])).sum();
            let rotaries: usize = model.rotaries.iter().map(Rotary::bytes).sum();
            for threads in [1, 3] {
                let memory = Memory::of(&model, threads);
                assert_eq!(memory.weights, matrices + vectors + rotaries, "{name}: weights");
                let executor = CpuExecutor::new(model.clone(), "memory", NonZeroUsize::new(threads).unwrap()).unwrap();
                let lanes = executor.lanes.iter().map(|lane| lane.lock().unwrap().arena.bytes());
                let there = executor.whole.arena.bytes() + lanes.sum::<usize>();
                assert_eq!(memory.arena, there, "{name}, {threads} threads: buffers");
                assert!(there > 0, "{name}");
            }
        }
    }
}

#[test]
fn images_are_cut_into_whole_chunks_that_the_buffers_hold() {
    for (name, tower) in DIRECTORIES {
        let model = model(name, Choice { task: None, tower });
        let crate::plan::Input::Images(images) = model.plan.input() else { continue };
        let (tokens, most) = (images.tokens(), chunk_tokens(&model.plan));
        let sequence = |index: usize| Sequence { tokens: index * tokens..(index + 1) * tokens, real: tokens };
        let sequences: Vec<Sequence> = (0..100).map(sequence).collect();
        let chunks = CpuExecutor::cut(&sequences, most);
        assert!(chunks.len() > 1, "{name}");
        assert_eq!(chunks.iter().map(std::ops::Range::len).sum::<usize>(), 100, "{name}");
        for chunk in &chunks {
            assert!(chunk.len() <= memory::most_rows(&model.plan, Axis::Items, most), "{name}");
            assert!(chunk.len() * images.patches() <= memory::most_rows(&model.plan, Axis::Patches, most), "{name}");
            assert!(chunk.len() * tokens <= memory::most_rows(&model.plan, Axis::Tokens, most), "{name}");
        }
    }
}
