//! The hand-overs that a stream does not order, each made as tight as it can be. The emulated device runs streams in orders of
//! its own and reports what is not ordered by an event or a wait, whatever order they ran in; results are compared too.

use std::sync::Arc;
use std::thread;

use models::Choice;
use models::cuda::{Graphs, Precision};
use models::plan::Executor;

use crate::device::{alone, assert_clean, count, counters, gpu, lane, load};
use crate::precision::directory;
use crate::recorded::{Fixture, batch, items};

#[test]
fn slots_are_filled_again_only_after_their_copy() {
    let fixture = Fixture::read("bert-tokens");
    let (card, model) = load(&gpu(), &fixture.directory, Choice::default(), Precision::F32, "slots");
    let items = items(&fixture, &card.encoder.input);
    let mut lane = lane(&model, 256, 8, Graphs::Auto);
    let batches: Vec<_> = items.iter().take(5).map(|item| batch(&card.encoder.input, [item])).collect();
    let want: Vec<_> = batches.iter().map(|batch| lane.enqueue(batch).unwrap()).collect();
    // More batches than slots, and nobody waits until there are two in flight.
    let mut tickets = std::collections::VecDeque::new();
    for turn in 0..30 {
        tickets.push_back((turn % batches.len(), lane.launch(&batches[turn % batches.len()]).unwrap()));
        if tickets.len() == 2 {
            let (index, ticket) = tickets.pop_front().unwrap();
            assert_eq!(ticket.wait().unwrap(), want[index], "batch {turn}");
        }
    }
    drop(tickets);
    assert_clean();
}

#[test]
fn weights_are_there_for_every_lane_at_once() {
    let (fixture, dir) = (Fixture::read("bert-reranker"), directory("bert-reranker"));
    let gpu = gpu();
    let (card, first) = load(&gpu, dir.path(), Choice::default(), Precision::F16, "ready");
    let items = items(&fixture, &card.encoder.input);
    let all = batch(&card.encoder.input, &items);
    let want = lane(&first, 512, 16, Graphs::Off).enqueue(&all).unwrap();
    for turn in 0..4 {
        // Lanes of a model that has just been loaded read weights that another stream wrote.
        let (_, model) = load(&gpu, dir.path(), Choice::default(), Precision::F16, "ready");
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    assert_eq!(lane(&model, 512, 16, Graphs::Off).enqueue(&all).unwrap(), want, "turn {turn}");
                });
            }
        });
    }
    assert_clean();
}

#[test]
fn results_are_read_only_once_they_have_come() {
    let fixture = Fixture::read("bert-tokens");
    let (card, model) = load(&gpu(), &fixture.directory, Choice::default(), Precision::F32, "results");
    let items = items(&fixture, &card.encoder.input);
    let mut lane = lane(&model, 256, 8, Graphs::Auto);
    // Batches of other texts: what an earlier one left in a slot is not what the next one wants there.
    let batches: Vec<_> = items.iter().take(4).map(|item| batch(&card.encoder.input, [item])).collect();
    let want: Vec<_> = batches.iter().map(|batch| lane.enqueue(batch).unwrap()).collect();
    assert!(want.windows(2).all(|pair| pair[0] != pair[1]));
    let mut kept = Vec::new();
    for turn in 0..12 {
        // Read as soon as waiting ends, and kept while the next ones come.
        let outputs = lane.launch(&batches[turn % batches.len()]).unwrap().wait().unwrap();
        assert_eq!(outputs, want[turn % batches.len()], "batch {turn}");
        kept.push(outputs);
    }
    let are_kept = |kept: &[_]| kept.iter().zip(want.iter().cycle()).all(|(outputs, want)| outputs == want);
    assert!(are_kept(&kept), "results changed while they were kept");
    // Results may outlive their lane and their model.
    drop((lane, model));
    assert!(are_kept(&kept), "results went with their lane");
    assert_clean();
}

#[test]
fn unloading_waits_for_what_is_in_flight() {
    if !alone("discipline::unloading_waits_for_what_is_in_flight", &[]) {
        return;
    }
    let gpu = gpu();
    let (fixture, dir) = (Fixture::read("bert-reranker"), directory("bert-reranker"));
    let live = || counters().map_or(0, |counters| count(&counters, "/live_bytes"));
    let start = live();
    for graphs in [Graphs::Off, Graphs::Auto] {
        let (card, model) = load(&gpu, dir.path(), Choice::default(), Precision::F16, "unloaded");
        let items = items(&fixture, &card.encoder.input);
        let all = batch(&card.encoder.input, &items);
        let mut lane = lane(&model, 512, 16, graphs);
        let want = lane.enqueue(&all).unwrap();
        for _ in 0..3 {
            drop(lane.launch(&all).unwrap());
        }
        let ticket = lane.launch(&all).unwrap();
        drop((lane, model));
        assert_eq!(ticket.wait().unwrap(), want, "{graphs:?}");
        let on_device: Vec<_> = gpu.ledger().into_iter().filter(|line| line.tag.kind.is_on_device()).collect();
        assert_eq!(on_device, [], "{graphs:?}");
        assert_eq!(live(), start, "{graphs:?}");
    }
    drop(Arc::clone(&gpu));
    assert_clean();
}
