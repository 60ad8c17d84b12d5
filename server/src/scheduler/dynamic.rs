//! Placeholder while the batcher is written.

use std::sync::Arc;

use crate::config::{DynamicBatching, ModelConfig};
use crate::instance::InstancePool;
use crate::observe::statistics::ModelStatistics;
use crate::request::Entry;

use super::Scheduler;

/// Dynamic.
pub struct DynamicScheduler(super::direct::DirectScheduler);

impl DynamicScheduler {
    /// Starts.
    pub fn start(_config: &ModelConfig, _policy: DynamicBatching, instances: InstancePool, statistics: Arc<ModelStatistics>) -> Self {
        Self(super::direct::DirectScheduler::new(instances, statistics))
    }
}

impl Scheduler for DynamicScheduler {
    fn enqueue(&self, group: Vec<Entry>) {
        self.0.enqueue(group);
    }
}
