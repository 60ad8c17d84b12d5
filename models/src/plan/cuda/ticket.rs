//! Batches in flight, and their results.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::cuda::{Download, Downloaded};

use super::memory::OUTPUT_SLOTS;
use super::residency::Resident;
use crate::error::ModelError;
use crate::plan::{Output, Plan, Values};

/// The most slots of a lane that results may lie in; the others are for batches in flight, so that a client that is slow to
/// take its answer keeps no lane from working.
const LENT_SLOTS: usize = OUTPUT_SLOTS - 2;

/// Which numbers of a slot are which output.
#[derive(Debug)]
pub(super) struct Shape {
    /// Per output of the plan: its numbers.
    pub(super) parts: Vec<Range<usize>>,
}

impl Shape {
    /// Bytes up to the end of the last output.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.end).max().unwrap_or(0) * size_of::<f32>()
    }
}

/// A part of a batch.
#[derive(Debug)]
pub(super) enum Run {
    Flying(Flying),
    Landed(Vec<Vec<f32>>),
}

/// A part of a batch that the device computes.
#[derive(Debug)]
pub(super) struct Flying {
    // Dropped first: it waits for the device, and only then may the weights go.
    pub(super) download: Download,
    pub(super) weights: Arc<Resident>,
    pub(super) shape: Shape,
}

/// A batch that has been launched. Any thread may wait for it; one that is dropped is waited for as well.
#[derive(Debug)]
pub struct Ticket {
    columns: Vec<usize>,
    runs: Vec<Run>,
    lent: Arc<AtomicUsize>,
}

/// Results in a slot of a lane.
struct Lent {
    downloaded: Downloaded,
    count: Arc<AtomicUsize>,
}

impl AsRef<[f32]> for Lent {
    fn as_ref(&self) -> &[f32] {
        self.downloaded.as_f32()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ticket {
    pub(super) fn new(plan: &Plan, lent: Arc<AtomicUsize>) -> Self {
        let columns = plan.outputs.iter().map(|output| output.columns).collect();
        Ticket { columns, runs: Vec::new(), lent }
    }

    pub(super) fn push(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Waits for all runs but the last `flying`.
    pub(super) fn land(&mut self, flying: usize) -> Result<(), ModelError> {
        let done = self.runs.len().saturating_sub(flying);
        for run in &mut self.runs[..done] {
            if let Run::Flying(_) = run {
                let Run::Flying(flying) = std::mem::replace(run, Run::Landed(Vec::new())) else { unreachable!("just looked") };
                *run = Run::Landed(flying.copied()?);
            }
        }
        Ok(())
    }

    /// Waits until the batch is done: its outputs, in the order of the plan.
    ///
    /// # Errors
    /// The device failed.
    pub fn wait(mut self) -> Result<Vec<Output>, ModelError> {
        let values: Vec<Values> = match self.runs.len() {
            0 => self.columns.iter().map(|_| Vec::new().into()).collect(),
            1 => match self.runs.remove(0) {
                Run::Flying(flying) => flying.values(&self.lent)?,
                Run::Landed(values) => values.into_iter().map(Values::from).collect(),
            },
            _ => {
                self.land(0)?;
                let mut all = vec![Vec::new(); self.columns.len()];
                for run in &mut self.runs {
                    let Run::Landed(values) = run else { unreachable!("all runs have landed") };
                    for (all, part) in all.iter_mut().zip(values) {
                        all.append(part);
                    }
                }
                all.into_iter().map(Values::from).collect()
            }
        };
        Ok(values.into_iter().zip(&self.columns).map(|(values, columns)| Output { values, columns: *columns }).collect())
    }
}

impl Flying {
    /// The results where they are, as long as slots may be lent; else in memory of their own.
    fn values(self, lent: &Arc<AtomicUsize>) -> Result<Vec<Values>, ModelError> {
        let lend = lent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < LENT_SLOTS).then_some(count + 1));
        if lend.is_err() {
            return Ok(self.copied()?.into_iter().map(Values::from).collect());
        }
        let Flying { download, weights, shape } = self;
        let downloaded = download.wait().inspect_err(|_| {
            lent.fetch_sub(1, Ordering::Relaxed);
        })?;
        drop(weights);
        let owner = Arc::new(Lent { downloaded, count: Arc::clone(lent) });
        Ok(shape.parts.into_iter().map(|part| Values::lent(owner.clone(), part)).collect())
    }

    /// The results in memory of their own.
    fn copied(self) -> Result<Vec<Vec<f32>>, ModelError> {
        let Flying { download, weights, shape } = self;
        let downloaded = download.wait()?;
        drop(weights);
        let all = downloaded.as_f32();
        Ok(shape.parts.into_iter().map(|part| all[part].to_vec()).collect())
    }
}
