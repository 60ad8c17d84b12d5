//! Rules about requests that end without running: each needs its reason, and at the right moment.

use crate::clock::Timestamp;

use super::super::report::{Outcome, Request};
use super::{Book, Findings, LEARNING};

/// How wrong a batcher may be about the times that things take.
const DOUBT: f64 = 1.5;

impl Book {
    pub(super) fn ended(&mut self, number: u32, outcome: Outcome, requests: &[Request], findings: &mut Findings<'_>) {
        let request = &requests[number as usize];
        match outcome {
            Outcome::Full | Outcome::Unreachable => {
                self.arrives(number, findings);
                if outcome == Outcome::Full {
                    self.full(request, findings)
                } else {
                    self.unreachable(request, requests, findings)
                }
            }
            Outcome::Expired | Outcome::Lapsed | Outcome::Left => {
                let was_queued = self.forget(number, request);
                let was_ready = !was_queued && self.forget_ready(number);
                if !was_queued && !was_ready {
                    findings.add(format_args!("request {number} ends as {outcome:?}, but it does not wait"));
                }
                self.lapsed(number, outcome, was_queued, request, findings);
            }
            Outcome::Open | Outcome::Answered | Outcome::Failed => {
                findings.add(format_args!("request {number} ends as {outcome:?} without running"));
            }
        }
    }

    /// Takes a request out of the books of its queue.
    pub(super) fn forget(&mut self, number: u32, request: &Request) -> bool {
        let level = self.level(request);
        let found = self.waiting[level].iter().position(|waiting| *waiting == number);
        found.map(|index| self.waiting[level].remove(index)).is_some()
    }

    fn forget_ready(&mut self, number: u32) -> bool {
        for batch in 0..self.ready.len() {
            let members = &mut self.ready[batch].1;
            if let Some(index) = members.iter().position(|member| *member == number) {
                members.remove(index);
                if members.is_empty() {
                    self.ready.remove(batch);
                }
                return true;
            }
        }
        false
    }

    fn full(&self, request: &Request, findings: &mut Findings<'_>) {
        let level = self.level(request);
        let (holds, may) = (self.waiting[level].len(), self.policy.policies[level].max_entries.get());
        if holds < may {
            findings.add(format_args!("refused as full, but level {} holds {holds} of {may} entries", level + 1));
        }
    }

    /// A request is refused as hopeless only if it is: not if everything would be over in time one by one, and then the
    /// largest batch, which its own may become by later arrivals.
    fn unreachable(&self, request: &Request, requests: &[Request], findings: &mut Findings<'_>) {
        let Some(finish_by) = request.finish_by else {
            return findings.add(format_args!("refused as unreachable without a deadline"));
        };
        let queued = self.waiting.iter().flatten();
        let formed = self.ready.iter().chain(&self.running).flat_map(|(_, members)| members);
        let mut nanos = self.longest_nanos(self.policy.max_rows.get(), self.largest_cost);
        for number in queued.chain(formed) {
            let Request { rows, cost, .. } = requests[*number as usize];
            nanos += self.longest_nanos(rows, cost);
        }
        let left = finish_by.since(findings.now).as_nanos() as f64;
        // What executions scatter and what it has not seen yet a batcher may allow for.
        if nanos * DOUBT <= left && self.finished >= LEARNING {
            findings.add(format_args!("refused as unreachable with {left} ns left, where {nanos} ns are enough for all"));
        }
    }

    /// How long so much may take at worst.
    fn longest_nanos(&self, rows: usize, cost: u64) -> f64 {
        let slow = if self.curve.slow_rate > 0.0 { self.curve.slow_factor.max(1.0) } else { 1.0 };
        self.curve.expected(rows, cost).as_nanos() as f64 * (1.0 + self.curve.jitter) * slow
    }

    fn lapsed(&self, number: u32, outcome: Outcome, was_queued: bool, request: &Request, findings: &mut Findings<'_>) {
        let now = findings.now;
        let gone = request.is_gone(now);
        match (outcome, request.start_by, request.finish_by) {
            (Outcome::Left, ..) if !gone => findings.add(format_args!("request {number} has not left")),
            (Outcome::Left, ..) => {}
            (Outcome::Expired, Some(start_by), _) if now < start_by => {
                findings.add(format_args!("request {number} expires {} ns early", start_by.since(now).as_nanos()));
            }
            (Outcome::Expired, Some(start_by), _) => {
                let due = start_by.max(request.arrived_at);
                if was_queued && now > due && !self.is_compat() {
                    findings.add(format_args!("request {number} expires {} ns late", now.since(due).as_nanos()));
                }
            }
            (Outcome::Lapsed, Some(start_by), _) => self.hopeless(number, start_by, findings),
            _ => findings.add(format_args!("request {number} ends as {outcome:?} without a deadline")),
        }
    }

    /// A queued request is given up only if, behind what is ready for the instances, the largest batch might end too
    /// late for it.
    fn hopeless(&self, number: u32, deadline: Timestamp, findings: &mut Findings<'_>) {
        let left = deadline.since(findings.now).as_nanos() as f64;
        let ahead = 1 + (self.ready.len() + self.running.len()) / self.instances;
        let longest = self.longest_nanos(self.policy.max_rows.get(), self.largest_cost) * ahead as f64;
        if left > longest * DOUBT && self.finished >= LEARNING {
            findings.add(format_args!("request {number} is given up with {left} ns left, where all takes {longest} ns"));
        }
    }
}
