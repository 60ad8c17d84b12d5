//! The independent judge of a run: it keeps its own books of what waits and what runs, trusts nothing that the
//! batcher says, and names every rule that was broken.

mod batches;
mod refusals;

use std::time::Duration;

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::config::{BatcherKind, DynamicBatching, WindowPolicy};
use crate::scheduler::batcher::{PATIENCE, Room};

use super::observer::{Event, Observer};
use super::report::{Outcome, Report, Request};
use super::{CostCurve, Scenario};

/// Violations that are kept; more say nothing new.
const MAX_VIOLATIONS: usize = 20;

/// Executions after which a batcher must know what an execution takes; before, it may be wrong about who is in time.
const LEARNING: usize = 16;

/// The place of a request in its level: who is delayed comes last, else the most urgent comes first, and of
/// those that are equally urgent the one that came first.
type Order = (bool, Timestamp, u32);

/// Checks a run while it goes on.
#[derive(Debug)]
pub struct Checker {
    books: Vec<Book>,
    violations: Vec<String>,
}

/// An event, kept.
#[derive(Debug)]
enum Happening {
    Queued(u32),
    Ended(u32, Outcome),
    Formed(Batch<u32>, Room),
    Started(Batch<u32>),
    Finished(Batch<u32>),
    Settled(Option<Timestamp>, Room, usize),
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
    /// Batches in a row that passed over a rank in which somebody waited.
    passed_over: Vec<u64>,
    /// The same, where a rank whose first one's client has left counts as passed over while others of it are served:
    /// the batcher does not know yet that nobody waits there.
    passed_over_at_most: Vec<u64>,
    /// Batches that were formed and have not started: the batch's number, and who is in it.
    ready: Vec<(u64, Vec<u32>)>,
    /// Batches that run.
    running: Vec<(u64, Vec<u32>)>,
    last_batch: u64,
    /// The last request that started, where order is preserved.
    last_started: Option<u32>,
    longest_run: Duration,
    /// Executions that have ended.
    finished: usize,
    /// Cost of the largest batch.
    largest_cost: u64,
    /// Since when an instance is idle although somebody waits.
    idle_since: Option<Timestamp>,
    /// What has happened at this moment. It is judged when the moment is over: a request may be passed over by a batch
    /// because it is given up, of which the batcher tells right after.
    moment: Vec<Happening>,
    moment_at: Timestamp,
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
            largest_cost: *model.traffic.mix.cost_per_row.end() * model.policy.max_rows.get() as u64,
            policy: model.policy.clone(),
            instances: model.instances,
            curve: model.curve,
            arrived: 0,
            waiting: vec![Vec::new(); model.policy.policies.len()],
            passed_over: vec![0; 2 * model.policy.policies.len()],
            passed_over_at_most: vec![0; 2 * model.policy.policies.len()],
            ready: Vec::new(),
            running: Vec::new(),
            last_batch: 0,
            last_started: None,
            longest_run: Duration::ZERO,
            finished: 0,
            idle_since: None,
            moment: Vec::new(),
            moment_at: Timestamp::default(),
        };
        Self { books: scenario.models.iter().map(book).collect(), violations: Vec::new() }
    }

    /// The rules that were broken, after the run has ended with this report.
    pub fn verdict(mut self, report: &Report) -> Vec<String> {
        self.violations.extend(report.stuck.clone());
        for (model, (book, shown)) in self.books.iter_mut().zip(&report.models).enumerate() {
            book.judge_moment(model, &shown.requests, &mut self.violations);
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
        if now > book.moment_at {
            book.judge_moment(model, requests, &mut self.violations);
            book.moment_at = now;
        }
        book.moment.push(match event {
            Event::Queued(number) => Happening::Queued(number),
            Event::Ended(number, outcome) => Happening::Ended(number, outcome),
            Event::Formed { batch, room } => Happening::Formed(batch.clone(), room),
            Event::Started { batch } => Happening::Started(batch.clone()),
            Event::Finished { batch, .. } => Happening::Finished(batch.clone()),
            Event::Settled { wakeup, room, waiting } => Happening::Settled(wakeup, room, waiting),
        });
    }
}

impl Book {
    /// Judges everything that happened at the last moment, in order.
    fn judge_moment(&mut self, model: usize, requests: &[Request], violations: &mut Vec<String>) {
        let mut findings = Findings { violations, model, now: self.moment_at };
        let mut moment = std::mem::take(&mut self.moment);
        for happening in moment.drain(..) {
            match happening {
                Happening::Queued(number) => self.queued(number, requests, &mut findings),
                Happening::Ended(number, outcome) => self.ended(number, outcome, requests, &mut findings),
                Happening::Formed(batch, room) => self.formed(&batch, room, requests, &mut findings),
                Happening::Started(batch) => self.started(&batch, requests, &mut findings),
                Happening::Finished(batch) => self.finished(&batch, requests, &mut findings),
                Happening::Settled(wakeup, room, waiting) => self.settled(wakeup, room, waiting, requests, &mut findings),
            }
        }
        self.moment = moment;
    }

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
        // What Triton has moved into a payload counts no more.
        let payload = if self.is_compat() { self.policy.max_rows.get() } else { 0 };
        let waiting = self.waiting[level].iter().map(|number| &requests[*number as usize]);
        let holds = waiting.filter(|request| !is_given_up(request, findings.now)).count();
        let may = self.policy.policies[level].max_entries.get() + payload;
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
        let mut waits = vec![false; self.passed_over.len()];
        for number in self.waiting.iter().flatten() {
            let request = &requests[*number as usize];
            waits[2 * self.level(request) + usize::from(is_delayed(request, now))] = true;
        }
        for (index, _) in waits.iter().enumerate().filter(|(_, waits)| !**waits) {
            // Who comes next has waited for no batch yet.
            self.passed_over[index] = 0;
            self.passed_over_at_most[index] = 0;
        }
        let deadline = self.live(requests, now).filter_map(|(_, request)| request.start_by).min();
        let wakes = wakeup.unwrap_or(Timestamp::from_nanos(u64::MAX));
        // Triton looks at deadlines when it comes by, so there is no moment at which it must.
        if let Some(deadline) = deadline.filter(|deadline| wakes > *deadline && !self.is_compat()) {
            findings.add(format_args!("a request's time is over at {} ns, but the wake-up is {wakeup:?}", deadline.as_nanos()));
        }
        let live = self.live(requests, now);
        let head = live.map(|(number, request)| (self.service(*number, request, now), request.arrived_at)).min();
        let (Room::Idle, Some((_, arrived_at))) = (room, head) else {
            self.idle_since = None;
            return;
        };
        // Until they are met, clients that have left are waited for like others, and no longer than those.
        let left = self.waiting.iter().flatten().map(|number| &requests[*number as usize]).filter(|request| request.is_gone(now));
        let arrived_at = left.map(|request| request.arrived_at).fold(arrived_at, Timestamp::max);
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
        // Who is given up at this very moment was no candidate for its batches.
        all.filter(move |(_, request)| !is_given_up(request, now) && !request.is_dead(now))
    }

    /// Where a request stands among all that wait, where nobody overtakes.
    fn service(&self, number: u32, request: &Request, now: Timestamp) -> (usize, Order) {
        (self.level(request), self.order(number, request, now))
    }

    /// Where in its level a request stands.
    fn order(&self, number: u32, request: &Request, now: Timestamp) -> Order {
        let delayed = is_delayed(request, now);
        if self.is_compat() || self.policy.preserve_ordering {
            return (delayed, request.arrived_at, number);
        }
        let place = request.delayed_from.filter(|_| !delayed);
        let deadlines = request.start_by.into_iter().chain(request.finish_by).chain(place);
        // Who is delayed begins to wait anew, behind the others.
        let since = request.delayed_from.filter(|_| delayed).map_or(request.arrived_at, |from| from.max(request.arrived_at));
        (delayed, deadlines.fold(since.plus(PATIENCE), Timestamp::min), number)
    }
}

/// Whether a request has gone back behind all of its level that are in time.
fn is_delayed(request: &Request, now: Timestamp) -> bool {
    request.delayed_from.is_some_and(|from| now >= from)
}

/// Whether a request is given up at this very moment.
fn is_given_up(request: &Request, now: Timestamp) -> bool {
    request.outcome == Outcome::Lapsed && request.ended_at == now
}
