//! Turns of the dynamic batcher in a steady state, for a profiler that counts instructions.
//!
//! `valgrind --tool=callgrind batcher_cost --queued 10000 --turns 1000`, and the same with `--turns 0`: the difference,
//! divided by the number of requests printed, is what a request costs.

use std::hint::black_box;

use clap::{Parser, ValueEnum};

#[path = "../../benches/steady/mod.rs"]
mod steady;

use steady::{BATCH, Mix, Steady};

/// Runs the dynamic batcher in a steady state.
#[derive(Parser)]
struct Arguments {
    /// Requests that wait all the time.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queued: u32,
    /// Turns, of a batch each.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    turns: u32,
    /// What the requests are like.
    #[arg(long, value_enum, default_value = "alike")]
    mix: Choice,
    /// Only make the requests: what has to be taken off.
    #[arg(long)]
    arrivals_only: bool,
}

/// The mixes by name.
#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    Alike,
    Shapes,
    Deadlines,
    Levels,
}

fn main() {
    let arguments = Arguments::parse();
    let mix = match arguments.mix {
        Choice::Alike => Mix::Alike,
        Choice::Shapes => Mix::Shapes,
        Choice::Deadlines => Mix::Deadlines,
        Choice::Levels => Mix::Levels,
    };
    let mut steady = Steady::new(mix, arguments.queued as usize);
    for _ in 0..arguments.turns {
        let arrivals = steady.arrivals();
        if arguments.arrivals_only {
            drop(black_box(arrivals));
        } else {
            drop(black_box(steady.turn(arrivals)));
        }
    }
    println!("{} requests", arguments.turns as usize * BATCH);
}
