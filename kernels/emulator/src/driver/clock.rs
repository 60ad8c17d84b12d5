//! Vector clocks: what is known to have happened before what.

use std::sync::Arc;

/// How many operations of each component are known to be over; a component is a stream, or a branch of a graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct VectorClock(Arc<Vec<u32>>);

/// One operation: the component it belongs to and its place there, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The stream or branch.
    pub component: u16,
    /// Its place; 0 stands for no operation.
    pub clock: u32,
}

impl VectorClock {
    /// Whether `stamp` is known to be over.
    #[inline]
    pub(crate) fn covers(&self, stamp: Stamp) -> bool {
        self.0.get(usize::from(stamp.component)).is_some_and(|clock| *clock >= stamp.clock) || stamp.clock == 0
    }

    /// Adds all that `other` knows.
    pub(crate) fn join(&mut self, other: &VectorClock) {
        if Arc::ptr_eq(&self.0, &other.0)
            || other.0.iter().enumerate().all(|(i, clock)| self.0.get(i).is_some_and(|own| own >= clock))
        {
            return;
        }
        let own = Arc::make_mut(&mut self.0);
        if own.len() < other.0.len() {
            own.resize(other.0.len(), 0);
        }
        for (own, other) in own.iter_mut().zip(other.0.iter()) {
            *own = (*own).max(*other);
        }
    }

    /// Says that `stamp` is over.
    pub(crate) fn add(&mut self, stamp: Stamp) {
        let own = Arc::make_mut(&mut self.0);
        let index = usize::from(stamp.component);
        if own.len() <= index {
            own.resize(index + 1, 0);
        }
        own[index] = own[index].max(stamp.clock);
    }
}
