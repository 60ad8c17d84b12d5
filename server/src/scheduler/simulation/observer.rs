//! What a run tells while it goes on, for those who check it or write it down.

use std::fmt::Write as _;

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::scheduler::batcher::Room;

use super::report::{Outcome, Request};

/// One thing that happened in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A request arrived and was queued. Its number counts the model's arrivals, refused ones included.
    Queued(u32),
    /// A request ended without running.
    Ended(u32, Outcome),
    /// A batch was formed.
    Formed {
        /// The batch.
        batch: &'a Batch<u32>,
        /// The room that it was formed for.
        room: Room,
    },
    /// An instance started a batch, without those who were dead by then.
    Started {
        /// Who is left of it.
        batch: &'a Batch<u32>,
    },
    /// An execution ended.
    Finished {
        /// The batch as it ran.
        batch: &'a Batch<u32>,
        /// Whether it failed.
        failed: bool,
    },
    /// All that could start has started; nothing happens until the next arrival, the next end of an execution
    /// or `wakeup`.
    Settled {
        /// When the batcher wants to be asked again.
        wakeup: Option<Timestamp>,
        /// The room at the instances.
        room: Room,
        /// How many entries the batcher says it holds.
        waiting: usize,
    },
}

/// Sees everything that happens at one model, in order.
pub trait Observer {
    /// Sees one thing; `requests` are all that have arrived at the model so far.
    fn see(&mut self, model: usize, now: Timestamp, requests: &[Request], event: Event<'_>);
}

/// Looks away: the run is as fast as it gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Observer for Nobody {
    fn see(&mut self, _model: usize, _now: Timestamp, _requests: &[Request], _event: Event<'_>) {}
}

/// Writes everything down, one line a thing: what a replayed seed prints.
#[derive(Clone, Debug, Default)]
pub struct Log(pub String);

impl Observer for Log {
    fn see(&mut self, model: usize, now: Timestamp, requests: &[Request], event: Event<'_>) {
        let us = |time: Timestamp| format!("{}.{:03}", time.as_nanos() / 1000, time.as_nanos() % 1000);
        let mut line = format!("{:>14} us  model {model}  ", us(now));
        let written = match event {
            Event::Queued(number) => {
                line += &format!("queued {number}");
                requests.get(number as usize).map_or(Ok(()), |request| {
                    write!(line, " rows={} cost={} shape={}", request.rows, request.cost, request.shape)?;
                    write!(line, " priority={}", request.priority)?;
                    let times = [
                        ("start_by", request.start_by),
                        ("finish_by", request.finish_by),
                        ("delayed_from", request.delayed_from),
                        ("leaves_at", request.leaves_at),
                    ];
                    times.iter().try_for_each(|(name, time)| match time {
                        Some(time) => write!(line, " {name}={}", us(*time)),
                        None => Ok(()),
                    })
                })
            }
            Event::Ended(number, outcome) => write!(line, "ended {number}: {outcome:?}"),
            Event::Formed { batch, room } => {
                write!(line, "formed batch {} for {room:?}, {:?}: {}", batch.origin.id, batch.origin.trigger, members(batch))
            }
            Event::Started { batch } => write!(line, "started batch {}: {}", batch.origin.id, members(batch)),
            Event::Finished { batch, failed } => {
                write!(line, "{} batch {}", if failed { "failed" } else { "finished" }, batch.origin.id)
            }
            Event::Settled { wakeup, room, waiting } => {
                let wakeup = wakeup.map_or_else(|| "never".to_owned(), us);
                write!(line, "settled: {waiting} wait, room {room:?}, wakeup {wakeup}")
            }
        };
        debug_assert!(written.is_ok(), "a string takes everything");
        self.0 += line.trim_end();
        self.0.push('\n');
    }
}

fn members(batch: &Batch<u32>) -> String {
    let members = batch.members().iter().map(|member| format!("{}[{}..{}]", member.item, member.rows.start, member.rows.end));
    members.collect::<Vec<_>>().join(" ")
}
