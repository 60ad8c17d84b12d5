//! How often the application did what.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Copies of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Copies {
    pub count: u64,
    pub bytes: u64,
}

impl Copies {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes as u64;
    }

    fn report(self) -> Value {
        json!({ "count": self.count, "bytes": self.bytes })
    }
}

/// Counts since the start or the last reset. What a graph's nodes do is counted at each launch, as it would be without a graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub allocations: u64,
    pub frees: u64,
    pub pinned_allocations: u64,
    pub pinned_frees: u64,
    pub copies_in: Copies,
    pub copies_out: Copies,
    pub copies_within: Copies,
    pub fills: Copies,
    pub launches: BTreeMap<String, u64>,
    pub products: BTreeMap<String, u64>,
    pub graph_launches: Copies,
    pub synchronizations: BTreeMap<&'static str, u64>,
    pub events_recorded: u64,
    pub event_waits: u64,
    pub instructions: u64,
    pub faults: u64,
}

impl Counters {
    /// One synchronization of a kind.
    pub(crate) fn synchronization(&mut self, kind: &'static str) {
        *self.synchronizations.entry(kind).or_default() += 1;
    }

    /// As JSON, with what is live now.
    pub(crate) fn report(&self, live: (u64, u64), pinned: (u64, u64)) -> Value {
        json!({
            "allocations": self.allocations,
            "frees": self.frees,
            "live_allocations": live.0,
            "live_bytes": live.1,
            "pinned_allocations": self.pinned_allocations,
            "pinned_frees": self.pinned_frees,
            "live_pinned_allocations": pinned.0,
            "live_pinned_bytes": pinned.1,
            "copies_htod": self.copies_in.report(),
            "copies_dtoh": self.copies_out.report(),
            "copies_dtod": self.copies_within.report(),
            "memsets": self.fills.report(),
            "launches": self.launches,
            "launches_total": self.launches.values().sum::<u64>(),
            "matmuls": self.products,
            "matmuls_total": self.products.values().sum::<u64>(),
            "graph_launches": { "count": self.graph_launches.count, "nodes": self.graph_launches.bytes },
            "synchronizations": self.synchronizations,
            "events_recorded": self.events_recorded,
            "event_waits": self.event_waits,
            "instructions": self.instructions,
            "faults": self.faults,
        })
    }
}
