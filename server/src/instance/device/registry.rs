//! Which devices there are, and the seats of the models that share them.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::{Backend, InstanceSlot, ServedVersion};
use super::SharedDevice;
use super::gate::{DeviceGate, Lane, Seat};
use super::resources::{Needs, ResourceLimits, ResourcePool};
use super::schedule::ShareSpec;
use crate::config::RateLimiter;
use crate::error::LoadError;

/// Most devices of a server.
const MAX_DEVICES: usize = 256;

/// What instances that share no device count as under the rate limiter: device 0, as in Triton.
const NO_DEVICE: &str = "0";

/// How devices are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Executions that run side by side, by device, where not the device's own number.
    pub slots: BTreeMap<String, NonZeroUsize>,
    /// Whether instances wait for the resources of their rate limiters.
    pub limits_rates: bool,
    /// How much there is of each resource.
    pub resources: ResourceLimits,
}

/// The devices of a server.
pub struct Devices {
    options: DeviceOptions,
    entries: Mutex<Vec<Entry>>,
    /// Under the rate limiter, the one gate of all devices, whose resources may belong to the whole server.
    common: Option<Arc<DeviceGate>>,
}

struct Entry {
    /// `None` for the instances that share no device.
    name: Option<Arc<str>>,
    slots: NonZeroUsize,
    gate: Arc<DeviceGate>,
    lane: Lane,
}

/// How much a device has been used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUsage {
    /// Device.
    pub name: Arc<str>,
    /// Executions that may run side by side.
    pub slots: usize,
    /// Time used in all slots together since it was first used: the busy fraction is its growth over `slots` times
    /// the time that has passed.
    pub busy: Duration,
    /// Executions that have begun.
    pub executions: u64,
    /// The same for each model version that shares it now.
    pub by_model: Vec<ModelUsage>,
}

/// How much a model version has used a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelUsage {
    /// Model.
    pub model: Arc<str>,
    /// Version.
    pub version: u64,
    /// Time used in all slots together.
    pub busy: Duration,
    /// Executions that have begun.
    pub executions: u64,
}

impl Default for Devices {
    fn default() -> Self {
        Self::new(DeviceOptions::default())
    }
}

impl Devices {
    /// No device yet: each is there from the first model that shares it.
    pub fn new(options: DeviceOptions) -> Self {
        if !options.limits_rates && !options.resources.is_empty() {
            tracing::warn!("--rate-limit-resource has no effect without --rate-limit execution_count");
        }
        let common = options.limits_rates.then(|| DeviceGate::new(ResourcePool::new(options.resources.clone())));
        Self { options, entries: Mutex::default(), common }
    }

    /// Whether instances wait for the resources of their rate limiters.
    pub fn limits_rates(&self) -> bool {
        self.common.is_some()
    }

    /// The seat of each instance of a model version, in their order; `None` for one that may run at any time.
    /// Instances that have equal seats compete as one.
    ///
    /// # Errors
    /// As [`ResourcePool::register`]; more devices than a server has room for.
    pub fn seats(
        &self,
        served: &ServedVersion,
        backend: &dyn Backend,
        slots: &[InstanceSlot],
    ) -> Result<Vec<Option<Seat>>, LoadError> {
        let places: Vec<Option<Claimant>> = slots.iter().map(|slot| self.claimant(backend, slot)).collect();
        let mut seats: Vec<(Claimant, Seat)> = Vec::new();
        let mut entries = self.lock();
        for claimant in places.iter().flatten() {
            if seats.iter().any(|(known, _)| known == claimant) {
                continue;
            }
            let alike = places.iter().flatten().filter(|other| *other == claimant).count();
            let seat = self.seat(&mut entries, served, claimant, NonZeroUsize::new(alike).unwrap_or(NonZeroUsize::MIN))?;
            seats.push((claimant.clone(), seat));
        }
        let seat_of = |claimant: Claimant| seats.iter().find(|(known, _)| *known == claimant).map(|(_, seat)| seat.clone());
        Ok(places.into_iter().map(|claimant| claimant.and_then(seat_of)).collect())
    }

    /// How much each device has been used.
    pub fn usage(&self) -> Vec<DeviceUsage> {
        let entries = self.lock();
        let devices = entries.iter().filter_map(|entry| Some((entry.name.clone()?, entry)));
        devices
            .map(|(name, entry)| {
                let (used, by_share) = entry.gate.used(entry.lane);
                let mut by_model: Vec<ModelUsage> = Vec::new();
                for (spec, used) in by_share {
                    match by_model.iter_mut().find(|known| known.model == spec.model && known.version == spec.version) {
                        Some(known) => {
                            known.busy += used.busy;
                            known.executions += used.executions;
                        }
                        None => by_model.push(ModelUsage {
                            model: spec.model,
                            version: spec.version,
                            busy: used.busy,
                            executions: used.executions,
                        }),
                    }
                }
                let slots = entry.slots.get();
                DeviceUsage { name, slots, busy: used.busy, executions: used.executions, by_model }
            })
            .collect()
    }

    fn claimant(&self, backend: &dyn Backend, slot: &InstanceSlot) -> Option<Claimant> {
        let device = backend.device(slot);
        match self.common {
            Some(_) => Some(Claimant { device, limiter: slot.group.rate_limiter.clone() }),
            None => Some(Claimant { device: Some(device?), limiter: RateLimiter::default() }),
        }
    }

    fn seat(
        &self,
        entries: &mut Vec<Entry>,
        served: &ServedVersion,
        claimant: &Claimant,
        instances: NonZeroUsize,
    ) -> Result<Seat, LoadError> {
        let model = &served.config.name;
        let entry = self.entry(entries, claimant.device.as_ref()).ok_or_else(|| LoadError::Backend {
            model: model.to_string(),
            reason: format!("the models of this server share more than {MAX_DEVICES} devices"),
        })?;
        let share = served.config.device_share;
        let spec = ShareSpec {
            model: Arc::clone(model),
            version: served.version,
            priority: share.priority,
            weight: share.weight,
            divisor: claimant.limiter.priority,
            instances,
            needs: Needs::default(),
        };
        let device = match &claimant.device {
            Some(device) if &*device.name != SharedDevice::CPU => &device.name,
            _ => NO_DEVICE,
        };
        entry.gate.seat(entry.lane, spec, device, &claimant.limiter.resources)
    }

    /// The device of this name, made where it is not there yet; `None` where there are too many.
    fn entry<'a>(&self, entries: &'a mut Vec<Entry>, device: Option<&SharedDevice>) -> Option<&'a Entry> {
        let name = device.map(|device| &device.name);
        let place = match entries.iter().position(|entry| entry.name.as_ref() == name) {
            Some(place) => place,
            None => {
                let configured = device.and_then(|device| self.options.slots.get(&*device.name).copied());
                let slots = configured.or(device.map(|device| device.slots)).unwrap_or(NonZeroUsize::MAX);
                self.make(entries, name.cloned(), slots)?
            }
        };
        entries.get(place)
    }

    fn make(&self, entries: &mut Vec<Entry>, name: Option<Arc<str>>, slots: NonZeroUsize) -> Option<usize> {
        if entries.len() >= MAX_DEVICES {
            // Devices that no model shares any more make room.
            let place = entries.iter().position(|entry| entry.gate.replace_lane(entry.lane, slots))?;
            entries[place] = Entry { name, slots, gate: Arc::clone(&entries[place].gate), lane: entries[place].lane };
            return Some(place);
        }
        let gate = self.common.clone().unwrap_or_else(|| DeviceGate::new(ResourcePool::default()));
        let lane = gate.add_lane(slots);
        entries.push(Entry { name, slots, gate, lane });
        Some(entries.len() - 1)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes instances differ to a device: equal ones share a seat.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claimant {
    device: Option<SharedDevice>,
    limiter: RateLimiter,
}
