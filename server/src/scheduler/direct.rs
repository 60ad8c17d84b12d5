//! Requests that run on their own: straight into the instances' bounded queue.

use std::sync::Arc;

use crate::batch::Batch;
use crate::clock;
use crate::instance::InstancePool;
use crate::observe::statistics::{ModelStatistics, Stage};
use crate::request::Entry;

use super::Scheduler;

/// Each request is a batch of its own, in the order of arrival. There is no task in between: the queue
/// is the channel from which the instances take, so an idle instance starts at once.
pub struct DirectScheduler {
    instances: InstancePool,
    statistics: Arc<ModelStatistics>,
}

impl DirectScheduler {
    /// A scheduler over running instances, whose queue bounds the model's.
    pub fn new(instances: InstancePool, statistics: Arc<ModelStatistics>) -> Self {
        Self { instances, statistics }
    }
}

impl Scheduler for DirectScheduler {
    fn enqueue(&self, group: Vec<Entry>) {
        for entry in group {
            let rows = entry.request.rows;
            self.statistics.enter_queue(entry.level);
            if let Err(batch) = self.instances.try_submit(Batch::single(entry, rows)) {
                for member in batch {
                    self.statistics.leave_queue(member.item.level, 1);
                    let error = member.item.queue_full();
                    self.statistics.refuse(member.item, error, Stage::Admission, clock::now());
                }
            }
        }
    }
}
