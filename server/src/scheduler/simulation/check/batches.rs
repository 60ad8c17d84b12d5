//! Rules about batches: who may be in one, who must be, and in which order they leave the queue.

use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::scheduler::batcher::Room;

use super::super::report::Request;
use super::{Book, Findings, MAX_PASSED_OVER, Order};

/// The rows and cost of a batch so far.
#[derive(Clone, Copy)]
struct Load {
    rows: usize,
    cost: u64,
}

impl Book {
    pub(super) fn formed(&mut self, batch: &Batch<u32>, room: Room, requests: &[Request], findings: &mut Findings<'_>) {
        let now = findings.now;
        let origin = batch.origin;
        if batch.is_empty() || room == Room::None {
            findings.add(format_args!("batch {} is formed of {} entries for {room:?}", origin.id, batch.len()));
        }
        if origin.id <= self.last_batch || origin.formed_at != now {
            findings.add(format_args!("batch {} follows {}, formed at {:?}", origin.id, self.last_batch, origin.formed_at));
        }
        self.last_batch = origin.id;
        // Another idle instance waits anew.
        self.idle_since = None;
        // What is checked against is what waited just before: then the members leave the books.
        let members: Vec<u32> = batch.members().iter().map(|member| member.item).collect();
        let load = self.content(batch, requests, findings);
        if self.policy.preserve_ordering || self.is_compat() {
            self.in_order(&members, load, requests, findings);
        } else {
            self.by_urgency(&members, load, requests, findings);
        }
        for number in &members {
            if !self.forget(*number, &requests[*number as usize]) {
                findings.add(format_args!("request {number} is in batch {}, but it does not wait", origin.id));
            }
        }
        if room == Room::Behind && !self.is_compat() && self.could_grow(&members, load, requests, now) {
            findings.add(format_args!("batch {} is made ready behind others, but it could still grow", origin.id));
        }
        self.ready.push((origin.id, members));
    }

    /// One shape, whole requests side by side, within the limits, nobody dead.
    fn content(&self, batch: &Batch<u32>, requests: &[Request], findings: &mut Findings<'_>) -> Load {
        let mut load = Load { rows: 0, cost: 0 };
        let mut places = 0;
        let shape = batch.members().first().map(|member| requests[member.item as usize].shape);
        for member in batch.members() {
            let request = &requests[member.item as usize];
            if member.rows != (load.rows..load.rows + request.rows) {
                findings.add(format_args!("request {} of {} rows has the rows {:?}", member.item, request.rows, member.rows));
            }
            if Some(request.shape) != shape {
                findings.add(format_args!("request {} shares a batch with another shape", member.item));
            }
            if request.is_dead(findings.now) {
                findings.add(format_args!("request {} is dead and in a batch", member.item));
            }
            load = Load { rows: load.rows + request.rows, cost: load.cost + request.cost };
            places += request.rows.max(1);
        }
        let alone = batch.len() == 1;
        if batch.rows() != load.rows || batch.origin.cost != load.cost {
            findings.add(format_args!("batch {} says {} rows, cost {}", batch.origin.id, batch.rows(), batch.origin.cost));
        }
        if !alone && (places > self.policy.max_rows.get() || self.policy.max_cost.is_some_and(|max| load.cost > max.get())) {
            findings.add(format_args!("batch {} is over a limit: {} rows, cost {}", batch.origin.id, load.rows, load.cost));
        }
        Load { rows: places, ..load }
    }

    fn fits(&self, load: Load, request: &Request) -> bool {
        load.rows + request.rows.max(1) <= self.policy.max_rows.get()
            && self.policy.max_cost.is_none_or(|max| load.cost + request.cost <= max.get())
    }

    /// The default policy: the highest level leads with its most urgent request, and each level of the batch
    /// gives its most urgent ones of the shape.
    fn by_urgency(&mut self, members: &[u32], load: Load, requests: &[Request], findings: &mut Findings<'_>) {
        let now = findings.now;
        let Some(first) = members.first() else { return };
        let shape = requests[*first as usize].shape;
        let levels = self.waiting.len();
        // By level: the most urgent of all, the first of the shape who stayed behind, and the last member.
        let mut heads: Vec<Option<Order>> = vec![None; levels];
        let mut stayed: Vec<Option<Order>> = vec![None; levels];
        let mut taken: Vec<Option<Order>> = vec![None; levels];
        for (level, waiting) in self.waiting.iter().enumerate() {
            for number in waiting {
                let request = &requests[*number as usize];
                if request.is_dead(now) {
                    continue;
                }
                let order = self.order(*number, request, now);
                heads[level] = Some(heads[level].map_or(order, |head| head.min(order)));
                if members.contains(number) {
                    taken[level] = Some(taken[level].map_or(order, |last| last.max(order)));
                } else if request.shape == shape {
                    stayed[level] = Some(stayed[level].map_or(order, |head| head.min(order)));
                }
            }
        }
        for level in 0..levels {
            if let (Some(last), Some(behind)) = (taken[level], stayed[level])
                && behind < last
                && !(behind.0 && last.0)
            {
                findings.add(format_args!("request {} overtakes {} within level {}", last.2, behind.2, level + 1));
            }
        }
        self.check_lead(members, &heads, findings);
        self.check_fill(*first, load, &heads, &stayed, requests, findings);
    }

    /// Who leads: the most urgent of the highest level, or of one that was passed over too often.
    fn check_lead(&mut self, members: &[u32], heads: &[Option<Order>], findings: &mut Findings<'_>) {
        let leads = |level: usize| heads[level].is_some_and(|head| members.contains(&head.2));
        let highest = heads.iter().position(Option::is_some);
        let starving = (0..heads.len()).any(|level| self.passed_over[level] >= MAX_PASSED_OVER && leads(level));
        if let Some(highest) = highest.filter(|highest| !leads(*highest) && !starving) {
            let head = heads[highest].map_or(0, |head| head.2);
            findings.add(format_args!("request {head} of level {} is the most urgent, but not in the batch", highest + 1));
        }
        for (level, head) in heads.iter().enumerate() {
            self.passed_over[level] = if head.is_none() || leads(level) { 0 } else { self.passed_over[level] + 1 };
            if self.passed_over[level] > MAX_PASSED_OVER + heads.len() {
                findings.add(format_args!("level {} was passed over {} times in a row", level + 1, self.passed_over[level]));
            }
        }
    }

    /// Lower levels only fill what higher ones leave, and nothing is left that fits.
    fn check_fill(
        &self,
        first: u32,
        load: Load,
        heads: &[Option<Order>],
        stayed: &[Option<Order>],
        requests: &[Request],
        findings: &mut Findings<'_>,
    ) {
        let lead = self.level(&requests[first as usize]);
        let order = std::iter::once(lead).chain((0..heads.len()).filter(|level| *level != lead));
        let Some(next) = order.filter_map(|level| stayed[level]).next() else { return };
        if self.fits(load, &requests[next.2 as usize]) {
            findings.add(format_args!("request {} would have fitted into the batch", next.2));
        }
    }

    /// Where nobody overtakes: a batch is the beginning of all that wait, level by level. Unless Triton's preferred
    /// sizes cut it shorter, it ends where the next one does not fit.
    fn in_order(&self, members: &[u32], load: Load, requests: &[Request], findings: &mut Findings<'_>) {
        let now = findings.now;
        let mut expected: Vec<_> =
            self.live(requests, now).map(|(number, request)| self.service(*number, request, now)).collect();
        expected.sort_unstable();
        let mut expected = expected.into_iter().map(|(_, (_, _, number))| number);
        for number in members {
            let next = expected.next();
            if next != Some(*number) {
                findings.add(format_args!("request {number} overtakes {next:?}, although nobody may"));
            }
        }
        let shape = members.first().map(|number| requests[*number as usize].shape);
        if let Some(next) = expected.next().filter(|_| !self.is_compat()) {
            let request = &requests[next as usize];
            if Some(request.shape) == shape && self.fits(load, request) {
                findings.add(format_args!("request {next} would have fitted into the batch"));
            }
        }
    }

    /// Whether a later request could still join a batch.
    fn could_grow(&self, members: &[u32], load: Load, requests: &[Request], now: Timestamp) -> bool {
        let full = load.rows >= self.policy.max_rows.get() || self.policy.max_cost.is_some_and(|max| load.cost >= max.get());
        let shape = members.first().map(|number| requests[*number as usize].shape);
        let behind = self.waiting.iter().flatten().any(|number| {
            let request = &requests[*number as usize];
            !request.is_dead(now) && (Some(request.shape) == shape || self.policy.preserve_ordering)
        });
        !full && !behind
    }

    pub(super) fn started(&mut self, batch: &Batch<u32>, requests: &[Request], findings: &mut Findings<'_>) {
        let id = batch.origin.id;
        let members: Vec<u32> = batch.members().iter().map(|member| member.item).collect();
        match self.ready.iter().position(|(ready, _)| *ready == id) {
            Some(index) => {
                let (_, formed) = self.ready.remove(index);
                if formed != members {
                    findings.add(format_args!("batch {id} starts with {members:?}, but {formed:?} are left of it"));
                }
            }
            None => findings.add(format_args!("batch {id} starts, but it was not formed")),
        }
        let mut end = 0;
        for member in batch.members() {
            let request = &requests[member.item as usize];
            if member.rows != (end..end + request.rows) {
                findings.add(format_args!("request {} starts with the rows {:?}", member.item, member.rows));
            }
            if request.is_dead(findings.now) {
                findings.add(format_args!("request {} is dead and starts", member.item));
            }
            if self.policy.preserve_ordering && self.last_started.replace(member.item).is_some_and(|last| last > member.item) {
                findings.add(format_args!("request {} starts out of order", member.item));
            }
            end += request.rows;
        }
        self.running.push((id, members));
        if self.running.len() > self.instances {
            findings.add(format_args!("{} batches run on {} instances", self.running.len(), self.instances));
        }
    }

    pub(super) fn finished(&mut self, batch: &Batch<u32>, requests: &[Request], findings: &mut Findings<'_>) {
        let id = batch.origin.id;
        match self.running.iter().position(|(running, _)| *running == id) {
            Some(index) => drop(self.running.swap_remove(index)),
            None => findings.add(format_args!("batch {id} ends, but it does not run")),
        }
        if let Some(member) = batch.members().first() {
            self.longest_run = self.longest_run.max(findings.now.since(requests[member.item as usize].started_at));
        }
    }
}
