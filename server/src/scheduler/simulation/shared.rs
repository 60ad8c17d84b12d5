//! A virtual device that models share: the real, pure device scheduler, and who holds a turn on it.

use std::num::{NonZeroU32, NonZeroUsize};

use crate::clock::Timestamp;
use crate::instance::device::resources::{ResourceLimits, ResourcePool};
use crate::instance::device::schedule::{ClaimId, DeviceScheduler, Grant, ShareId, ShareSpec};

use super::SimulatedModel;

/// A model's part of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedShare {
    /// Class; 1 is served first.
    pub priority: u8,
    /// Part of the device's time, against other models of the class.
    pub weight: NonZeroU32,
}

impl Default for SimulatedShare {
    fn default() -> Self {
        let ShareSpec { priority, weight, .. } = ShareSpec::new("");
        Self { priority, weight }
    }
}

/// One model on the device.
#[derive(Debug)]
struct Part {
    share: ShareId,
    claim: Option<ClaimId>,
    /// A turn that was granted and that no batch has taken yet.
    grant: Option<Grant>,
}

/// The device.
pub(super) struct VirtualDevice {
    scheduler: DeviceScheduler<usize>,
    resources: ResourcePool,
    parts: Vec<Part>,
}

impl VirtualDevice {
    /// A device of so many slots for all models of a scenario.
    pub(super) fn new(slots: NonZeroUsize, models: &[SimulatedModel]) -> Self {
        let mut scheduler = DeviceScheduler::new(slots);
        let parts = models
            .iter()
            .enumerate()
            .map(|(index, model)| Part {
                share: scheduler.register(ShareSpec {
                    priority: model.share.priority,
                    weight: model.share.weight,
                    instances: NonZeroUsize::new(model.instances).unwrap_or(NonZeroUsize::MIN),
                    ..ShareSpec::new(&format!("model {index}"))
                }),
                claim: None,
                grant: None,
            })
            .collect();
        Self { scheduler, resources: ResourcePool::new(ResourceLimits::default()), parts }
    }

    /// A model asks for a turn.
    pub(super) fn claim(&mut self, model: usize) {
        let share = self.parts[model].share;
        self.parts[model].claim = Some(self.scheduler.claim(share, None, model));
    }

    /// Whether a model has asked and waits.
    pub(super) fn is_asked(&self, model: usize) -> bool {
        self.parts[model].claim.is_some()
    }

    /// A model needs no turn after all.
    pub(super) fn leave(&mut self, model: usize, now: Timestamp) {
        if let Some(claim) = self.parts[model].claim.take() {
            self.scheduler.withdraw(claim, &mut self.resources);
        }
        if let Some(grant) = self.parts[model].grant.take() {
            self.release(now, grant);
        }
    }

    /// The model whose turn it is.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<usize> {
        let (grant, model) = self.scheduler.next(now, &mut self.resources)?;
        self.parts[model].claim = None;
        self.parts[model].grant = Some(grant);
        Some(model)
    }

    /// A batch takes the turn that was granted to its model.
    pub(super) fn take(&mut self, model: usize) -> Option<Grant> {
        self.parts[model].grant.take()
    }

    /// A turn is over.
    pub(super) fn release(&mut self, now: Timestamp, grant: Grant) {
        self.scheduler.release(now, grant, &mut self.resources);
    }
}
