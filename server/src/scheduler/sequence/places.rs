//! Places for sequences: of each instance, its slots or candidates.

use std::collections::BTreeSet;

/// A place that one sequence at a time has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number within the instance; with the direct strategy, the row of its batches.
    pub slot: usize,
    /// The instance.
    pub instance: usize,
}

/// Which places are free. The lowest free slot of any instance is taken first, so that sequences spread over the
/// instances and batches stay short.
#[derive(Debug)]
pub(super) struct Places {
    instances: usize,
    slots: usize,
    /// Places that were taken and are free again: all before `fresh`.
    freed: BTreeSet<Place>,
    /// The first place that was never taken. There may be very many, so they are not listed.
    fresh: Place,
}

impl Places {
    /// All places free.
    pub(super) fn new(instances: usize, slots: usize) -> Self {
        Self { instances, slots, freed: BTreeSet::new(), fresh: Place { slot: 0, instance: 0 } }
    }

    /// Takes a place.
    pub(super) fn take(&mut self) -> Option<Place> {
        if let Some(place) = self.freed.pop_first() {
            return Some(place);
        }
        if self.fresh.slot >= self.slots || self.instances == 0 {
            return None;
        }
        let place = self.fresh;
        self.fresh = match place.instance + 1 {
            instance if instance < self.instances => Place { instance, ..place },
            _ => Place { slot: place.slot + 1, instance: 0 },
        };
        Some(place)
    }

    /// Gives a place back.
    pub(super) fn free(&mut self, place: Place) {
        self.freed.insert(place);
    }
}
