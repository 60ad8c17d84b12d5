//! What the dynamic batcher costs for each request, by how many wait: push, expire, poll and finish in a steady state.

use std::cell::RefCell;

use divan::{Bencher, black_box, counter::ItemsCount};

mod steady;

use steady::{BATCH, Mix, Steady};

fn main() {
    divan::main();
}

/// Requests that wait all the time.
const QUEUED: [usize; 4] = [10, 1_000, 10_000, 100_000];

fn run(bencher: Bencher<'_, '_>, mix: Mix, queued: usize) {
    let steady = RefCell::new(Steady::new(mix, queued));
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| steady.borrow_mut().arrivals())
        .bench_local_values(|arrivals| black_box(steady.borrow_mut().turn(arrivals)));
}

/// All alike: one shape, no deadlines.
#[divan::bench(args = QUEUED)]
fn alike(bencher: Bencher<'_, '_>, queued: usize) {
    run(bencher, Mix::Alike, queued);
}

/// 64 shapes in turn.
#[divan::bench(args = QUEUED)]
fn shapes(bencher: Bencher<'_, '_>, queued: usize) {
    run(bencher, Mix::Shapes, queued);
}

/// Random deadlines for the start and the end, so that each request is sorted, timed and admitted.
#[divan::bench(args = QUEUED)]
fn deadlines(bencher: Bencher<'_, '_>, queued: usize) {
    run(bencher, Mix::Deadlines, queued);
}

/// Four priority levels in turn.
#[divan::bench(args = QUEUED)]
fn levels(bencher: Bencher<'_, '_>, queued: usize) {
    run(bencher, Mix::Levels, queued);
}
