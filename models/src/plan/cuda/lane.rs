//! Lanes: one stream of a GPU, with everything that batches need there.
//!
//! # How a batch runs
//! ```text
//! launch: pack into a pinned slot > one copy in > launches, or one graph > one copy out > Ticket
//! wait:   the copy out is done > outputs in pinned memory, which goes back when they are dropped
//! ```
//! All of it is enqueued on the lane's one stream, and nothing waits for the device, except that a third batch waits until
//! the first is done.
//!
//! # Order
//! On the device everything of a lane is in the order of its stream: the copy in of a batch begins after the launches and the
//! copy out of the one before, so all batches share the inputs, the outputs and the activations. What the stream does not
//! order:
//! - **Host to device.** A pinned slot must not be filled while it is copied from. It has an event of its own, recorded after
//!   its copy, and waits for it before it is filled. With three slots and two batches in flight that wait is over already.
//! - **Device to host.** Results must not be read before they have come. They can be reached through a [`Ticket`] alone, which
//!   waits for the event behind its copy; and their slot is not lent again before they are dropped.
//! - **Weights.** They are written on a stream of their own. The host waits for that stream before anybody gets to them, and
//!   a batch holds them until it has been waited for, so that nothing is freed while the device reads it.
//! - **Unloading.** A lane waits for its stream before it lets go of its memory and its model.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use kernels::cuda::{Buffer, DeviceType, DownloadRing, Event, Graph, MemoryKind, Stream, Tag, UploadRing, View};
use kernels::matmul::cuda::{Multiplier, Tuning};

use super::bucket::Bucket;
use super::issue::{Launches, Regions};
use super::layout::Layout;
use super::memory::{GRAPHS, INPUT_SLOTS, LaneMemory, OUTPUT_SLOTS, Room, WORKSPACE_BYTES};
use super::model::CudaModel;
use super::pack::{cut, fill};
use super::place::Placement;
use super::residency::Resident;
use super::ticket::{Flying, Run, Shape, Ticket};
use crate::error::ModelError;
use crate::plan::batch::Sequence;
use crate::plan::{Axis, Batch, Executor, Output};

/// The most tokens of batches that graphs are recorded for: with more, launches take less time than what they launch.
const GRAPH_TOKENS: usize = 2048;
/// Shapes of batches that a lane remembers, recorded or not.
const SHAPES: usize = 4 * GRAPHS;
/// Batches that may be in flight.
const IN_FLIGHT: usize = 2;

/// Whether launches of small batches are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Graphs {
    /// Of shapes that come back.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// What a lane has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneOptions {
    /// The most tokens that are computed at once; larger batches are cut between sequences, and a longer sequence is refused.
    pub max_tokens: usize,
    /// The most texts or images that are computed at once.
    pub max_items: usize,
    /// Whether launches are recorded.
    pub graphs: Graphs,
    /// Memory for the library of products.
    pub workspace_bytes: usize,
    /// How the library's ways to make a product are chosen.
    pub tuning: Tuning,
}

impl LaneOptions {
    /// Room for so many tokens and items, with the usual workspace and graphs.
    pub fn new(max_tokens: usize, max_items: usize) -> Self {
        LaneOptions { max_tokens, max_items, graphs: Graphs::Auto, workspace_bytes: WORKSPACE_BYTES, tuning: Tuning::Timed }
    }
}

/// What is known of a bucket that has come.
#[derive(Debug)]
struct Known {
    layout: Layout,
    recorded: Recorded,
    last_used: u64,
}

/// How far a bucket is on its way to a graph.
#[derive(Debug)]
enum Recorded {
    /// Products have not been tuned yet.
    New,
    /// The next time it is recorded.
    Tuned,
    Graph(Graph),
    /// Never recorded: too large, not wanted, or it failed.
    Eager,
}

/// A lane: runs the batches of one model on one stream. It is used from one thread at a time.
#[derive(Debug)]
pub struct CudaExecutor {
    // Fields are dropped in this order: recorded addresses go before the memory that they name, and that before the stream
    // which frees it.
    known: HashMap<Bucket, Known>,
    multiplier: Multiplier,
    uploads: UploadRing,
    downloads: DownloadRing,
    _arena: Buffer,
    /// The ends of the batches in flight, oldest first, and those that wait to be used again.
    in_flight: VecDeque<Event>,
    spare: Vec<Event>,
    lent: Arc<AtomicUsize>,
    regions: Regions,
    placement: Placement,
    memory: LaneMemory,
    /// Whether the bucket of this many tokens or fewer is recorded.
    graph_tokens: usize,
    limits: Bucket,
    room: Room,
    /// Of the weights that recorded addresses belong to.
    generation: u64,
    clock: u64,
    warning: Option<String>,
    has_warned: bool,
    stream: Stream,
    _freed: Freed,
    model: Arc<CudaModel>,
}

/// Waits until what has been dropped before it is free.
#[derive(Debug)]
struct Freed(Stream);

impl Drop for Freed {
    fn drop(&mut self) {
        // Memory is freed in the order of the stream. A device that fails says so to whoever calls it next.
        let _ = self.0.synchronize();
    }
}

impl CudaExecutor {
    /// A lane with memory for the largest batch; no batch allocates any.
    ///
    /// # Errors
    /// [`ModelError::TooLarge`] tells how much memory there would have to be, and for which batch there is enough; or the
    /// device fails.
    pub fn new(model: Arc<CudaModel>, options: LaneOptions) -> Result<Self, ModelError> {
        let room = Room { max_tokens: options.max_tokens.max(1), max_items: options.max_items.max(1) };
        let (device, gpu) = (model.gpu().device(), model.gpu());
        let planner = model.planner();
        let memory = planner.lane(room, options.workspace_bytes);
        let limits = Bucket::largest(model.plan().input(), room.max_tokens, room.max_items);
        let layout = Layout::of(&model.program, model.plan().input(), &limits);
        let stream = Stream::new(device)?;
        let refused = |error: ModelError| match error {
            ModelError::OutOfMemory { .. } => {
                let free = gpu.free_bytes().unwrap_or(0);
                let largest = planner.largest_tokens(room, options.workspace_bytes, free);
                planner.too_large(model.owner(), room, &memory, free, largest)
            }
            other => other,
        };
        let allocated = || -> Result<_, ModelError> {
            let tag = Tag::new(model.owner(), MemoryKind::Arena);
            let arena = gpu.with_room(|| Buffer::tagged(&stream, memory.arena(), &tag))?;
            let multiplier = || Multiplier::for_owner(&stream, options.workspace_bytes, model.owner(), options.tuning);
            let multiplier = gpu.with_room(multiplier)?;
            Ok((arena, multiplier))
        };
        // Whatever there was of it is free again when the numbers are taken.
        let (arena, multiplier) = allocated().map_err(refused)?;
        let uploads = UploadRing::new(device, INPUT_SLOTS, layout.input_bytes, model.owner())?;
        let downloads = DownloadRing::new(device, OUTPUT_SLOTS, layout.output_bytes, model.owner())?;
        let start = arena.view(DeviceType::U8).address;
        let outputs = start + memory.inputs as u64;
        let spare = (0..IN_FLIGHT).map(|_| Event::new(device)).collect::<Result<_, _>>()?;
        Ok(CudaExecutor {
            known: HashMap::new(),
            multiplier,
            uploads,
            downloads,
            _arena: arena,
            in_flight: VecDeque::new(),
            spare,
            lent: Arc::default(),
            regions: Regions { inputs: start, outputs, activations: outputs + memory.outputs as u64 },
            placement: Placement::of(&model.program, &limits),
            memory,
            graph_tokens: if options.graphs == Graphs::Auto { GRAPH_TOKENS } else { 0 },
            limits,
            room,
            generation: 0,
            clock: 0,
            warning: None,
            has_warned: false,
            _freed: Freed(stream.clone()),
            stream,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<CudaModel> {
        &self.model
    }

    /// What it has allocated.
    pub fn memory(&self) -> LaneMemory {
        self.memory
    }

    /// How many shapes of batches are recorded now.
    pub fn graphs(&self) -> usize {
        self.known.values().filter(|known| matches!(known.recorded, Recorded::Graph(_))).count()
    }

    /// What should be told to whoever runs the server, once: that launches could not be recorded, and why.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// Enqueues a batch and returns. Two may be in flight; a third waits until the first is done. Results stay in pinned
    /// memory until they are dropped; four tickets that nobody waits for keep a fifth batch waiting.
    ///
    /// # Errors
    /// A sequence is longer than the lane has room for; weights have no room to come back to; or the device fails.
    pub fn launch(&mut self, batch: &Batch<'_>) -> Result<Ticket, ModelError> {
        let cuts = self.cuts(batch)?;
        let weights = self.model.resident()?;
        if weights.generation != self.generation {
            self.known.retain(|_, known| !matches!(known.recorded, Recorded::Graph(_)));
            self.generation = weights.generation;
        }
        let mut ticket = Ticket::new(self.model.plan(), Arc::clone(&self.lent));
        for sequences in cuts {
            // Parts of one batch are in flight like batches: the results of the last but one are needed before the next.
            ticket.land(IN_FLIGHT - 1)?;
            match self.run(batch, sequences, &weights) {
                Ok(run) => ticket.push(run),
                Err(error) => {
                    // What is enqueued already must not outlive the hold on the weights.
                    let _ = self.stream.synchronize();
                    return Err(error);
                }
            }
        }
        Ok(ticket)
    }

    /// Runs a batch, and then launches all of it once more, one by one, with the time noted between any two: what each took on
    /// the device in milliseconds, in order. Of a batch that is cut, it is the last part. Noting takes time too, some
    /// microseconds each, so the sum is above what the batch takes.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    pub fn profile(&mut self, batch: &Batch<'_>) -> Result<Vec<(String, f32)>, ModelError> {
        // Products are tuned now, and the inputs stay on the device until the next batch.
        drop(self.launch(batch)?.wait()?);
        let cuts = self.cuts(batch)?;
        let Some(sequences) = cuts.last() else { return Ok(Vec::new()) };
        let bucket = self.bucket(&batch.sequences()[sequences.clone()]);
        let weights = self.model.resident()?;
        let (launches, multiplier) = self.launches(&bucket, &weights);
        let count = launches.names().count();
        let marks = (0..=count).map(|_| Event::timed(launches.model.gpu().device())).collect::<Result<Vec<_>, _>>()?;
        launches.marked(multiplier, &marks)?;
        marks[count].wait()?;
        let times = marks.windows(2).map(|pair| pair[0].elapsed_ms(&pair[1])).collect::<Result<Vec<_>, _>>()?;
        Ok(launches.names().zip(times).collect())
    }

    /// The parts of a batch that fit, one after the other.
    fn cuts(&self, batch: &Batch<'_>) -> Result<Vec<Range<usize>>, ModelError> {
        let (max_tokens, max_items) = match self.model.plan().input() {
            crate::plan::Input::Tokens(_) => (self.room.max_tokens, self.room.max_items),
            crate::plan::Input::Images(_) => (self.limits.tokens, self.limits.items),
        };
        cut(batch.sequences(), max_tokens, max_items)
    }

    /// The bucket of sequences.
    fn bucket(&self, sequences: &[Sequence]) -> Bucket {
        let tokens = sequences.iter().map(|sequence| sequence.tokens.len());
        Bucket::of(self.model.plan().input(), tokens.clone().sum(), sequences.len(), tokens.max().unwrap_or(0))
    }

    /// The launches of a bucket that is known, and what they multiply with.
    fn launches<'a>(&'a mut self, bucket: &'a Bucket, weights: &'a Resident) -> (Launches<'a>, &'a mut Multiplier) {
        let launches = Launches {
            stream: &self.stream,
            model: &self.model,
            weights,
            regions: self.regions,
            placement: &self.placement,
            bucket,
            layout: &self.known[bucket].layout,
        };
        (launches, &mut self.multiplier)
    }

    /// Enqueues a part of a batch that fits.
    fn run(&mut self, batch: &Batch<'_>, sequences: Range<usize>, weights: &Arc<Resident>) -> Result<Run, ModelError> {
        if self.spare.is_empty() {
            self.in_flight.iter().take(1).try_for_each(Event::wait)?;
            self.spare.extend(self.in_flight.pop_front());
        }
        let tokens: usize = batch.sequences()[sequences.clone()].iter().map(|sequence| sequence.tokens.len()).sum();
        let bucket = self.bucket(&batch.sequences()[sequences.clone()]);
        self.know(bucket);
        let layout = &self.known[&bucket].layout;
        let items = sequences.len();
        let slot = self.uploads.next_slot();
        slot.fill(|bytes| fill(&self.model.program, self.model.plan().input(), (&bucket, layout), batch, sequences, bytes))?;
        let to = View { address: self.regions.inputs, len: layout.input_bytes, dtype: DeviceType::U8 };
        slot.upload(&self.stream, 0..layout.input_bytes, to)?;
        self.enqueue(bucket, weights)?;
        let layout = &self.known[&bucket].layout;
        let rows = |axis: Axis| if axis == Axis::Items { items } else { tokens };
        let parts = self.model.plan().outputs.iter().zip(&layout.outputs).map(|(output, range)| {
            let start = range.start / size_of::<f32>();
            start..start + rows(output.axis) * output.columns
        });
        let shape = Shape { parts: parts.collect() };
        let from = View { address: self.regions.outputs, len: shape.bytes(), dtype: DeviceType::U8 };
        let download = self.downloads.take()?.download(&self.stream, from)?;
        let event = self.spare.last().expect("one has just been spare");
        event.record(&self.stream)?;
        self.in_flight.extend(self.spare.pop());
        Ok(Run::Flying(Flying { download, weights: Arc::clone(weights), shape }))
    }

    /// Makes sure that there is a layout for a bucket, and forgets those that have not come for longest.
    fn know(&mut self, bucket: Bucket) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(known) = self.known.get_mut(&bucket) {
            known.last_used = clock;
            return;
        }
        if self.known.len() >= SHAPES {
            forget(&mut self.known, |_| true);
        }
        let layout = Layout::of(&self.model.program, self.model.plan().input(), &bucket);
        let recorded = if bucket.tokens <= self.graph_tokens { Recorded::New } else { Recorded::Eager };
        self.known.insert(bucket, Known { layout, recorded, last_used: clock });
    }

    /// Enqueues the launches of a bucket: one by one the first time, in which products are tuned; then recorded.
    fn enqueue(&mut self, bucket: Bucket, weights: &Resident) -> Result<(), ModelError> {
        if matches!(self.known[&bucket].recorded, Recorded::Tuned) && self.graphs() >= GRAPHS {
            let is_graph = |known: &Known| matches!(known.recorded, Recorded::Graph(_));
            forget(&mut self.known, is_graph);
        }
        let Some(known) = self.known.get_mut(&bucket) else { unreachable!("a bucket is known before it is enqueued") };
        let Known { layout, recorded, .. } = known;
        let launches = Launches {
            stream: &self.stream,
            model: &self.model,
            weights,
            regions: self.regions,
            placement: &self.placement,
            bucket: &bucket,
            layout,
        };
        match recorded {
            Recorded::Graph(graph) => return Ok(graph.launch(&self.stream)?),
            Recorded::Tuned => match self.stream.capture(|_| launches.enqueue(&mut self.multiplier)) {
                Ok(mut graph) => {
                    graph.launch(&self.stream)?;
                    *recorded = Recorded::Graph(graph);
                    return Ok(());
                }
                Err(error) => {
                    *recorded = Recorded::Eager;
                    if !self.has_warned {
                        self.has_warned = true;
                        self.warning = Some(format!(
                            "launches of model '{}' cannot be recorded, so its small batches take longer: {error}",
                            self.model.owner()
                        ));
                    }
                }
            },
            Recorded::New => *recorded = Recorded::Tuned,
            Recorded::Eager => {}
        }
        Ok(launches.enqueue(&mut self.multiplier)?)
    }
}

/// Forgets what has not come for longest of those that `which` picks.
fn forget(known: &mut HashMap<Bucket, Known>, which: impl Fn(&Known) -> bool) {
    let oldest = known.iter().filter(|(_, known)| which(known)).min_by_key(|(_, known)| known.last_used);
    if let Some(bucket) = oldest.map(|(bucket, _)| *bucket) {
        known.remove(&bucket);
    }
}

impl Executor for CudaExecutor {
    fn enqueue(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>, ModelError> {
        self.launch(batch)?.wait()
    }
}

impl Drop for CudaExecutor {
    fn drop(&mut self) {
        // Whatever the device says, nothing of this lane is used after this: a device that fails runs nothing any more.
        let _ = self.stream.synchronize();
    }
}
