//! The independent judge of a run: it keeps its own books of what waits and what runs, trusts nothing that the
//! batcher says, and names every rule that was broken.

mod batches;
mod refusals;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{BatcherKind, DynamicBatching, WindowPolicy};
use crate::scheduler::batcher::Room;

use super::observer::{Event, Observer};
use super::report::{Outcome, Report, Request};
use super::{CostCurve, Scenario};

/// Violations that are kept; more say nothing new.
const MAX_VIOLATIONS: usize = 20;

/// How often Triton looks for requests whose time is over while no instance is free.
const COMPAT_POLL: Duration = Duration::from_millis(500);

/// Among requests without nearer deadlines, who came this much earlier goes first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Batches in a row that may pass over a level in which somebody waits.
const MAX_PASSED_OVER: usize = 31;

/// The place of a request in its level: who is delayed comes last, else the most urgent comes first, and of
/// those that are equally urgent the one that came first.
type Order = (bool, Timestamp, u32);

/// Checks a run while it goes on.
#[derive(Debug)]
pub struct Checker {
    books: Vec<Book>,
    violations: Vec<String>,
}

/// What the checker knows about one model.
#[derive(Debug)]
struct Book {
    policy: DynamicBatching,
    instances: usize,
    curve: CostCurve,
    /// Requests that have arrived.
    arrived: usize,
    /// Requests that wait, by level (0 the highest), in order of arrival.
    waiting: Vec<Vec<u32>>,
    /// Batches in a row that passed over a level in which somebody waited.
    passed_over: Vec<usize>,
    /// Batches that were formed and have not started: the batch's number, and who is in it.
    ready: Vec<(u64, Vec<u32>)>,
    /// Batches that run.
    running: Vec<(u64, Vec<u32>)>,
    last_batch: u64,
    /// The last request that started, where order is preserved.
    last_started: Option<u32>,
    longest_run: Duration,
    /// Since when an instance is idle although somebody waits.
    idle_since: Option<Timestamp>,
}

/// Where violations go.
struct Findings<'a> {
    violations: &'a mut Vec<String>,
    model: usize,
    now: Timestamp,
}

impl Findings<'_> {
    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(format!("{} ns, model {}: {text}", self.now.as_nanos(), self.model));
        }
    }
}

impl Checker {
    /// A checker of runs of this scenario.
    pub fn new(scenario: &Scenario) -> Self {
        let book = |model: &super::SimulatedModel| Book {
            policy: model.policy.clone(),
            instances: model.instances,
            curve: model.curve,
            arrived: 0,
            waiting: vec![Vec::new(); model.policy.policies.len()],
            passed_over: vec![0; model.policy.policies.len()],
            ready: Vec::new(),
            running: Vec::new(),
            last_batch: 0,
            last_started: None,
            longest_run: Duration::ZERO,
            idle_since: None,
        };
        Self { books: scenario.models.iter().map(book).collect(), violations: Vec::new() }
    }

    /// The rules that were broken, after the run has ended with this report.
    pub fn verdict(mut self, report: &Report) -> Vec<String> {
        self.violations.extend(report.stuck.clone());
        for (model, (book, shown)) in self.books.iter().zip(&report.models).enumerate() {
            let mut findings = Findings { violations: &mut self.violations, model, now: report.ended_at };
            for (number, request) in shown.requests.iter().enumerate() {
                if request.outcome == Outcome::Open {
                    findings.add(format_args!("request {number} never ended"));
                }
            }
            let held: usize = book.waiting.iter().map(Vec::len).sum::<usize>() + book.ready.len() + book.running.len();
            if held > 0 {
                findings.add(format_args!("{held} entries or batches are still held at the end"));
            }
            if book.arrived != shown.requests.len() {
                findings.add(format_args!("{} requests arrived, {} are reported", book.arrived, shown.requests.len()));
            }
        }
        self.violations
    }
}

impl Observer for Checker {
    fn see(&mut self, model: usize, now: Timestamp, requests: &[Request], event: Event<'_>) {
        let book = &mut self.books[model];
        let mut findings = Findings { violations: &mut self.violations, model, now };
        match event {
            Event::Queued(number) => book.queued(number, requests, &mut findings),
            Event::Ended(number, outcome) => book.ended(number, outcome, requests, &mut findings),
            Event::Formed { batch, room } => book.formed(batch, room, requests, &mut findings),
            Event::Started { batch } => book.started(batch, requests, &mut findings),
            Event::Finished { batch, .. } => book.finished(batch, requests, &mut findings),
            Event::Settled { wakeup, room, waiting } => book.settled(wakeup, room, waiting, requests, &mut findings),
        }
    }
}

impl Book {
    fn level(&self, request: &Request) -> usize {
        self.policy.level(request.priority) - 1
    }

    /// A new request: its number follows the last one's.
    fn arrives(&mut self, number: u32, findings: &mut Findings<'_>) {
        if number as usize != self.arrived {
            findings.add(format_args!("request {number} arrives, expected {}", self.arrived));
        }
        self.arrived += 1;
    }

    fn queued(&mut self, number: u32, requests: &[Request], findings: &mut Findings<'_>) {
        self.arrives(number, findings);
        let level = self.level(&requests[number as usize]);
        self.waiting[level].push(number);
        let (holds, may) = (self.waiting[level].len(), self.policy.policies[level].max_entries.get());
        if holds > may {
            findings.add(format_args!("level {} holds {holds} entries, at most {may}", level + 1));
        }
    }

    /// Nothing more starts now: whoever could start must have been woken for, and so must every deadline.
    fn settled(
        &mut self,
        wakeup: Option<Timestamp>,
        room: Room,
        waiting: usize,
        requests: &[Request],
        findings: &mut Findings<'_>,
    ) {
        let now = findings.now;
        let held: usize = self.waiting.iter().map(Vec::len).sum();
        if held != waiting {
            findings.add(format_args!("the batcher holds {waiting} entries, {held} are left"));
        }
        let deadline = self.live(requests, now).filter_map(|(_, request)| request.start_by).min();
        let wakes = wakeup.unwrap_or(Timestamp::from_nanos(u64::MAX));
        // Triton looks at deadlines when it comes by, and every half a second while no instance is free.
        let due = if self.is_compat() { now.plus(COMPAT_POLL) } else { now };
        if let Some(deadline) = deadline.filter(|deadline| wakes > due.max(*deadline)) {
            findings.add(format_args!("a request's time is over at {} ns, but the wake-up is {wakeup:?}", deadline.as_nanos()));
        }
        let head =
            self.live(requests, now).map(|(number, request)| (self.service(*number, request, now), request.arrived_at)).min();
        let (Room::Idle, Some((_, arrived_at))) = (room, head) else {
            self.idle_since = None;
            return;
        };
        let idle_since = *self.idle_since.get_or_insert(now);
        let latest = self.latest_start(arrived_at, idle_since);
        if wakes > latest {
            findings.add(format_args!(
                "an instance is idle, somebody waits since {} ns, and the wake-up is {wakeup:?}: expected by {} ns",
                arrived_at.as_nanos(),
                latest.as_nanos(),
            ));
        }
    }

    /// When an idle instance must have started a batch, whose most urgent request came at `arrived_at`.
    fn latest_start(&self, arrived_at: Timestamp, idle_since: Timestamp) -> Timestamp {
        match self.policy.window {
            WindowPolicy::Fixed(delay) => arrived_at.plus(delay).max(idle_since),
            // To wait longer than an execution takes never pays; what that is must have been seen.
            WindowPolicy::Auto { cap } => {
                let capped = arrived_at.plus(cap.unwrap_or(Duration::MAX)).max(idle_since);
                idle_since.plus(self.longest_run).min(capped)
            }
        }
    }

    fn is_compat(&self) -> bool {
        self.policy.batcher == BatcherKind::Compat
    }

    /// The requests that wait and that somebody still waits for.
    fn live<'a>(&'a self, requests: &'a [Request], now: Timestamp) -> impl Iterator<Item = (&'a u32, &'a Request)> {
        let all = self.waiting.iter().flatten().map(|number| (number, &requests[*number as usize]));
        all.filter(move |(_, request)| !request.is_dead(now))
    }

    /// Where a request stands among all that wait, where nobody overtakes.
    fn service(&self, number: u32, request: &Request, now: Timestamp) -> (usize, Order) {
        (self.level(request), self.order(number, request, now))
    }

    /// Where in its level a request stands.
    fn order(&self, number: u32, request: &Request, now: Timestamp) -> Order {
        let delayed = request.delayed_from.is_some_and(|from| now >= from);
        if self.is_compat() || self.policy.preserve_ordering || delayed {
            return (delayed, request.arrived_at, number);
        }
        let patience = request.arrived_at.plus(PATIENCE);
        (false, request.start_by.into_iter().chain(request.finish_by).fold(patience, Timestamp::min), number)
    }
}
