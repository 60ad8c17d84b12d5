//! Which devices there are, and the seats of the models that share them.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::{Backend, InstanceSlot, ServedVersion};
use super::gate::{DeviceGate, Lane, Seat};
use super::health::DeviceHealth;
use super::resources::{Needs, ResourceLimits, ResourcePool};
use super::schedule::ShareSpec;
use super::{ChosenDevice, NO_DEVICE, SharedDevice};
use crate::config::RateLimiter;
use crate::error::LoadError;

/// Most devices of a server.
const MAX_DEVICES: usize = 256;

/// How devices are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Slots, by device, where not the device's own number.
    pub slots: BTreeMap<String, NonZeroUsize>,
    /// Whether instances wait for the resources of their rate limiters.
    pub limits_rates: bool,
    /// How much there is of each resource.
    pub resources: ResourceLimits,
    /// The device of models whose configuration leaves it open.
    pub chosen: ChosenDevice,
    /// Whether more models may be loaded than a GPU has memory for; those that are idle make room.
    pub overcommits_gpus: bool,
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
    health: Arc<DeviceHealth>,
}

/// How much a device has been used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUsage {
    /// Device.
    pub name: Arc<str>,
    /// Slots, of which every execution takes one or more.
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

    /// The device of models whose configuration leaves it open.
    pub fn chosen(&self) -> &ChosenDevice {
        &self.options.chosen
    }

    /// Whether more models may be loaded than a GPU has memory for.
    pub fn overcommits_gpus(&self) -> bool {
        self.options.overcommits_gpus
    }

    /// The seat of each instance of a model version, in their order; `None` for one that may run at any time.
    /// Instances that have equal seats compete as one.
    ///
    /// # Errors
    /// As [`ResourcePool::register`] and [`Backend::turn_slots`]; more devices than a server has room for.
    pub fn seats(
        &self,
        served: &ServedVersion,
        backend: &dyn Backend,
        slots: &[InstanceSlot],
    ) -> Result<Vec<Option<Seat>>, LoadError> {
        let mut entries = self.lock();
        let places: Vec<Option<Claimant>> =
            slots.iter().map(|slot| self.claimant(&mut entries, served, backend, slot)).collect::<Result<_, LoadError>>()?;
        let mut seats: Vec<(Claimant, Seat)> = Vec::new();
        for claimant in places.iter().flatten() {
            if seats.iter().any(|(known, _)| known == claimant) {
                continue;
            }
            let alike = places.iter().zip(slots).filter(|(other, _)| other.as_ref() == Some(claimant));
            let executions = alike.map(|(_, slot)| backend.depth(slot).get()).fold(0, usize::saturating_add);
            let instances = NonZeroUsize::new(executions).unwrap_or(NonZeroUsize::MIN);
            let seat = self.seat(&mut entries, served, claimant, instances)?;
            seats.push((claimant.clone(), seat));
        }
        let seat_of = |claimant: Claimant| seats.iter().find(|(known, _)| *known == claimant).map(|(_, seat)| seat.clone());
        Ok(places.into_iter().map(|claimant| claimant.and_then(seat_of)).collect())
    }

    /// Whether a device that models share still works; `None` where no model has shared it yet.
    pub fn health(&self, device: &SharedDevice) -> Option<Arc<DeviceHealth>> {
        let entries = self.lock();
        let entry = entries.iter().find(|entry| entry.name.as_ref() == Some(&device.name))?;
        Some(Arc::clone(&entry.health))
    }

    /// Marks a device as lost, for all models on it.
    pub fn lose(&self, device: &SharedDevice, reason: &str) {
        // Those who are told may ask for devices: the lock is not held.
        let health = self.health(device);
        health.iter().for_each(|health| health.lose(reason));
    }

    /// A device that is lost, and why.
    pub fn lost(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.lock().iter().find_map(|entry| Some((entry.name.clone()?, entry.health.lost()?.clone())))
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

    fn claimant(
        &self,
        entries: &mut Vec<Entry>,
        served: &ServedVersion,
        backend: &dyn Backend,
        slot: &InstanceSlot,
    ) -> Result<Option<Claimant>, LoadError> {
        let device = backend.device(slot);
        let limiter = match (self.limits_rates(), &device) {
            (true, _) => slot.group.rate_limiter.clone(),
            (false, Some(_)) => RateLimiter::default(),
            (false, None) => return Ok(None),
        };
        let available = self.entry(entries, served, device.as_ref())?.slots;
        let slots = match device {
            Some(_) => backend.turn_slots(slot, available)?,
            None => NonZeroUsize::MIN,
        };
        Ok(Some(Claimant { device, limiter, slots }))
    }

    fn seat(
        &self,
        entries: &mut Vec<Entry>,
        served: &ServedVersion,
        claimant: &Claimant,
        instances: NonZeroUsize,
    ) -> Result<Seat, LoadError> {
        let entry = self.entry(entries, served, claimant.device.as_ref())?;
        let share = served.config.device_share;
        let spec = ShareSpec {
            model: Arc::clone(&served.config.name),
            version: served.version,
            priority: share.priority,
            weight: share.weight,
            divisor: claimant.limiter.priority,
            instances,
            slots: claimant.slots,
            needs: Needs::default(),
        };
        let device = claimant.device.as_ref().map_or(NO_DEVICE, SharedDevice::number);
        entry.gate.seat(entry.lane, spec, device, &claimant.limiter.resources)
    }

    /// The device of this name, made where it is not there yet.
    fn entry<'a>(
        &self,
        entries: &'a mut Vec<Entry>,
        served: &ServedVersion,
        device: Option<&SharedDevice>,
    ) -> Result<&'a Entry, LoadError> {
        let name = device.map(|device| &device.name);
        let known = entries.iter().position(|entry| entry.name.as_ref() == name);
        let place = known.or_else(|| {
            let configured = device.and_then(|device| self.options.slots.get(&*device.name).copied());
            let slots = configured.or(device.map(|device| device.slots)).unwrap_or(NonZeroUsize::MAX);
            self.make(entries, name.cloned(), slots)
        });
        place.and_then(|place| entries.get(place)).ok_or_else(|| LoadError::Backend {
            model: served.config.name.to_string(),
            reason: format!("the models of this server share more than {MAX_DEVICES} devices"),
        })
    }

    fn make(&self, entries: &mut Vec<Entry>, name: Option<Arc<str>>, slots: NonZeroUsize) -> Option<usize> {
        if entries.len() >= MAX_DEVICES {
            // Devices that no model shares any more make room.
            let place = entries.iter().position(|entry| entry.gate.replace_lane(entry.lane, slots))?;
            let (gate, lane) = (Arc::clone(&entries[place].gate), entries[place].lane);
            entries[place] = Entry { name, slots, gate, lane, health: Arc::default() };
            return Some(place);
        }
        let gate = self.common.clone().unwrap_or_else(|| DeviceGate::new(ResourcePool::default()));
        let lane = gate.add_lane(slots);
        entries.push(Entry { name, slots, gate, lane, health: Arc::default() });
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
    slots: NonZeroUsize,
}
