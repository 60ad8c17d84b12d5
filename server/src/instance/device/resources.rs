//! The rate limiter's resources: named and counted things that an execution holds while it runs. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::config::Resource;
use crate::error::LoadError;

/// Most resources of a server.
const MAX_RESOURCES: usize = 4096;

/// How much of each resource there is, where the server was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    limits: Vec<ResourceLimit>,
}

/// An availability as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    /// Resource.
    pub name: String,
    /// How much there is of it.
    pub count: u32,
    /// On which device; `None` means on each, and of a resource of the whole server.
    pub device: Option<String>,
}

impl ResourceLimits {
    /// These limits; of two for the same resource and device the later counts.
    pub fn new(limits: Vec<ResourceLimit>) -> Self {
        Self { limits }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// For a resource of the whole server the device that was given is of no matter. Of one that was given for other
    /// devices alone there is none.
    fn of(&self, resource: &str, scope: Scope<'_>) -> Option<u64> {
        let named = || self.limits.iter().rev().filter(|limit| limit.name == resource);
        let limit = match scope {
            Scope::Server => named().next(),
            Scope::Device(device) => named()
                .find(|limit| limit.device.as_deref() == Some(device))
                .or_else(|| named().find(|limit| limit.device.is_none())),
        };
        limit.map(|limit| limit.count.into()).or(named().next().map(|_| 0))
    }
}

#[derive(Clone, Copy)]
enum Scope<'a> {
    Server,
    Device(&'a str),
}

/// Resources that one execution holds: positions in the pool, and counts. Ascending, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs(Arc<[(usize, u64)]>);

impl Needs {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn count(&self, resource: usize) -> u64 {
        self.0.binary_search_by_key(&resource, |(resource, _)| *resource).map_or(0, |place| self.0[place].1)
    }
}

/// A place in the line of those for whom resources are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

struct Pooled {
    name: String,
    /// `None` for a resource of the whole server.
    device: Option<String>,
    given: Option<u64>,
    /// What registered instances need of it: how many need how much.
    needs: BTreeMap<u64, usize>,
    taken: u64,
}

impl Pooled {
    /// Where no availability was given, there is as much as any one instance needs.
    fn available(&self) -> u64 {
        self.given.unwrap_or_else(|| self.needs.last_key_value().map_or(0, |(count, _)| *count))
    }

    fn free(&self) -> u64 {
        self.available().saturating_sub(self.taken)
    }
}

/// The resources of a server, and who is next in line for what is kept together.
#[derive(Default)]
pub struct ResourcePool {
    limits: ResourceLimits,
    resources: Vec<Pooled>,
    /// The first keeps what is free for itself.
    line: VecDeque<(Ticket, Needs)>,
    tickets: u64,
}

impl ResourcePool {
    /// A pool with these availabilities.
    pub fn new(limits: ResourceLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Enters what an instance of `model` on `device` needs.
    ///
    /// # Errors
    /// [`LoadError::ResourceLimited`] where there will never be as much, [`LoadError::ResourceScope`] where another
    /// model counts the same resource otherwise, [`LoadError::Backend`] where there are too many resources.
    pub fn register(&mut self, model: &str, device: &str, written: &[Resource]) -> Result<Needs, LoadError> {
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for resource in written.iter().filter(|resource| resource.count > 0) {
            let place = self.place(model, device, resource, &counts)?;
            *counts.entry(place).or_default() += u64::from(resource.count);
        }
        for (place, count) in &counts {
            let pooled = &self.resources[*place];
            if let Some(limit) = pooled.given.filter(|limit| limit < count) {
                return Err(LoadError::ResourceLimited { resource: pooled.name.clone(), limit, required: *count });
            }
        }
        for (place, count) in &counts {
            *self.resources[*place].needs.entry(*count).or_default() += 1;
        }
        Ok(Needs(counts.into_iter().collect()))
    }

    /// The instance that needed this is gone.
    pub fn deregister(&mut self, needs: &Needs) {
        for (place, count) in needs.0.iter() {
            let registered = &mut self.resources[*place].needs;
            if let Some(instances) = registered.get_mut(count) {
                *instances -= 1;
                if *instances == 0 {
                    registered.remove(count);
                }
            }
        }
    }

    /// Whether an execution can have this now. Whoever is first in the line may take all; others only what that
    /// one will not miss.
    pub fn can_take(&self, needs: &Needs, ticket: Option<Ticket>) -> bool {
        let kept = self.line.front().filter(|(first, _)| Some(*first) != ticket);
        needs.0.iter().all(|(place, count)| {
            let kept = kept.map_or(0, |(_, needs)| needs.count(*place));
            self.resources[*place].free() >= count.saturating_add(kept)
        })
    }

    /// An execution begins.
    pub fn take(&mut self, needs: &Needs) {
        for (place, count) in needs.0.iter() {
            self.resources[*place].taken += count;
        }
    }

    /// An execution has ended.
    pub fn give_back(&mut self, needs: &Needs) {
        for (place, count) in needs.0.iter() {
            self.resources[*place].taken -= count;
        }
    }

    /// Joins the line.
    pub fn queue(&mut self, needs: &Needs) -> Ticket {
        self.tickets += 1;
        self.line.push_back((Ticket(self.tickets), needs.clone()));
        Ticket(self.tickets)
    }

    /// Leaves the line.
    pub fn leave(&mut self, ticket: Ticket) {
        self.line.retain(|(waiting, _)| *waiting != ticket);
    }

    /// The position of a resource; `fresh` are those that the same instance has been given before.
    fn place(
        &mut self,
        model: &str,
        device: &str,
        resource: &Resource,
        fresh: &BTreeMap<usize, u64>,
    ) -> Result<usize, LoadError> {
        let in_use = |place: usize, pooled: &Pooled| !pooled.needs.is_empty() || pooled.taken > 0 || fresh.contains_key(&place);
        let other_scope = |(place, pooled): (usize, &Pooled)| {
            pooled.name == resource.name && pooled.device.is_none() != resource.global && in_use(place, pooled)
        };
        if self.resources.iter().enumerate().any(other_scope) {
            return Err(LoadError::ResourceScope { resource: resource.name.clone() });
        }
        let device = (!resource.global).then_some(device);
        let same = |pooled: &Pooled| pooled.name == resource.name && pooled.device.as_deref() == device;
        if let Some(place) = self.resources.iter().position(same) {
            return Ok(place);
        }
        let scope = device.map_or(Scope::Server, Scope::Device);
        let pooled = Pooled {
            name: resource.name.clone(),
            device: device.map(str::to_owned),
            given: self.limits.of(&resource.name, scope),
            needs: BTreeMap::new(),
            taken: 0,
        };
        // A place that nobody needs any more is used anew, so that models that come and go do not fill the pool.
        if let Some(place) = (0..self.resources.len()).find(|place| !in_use(*place, &self.resources[*place])) {
            self.resources[place] = pooled;
            return Ok(place);
        }
        if self.resources.len() >= MAX_RESOURCES {
            let reason = format!("the models of this server name more than {MAX_RESOURCES} resources");
            return Err(LoadError::Backend { model: model.to_owned(), reason });
        }
        self.resources.push(pooled);
        Ok(self.resources.len() - 1)
    }
}
