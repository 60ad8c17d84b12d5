//! Who watches the checker: runs that are told wrongly must be found out.
//!
//! Each fault is planted between the run and its checker, as if the batcher had made it:
//!
//! | fault | how it is told | rule that finds it |
//! |---|---|---|
//! | an entry is lost | it is missing from the batch that it was formed into | nothing ends without an outcome |
//! | an entry runs twice | it is in the next batch once more | who is in a batch was waiting |
//! | rows off by one | each range begins one row late | ranges are contiguous and as long as the requests |
//! | a missed wake-up | the batcher asks for none | an idle instance with work, or a deadline, needs one |
//! | a client that left is served | it left the moment before | nobody in a batch is dead |
//! | the wrong order | the members' priorities are turned round | the highest level leads |
//! | too many rows | members are twice as large | rows within the limit |

use server::batch::Batch;
use server::clock::Timestamp;
use server::config::BatcherKind;
use server::scheduler::batcher::Room;
use server::scheduler::simulation::check::Checker;
use server::scheduler::simulation::observer::{Event, Observer};
use server::scheduler::simulation::report::Request;
use server::scheduler::simulation::{Scenario, run_observed, scenario};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Lost,
    Doubled,
    RowsOffByOne,
    MissedWakeup,
    LeftButServed,
    WrongOrder,
    TooManyRows,
}

/// Tells a checker of a run with one kind of fault.
struct Tampering {
    checker: Checker,
    fault: Fault,
    last: Option<u32>,
    /// Requests of which it is told otherwise from here on: that their clients left, or that they have more rows.
    left: Vec<(u32, Timestamp)>,
    grown: Vec<u32>,
    /// How often the fault was told.
    planted: usize,
}

impl Tampering {
    /// The batch as the fault makes it.
    fn tamper(&mut self, now: Timestamp, batch: &Batch<u32>, requests: &[Request]) -> Batch<u32> {
        let mut told = Batch::default();
        told.origin = batch.origin;
        let first = batch.members().first().map(|member| member.item);
        for member in batch.members() {
            let is_first = Some(member.item) == first;
            match self.fault {
                Fault::Lost if is_first => self.planted += 1,
                _ => told.push(member.item, member.rows.len()),
            }
        }
        match (self.fault, first) {
            (Fault::Doubled, _) => {
                if let Some(last) = self.last {
                    told.push(last, requests[last as usize].rows);
                    self.planted += 1;
                }
            }
            (Fault::RowsOffByOne, Some(_)) => {
                let (members, origin) = (told.into_iter(), batch.origin);
                told = Batch::default();
                told.origin = origin;
                for member in members {
                    told.push(member.item, member.rows.len() + 1);
                }
                self.planted += 1;
            }
            (Fault::LeftButServed, Some(first)) => {
                self.left.push((first, now));
                self.planted += 1;
            }
            (Fault::TooManyRows, Some(first)) if batch.len() > 1 => {
                self.grown.push(first);
                self.planted += 1;
            }
            _ => {}
        }
        self.last = first;
        told
    }
}

impl Observer for Tampering {
    fn see(&mut self, model: usize, now: Timestamp, requests: &[Request], event: Event<'_>) {
        let mut requests = requests.to_vec();
        if self.fault == Fault::WrongOrder {
            // Level 1 is told as 2 and the other way round: served in the wrong order where both wait.
            for request in &mut requests {
                request.priority = 3 - request.priority.clamp(1, 2);
            }
            self.planted += 1;
        }
        let told = match event {
            Event::Formed { batch, .. } => Some(self.tamper(now, batch, &requests)),
            _ => None,
        };
        for (number, left) in &self.left {
            requests[*number as usize].leaves_at = Some(*left);
        }
        for number in &self.grown {
            requests[*number as usize].rows += 100;
        }
        match event {
            Event::Formed { batch, room } => {
                let told = told.unwrap_or_else(|| batch.clone());
                self.checker.see(model, now, &requests, Event::Formed { batch: &told, room });
            }
            Event::Settled { wakeup: Some(_), room: room @ Room::Idle, waiting } if self.fault == Fault::MissedWakeup => {
                self.planted += 1;
                self.checker.see(model, now, &requests, Event::Settled { wakeup: None, room, waiting });
            }
            other => self.checker.see(model, now, &requests, other),
        }
    }
}

/// Scenarios in which the fault can show.
fn suitable(fault: Fault, scenario: &Scenario) -> bool {
    let model = &scenario.models[0];
    match fault {
        Fault::WrongOrder => model.policy.priority_levels.get() == 2 && model.policy.batcher == BatcherKind::Default,
        _ => true,
    }
}

/// Seeds of suitable scenarios in which the fault was told, and in how many of these it was found.
fn planted_and_found(fault: Fault) -> (usize, usize) {
    let (mut planted, mut found) = (0, 0);
    for scenario in (0..2000).map(scenario::random).filter(|scenario| suitable(fault, scenario)).take(60) {
        let mut tampering =
            Tampering { checker: Checker::new(&scenario), fault, last: None, left: Vec::new(), grown: Vec::new(), planted: 0 };
        let report = run_observed(&scenario, &mut tampering);
        if tampering.planted > 0 {
            planted += 1;
            found += usize::from(!tampering.checker.verdict(&report).is_empty());
        }
    }
    (planted, found)
}

#[test]
fn a_planted_fault_is_found() {
    let faults = [
        Fault::Lost,
        Fault::Doubled,
        Fault::RowsOffByOne,
        Fault::MissedWakeup,
        Fault::LeftButServed,
        Fault::WrongOrder,
        Fault::TooManyRows,
    ];
    for fault in faults {
        let (planted, found) = planted_and_found(fault);
        assert!(planted >= 20, "{fault:?} was planted in {planted} scenarios only");
        // Levels whose requests never wait together show no wrong order, and where only clients that have left wait
        // no wake-up is missed.
        let enough = match fault {
            Fault::WrongOrder => planted / 2,
            Fault::MissedWakeup => planted * 9 / 10,
            // Triton's batcher may serve who has left, and the last moment is judged by the true requests.
            Fault::LeftButServed => planted * 3 / 5,
            _ => planted * 9 / 10,
        };
        assert!(found >= enough, "{fault:?} was found in {found} of {planted} scenarios");
    }
}
