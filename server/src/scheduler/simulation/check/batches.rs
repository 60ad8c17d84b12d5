//! Rules about batches: who may be in one, who must be, and in which order they leave the queue.

use crate::batch::{Batch, Trigger};
use crate::clock::Timestamp;
use crate::scheduler::batcher::{PASS_OVER, Room};

use super::super::report::Request;
use super::{Book, Findings, Order, is_delayed, is_given_up};

/// One rank's part in a batch: its most urgent request, the last one that is a member, and the first of the batch's
/// shape that stayed behind.
#[derive(Clone, Copy, Debug, Default)]
struct Rank {
    /// Whether anybody is in the queue, be it one whose client has left.
    waits: bool,
    head: Option<Order>,
    /// As `head`, whether or not its client has left.
    first: Option<Order>,
    taken: Option<Order>,
    stayed: Option<Order>,
}

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
        if self.is_compat() {
            self.in_prefix(&members, requests, findings);
        } else if self.policy.preserve_ordering {
            self.in_order(&members, load, origin.trigger, requests, findings);
        } else {
            self.by_urgency(&members, load, origin.trigger, requests, findings);
        }
        for number in &members {
            if !self.forget(*number, &requests[*number as usize]) {
                findings.add(format_args!("request {number} is in batch {}, but it does not wait", origin.id));
            }
        }
        let may_grow = self.is_compat() || origin.trigger == Trigger::Deadline;
        if room == Room::Behind && !may_grow && self.could_grow(&members, load, requests, now) {
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
            // In Triton's payload nobody is looked at any more; an instance does that again.
            if request.is_dead(findings.now) && !self.is_compat() {
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

    /// The default policy: the highest rank leads with its most urgent request, and each rank that the batch draws on
    /// gives its most urgent ones of the shape. A rank is half a level: who is in time, and behind those who is
    /// delayed.
    fn by_urgency(&mut self, members: &[u32], load: Load, trigger: Trigger, requests: &[Request], findings: &mut Findings<'_>) {
        let now = findings.now;
        let Some(first) = members.first() else { return };
        let shape = requests[*first as usize].shape;
        let mut ranks = vec![Rank::default(); self.passed_over.len()];
        for number in self.waiting.iter().flatten() {
            let request = &requests[*number as usize];
            let order = self.order(*number, request, now);
            let rank = &mut ranks[self.rank(request, now)];
            rank.waits = true;
            rank.first = Some(rank.first.map_or(order, |first| first.min(order)));
        }
        for (number, request) in self.live(requests, now) {
            let order = self.order(*number, request, now);
            let rank = &mut ranks[self.rank(request, now)];
            rank.head = Some(rank.head.map_or(order, |head| head.min(order)));
            if members.contains(number) {
                rank.taken = Some(rank.taken.map_or(order, |last| last.max(order)));
            } else if request.shape == shape {
                rank.stayed = Some(rank.stayed.map_or(order, |head| head.min(order)));
            }
        }
        for (index, rank) in ranks.iter().enumerate() {
            if let (Some(last), Some(behind)) = (rank.taken, rank.stayed)
                && behind < last
            {
                findings.add(format_args!("request {} overtakes {} within rank {index}", last.2, behind.2));
            }
        }
        let lead = self.rank(&requests[*first as usize], now);
        self.check_lead(lead, members, &ranks, requests, findings);
        self.check_fill(lead, load, trigger, &ranks, requests, findings);
    }

    fn rank(&self, request: &Request, now: Timestamp) -> usize {
        2 * self.level(request) + usize::from(is_delayed(request, now))
    }

    /// Who leads: the most urgent of the highest rank, or of one that was passed over too often.
    fn check_lead(&mut self, lead: usize, members: &[u32], ranks: &[Rank], requests: &[Request], findings: &mut Findings<'_>) {
        let is_served = |rank: &Rank| rank.head.is_some_and(|head| members.contains(&head.2));
        let overdue = self.passed_over_at_most[lead] >= PASS_OVER && is_served(&ranks[lead]);
        let highest = ranks.iter().find(|rank| rank.head.is_some()).copied().unwrap_or_default();
        // Whose leader is given up for the sake of a full batch leads it nevertheless.
        let now = findings.now;
        let led_by_another = self.waiting.iter().flatten().any(|number| is_given_up(&requests[*number as usize], now));
        if let Some(head) = highest.head.filter(|_| !is_served(&highest) && !overdue && !led_by_another) {
            findings.add(format_args!("request {} is the most urgent, but not in the batch", head.2));
        }
        for (index, rank) in ranks.iter().enumerate() {
            let is_first_served = is_served(rank) && rank.first == rank.head;
            self.passed_over_at_most[index] =
                if rank.waits && !is_first_served { self.passed_over_at_most[index] + 1 } else { 0 };
            self.passed_over[index] = if rank.waits && !is_served(rank) { self.passed_over[index] + 1 } else { 0 };
            // Several that are overdue go one after the other, and one whose client has left may have been the first.
            if self.passed_over[index] > 2 * PASS_OVER + ranks.len() as u64 {
                findings.add(format_args!("rank {index} was passed over {} times in a row", self.passed_over[index]));
            }
        }
    }

    /// Other ranks only fill what the leading one and those above leave, and nothing is left that fits.
    fn check_fill(
        &self,
        lead: usize,
        load: Load,
        trigger: Trigger,
        ranks: &[Rank],
        requests: &[Request],
        findings: &mut Findings<'_>,
    ) {
        let mut order = std::iter::once(lead).chain((0..ranks.len()).filter(|rank| *rank != lead));
        let Some((at, next)) = order.find_map(|rank| Some((rank, ranks[rank].stayed?))) else { return };
        // A batch that grew further would end too late for one of its members; and who stopped it from growing may have
        // been given up since.
        let shape = requests[next.2 as usize].shape;
        let gave_up = self.waiting.iter().flatten().any(|number| {
            let request = &requests[*number as usize];
            request.shape == shape && is_given_up(request, findings.now)
        });
        let is_cut = trigger == Trigger::Deadline || gave_up;
        if !is_cut && self.fits(load, &requests[next.2 as usize]) {
            findings.add(format_args!("request {} would have fitted into the batch", next.2));
        }
        if let Some(below) = order.find(|rank| ranks[*rank].taken.is_some()) {
            findings.add(format_args!("rank {below} is in the batch, although request {} of rank {at} is not", next.2));
        }
    }

    /// Preserved order: a batch is the beginning of all that wait, and ends where the next one does not fit.
    fn in_order(&self, members: &[u32], load: Load, trigger: Trigger, requests: &[Request], findings: &mut Findings<'_>) {
        let now = findings.now;
        let all = self.waiting.iter().flatten().map(|number| (number, &requests[*number as usize]));
        // Who is dead and still in the queue may be in a batch's way, but not in the batch.
        let mut expected = all.filter(|(_, request)| !request.is_dead(now) && !is_given_up(request, now));
        for number in members {
            let next = expected.next().map(|(next, _)| *next);
            if next != Some(*number) {
                findings.add(format_args!("request {number} overtakes {next:?}, although order is preserved"));
            }
        }
        let shape = members.first().map(|number| requests[*number as usize].shape);
        let behind = members.iter().max().and_then(|last| self.waiting.iter().flatten().find(|number| *number > last));
        if let Some((next, request)) = expected.next()
            && Some(next) == behind
            && Some(request.shape) == shape
            && self.fits(load, request)
            && trigger != Trigger::Deadline
        {
            findings.add(format_args!("request {next} would have fitted into the batch"));
        }
    }

    /// Triton: of those in time, nobody is overtaken, neither by a lower level nor within a level.
    fn in_prefix(&self, members: &[u32], requests: &[Request], findings: &mut Findings<'_>) {
        let now = findings.now;
        let in_time = self.live(requests, now).filter(|(_, request)| !is_delayed(request, now));
        let (mut last, mut stayed) = (None, None);
        for (number, request) in in_time {
            let place = (self.level(request), *number);
            if members.contains(number) {
                last = last.max(Some(place));
            } else {
                stayed = Some(stayed.map_or(place, |first: (usize, u32)| first.min(place)));
            }
        }
        if let (Some(last), Some(stayed)) = (last, stayed)
            && stayed < last
        {
            findings.add(format_args!("request {} overtakes {}", last.1, stayed.1));
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
        self.finished += 1;
        if let Some(member) = batch.members().first() {
            self.longest_run = self.longest_run.max(findings.now.since(requests[member.item as usize].started_at));
        }
    }
}
