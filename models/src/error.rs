//! The one error type of this crate: why a model could not be loaded or run.

use std::fmt;
use std::path::PathBuf;

use kernels::matmul::Precision;
use kernels::team::TeamError;

use crate::plan::cuda::memory::Bytes;

/// Why a model could not be loaded or run. The texts name files, fields, tensors and inputs, never file contents, and
/// are safe to send to a client.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that the model needs does not exist.
    #[error("{}: file not found; {hint}", path.display())]
    FileMissing {
        /// The file.
        path: PathBuf,
        /// What the file is for and how to get it.
        hint: &'static str,
    },
    /// A file exists but cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is longer than any sensible file of its kind.
    #[error("{}: {got_bytes} bytes are more than the {limit_bytes} that a file of this kind may have", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
        /// The length of the file.
        got_bytes: u64,
    },
    /// A file is not the JSON that it should be.
    #[error("{}:{line}:{column}: not valid JSON: {reason}", path.display())]
    BadJson {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the parser said.
        reason: String,
    },
    /// A field that has no sound default is absent.
    #[error("{}: field '{field}' is missing; expected {expected}", path.display())]
    FieldMissing {
        /// The file.
        path: PathBuf,
        /// The path of the field inside the file.
        field: String,
        /// What the field should hold.
        expected: String,
    },
    /// A field holds a value of the wrong type, out of range, or not supported.
    #[error("{}: field '{field}' is {got}; expected {expected}", path.display())]
    FieldInvalid {
        /// The file.
        path: PathBuf,
        /// The path of the field inside the file.
        field: String,
        /// What the field should hold.
        expected: String,
        /// What it holds.
        got: String,
    },
    /// The directory holds a model of a kind that this crate has no code for.
    #[error("{}: {what} '{got}' is not supported; supported: {known}", path.display())]
    UnsupportedArchitecture {
        /// The file that says so.
        path: PathBuf,
        /// `model_type`, `architecture` or `sentence-transformers module`.
        what: &'static str,
        /// The name found.
        got: String,
        /// The names that are known, joined by commas.
        known: String,
    },
    /// A weight file is not a well-formed safetensors file.
    #[error("{}: not a well-formed safetensors file: {source}", path.display())]
    BadWeights {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the architecture needs is not in the weight files.
    #[error("tensor '{tensor}' of shape {expected:?} is missing from {}", path.display())]
    TensorMissing {
        /// The name looked for.
        tensor: String,
        /// The weight file, or the directory if there are several.
        path: PathBuf,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("tensor '{tensor}' in {} has shape {got:?}; config.json asks for {expected:?}", path.display())]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// The weight file.
        path: PathBuf,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape stored.
        got: Vec<usize>,
    },
    /// A tensor is stored in an element type that cannot be read as numbers here.
    #[error("tensor '{tensor}' in {} is stored as {got}; expected F32, F16, BF16 or F64", path.display())]
    TensorDType {
        /// The tensor.
        tensor: String,
        /// The weight file.
        path: PathBuf,
        /// The element type stored.
        got: String,
    },
    /// The tokenizer's file cannot be used.
    #[error("{}: not a usable tokenizer: {reason}", path.display())]
    BadTokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// A text cannot be tokenized.
    #[error("text {row} of the batch cannot be tokenized: {reason}")]
    Tokenize {
        /// The index of the text.
        row: usize,
        /// What the tokenizer library said.
        reason: String,
    },
    /// An input of a request is not one that the model can take.
    #[error("input '{input}'{at}: got {got}; expected {expected}")]
    InvalidInput {
        /// The input.
        input: String,
        /// Where in the input.
        at: Position,
        /// What was found.
        got: String,
        /// What is allowed.
        expected: String,
    },
    /// A matrix of the model is too wide for the arithmetic that was asked for.
    #[error("a weight matrix has {inputs} inputs, more than the {limit} that {precision:?} allows; choose another dtype")]
    TooWide {
        /// Columns of the matrix.
        inputs: usize,
        /// The most that are possible.
        limit: usize,
        /// The arithmetic.
        precision: Precision,
    },
    /// A text has more tokens than a lane of a GPU has room for.
    #[error("a text or image of {tokens} tokens is longer than the {limit} that there is room for; set max_batch_tokens higher")]
    BeyondArena {
        /// Tokens of the text.
        tokens: usize,
        /// The most that a batch may have.
        limit: usize,
    },
    /// A model does not fit into the memory that a GPU has left.
    #[error(
        "model '{model}' needs {needed} (weights {weights}, workspace {workspace}, activations {activations} for {tokens} \
         tokens); {free} are free; {advice}"
    )]
    TooLarge {
        /// The model.
        model: String,
        /// All of it.
        needed: Bytes,
        /// Weights.
        weights: Bytes,
        /// Memory of the library.
        workspace: Bytes,
        /// Inputs, outputs and intermediate values of the largest batch.
        activations: Bytes,
        /// Tokens of that batch.
        tokens: usize,
        /// What there is.
        free: Bytes,
        /// What would fit.
        advice: String,
    },
    /// A GPU cannot be used.
    #[error("{reason}")]
    GpuUnusable {
        /// Which, why, and what to do.
        reason: String,
    },
    /// A GPU has too little free memory for what was to be done. Other work on it goes on.
    #[error("{reason}")]
    OutOfMemory {
        /// Which, what for, and the numbers.
        reason: String,
    },
    /// An earlier fault left a GPU unusable for this process.
    #[error("{reason}")]
    GpuPoisoned {
        /// Which, and the first fault.
        reason: String,
    },
    /// A call of the driver or of a library of a GPU failed.
    #[error("{reason}")]
    GpuFailed {
        /// Which, what was called and what it said.
        reason: String,
    },
    /// A weight cannot be stored in the type that was asked for.
    #[error("tensor '{tensor}' holds {value:e}, beyond the {limit} of {dtype}; set dtype to bf16 or f32")]
    BeyondRange {
        /// The tensor, or the first of those that it is made from.
        tensor: String,
        /// The number.
        value: f32,
        /// The largest that can be stored.
        limit: f32,
        /// The type.
        dtype: &'static str,
    },
    /// The threads of a model cannot be started.
    #[error("{source}; ask for fewer threads")]
    Threads {
        /// What the operating system said.
        #[source]
        source: TeamError,
    },
}

/// A place inside an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The input as a whole.
    Whole,
    /// A row.
    Row(usize),
    /// One element.
    Element {
        /// The row, from 0.
        row: usize,
        /// The column, from 0.
        column: usize,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Whole => Ok(()),
            Position::Row(row) => write!(f, ", row {row}"),
            Position::Element { row, column } => write!(f, ", row {row}, column {column}"),
        }
    }
}

#[cfg(feature = "cuda")]
impl From<kernels::cuda::DeviceError> for ModelError {
    fn from(error: kernels::cuda::DeviceError) -> Self {
        use kernels::cuda::DeviceError;
        let reason = error.to_string();
        match error {
            DeviceError::Unusable { .. } => ModelError::GpuUnusable { reason },
            DeviceError::OutOfMemory { .. } => ModelError::OutOfMemory { reason },
            DeviceError::Poisoned { .. } => ModelError::GpuPoisoned { reason },
            DeviceError::Failed { .. } => ModelError::GpuFailed { reason },
        }
    }
}
