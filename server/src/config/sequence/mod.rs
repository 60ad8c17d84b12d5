//! Owns the meaning of `sequence_batching`: requests that belong together, what the model is told about them, and
//! what is kept for it. May import and must never import what `config` may and must not.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use proto::inference::model_sequence_batching::initial_state::StateData;
use proto::inference::model_sequence_batching::{self as wire, StrategyChoice};
use proto::inference::{DataType as WireType, ModelDynamicBatching, ModelSequenceBatching};

use crate::error::{ConfigProblem, SequenceProblem, TensorSide};
use crate::tensor::{DataType, Dims, Shape, Tensor, TensorRole, TensorSpec};

use super::batching::{BatchingSpecs, DynamicBatching};
use super::model::BackendKind;
use super::tensors;

mod control;

/// Time without requests after which a sequence is over, where the configuration says none: Triton's.
const DEFAULT_IDLE: Duration = Duration::from_secs(1);

/// Most candidate sequences of one instance.
const MAX_CANDIDATES: i32 = 65_536;

/// Most state tensors of a model; every request of a sequence carries all of them.
const MAX_STATES: usize = 1024;

/// How sequences are batched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceBatching {
    /// Time without a request, waiting or running, after which a sequence is over.
    pub max_idle: Duration,
    /// How the requests of different sequences come into one batch.
    pub strategy: SequenceStrategy,
    /// What the model is told about each row.
    pub controls: Vec<Control>,
    /// What is kept for the model between the requests of a sequence.
    pub states: Vec<State>,
    /// Requests that may wait, those of sequences in the backlog included.
    pub max_entries: NonZeroUsize,
}

/// How the requests of different sequences come into one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceStrategy {
    /// Each sequence has a row of its own in the batches of one instance.
    Direct {
        /// Sequences, and rows of a batch, of one instance.
        slots: NonZeroUsize,
        /// How long the oldest request waits for further sequences.
        max_queue_delay: Duration,
        /// Sequences with a request that end the wait; 0: none is waited for.
        minimum_ready: usize,
    },
    /// The requests of the oldest sequences of an instance are batched dynamically, one of each at a time.
    Oldest {
        /// Sequences of one instance that take part.
        candidates: NonZeroUsize,
        /// How batches are formed.
        batching: DynamicBatching,
    },
}

/// What the model is told about a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Position of the input.
    pub input: usize,
    /// What it says.
    pub signal: Signal,
}

/// What a control input says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The row is the first of its sequence.
    Start(FalseTrue),
    /// The row belongs to a request.
    Ready(FalseTrue),
    /// The row is the last of its sequence.
    End(FalseTrue),
    /// The sequence's id, in this datatype.
    CorrelationId(DataType),
}

/// How false and true are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FalseTrue {
    /// Element type.
    pub datatype: DataType,
    /// The element for false and the one for true.
    pub values: [Bytes; 2],
}

/// A tensor that is kept between the requests of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Position of the input that takes it.
    pub input: usize,
    /// Position of the output that gives the next one.
    pub output: usize,
    /// Shape of the first one, without the batch dimension.
    pub shape: Shape,
    /// Where the first one comes from.
    pub initial: InitialState,
}

/// Where the first value of a state comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// It is zero; strings are empty.
    Zero,
    /// A file of raw contents in the model's folder `initial_state`.
    File {
        /// Its name.
        name: String,
        /// What it holds; empty until it is read.
        contents: Bytes,
    },
}

impl State {
    /// The first value, as the model sees it; `None` where the contents are not those of the shape.
    pub fn first(&self, datatype: DataType, batching: bool) -> Option<Tensor> {
        let shape = if batching { Shape::new([&[1], self.shape.sizes()].concat()) } else { self.shape.clone() };
        match &self.initial {
            InitialState::Zero => Tensor::zeros(datatype, shape),
            InitialState::File { contents, .. } => {
                if datatype == DataType::Bytes {
                    crate::tensor::check_strings(contents, shape.element_count()?).ok()?;
                }
                Tensor::new(datatype, shape, contents.clone())
            }
        }
    }
}

/// What sequence batching is parsed against, and adds to.
pub(super) struct Surroundings<'a> {
    pub(super) model: &'a str,
    pub(super) backend: BackendKind,
    pub(super) parameters: &'a BTreeMap<String, String>,
    pub(super) max_batch_rows: Option<NonZeroUsize>,
    pub(super) max_entries: NonZeroUsize,
    pub(super) inputs: &'a mut Vec<TensorSpec>,
    pub(super) outputs: &'a mut Vec<TensorSpec>,
}

impl Surroundings<'_> {
    /// Adds an input or output of the server's own.
    fn add(&mut self, side: TensorSide, spec: TensorSpec) -> Result<usize, ConfigProblem> {
        let specs = match side {
            TensorSide::Input => &mut *self.inputs,
            TensorSide::Output => &mut *self.outputs,
        };
        if specs.iter().any(|known| known.name == spec.name) {
            let (tensor, model) = (spec.name.to_string(), self.model.to_owned());
            return Err(ConfigProblem::DuplicateTensor { side, tensor, model });
        }
        specs.push(spec);
        Ok(specs.len() - 1)
    }

    fn out_of_range(&self, field: &str, expected: &'static str, got: impl ToString) -> ConfigProblem {
        let field = format!("sequence_batching.{field}");
        ConfigProblem::OutOfRange { model: self.model.to_owned(), field, expected, got: got.to_string() }
    }
}

impl SequenceBatching {
    /// Parses the message. State and control tensors become inputs and outputs of the model, behind those that
    /// clients know.
    pub(super) fn parse(
        written: &ModelSequenceBatching,
        around: &mut Surroundings<'_>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Option<Self> {
        if written.iterative_sequence {
            let (model, field) = (around.model.to_owned(), "sequence_batching.iterative_sequence".to_owned());
            problems.push(ConfigProblem::Unsupported { model, field });
        }
        let mut states = Vec::new();
        if written.state.len() > MAX_STATES {
            problems.push(around.out_of_range("state", "at most 1024 states", written.state.len()));
            return None;
        }
        for state in &written.state {
            match parse_state(state, around) {
                Ok(state) => states.push(state),
                Err(problem) => problems.push(problem),
            }
        }
        let controls = control::parse_all(&written.control_input, around, problems);
        let strategy = parse_strategy(written, around, problems)?;
        let max_idle = match written.max_sequence_idle_microseconds {
            0 => DEFAULT_IDLE,
            idle => Duration::from_micros(idle),
        };
        Some(Self { max_idle, strategy, controls, states, max_entries: around.max_entries })
    }

    /// The message with defaults filled in.
    pub(super) fn to_wire(&self, written: &ModelSequenceBatching) -> ModelSequenceBatching {
        let mut message = written.clone();
        message.max_sequence_idle_microseconds = u64::try_from(self.max_idle.as_micros()).unwrap_or(u64::MAX);
        if let (Some(StrategyChoice::Oldest(oldest)), SequenceStrategy::Oldest { batching, .. }) =
            (&mut message.strategy_choice, &self.strategy)
        {
            let preferred = batching.preferred_rows.iter().map(|rows| i32::try_from(*rows).unwrap_or(i32::MAX));
            oldest.preferred_batch_size = preferred.collect();
        }
        message
    }

    /// Fields that were accepted and do nothing here.
    pub(super) fn unused_fields(written: &ModelSequenceBatching) -> Vec<String> {
        let mut fields = Vec::new();
        for (index, state) in written.state.iter().enumerate() {
            let hints = [
                (state.use_same_buffer_for_input_output, "use_same_buffer_for_input_output"),
                (state.use_growable_memory, "use_growable_memory"),
            ];
            let set = hints.iter().filter(|(is_set, _)| *is_set);
            fields.extend(set.map(|(_, field)| format!("sequence_batching.state[{index}].{field}")));
        }
        fields
    }
}

fn parse_strategy(
    written: &ModelSequenceBatching,
    around: &Surroundings<'_>,
    problems: &mut Vec<ConfigProblem>,
) -> Option<SequenceStrategy> {
    let model = || around.model.to_owned();
    let slots = around.max_batch_rows.unwrap_or(NonZeroUsize::MIN);
    match &written.strategy_choice {
        None => Some(SequenceStrategy::Direct { slots, max_queue_delay: Duration::ZERO, minimum_ready: 0 }),
        Some(StrategyChoice::Direct(direct)) => {
            let share = direct.minimum_slot_utilization;
            if !(0.0..=1.0).contains(&share) {
                problems.push(SequenceProblem::Utilization { model: model() }.into());
                return None;
            }
            let max_queue_delay = Duration::from_micros(direct.max_queue_delay_microseconds);
            Some(SequenceStrategy::Direct { slots, max_queue_delay, minimum_ready: slots_for(share, slots) })
        }
        Some(StrategyChoice::Oldest(oldest)) => {
            for size in &oldest.preferred_batch_size {
                match usize::try_from(*size) {
                    Ok(rows) if rows > slots.get() => {
                        problems.push(SequenceProblem::PreferredTooLarge { model: model() }.into());
                    }
                    Ok(rows) if rows > 0 => {}
                    _ => problems.push(SequenceProblem::PreferredNotPositive { model: model() }.into()),
                }
            }
            let candidates = Some(oldest.max_candidate_sequences).filter(|count| (1..=MAX_CANDIDATES).contains(count));
            let candidates = candidates.and_then(|count| usize::try_from(count).ok()).and_then(NonZeroUsize::new);
            let Some(candidates) = candidates else {
                let (expected, got) = ("between 1 and 65536", oldest.max_candidate_sequences);
                problems.push(around.out_of_range("oldest.max_candidate_sequences", expected, got));
                return None;
            };
            if !problems.is_empty() {
                return None;
            }
            let inner = ModelDynamicBatching {
                preferred_batch_size: oldest.preferred_batch_size.clone(),
                max_queue_delay_microseconds: oldest.max_queue_delay_microseconds,
                preserve_ordering: oldest.preserve_ordering,
                ..ModelDynamicBatching::default()
            };
            let specs =
                BatchingSpecs { backend: around.backend, max_rows: slots, inputs: around.inputs, parameters: around.parameters };
            let mut batching = DynamicBatching::parse(around.model, &inner, &specs, problems);
            // Each candidate has at most one request there.
            batching.policies.iter_mut().for_each(|level| level.max_entries = candidates);
            Some(SequenceStrategy::Oldest { candidates, batching })
        }
    }
}

/// The fewest of `slots` that make up this share of them.
fn slots_for(share: f32, slots: NonZeroUsize) -> usize {
    let reaches = |ready: &usize| (*ready as f64) / (slots.get() as f64) >= f64::from(share);
    // At most 2^20 slots, which f64 holds exactly.
    let guess = (f64::from(share) * slots.get() as f64) as usize;
    (guess.saturating_sub(1)..=slots.get()).find(reaches).unwrap_or(slots.get())
}

fn parse_state(written: &wire::State, around: &mut Surroundings<'_>) -> Result<State, ConfigProblem> {
    let (model, state) = (around.model.to_owned(), written.input_name.clone());
    let without = |field| SequenceProblem::StateWithout { model: model.clone(), state: state.clone(), field };
    if written.input_name.is_empty() {
        return Err(without("input_name").into());
    }
    if written.output_name.is_empty() {
        return Err(without("output_name").into());
    }
    let known = WireType::try_from(written.data_type);
    let datatype = known.ok().and_then(tensors::datatype).ok_or_else(|| without("data_type"))?;
    if written.dims.is_empty() {
        return Err(without("dims").into());
    }
    let dims = tensors::parse_dims(&written.dims, 1);
    let dims = dims.ok_or_else(|| SequenceProblem::StateDims { model: model.clone(), state: state.clone() })?;
    let (shape, initial) = parse_initial(written, &dims, around.model)?;
    let elements = shape.element_count().and_then(|count| count.checked_mul(datatype.element_bytes().unwrap_or(4)));
    if elements.is_none_or(|bytes| bytes > crate::tensor::MAX_MADE_BYTES) {
        return Err(SequenceProblem::InitialTooLarge { model, state, dims: shape.to_string() }.into());
    }
    let spec = |name: &str| TensorSpec::new(name, datatype, dims.as_slice()).with_role(TensorRole::State);
    let input = around.add(TensorSide::Input, spec(&written.input_name))?;
    let output = around.add(TensorSide::Output, spec(&written.output_name))?;
    Ok(State { input, output, shape, initial })
}

fn parse_initial(written: &wire::State, dims: &Dims, model: &str) -> Result<(Shape, InitialState), SequenceProblem> {
    let (model, state) = (model.to_owned(), written.input_name.clone());
    let initial = match written.initial_state.as_slice() {
        [] => return Ok((Shape::new(dims.filled(1)), InitialState::Zero)),
        [initial] => initial,
        several => return Err(SequenceProblem::InitialStates { model, state, got: several.len() }),
    };
    if initial.name.is_empty() {
        return Err(SequenceProblem::StateWithout { model, state, field: "initial_state.name" });
    }
    if initial.data_type != written.data_type {
        return Err(SequenceProblem::InitialType { model, state });
    }
    let sizes: Option<Vec<usize>> = initial.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let Some(sizes) = sizes.filter(|sizes| dims.admits(sizes)) else {
        let got = format!("{:?}", initial.dims);
        return Err(SequenceProblem::InitialDims { model, state, expected: dims.clone(), got });
    };
    let source = match &initial.state_data {
        Some(StateData::ZeroData(true)) => InitialState::Zero,
        Some(StateData::DataFile(name)) if !name.is_empty() => InitialState::File { name: name.clone(), contents: Bytes::new() },
        _ => return Err(SequenceProblem::NoInitialData { model, state }),
    };
    Ok((Shape::new(sizes), source))
}

#[cfg(test)]
mod tests;
