//! Lanes: batches of many sizes, recorded or not, from several at once.

use std::sync::Arc;
use std::thread;

use models::cuda::{CudaExecutor, CudaModel, Graphs, Precision};
use models::plan::{Batch, Executor, Output};
use models::{Choice, ModelError};

use crate::device::{assert_clean, gpu, lane, load};
use crate::precision::directory;
use crate::recorded::{Fixture, Item, batch, items};

/// A model of texts with its items.
fn texts(name: &str, precision: Precision) -> (Arc<CudaModel>, Vec<Item>) {
    let fixture = Fixture::read(name);
    let dir = directory(name);
    let (card, model) = load(&gpu(), dir.path(), Choice::default(), precision, name);
    let items = items(&fixture, &card.encoder.input);
    (model, items)
}

fn bits(outputs: &[Output]) -> Vec<u32> {
    outputs.iter().flat_map(|output| output.values.iter().map(|value| value.to_bits())).collect()
}

/// So many items from number `first` on, around and around.
fn mix<'a>(model: &CudaModel, items: &'a [Item], first: usize, count: usize) -> Batch<'a> {
    batch(model.plan().input(), (first..first + count).map(|index| &items[index % items.len()]))
}

#[test]
fn recorded_launches_give_the_same_bits() {
    for name in ["bert-reranker", "modernbert-embedding", "clip-vision"] {
        let (model, items) = texts(name, Precision::F16);
        let (mut recorded, mut eager) = (lane(&model, 512, 16, Graphs::Auto), lane(&model, 512, 16, Graphs::Off));
        for count in [1, 2, 3, 5] {
            let want = bits(&eager.enqueue(&mix(&model, &items, 0, count)).unwrap());
            for turn in 0..4 {
                let got = bits(&recorded.enqueue(&mix(&model, &items, 0, count)).unwrap());
                assert_eq!(got, want, "{name}: {count} items, turn {turn}");
            }
        }
        assert!(recorded.graphs() > 0 && eager.graphs() == 0, "{name}: {} graphs", recorded.graphs());
        assert_eq!(recorded.take_warning(), None, "{name}");
    }
    assert_clean();
}

#[test]
fn batches_beyond_the_arena_are_cut_between_sequences() {
    let (model, items) = texts("distilbert-tokens", Precision::F16);
    let all = mix(&model, &items, 0, 12);
    let longest = all.sequences().iter().map(|sequence| sequence.tokens.len()).max().unwrap();
    let want = lane(&model, all.tokens(), 12, Graphs::Off).enqueue(&all).unwrap();
    let got = lane(&model, longest + 3, 12, Graphs::Off).enqueue(&all).unwrap();
    assert_eq!((got[0].values.len(), got[0].columns), (want[0].values.len(), want[0].columns));
    let apart = got[0].values.iter().zip(want[0].values.iter()).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(apart < 1e-2, "{apart:e}");
    let by_items = lane(&model, all.tokens(), 2, Graphs::Auto).enqueue(&all).unwrap();
    assert_eq!(by_items[0].values.len(), want[0].values.len());
    let error = lane(&model, longest - 1, 12, Graphs::Off).enqueue(&all).unwrap_err();
    assert!(matches!(error, ModelError::BeyondArena { tokens, limit } if (tokens, limit) == (longest, longest - 1)), "{error}");
    assert_clean();
}

#[test]
fn a_batch_of_nothing_has_outputs_of_nothing() {
    let (model, _) = texts("distilbert-tokens", Precision::F32);
    let outputs = lane(&model, 64, 4, Graphs::Auto).enqueue(&Batch::new()).unwrap();
    assert_eq!(outputs.len(), model.plan().outputs().len());
    assert!(outputs.iter().all(|output| output.values.is_empty() && output.columns > 0));
}

/// Batches of other sizes in a row, two in flight, with results that are kept for a while.
fn run_mixes(lane: &mut CudaExecutor, items: &[Item], seed: usize, turns: usize) -> Vec<Vec<u32>> {
    let model = Arc::clone(lane.model());
    let (mut all, mut kept) = (Vec::new(), Vec::new());
    let mut before = None;
    for turn in 0..turns {
        let batch = mix(&model, items, seed + turn, 1 + (seed + 3 * turn) % 5);
        let ticket = lane.launch(&batch).unwrap();
        if let Some(ticket) = before.replace(ticket) {
            let ticket: models::cuda::Ticket = ticket;
            let outputs = ticket.wait().unwrap();
            all.push(bits(&outputs));
            kept.push(outputs);
            if kept.len() > 3 {
                kept.remove(0);
            }
        }
    }
    all.extend(before.map(|ticket| bits(&ticket.wait().unwrap())));
    // What is kept has not been written over.
    for (outputs, bits_then) in kept.iter().zip(all[all.len() - 1 - kept.len()..].iter()) {
        assert_eq!(bits(outputs), *bits_then, "results changed while they were kept");
    }
    all
}

#[test]
fn lanes_do_not_disturb_each_other() {
    let (model, items) = texts("bert-reranker", Precision::F16);
    let want = run_mixes(&mut lane(&model, 512, 16, Graphs::Off), &items, 0, 12);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..2)
            .map(|_| {
                let (model, items) = (&model, &items);
                scope.spawn(move || run_mixes(&mut lane(model, 512, 16, Graphs::Auto), items, 0, 12))
            })
            .collect();
        for lane in lanes {
            assert_eq!(lane.join().unwrap(), want);
        }
    });
    assert_clean();
}

#[test]
fn tickets_go_to_other_threads() {
    let (model, items) = texts("bert-reranker", Precision::F32);
    let mut lane = lane(&model, 512, 16, Graphs::Auto);
    let want = bits(&lane.enqueue(&mix(&model, &items, 0, 3)).unwrap());
    for _ in 0..5 {
        let ticket = lane.launch(&mix(&model, &items, 0, 3)).unwrap();
        let got = thread::spawn(move || bits(&ticket.wait().unwrap())).join().unwrap();
        assert_eq!(got, want);
    }
    assert_clean();
}

#[test]
fn a_profile_times_every_launch_and_changes_nothing() {
    let (model, items) = texts("bert-reranker", Precision::F16);
    let mut lane = lane(&model, 512, 16, Graphs::Auto);
    let batch = mix(&model, &items, 0, 3);
    let want = bits(&lane.enqueue(&batch).unwrap());
    let profile = lane.profile(&batch).unwrap();
    // Three layers of seven launches and exact GELU; the lookup; and of the head four.
    assert_eq!(profile.len(), 3 * 8 + 1 + 4);
    assert_eq!(profile.iter().filter(|(name, _)| name.starts_with("multiply ")).count(), 3 * 4 + 2);
    assert!(profile.iter().all(|(_, ms)| ms.is_finite() && *ms >= 0.0), "{profile:?}");
    assert_eq!(bits(&lane.enqueue(&batch).unwrap()), want);
    assert_clean();
}
