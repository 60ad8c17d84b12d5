//! Owns the simulation of scheduling: a virtual clock, virtual clients and virtual instances around the real,
//! pure batcher. It may import the words, `config`, the pure parts of `scheduler` and of
//! `instance::device`; it must never use tokio, threads or the clocks of the operating system.
//!
//! A run goes from event to event: an arrival, the end of an execution, or the moment at which the batcher
//! wants to be asked again ([`DynamicBatcher::next_wakeup`]). Nothing else wakes it, so a wake-up that is
//! missing shows as a request that nobody answers, or as one that is answered late. A seed is a whole run:
//! the same scenario ends in the same [`Report`] on every machine.
//!
//! [`DynamicBatcher::next_wakeup`]: super::batcher::DynamicBatcher::next_wakeup

use std::num::NonZeroUsize;

use crate::clock::Timestamp;

pub mod check;
pub mod device;
pub mod fairness;
pub mod goodput;
mod model;
pub mod observer;
pub mod random;
pub mod report;
pub mod scenario;
mod shared;
pub mod sweep;
pub mod traffic;

pub use device::CostCurve;
pub use model::SimulatedModel;
pub use shared::SimulatedShare;

use model::Model;
use observer::{Nobody, Observer};
use random::Random;
use report::Report;
use shared::VirtualDevice;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// The models.
    pub models: Vec<SimulatedModel>,
    /// Where all models share one device: how many executions it runs side by side. Else each has its own, with as
    /// many as it has instances.
    pub shared_slots: Option<NonZeroUsize>,
}

/// Runs a scenario to its end: until all requests have arrived and each has ended.
pub fn run(scenario: &Scenario) -> Report {
    run_observed(scenario, &mut Nobody)
}

/// Runs a scenario to its end and lets `observer` see everything that happens.
pub fn run_observed(scenario: &Scenario, observer: &mut impl Observer) -> Report {
    let mut random = Random::new(scenario.seed);
    let mut device = scenario.shared_slots.map(|slots| VirtualDevice::new(slots, &scenario.models));
    let shares_device = device.is_some();
    let setups = scenario.models.iter().enumerate();
    let mut models: Vec<Model> = setups.map(|(index, setup)| Model::new(index, setup, shares_device, &mut random)).collect();
    let mut now = Timestamp::default();
    let mut stuck = None;
    while let Some((next, index)) = models.iter().enumerate().filter_map(|(index, model)| Some((model.next_at()?, index))).min() {
        now = now.max(next);
        models[index].advance(now, &mut device, observer);
        while let Some(turn) = device.as_mut().and_then(|device| device.next(now)) {
            models[turn].seat(now, &mut device, observer);
        }
        if let Some(fault) = models[index].fault() {
            stuck = Some(format!("model {index} is given up at {} ns: {fault}", now.as_nanos()));
            break;
        }
    }
    let open: usize = models.iter().map(Model::open).sum();
    if open > 0 && stuck.is_none() {
        stuck = Some(format!("{open} requests wait, and nothing would wake their model"));
    }
    Report { models: models.into_iter().map(Model::into_report).collect(), ended_at: now, stuck }
}
