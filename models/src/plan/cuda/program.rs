//! What a GPU does for a plan: launches over values, before anything has an address.

use kernels::activation::Activation;
use kernels::pool::PoolSpec;

use super::Precision;
use crate::plan::{AttentionStep, Axis, MatrixId, NormStep, RotaryId, TableId, Taken, VectorId};

/// What the numbers of a value or a weight are on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stored {
    F32,
    F16,
    Bf16,
    U32,
}

impl Stored {
    /// Size of one number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Stored::F32 | Stored::U32 => 4,
            Stored::F16 | Stored::Bf16 => 2,
        }
    }
}

impl From<Precision> for Stored {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Stored::F32,
            Precision::F16 => Stored::F16,
            Precision::Bf16 => Stored::Bf16,
        }
    }
}

/// A number of a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ValueId(pub(crate) usize);

/// What is written once (and then perhaps changed in place) and lives until it is read last: a buffer of the plan has as many
/// values as steps write to it, so that each has the type that suits it, and memory only while it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) axis: Axis,
    pub(crate) columns: usize,
    pub(crate) stored: Stored,
    /// Which output of the plan it is.
    pub(crate) output: Option<usize>,
    /// The launch that writes it first.
    pub(crate) first: usize,
    /// The launch that reads or changes it last.
    pub(crate) last: usize,
}

/// What the host computes for a batch and sends along with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// Per token: its id.
    Ids,
    /// Per token: its row of the position table or of the table of angles.
    Positions,
    /// Per token: its type.
    Types,
    /// Per token: its column in the request.
    Columns,
    /// Per sequence, and per piece of the filling behind them: first query, end of the queries, first key, end of the keys.
    Spans,
    /// Per item: itself as the query, and its keys.
    Probes,
    /// Per item: its first row behind so many that are left out, and its end.
    Ranges { skip: usize },
    /// Per item: the row of the token that stands for it.
    Rows(Taken),
    /// Per item: its pixels.
    Pixels,
}

/// A number of a section of [`Program::sections`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectionId(pub(crate) usize);

/// One launch of a kernel or a product of the library.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Sum of table rows, normalized with `norm`.
    Embed {
        ids: SectionId,
        words: TableId,
        positions: Option<(SectionId, TableId)>,
        types: Option<(SectionId, TableId)>,
        norm: Option<NormStep>,
        output: ValueId,
    },
    Patches {
        pixels: SectionId,
        output: ValueId,
    },
    Assemble {
        patches: ValueId,
        first: Option<VectorId>,
        positions: VectorId,
        output: ValueId,
    },
    /// `norm(input + residual)`.
    Norm {
        input: ValueId,
        residual: Option<ValueId>,
        norm: NormStep,
        output: ValueId,
    },
    /// `activation(input W^T + bias) + residual`, of which the library does all; the residual may be the output.
    Multiply {
        input: ValueId,
        weight: MatrixId,
        bias: Option<VectorId>,
        activation: Activation,
        residual: Option<ValueId>,
        output: ValueId,
    },
    /// In place.
    Activate {
        values: ValueId,
        activation: Activation,
    },
    Gate {
        input: ValueId,
        activation: Activation,
        output: ValueId,
    },
    /// In place.
    Rotary {
        values: ValueId,
        positions: SectionId,
        heads: usize,
        head_size: usize,
        table: RotaryId,
    },
    Attention {
        qkv: ValueId,
        spans: SectionId,
        attention: AttentionStep,
        output: ValueId,
    },
    Probe {
        query: VectorId,
        kv: ValueId,
        spans: SectionId,
        attention: AttentionStep,
        output: ValueId,
    },
    Pool {
        input: ValueId,
        spec: PoolSpec,
        ranges: SectionId,
        columns: SectionId,
        output: ValueId,
    },
    /// Rows of the input, converted.
    Gather {
        input: ValueId,
        rows: SectionId,
        output: ValueId,
    },
    /// In place.
    Normalize {
        values: ValueId,
    },
    /// Every number to the type of the output.
    Convert {
        input: ValueId,
        output: ValueId,
    },
}

impl Action {
    /// What a profile calls it.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only GPUs are profiled"))]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Action::Embed { .. } => "embed",
            Action::Patches { .. } => "patches",
            Action::Assemble { .. } => "assemble",
            Action::Norm { .. } => "norm",
            Action::Multiply { .. } => "multiply",
            Action::Activate { .. } => "activate",
            Action::Gate { .. } => "gate",
            Action::Rotary { .. } => "rotary",
            Action::Attention { .. } => "attention",
            Action::Probe { .. } => "probe",
            Action::Pool { .. } => "pool",
            Action::Gather { .. } => "gather",
            Action::Normalize { .. } => "normalize",
            Action::Convert { .. } => "convert",
        }
    }

    /// The values that it reads or writes.
    pub(crate) fn values(&self) -> Vec<ValueId> {
        match self {
            Action::Embed { output, .. } | Action::Patches { output, .. } => vec![*output],
            Action::Norm { input, residual, output, .. } | Action::Multiply { input, residual, output, .. } => {
                [Some(*input), *residual, Some(*output)].into_iter().flatten().collect()
            }
            Action::Activate { values, .. } | Action::Rotary { values, .. } | Action::Normalize { values } => vec![*values],
            Action::Assemble { patches: input, output, .. }
            | Action::Gate { input, output, .. }
            | Action::Attention { qkv: input, output, .. }
            | Action::Probe { kv: input, output, .. }
            | Action::Pool { input, output, .. }
            | Action::Gather { input, output, .. }
            | Action::Convert { input, output } => vec![*input, *output],
        }
    }
}

/// What a GPU does for a batch of a plan.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    /// What comes with a batch, in this order.
    pub(crate) sections: Vec<Section>,
    pub(crate) values: Vec<Value>,
    pub(crate) actions: Vec<Action>,
    /// The value of each output of the plan; all are f32.
    pub(crate) outputs: Vec<ValueId>,
    /// Of each matrix: what it is stored in.
    pub(crate) matrices: Vec<Stored>,
    /// Of each vector: whether it is wanted in f32, and whether in the type of activations.
    pub(crate) vectors: Vec<VectorUse>,
    /// Of each position bias: what its vectors are stored in, if it has some.
    pub(crate) biases: Vec<Stored>,
    /// What activations of tokens and patches are stored in.
    pub(crate) working: Stored,
}

/// In which types a vector is wanted on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct VectorUse {
    pub(crate) exact: bool,
    pub(crate) working: bool,
}
