//! How much memory of a GPU a model takes, known without one: from the plan alone, before anything is allocated.

use super::Precision;
use super::bucket::Bucket;
use super::layout::Layout;
use super::lower::lower;
use super::place::{ALIGNMENT, Placement};
use super::program::Program;
use super::shelf::Shelf;
use crate::error::ModelError;
use crate::plan::{Input, Plan};
use crate::weights::Weights;

/// Memory of the library of a lane: what NVIDIA recommends for its largest GPUs.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// Pinned slots for what goes to the device: one that is filled while two are on their way.
pub const INPUT_SLOTS: usize = 3;
/// Pinned slots for results: two in flight, and two that answers may lie in until they are sent.
pub const OUTPUT_SLOTS: usize = 4;
/// The most graphs that a lane keeps.
pub const GRAPHS: usize = 64;
/// What a driver takes for one launch of a recorded graph, as far as is known; the ledger has the measured number.
const GRAPH_NODE_BYTES: usize = 1 << 10;

/// The sizes that a lane has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The most tokens that are computed at once; larger batches are cut between sequences.
    pub max_tokens: usize,
    /// The most texts or images that are computed at once.
    pub max_items: usize,
}

/// Memory of one lane, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneMemory {
    /// What comes with a batch.
    pub inputs: usize,
    /// Results.
    pub outputs: usize,
    /// The most that intermediate values take at any time.
    pub activations: usize,
    /// What the library of products works with.
    pub workspace: usize,
    /// Recorded graphs: an estimate, in memory of the driver.
    pub graphs: usize,
    /// Pinned memory of the host.
    pub pinned: usize,
}

impl LaneMemory {
    /// The one allocation for everything that a batch is computed in.
    pub fn arena(&self) -> usize {
        self.inputs + self.outputs + self.activations
    }

    /// What a lane allocates on the device: the arena and the workspace.
    pub fn device(&self) -> usize {
        self.arena() + self.workspace
    }
}

/// Tells how much memory a model takes.
#[derive(Debug, Clone)]
pub struct Planner {
    program: Program,
    input: Input,
    weights: usize,
    longest: usize,
}

impl Planner {
    /// For a plan in a precision. No weight is read; the files tell what tables are stored in.
    ///
    /// # Errors
    /// A table is missing, or has another shape or type than the plan expects.
    pub fn new(plan: &Plan, weights: &Weights, precision: Precision) -> Result<Planner, ModelError> {
        let program = lower(plan, precision);
        let shelf = Shelf::of(plan, &program, weights)?;
        Ok(Planner::of(plan, &program, &shelf))
    }

    pub(super) fn of(plan: &Plan, program: &Program, shelf: &Shelf) -> Planner {
        Planner { program: program.clone(), input: plan.input.clone(), weights: shelf.bytes, longest: plan.longest() }
    }

    /// Memory of the weights: once per model, however many lanes it has.
    pub fn weights(&self) -> usize {
        self.weights
    }

    /// The most tokens that one text or image may have.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Memory of a lane.
    pub fn lane(&self, room: Room, workspace: usize) -> LaneMemory {
        let bucket = Bucket::largest(&self.input, room.max_tokens, room.max_items);
        let layout = Layout::of(&self.program, &self.input, &bucket);
        let placement = Placement::of(&self.program, &bucket);
        LaneMemory {
            inputs: layout.input_bytes.next_multiple_of(ALIGNMENT),
            outputs: layout.output_bytes.next_multiple_of(ALIGNMENT),
            activations: placement.bytes,
            workspace,
            graphs: GRAPHS * self.program.actions.len() * GRAPH_NODE_BYTES,
            pinned: INPUT_SLOTS * layout.input_bytes + OUTPUT_SLOTS * layout.output_bytes,
        }
    }

    /// The most tokens for which one lane fits into so much memory, with as many items as `room` says; `None` if not even one
    /// text or image of the longest kind does, so that a model would refuse what it is made for. Images count as their tokens.
    pub fn largest_tokens(&self, room: Room, workspace: usize, free_bytes: usize) -> Option<usize> {
        let fits = |tokens: usize| {
            let room = Room { max_tokens: tokens, max_items: room.max_items };
            self.lane(room, workspace).device() <= free_bytes
        };
        let least = match &self.input {
            Input::Tokens(_) => self.longest.min(room.max_tokens),
            Input::Images(image) => image.tokens(),
        };
        if !fits(least) {
            return None;
        }
        // The largest that fits lies from `low` on and below `high`; memory never shrinks as tokens grow.
        let (mut low, mut high) = (least, room.max_tokens.max(least) + 1);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        Some(match &self.input {
            // As far as a bucket reaches, so that the number is one that people would write.
            Input::Tokens(_) => low,
            Input::Images(image) => low / image.tokens() * image.tokens(),
        })
    }

    /// The bytes of weights and lanes together, or why they do not fit into what is free: the numbers, and the largest batch
    /// that would.
    ///
    /// # Errors
    /// [`ModelError::TooLarge`].
    pub fn check(&self, model: &str, room: Room, workspace: usize, lanes: usize, free_bytes: usize) -> Result<usize, ModelError> {
        let lane = self.lane(room, workspace);
        let needed = self.weights + lanes * lane.device();
        if needed <= free_bytes {
            return Ok(needed);
        }
        let left = free_bytes.saturating_sub(self.weights) / lanes.max(1);
        Err(self.too_large(model, room, &lane, free_bytes, self.largest_tokens(room, workspace, left)))
    }

    /// The refusal of a lane that does not fit beside weights that are there already.
    pub(super) fn too_large(
        &self,
        model: &str,
        room: Room,
        lane: &LaneMemory,
        free_bytes: usize,
        largest: Option<usize>,
    ) -> ModelError {
        let advice = match largest {
            Some(tokens) => format!("the largest batch that would fit is {tokens} tokens: set max_batch_tokens to that"),
            None => "not even one item of the longest kind would fit: unload other models or use a larger GPU".to_owned(),
        };
        ModelError::TooLarge {
            model: model.to_owned(),
            needed: Bytes(self.weights + lane.device()),
            weights: Bytes(self.weights),
            workspace: Bytes(lane.workspace),
            activations: Bytes(lane.arena()),
            tokens: room.max_tokens,
            free: Bytes(free_bytes),
            advice,
        }
    }
}

/// Bytes, written as people read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub usize);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}
