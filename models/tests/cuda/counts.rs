//! What batches cost in calls of the driver, and models in memory; told by the emulated device.

use models::Choice;
use models::cuda::{Graphs, Precision};
use models::plan::Executor;

use crate::device::{WORKSPACE_BYTES, alone, assert_clean, count, counters, gpu, lane, load};
use crate::precision::directory;
use crate::recorded::{Fixture, batch, items};

#[test]
fn batches_allocate_nothing_and_copy_once_each_way() {
    if !alone("counts::batches_allocate_nothing_and_copy_once_each_way", &[]) {
        return;
    }
    let gpu = gpu();
    for graphs in [Graphs::Off, Graphs::Auto] {
        let (fixture, dir) = (Fixture::read("bert-reranker"), directory("bert-reranker"));
        let (card, model) = load(&gpu, dir.path(), Choice::default(), Precision::F16, "counted");
        let items = items(&fixture, &card.encoder.input);
        let batch = batch(&card.encoder.input, &items);
        let mut lane = lane(&model, 512, 16, graphs);
        // The first is tuned, the second recorded.
        for _ in 0..3 {
            lane.enqueue(&batch).unwrap();
        }
        let Some(before) = counters() else {
            println!("a real device does not count");
            return;
        };
        const BATCHES: u64 = 10;
        for _ in 0..BATCHES {
            lane.enqueue(&batch).unwrap();
        }
        let after = counters().unwrap();
        let per_batch = |path: &str| {
            let counted = count(&after, path) - count(&before, path);
            assert_eq!(counted % BATCHES, 0, "{path}: {counted} in {BATCHES} batches");
            counted / BATCHES
        };
        for path in ["/allocations", "/frees", "/pinned_allocations", "/memsets/count", "/copies_dtod/count", "/event_waits"] {
            assert_eq!(per_batch(path), 0, "{path}");
        }
        assert_eq!((per_batch("/copies_htod/count"), per_batch("/copies_dtoh/count")), (1, 1));
        for kind in ["stream", "context", "device"] {
            assert_eq!(per_batch(&format!("/synchronizations/{kind}")), 0, "a batch waits for a whole {kind}");
        }
        assert_eq!(per_batch("/graph_launches/count"), if graphs == Graphs::Auto { 1 } else { 0 });
        let (kernels, products) = (per_batch("/launches_total"), per_batch("/matmuls_total"));
        println!("{graphs:?}: {kernels} kernels and {products} products, 1 copy in, 1 copy out, 0 allocations");
        // Three layers of seven launches and exact GELU; the lookup; and of the head: the first tokens, a product, its tanh, a
        // product.
        assert_eq!((kernels, products), (3 * 4 + 3, 3 * 4 + 2));
    }
    assert_clean();
}

#[test]
fn memory_is_what_was_predicted_and_comes_back() {
    if !alone("counts::memory_is_what_was_predicted_and_comes_back", &[]) {
        return;
    }
    let gpu = gpu();
    let live = || counters().map(|counters| count(&counters, "/live_bytes") as usize);
    let start = live();
    for name in ["bert-tokens", "clip-vision", "deberta-v2-labels", "jina-v3-embedding"] {
        for precision in [Precision::F32, Precision::F16] {
            let fixture = Fixture::read(name);
            let (card, model) = load(&gpu, &fixture.directory, Choice::default(), precision, name);
            let planner = model.planner().clone();
            assert_eq!(gpu.ledger_bytes(), planner.weights(), "{name}: weights");
            let mut lane = lane(&model, 300, 20, Graphs::Auto);
            let predicted = planner.lane(models::cuda::Room { max_tokens: 300, max_items: 20 }, WORKSPACE_BYTES);
            assert_eq!(lane.memory(), predicted, "{name}");
            let device = planner.weights() + predicted.device();
            assert_eq!(gpu.ledger_bytes(), device, "{name}: weights and a lane");
            let pinned: usize = gpu.ledger().iter().filter(|line| !line.tag.kind.is_on_device()).map(|line| line.bytes).sum();
            assert_eq!(pinned, predicted.pinned, "{name}: pinned");
            if let (Some(start), Some(now)) = (start, live()) {
                assert_eq!(now - start, device, "{name}: what the driver counts");
            }
            let items = items(&fixture, &card.encoder.input);
            lane.enqueue(&batch(&card.encoder.input, &items)).unwrap();
            assert_eq!(gpu.ledger_bytes(), device, "{name}: a batch takes no memory");
            drop((lane, model));
            assert_eq!(gpu.ledger(), [], "{name}: everything is given back");
            assert_eq!(live(), start, "{name}: the driver has it back");
        }
    }
    assert_clean();
}
