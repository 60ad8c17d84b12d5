//! Scenarios made of a seed: random policies, devices and clients, small enough that thousands run in seconds.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use crate::config::{BatcherKind, DynamicBatching, QueuePolicy, TimeoutAction, WindowPolicy};

use super::device::CostCurve;
use super::random::Random;
use super::traffic::{Arrivals, Mix, Traffic};
use super::{Scenario, SimulatedModel, SimulatedShare};

const fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// A random scenario of one model and 50 to 200 requests; the same for the same seed. It strains what a
/// scheduler is afraid of: full queues, deadlines close to an execution's length, arrivals and ends of executions
/// at one instant, requests without rows, clients that leave.
pub fn random(seed: u64) -> Scenario {
    // Runs draw from the seed as well; what they draw must not depend on how the scenario came about.
    let mut random = Random::new(seed ^ 0x5CE7_A110);
    let costs = random.chance(0.3);
    let curve = curve(&mut random, costs);
    let instances = random.size(1, 4);
    let policy = policy(&mut random, curve.fixed);
    let mix = mix(&mut random, &policy, curve.fixed, costs);
    let batch = (policy.max_rows.get() / (*mix.rows.end()).max(1)).max(1);
    let capacity = curve.capacity(instances, batch, *mix.rows.end(), *mix.cost_per_row.end());
    let max_requests = random.size(50, 200);
    let arrivals = arrivals(&mut random, capacity, max_requests, curve.fixed);
    let traffic = Traffic {
        arrivals,
        mix,
        max_requests,
        duration: Duration::from_secs(60),
        tick: random.choose(us(100), &[us(10), Duration::from_nanos(1)]),
    };
    let model = SimulatedModel { policy, instances, curve, traffic, share: SimulatedShare::default() };
    Scenario { seed, models: vec![model], shared_slots: None }
}

/// A device whose time follows the rows, or where these differ in cost the cost: what a batcher is told is true.
fn curve(random: &mut Random, costs: bool) -> CostCurve {
    CostCurve {
        fixed: us(random.between(50, 2000)),
        per_row: us(if costs { 0 } else { random.choose(0, &[20, 200]) }),
        per_cost: us(if costs { random.choose(5, &[20]) } else { 0 }),
        jitter: random.choose(0.0, &[0.1, 0.5]),
        fail_rate: random.choose(0.0, &[0.05]),
        slow_rate: random.choose(0.0, &[0.0, 0.05]),
        slow_factor: 8.0,
        cold_start: Duration::ZERO,
    }
}

fn policy(random: &mut Random, scale: Duration) -> DynamicBatching {
    let max_rows = random.choose(1, &[2, 4, 8, 16]);
    let max_entries = random.choose(4, &[16, 1000]);
    let preserve_ordering = random.chance(0.1);
    let levels = if preserve_ordering { 1 } else { random.choose(1, &[1, 2, 4]) };
    let batcher = random.choose(BatcherKind::Default, &[BatcherKind::Default, BatcherKind::Default, BatcherKind::Compat]);
    let mut preferred_rows = vec![max_rows];
    if random.chance(0.3) {
        preferred_rows.insert(0, random.size(1, max_rows));
        preferred_rows.dedup();
    }
    let delay = random.choose(Duration::ZERO, &[scale / 2, scale, scale * 4]);
    let window = match batcher {
        BatcherKind::Default if random.chance(0.6) => WindowPolicy::Auto { cap: (!delay.is_zero()).then_some(delay) },
        _ => WindowPolicy::Fixed(delay),
    };
    let policies: Vec<QueuePolicy> = (0..levels)
        .map(|_| QueuePolicy {
            action: if random.chance(0.3) && !preserve_ordering { TimeoutAction::Delay } else { TimeoutAction::Reject },
            default_timeout: random.chance(0.4).then(|| random.duration(scale, scale * 10)),
            ..QueuePolicy::bounded(at_least_one(random.size(1, max_entries)))
        })
        .collect();
    let looks_at_waiting = levels > 1 || policies.iter().any(|policy| policy.default_timeout.is_some());
    DynamicBatching {
        batcher,
        run_ahead: !looks_at_waiting && random.chance(0.7),
        // Triton knows no cost.
        max_cost: (batcher == BatcherKind::Default && random.chance(0.3))
            .then(|| NonZeroU64::new(random.between(1, 40)))
            .flatten(),
        preferred_rows,
        window,
        preserve_ordering,
        priority_levels: at_least_one(levels),
        default_priority: random.size(1, levels),
        policies,
        ..DynamicBatching::plain(at_least_one(max_rows), at_least_one(max_entries))
    }
}

fn mix(random: &mut Random, policy: &DynamicBatching, scale: Duration, costs: bool) -> Mix {
    let max_rows = policy.max_rows.get();
    let some = |random: &mut Random, from: u32, to: u32| {
        random.chance(0.4).then(|| (random.choose(0.2, &[1.0]), scale * from / 2..=scale * to))
    };
    Mix {
        rows: random.choose(1, &[1, 0])..=random.choose(1, &[(max_rows / 2).max(1), max_rows]),
        cost_per_row: 1..=if costs { 10 } else { 1 },
        shapes: random.choose(1, &[1, 2, 5]),
        // One more than there are: it falls back to the default.
        priorities: 0..=policy.priority_levels.get() as u64 + 1,
        timeout: some(random, 0, 20),
        deadline: some(random, 1, 30),
        leave: some(random, 0, 10),
    }
}

fn arrivals(random: &mut Random, capacity: f64, requests: usize, scale: Duration) -> Arrivals {
    let load = random.choose(0.3, &[0.8, 1.2, 3.0, 20.0]);
    let per_second = capacity * load;
    match random.below(5) {
        0 => Arrivals::Poisson { per_second },
        1 => Arrivals::Bursty { per_second: per_second * 3.0, on: scale * 2, off: scale * 4 },
        2 => Arrivals::Ramp { from_per_second: per_second / 4.0, to_per_second: per_second * 2.0 },
        3 => Arrivals::Closed { clients: random.size(1, 32), think: Duration::ZERO..=scale * random.choose(0, &[1, 3]) },
        _ => {
            let mut at = Duration::ZERO;
            let times = (0..requests).map(|_| {
                // Many together, then a gap.
                at += if random.chance(0.7) { Duration::ZERO } else { random.duration(Duration::ZERO, scale * 3) };
                at
            });
            Arrivals::Trace(times.collect())
        }
    }
}

fn at_least_one(size: usize) -> NonZeroUsize {
    NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN)
}
