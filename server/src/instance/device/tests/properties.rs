//! Whatever models do: limits hold, nothing is lost, time is divided by weight, and every claim's turn comes.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::resources::{ResourceLimit, ResourceLimits, ResourcePool};
use super::super::schedule::{ClaimId, DeviceScheduler, Grant, MAX_BLOCKED, MAX_PASSED, ShareId, ShareSpec};
use super::need_of;
use crate::clock::Timestamp;

/// Much of each resource that there is in these tests.
const AVAILABLE: u64 = 4;

/// Names of the resources.
const RESOURCES: [&str; 2] = ["r", "s"];

/// A share as a test makes it up.
#[derive(Clone, Debug)]
struct Made {
    weight: u32,
    divisor: u32,
    priority: u8,
    instances: usize,
    /// Of the device, never more than it has.
    slots: usize,
    /// Of each of [`RESOURCES`].
    needs: [u32; 2],
    /// Length of its executions, in microseconds.
    cost: u64,
}

impl Made {
    /// Its part, as a number.
    fn part(&self) -> f64 {
        f64::from(self.weight) / f64::from(self.divisor)
    }
}

fn made(needs: std::ops::RangeInclusive<u32>, priorities: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = Made> {
    (1..=4u32, 1..=2u32, priorities, 1..=3usize, 1..=4usize, [needs.clone(), needs], 500..=2000u64).prop_map(
        |(weight, divisor, priority, instances, slots, needs, cost)| Made {
            weight,
            divisor,
            priority,
            instances,
            slots,
            needs,
            cost,
        },
    )
}

/// A device whose every step is checked.
struct Checked {
    scheduler: DeviceScheduler<u64>,
    resources: ResourcePool,
    shares: Vec<(Made, ShareId)>,
    /// Claims that wait: by number, the share, its claim, and the turns of others since it was made.
    waiting: BTreeMap<u64, (usize, ClaimId, u32)>,
    running: Vec<(usize, Grant)>,
    slots: usize,
    claims: u64,
    now: Timestamp,
    /// Time used by each share.
    used: Vec<Duration>,
}

impl Checked {
    fn new(slots: usize, made: Vec<Made>) -> Self {
        let limit = |name: &&str| ResourceLimit { name: (*name).to_owned(), count: 4, device: None };
        let mut checked = Self {
            scheduler: DeviceScheduler::new(NonZeroUsize::new(slots).unwrap()),
            resources: ResourcePool::new(ResourceLimits::new(RESOURCES.iter().map(limit).collect())),
            shares: Vec::new(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            slots,
            claims: 0,
            now: Timestamp::default(),
            used: vec![Duration::ZERO; made.len()],
        };
        for mut made in made {
            let needs: Vec<_> =
                RESOURCES.iter().zip(made.needs).map(|(name, count)| need_of(&format!("{name}:{count}"), false)).collect();
            let needs = checked.resources.register("m", "0", &needs).unwrap();
            let share = checked.scheduler.register(ShareSpec {
                weight: NonZeroU32::new(made.weight).unwrap(),
                divisor: NonZeroU32::new(made.divisor).unwrap(),
                priority: made.priority,
                instances: NonZeroUsize::new(made.instances).unwrap(),
                slots: NonZeroUsize::new(made.slots).unwrap(),
                needs,
                ..ShareSpec::new("m")
            });
            made.slots = made.slots.min(slots);
            checked.shares.push((made, share));
        }
        checked
    }

    fn running_of(&self, share: usize) -> usize {
        self.running.iter().filter(|(running, _)| *running == share).count()
    }

    fn waiting_of(&self, share: usize) -> usize {
        self.waiting.values().filter(|(waiting, ..)| *waiting == share).count()
    }

    fn free_slots(&self) -> usize {
        let taken: usize = self.running.iter().map(|(share, _)| self.shares[*share].0.slots).sum();
        self.slots.checked_sub(taken).expect("more slots are taken than there are")
    }

    fn free(&self, resource: usize) -> u64 {
        let taken: u64 = self.running.iter().map(|(share, _)| u64::from(self.shares[*share].0.needs[resource])).sum();
        AVAILABLE.checked_sub(taken).expect("more is taken than there is")
    }

    fn claim(&mut self, share: usize) {
        if self.waiting_of(share) < self.shares[share].0.instances {
            self.claims += 1;
            let claim = self.scheduler.claim(self.shares[share].1, None, self.claims);
            self.waiting.insert(self.claims, (share, claim, 0));
        }
    }

    fn withdraw(&mut self, place: Index) {
        if let Some(number) = self.waiting.keys().nth(place.index(self.waiting.len().max(1))).copied() {
            let (_, claim, _) = self.waiting.remove(&number).unwrap();
            assert_eq!(self.scheduler.withdraw(claim, &mut self.resources), Some(number));
            assert_eq!(self.scheduler.withdraw(claim, &mut self.resources), None, "it is gone");
        }
    }

    /// Ends an execution; returns whose it was.
    fn end(&mut self, place: usize) -> usize {
        let (share, grant) = self.running.remove(place);
        self.now = self.now.plus(Duration::from_micros(self.shares[share].0.cost));
        self.used[share] += self.now.since(grant.granted_at()) * u32::try_from(self.shares[share].0.slots).unwrap();
        self.scheduler.release(self.now, grant, &mut self.resources);
        share
    }

    /// Grants all that can be granted, and looks whether that was right.
    fn settle(&mut self) {
        loop {
            let free = self.free_slots();
            assert_eq!(self.scheduler.free(), free);
            let Some((grant, number)) = self.scheduler.next(self.now, &mut self.resources) else {
                break;
            };
            let (share, claim, _) = self.waiting.remove(&number).expect("granted twice, or never claimed");
            assert_eq!((grant.claim(), grant.share()), (claim, self.shares[share].1));
            self.running.push((share, grant));
            self.waiting.values_mut().for_each(|(_, _, passed)| *passed += 1);
            assert!(self.shares[share].0.slots <= free, "more slots than are free");
            assert!(self.running_of(share) <= self.shares[share].0.instances);
            (0..RESOURCES.len()).for_each(|resource| assert!(self.free(resource) <= AVAILABLE));
        }
        self.waiting.values().for_each(|(share, ..)| self.must_wait(*share));
    }

    /// A claim waits: its slots or those of one who is before it are taken, all its instances run, or its resources are
    /// taken or kept for another.
    fn must_wait(&self, share: usize) {
        let free = self.free_slots();
        if self.waiting.values().any(|(other, ..)| self.shares[*other].0.slots > free) {
            return;
        }
        let made = &self.shares[share].0;
        let fits = |made: &Made| (0..RESOURCES.len()).all(|resource| u64::from(made.needs[resource]) <= self.free(resource));
        let idle = |share: usize| self.running_of(share) < self.shares[share].0.instances;
        let kept_for_another = self.waiting.values().any(|(other, ..)| {
            let others = &self.shares[*other].0;
            *other != share && idle(*other) && !fits(others) && made.needs.iter().zip(others.needs).any(|(a, b)| *a > 0 && b > 0)
        });
        assert!(!idle(share) || !fits(made) || kept_for_another, "a claim of share {share} waits for nothing");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Claim(Index),
    Withdraw(Index),
    End(Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<Index>().prop_map(Step::Claim),
        1 => any::<Index>().prop_map(Step::Withdraw),
        3 => any::<Index>().prop_map(Step::End),
    ]
}

proptest! {
    #[test]
    fn limits_hold_and_no_claim_waits_for_nothing(
        slots in 1..=4usize,
        shares in prop::collection::vec(made(0..=4, 1..=3), 1..=5),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut device = Checked::new(slots, shares);
        for step in steps {
            match step {
                Step::Claim(share) => device.claim(share.index(device.shares.len())),
                Step::Withdraw(place) => device.withdraw(place),
                Step::End(place) if !device.running.is_empty() => drop(device.end(place.index(device.running.len()))),
                Step::End(_) => {}
            }
            device.settle();
        }
        // Nothing is lost: what still waits runs as soon as the others end.
        let mut bound = 1000;
        while let Some(place) = device.running.len().checked_sub(1) {
            device.end(place);
            device.settle();
            bound -= 1;
            prop_assert!(bound > 0);
        }
        prop_assert!(device.waiting.is_empty());
        let busy = device.scheduler.used(device.now);
        prop_assert_eq!(busy.busy, device.used.iter().sum::<Duration>());
        let by_share: Vec<Duration> = device.scheduler.used_by_share(device.now).map(|(_, used)| used.busy).collect();
        prop_assert_eq!(by_share, device.used);
    }

    /// Over any stretch of time, two shares that always have something to run differ in device time over weight by
    /// at most one execution of each.
    #[test]
    fn backlogged_shares_divide_the_time_by_weight(shares in prop::collection::vec(made(0..=0, 2..=2), 2..=5)) {
        let shares: Vec<Made> = shares.into_iter().map(|made| Made { instances: 1, slots: 1, ..made }).collect();
        let mut device = Checked::new(1, shares);
        (0..device.shares.len()).for_each(|share| device.claim(share));
        device.settle();
        let mut courses: Vec<Vec<f64>> = vec![vec![0.0]; device.shares.len()];
        for _ in 0..400 {
            let share = device.end(0);
            for (other, course) in courses.iter_mut().enumerate() {
                course.push(device.used[other].as_secs_f64() * 1e6 / device.shares[other].0.part());
            }
            device.claim(share);
            device.settle();
        }
        for (a, b) in (0..courses.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let gaps = courses[a].iter().zip(&courses[b]).map(|(a, b)| a - b);
            let (least, most) = gaps.fold((f64::MAX, f64::MIN), |(least, most), gap| (least.min(gap), most.max(gap)));
            let bound = [a, b].map(|share| { let made = &device.shares[share].0; made.cost as f64 / made.part() });
            prop_assert!(most - least <= bound[0] + bound[1] + 0.01, "{a} and {b}: {least} to {most}, bound {bound:?}");
        }
    }

    /// With more slots than one, two shares that always have something to run differ in slot time over weight by no more
    /// than a bound that does not grow, however wide their turns are.
    #[test]
    fn wide_turns_divide_slot_time_by_weight(
        slots in 2..=4usize,
        shares in prop::collection::vec(made(0..=0, 2..=2), 2..=4),
    ) {
        // A share that may run in all slots at a time can use whatever is its due.
        let shares: Vec<Made> = shares.into_iter().map(|made| Made { instances: slots, ..made }).collect();
        let mut device = Checked::new(slots, shares);
        let execution = |made: &Made| made.cost as f64 * made.slots as f64 / made.part();
        let longest: f64 = device.shares.iter().map(|(made, _)| made.cost as f64).sum();
        for _ in 0..600 {
            (0..device.shares.len()).for_each(|share| (0..slots).for_each(|_| device.claim(share)));
            device.settle();
            prop_assert!(!device.running.is_empty());
            device.end(0);
            let used: Vec<f64> =
                device.shares.iter().zip(&device.used).map(|((made, _), used)| used.as_secs_f64() * 1e6 / made.part()).collect();
            for (a, b) in (0..used.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                // What executions take is known when they end: those that run are not counted right.
                let [of_a, of_b] = [a, b].map(|share| {
                    let made = &device.shares[share].0;
                    execution(made) + slots as f64 * slots as f64 * longest / made.part()
                });
                prop_assert!((used[a] - used[b]).abs() <= of_a + of_b, "{a} and {b}: {used:?} at {:?}", device.now);
            }
        }
    }

    /// A model that uses less than its part waits for the execution that runs, and no longer.
    #[test]
    fn a_rare_model_waits_for_one_execution(
        shares in prop::collection::vec(made(0..=0, 2..=2), 2..=5),
        arrivals in prop::collection::vec(0.0..1.0f64, 50),
    ) {
        let shares: Vec<Made> = shares.into_iter().map(|made| Made { instances: 1, slots: 1, ..made }).collect();
        let (rare, all) = (0, shares.len());
        // Long enough for the others to catch up with what the rare one has used.
        let parts: f64 = shares.iter().map(Made::part).sum();
        let longest: u64 = shares.iter().map(|made| made.cost).sum();
        let rest = 2 * longest + (2.0 * parts * shares[rare].cost as f64 / shares[rare].part()) as u64;
        let mut device = Checked::new(1, shares);
        (1..all).for_each(|share| device.claim(share));
        device.settle();
        let mut rested = Timestamp::default().plus(Duration::from_micros(rest));
        let mut within = arrivals.into_iter();
        let mut arrival = None;
        let mut served = 0;
        for _ in 0..100_000 {
            if served == 40 {
                break;
            }
            let ends = device.now.plus(Duration::from_micros(device.shares[device.running[0].0].0.cost));
            if arrival.is_none() && ends > rested && device.running[0].0 != rare {
                // It arrives while this execution runs. The claim does not look at the time.
                arrival = Some(within.next().unwrap_or(0.5));
                device.claim(rare);
                device.settle();
            }
            let ended = device.end(0);
            if ended != rare {
                device.claim(ended);
            }
            device.settle();
            if arrival.is_some() {
                prop_assert_eq!(device.running[0].0, rare, "it runs as soon as the execution has ended");
                arrival = None;
                served += 1;
                rested = device.now.plus(Duration::from_micros(rest));
            }
        }
        prop_assert_eq!(served, 40, "the rare one was not served");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every claim gets its turn after so many turns of others as classes, weights and needs explain.
    #[test]
    fn nothing_starves(
        slots in 1..=3usize,
        shares in prop::collection::vec(made(0..=4, 1..=2), 2..=4),
        ends in prop::collection::vec(any::<Index>(), 1500),
    ) {
        let mut device = Checked::new(slots, shares);
        let in_class = |share: &Made| -> f64 {
            // A share of weight w runs once while others of weight v run v / w times as long, and shares of one class
            // differ by an execution each.
            let others = device.shares.iter().map(|(other, _)| {
                let longest = device.shares.iter().map(|(made, _)| made.cost).max().unwrap_or(1) as f64;
                let wide = share.slots as f64 * slots as f64;
                // Executions are whole: a part of one is one.
                (other.part() / share.part() * (1.0 + longest * wide / (other.cost as f64 * other.slots as f64))).ceil() + 2.0
            });
            others.sum()
        };
        let bounds: Vec<f64> = device.shares.iter().map(|(share, _)| {
            let claims = share.instances as f64;
            let kept = f64::from(MAX_BLOCKED) + device.shares.len() as f64 * (slots as f64 + 1.0);
            claims * (in_class(share) + kept) * f64::from(MAX_PASSED + 1)
        }).collect();
        for end in ends {
            for share in 0..device.shares.len() {
                for _ in 0..device.shares[share].0.instances {
                    device.claim(share);
                }
            }
            device.settle();
            let late = device.waiting.values().find(|(share, _, passed)| f64::from(*passed) > bounds[*share]);
            prop_assert!(late.is_none(), "{late:?} of {:?}: bound {}", late.map(|(share, ..)| &device.shares[*share].0), late.map_or(0.0, |(share, ..)| bounds[*share]));
            if !device.running.is_empty() {
                device.end(end.index(device.running.len()));
            }
        }
    }
}
