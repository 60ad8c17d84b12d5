//! One error type per phase: configuration, loading, control, request. Their texts are safe to send to clients.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::tensor::{DataType, Dims};

/// The prefix that names a request in messages about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTag(pub String);

impl fmt::Display for RequestTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = if self.0.is_empty() { "<id_unknown>" } else { &self.0 };
        write!(f, "[request id: {id}] ")
    }
}

/// Everything that is wrong with one model configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.problems))]
pub struct ConfigError {
    /// The problems, in the order of the fields; at least one.
    pub problems: Vec<ConfigProblem>,
}

fn join(problems: &[ConfigProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// One thing wrong with a model configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigProblem {
    #[error("{message}")]
    Syntax { message: String },
    #[error("unexpected directory name '{directory}' for model '{model}', directory name must equal model name")]
    NameMismatch { directory: String, model: String },
    #[error("model {side} must specify 'name'")]
    TensorWithoutName { side: TensorSide },
    #[error("model {side} '{tensor}' must specify 'data_type'")]
    TensorWithoutType { side: TensorSide, tensor: String },
    #[error("model {side} '{tensor}' must specify 'dims'")]
    TensorWithoutDims { side: TensorSide, tensor: String },
    #[error("model {side} '{tensor}' dimension must be integer >= 1, or -1 to indicate a variable-size dimension")]
    BadDim { side: TensorSide, tensor: String },
    #[error("model {side} '{tensor}' appears more than once for model '{model}'")]
    DuplicateTensor { side: TensorSide, tensor: String, model: String },
    #[error("model {side} '{tensor}' has different size for dims and reshape: {dims} against {reshape}")]
    ReshapeMismatch { side: TensorSide, tensor: String, dims: Dims, reshape: Dims },
    #[error("model {side} '{tensor}' cannot have empty reshape for non-batching model as scalar tensors are not supported")]
    EmptyReshape { side: TensorSide, tensor: String },
    #[error("model {side} '{tensor}' has format {format}, which needs 3 dims, got {dims}")]
    FormatNeedsThreeDims { side: TensorSide, tensor: String, format: &'static str, dims: Dims },
    #[error("'{field}' must be {expected}, got {got} for model '{model}'")]
    OutOfRange { model: String, field: String, expected: &'static str, got: String },
    #[error("dynamic batching preferred size must be positive for {model}")]
    PreferredNotPositive { model: String },
    #[error("dynamic batching preferred size must be <= max batch size for {model}")]
    PreferredTooLarge { model: String },
    #[error("default priority level must be in range [1, {levels}] for {model}, got {got}")]
    DefaultPriority { model: String, levels: u64, got: u64 },
    #[error("priority queue policy must have priority level in range [1, {levels}] for {model}, got {got}")]
    PolicyLevel { model: String, levels: u64, got: u64 },
    #[error("'preserve_ordering' cannot be used with {with} for {model}")]
    PreserveOrdering { model: String, with: &'static str },
    #[error(
        "'{field}' cannot be used with {with} for model '{model}', because an answer serves other requests only where it is a single one that depends on nothing but its request; turn one of the two off"
    )]
    Reuse { model: String, field: &'static str, with: &'static str },
    #[error("at least one version must be available under the version policy of model '{model}'")]
    NoVersion { model: String },
    #[error("'{field}' is not supported by this server (model '{model}'); remove it, or serve the model without it")]
    Unsupported { model: String, field: String },
    #[error("model '{model}' names backend '{backend}', platform '{platform}', which this server does not have; it has: {known}")]
    UnknownBackend { model: String, backend: String, platform: String, known: &'static str },
    #[error("model '{model}' must specify {what}")]
    Missing { model: String, what: &'static str },
    #[error(transparent)]
    Ensemble(#[from] EnsembleProblem),
    #[error(transparent)]
    Sequence(#[from] SequenceProblem),
}

/// What is wrong with the sequence batching of a model. Quoting is uneven because clients match these texts as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SequenceProblem {
    #[error("sequence batching control tensor must have a unique name for {model}")]
    ControlWithoutName { model: String },
    #[error("sequence batching control tensor '{tensor}' must specify a control for {model}")]
    NoControl { model: String, tensor: String },
    #[error("sequence batching control tensor '{tensor}' is specified for multiple control kinds for {model}")]
    ManyKinds { model: String, tensor: String },
    #[error("sequence batching specifies multiple {kind} tensors for {model}")]
    KindTwice { model: String, kind: &'static str },
    #[error(
        "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for {kind} for {model}"
    )]
    NoFalseTrue { model: String, kind: &'static str },
    #[error(
        "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' for {kind} for {model}"
    )]
    ManyFalseTrue { model: String, kind: &'static str },
    #[error("sequence batching control '{list}' must have exactly 2 entries for {kind} for {model}")]
    NotTwoEntries { model: String, kind: &'static str, list: &'static str },
    #[error("sequence batching control 'data_type' must not be specified for {kind} for {model}")]
    FlagWithType { model: String, kind: &'static str },
    #[error(
        "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for {kind} for {model}"
    )]
    IdWithFalseTrue { model: String, kind: &'static str },
    #[error(
        "unexpected data type for control {kind} for {model}. Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
    )]
    IdType { model: String, kind: &'static str },
    #[error("sequence batching preferred batch size must be positive for {model}")]
    PreferredNotPositive { model: String },
    #[error("sequence batching preferred batch size must be <= max batch size for {model}")]
    PreferredTooLarge { model: String },
    #[error("sequence batching minimum slot utilization must be in range (0.0, 1.0] for {model}")]
    Utilization { model: String },
    #[error("sequence batching state '{state}' must specify '{field}' for {model}")]
    StateWithout { model: String, state: String, field: &'static str },
    #[error(
        "sequence batching state '{state}' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for {model}"
    )]
    StateDims { model: String, state: String },
    #[error("The data type used for 'initial_state' field of state '{state}' does not match the state data type for {model}")]
    InitialType { model: String, state: String },
    #[error(
        "'initial_state' field of state '{state}' must have dims that agree with the state's {expected}, got {got} for {model}"
    )]
    InitialDims { model: String, state: String, expected: Dims, got: String },
    #[error("state '{state}' must have at most one 'initial_state' for {model}, got {got}")]
    InitialStates { model: String, state: String, got: usize },
    #[error("'initial_state' field of state '{state}' must specify 'zero_data: true' or 'data_file' for {model}")]
    NoInitialData { model: String, state: String },
    #[error("'initial_state' field of state '{state}' is too large for {model}: dims {dims}")]
    InitialTooLarge { model: String, state: String, dims: String },
}

/// Whether a tensor is an input or an output, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TensorSide {
    Input,
    Output,
}

impl fmt::Display for TensorSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

/// What is wrong with the graph of an ensemble. Quoting is uneven because clients match these texts as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum EnsembleProblem {
    #[error("must specify 'step' for ensemble '{ensemble}'")]
    NoStep { ensemble: String },
    #[error("must specify '{field}' in step {step} of ensemble '{ensemble}'")]
    StepWithout { ensemble: String, step: usize, field: &'static str },
    #[error("'model_version' must be a version >= 1, or -1 for the latest, got {got} in step {step} of ensemble '{ensemble}'")]
    StepVersion { ensemble: String, step: usize, got: i64 },
    #[error(
        "'model_namespace' is not supported by this server, got '{got}' in step {step} of ensemble '{ensemble}'; remove it, and give models names that differ"
    )]
    Namespace { ensemble: String, step: usize, got: String },
    #[error("ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{ensemble}' step {step}")]
    WrittenTwice { ensemble: String, tensor: String, step: usize },
    #[error("input '{input}' in model '{model}' is mapped to multiple ensemble tensors for ensemble '{ensemble}' step {step}")]
    MappedTwice { ensemble: String, input: String, model: String, step: usize },
    #[error("ensemble {side} '{tensor}' for ensemble {ensemble} is not used")]
    NotUsed { ensemble: String, side: TensorSide, tensor: String },
    #[error("output '{tensor}' for ensemble '{ensemble}' is not written{}", disconnected(.unconnected))]
    NotWritten { ensemble: String, tensor: String, unconnected: Option<String> },
    #[error("ensemble tensor '{tensor}' is unused in ensemble '{ensemble}'")]
    Unused { ensemble: String, tensor: String },
    #[error("{field} should not be specified for ensemble '{ensemble}'")]
    MustNotSpecify { ensemble: String, field: &'static str },
    #[error("model_warmup can not be specified for ensemble '{ensemble}'")]
    Warmup { ensemble: String },
    #[error("ensemble scheduling cannot be set for model '{model}' whose platform is not ensemble")]
    NotAnEnsemble { model: String },
    #[error("in ensemble {ensemble}, ensemble tensor {tensor} is mapping to non-existing input {input} in model {model}")]
    NoSuchInput { ensemble: String, tensor: String, input: String, model: String },
    #[error("in ensemble {ensemble}, ensemble tensor {tensor} is mapped from non-existing output {output} in model {model}")]
    NoSuchOutput { ensemble: String, tensor: String, output: String, model: String },
    #[error("in ensemble {ensemble}, input {input} in model {model} is not mapped to any ensemble tensors")]
    InputNotMapped { ensemble: String, input: String, model: String },
    #[error(
        "in ensemble {ensemble}, ensemble tensor {tensor}: inconsistent data type: {} is inferred from model {model} while {} is inferred from model {other}",
        configured(.got),
        configured(.expected)
    )]
    InconsistentType { ensemble: String, tensor: String, got: DataType, model: String, expected: DataType, other: String },
    #[error(
        "in ensemble {ensemble}, ensemble tensor {tensor}: inconsistent shape: {got} is inferred from model {model} while {expected} is inferred from model {other}"
    )]
    InconsistentShape { ensemble: String, tensor: String, got: Dims, model: String, expected: Dims, other: String },
    #[error(
        "ensemble {ensemble} allows maximum batch size {allowed}, but it contains model {model} which only allows maximum batch size to be {limit}"
    )]
    BatchTooLarge { ensemble: String, allowed: usize, model: String, limit: usize },
    #[error(
        "'{field}' cannot be used for ensemble '{ensemble}', because a step is decoupled and it may answer any number of times; turn it off"
    )]
    DecoupledReuse { ensemble: String, field: &'static str },
    #[error(
        "'{field}' cannot be used for ensemble '{ensemble}', because a step batches sequences and its answers depend on earlier requests; turn it off"
    )]
    SequentialReuse { ensemble: String, field: &'static str },
    #[error("in ensemble {ensemble}, step of model '{model}' receives inputs originated from different decoupled models")]
    DifferentDecoupled { ensemble: String, model: String },
    #[error(
        "ensemble '{ensemble}' has ensembles within ensembles, {nesting} levels deep; expected at most {limit}: write the steps of an inner one into the outer"
    )]
    TooDeep { ensemble: String, nesting: usize, limit: usize },
    #[error("circular dependency between ensembles: {path}")]
    Circular { path: String },
    #[error(
        "ensemble '{ensemble}' depends on '{model}' which has no loaded version. Model '{model}' loading failed with error: {reason}"
    )]
    DependencyFailed { ensemble: String, model: String, reason: String },
    #[error("ensemble '{ensemble}' depends on '{model}' whose required version {version} is not loaded.")]
    DependencyVersion { ensemble: String, model: String, version: u64 },
    #[error("ensemble '{ensemble}' depends on '{model}' which is not valid. Model '{model}' failed with error: {reason}")]
    DependencyInvalid { ensemble: String, model: String, reason: String },
}

/// A datatype as configurations spell it.
fn configured(datatype: &DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    }
}

fn disconnected(unconnected: &Option<String>) -> String {
    unconnected
        .as_ref()
        .map_or_else(String::new, |tensor| format!(": at least one of its depending tensors, '{tensor}', is not connected"))
}

/// Why a model version could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LoadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("unable to read '{path}' of model '{model}': {reason}")]
    Io { model: String, path: String, reason: String },
    #[error("model '{model}' has no configuration: there is no config.pbtxt{hint}")]
    NoConfiguration { model: String, hint: &'static str },
    #[error("at least one version must be available under the version policy of model '{model}'{}", version_hint(.model, .present))]
    NoVersions { model: String, present: Vec<u64> },
    #[error("version {version} of model '{model}' has no directory")]
    NoDirectory { model: String, version: u64 },
    #[error("model '{model}': {reason}")]
    Backend { model: String, reason: String },
    #[error("unknown builtin model '{kind}' for model '{model}'; the builtin models are: {known}")]
    UnknownBuiltin { model: String, kind: String, known: &'static str },
    #[error("parameter '{parameter}' of model '{model}' must be {expected}, got '{got}'")]
    Parameter { model: String, parameter: String, expected: &'static str, got: String },
    #[error(
        "parameter '{parameter}' of model '{model}' is for instances on {device}, and it has none there; \
         leave it out, or write {instead} in its instance_group"
    )]
    DeviceParameter { model: String, parameter: String, device: &'static str, instead: &'static str },
    #[error("'{kind}' has no parameter '{parameter}' (model '{model}'); it takes: {known}")]
    UnknownParameter { model: String, kind: &'static str, parameter: String, known: String },
    #[error("model '{model}' does not suit '{kind}', which needs {expected}; its configuration has {got}")]
    Signature { model: String, kind: &'static str, expected: String, got: String },
    /// An execution is to use more threads than the device has slots.
    #[error(
        "parameter 'threads' of model '{model}' asks for {threads} threads, but the device 'cpu' has {available} slots; \
         ask for at most {available}, or start the server with --device-slots cpu={threads}"
    )]
    Threads { model: String, threads: usize, available: usize },
    #[error("{reason}")]
    DeviceMemory { reason: String },
    #[error("instance group of model '{model}' asks for {kind}, but {reason}")]
    Device { model: String, kind: &'static str, reason: String },
    /// A rate limiter's resource of which there will never be enough.
    #[error(
        "Resource count for \"{resource}\" is limited to {limit} which will prevent scheduling of one or more model instances, \
         the minimum required count is {required}"
    )]
    ResourceLimited { resource: String, limit: u64, required: u64 },
    #[error("Resource \"{resource}\" is present as both global and device-specific resource in the model configuration.")]
    ResourceScope { resource: String },
    #[error("failed to run warmup sample '{sample}': {reason}")]
    Warmup { sample: String, reason: String },
    #[error("an instance of model '{model}' panicked while it was created: {message}")]
    Panicked { model: String, message: String },
    #[error("unable to start a thread for model '{model}': {reason}")]
    Thread { model: String, reason: String },
}

fn version_hint(model: &str, present: &[u64]) -> String {
    if present.is_empty() {
        format!("; it has no version directory, create '{model}/1' (it may be empty for a builtin model)")
    } else {
        let versions: Vec<String> = present.iter().map(u64::to_string).collect();
        format!("; it has {}", versions.join(", "))
    }
}

/// Why a model could not run a batch (or one request of it).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ExecuteError {
    /// The request's contents do not suit the model.
    #[error("{message}")]
    InvalidArgument { message: String },
    /// The model failed.
    #[error("{message}")]
    Internal { message: String },
    /// The model panicked; its other requests were answered, and its instance was made anew.
    #[error("model '{model}' panicked while executing: {message}")]
    Panicked { model: String, message: String },
    /// The model made an output that its configuration does not allow.
    #[error("model '{model}' produced output '{output}' as {got}, but its configuration says {expected}")]
    WrongOutput { model: String, output: String, expected: String, got: String },
    /// The model's instance is gone and could not be made anew.
    #[error("model '{model}' has no working instance: {reason}")]
    NoInstance { model: String, reason: String },
    /// The device of the model's instance is lost for good.
    #[error("model '{model}' cannot run: {reason}; the server must be restarted")]
    DeviceLost { model: String, reason: String },
    /// The device has no memory for the request, not even alone.
    #[error("{message}")]
    DeviceMemory { message: String },
}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum InferError {
    #[error("Request for unknown model: '{model}' is not found")]
    UnknownModel { model: String },
    #[error("Request for unknown model: '{model}' version {version} is not found")]
    UnknownVersion { model: String, version: u64 },
    #[error("Request for unknown model: '{model}' has no available versions")]
    NoAvailableVersions { model: String },
    #[error("Request for unknown model: '{model}' version {version} is not at ready state")]
    VersionNotReady { model: String, version: u64 },
    #[error(
        "failed to get model version from specified version string '{text}' (details: {details}), version should be an integral value > 0"
    )]
    VersionText { text: String, details: String },
    #[error("invalid model version specified '{text}' , version should be an integral value > 0")]
    VersionNotPositive { text: String },
    #[error("Server not ready")]
    ServerNotReady,
    #[error("Server exiting")]
    ServerExiting,
    #[error("GRPC server is shutting down and has stopped accepting new requests.")]
    ShuttingDown,
    #[error("invalid value type for '{parameter}' parameter, expected {expected}.")]
    ParameterType { parameter: String, expected: &'static str },
    #[error("parameter keys starting with 'triton_' are reserved for Triton usage: '{parameter}'")]
    ReservedParameter { parameter: String },
    #[error("Header '{header}' is reserved for Triton usage and cannot be forwarded.")]
    ReservedHeader { header: String },
    #[error("invalid value for '{parameter}' parameter, expected >= 0")]
    NegativeParameter { parameter: String },
    #[error(
        "unexpected explicit tensor data for input tensor '{input}' for model '{model}' of type '{got}', expected datatype '{expected}'"
    )]
    ContentsType { input: String, model: String, got: &'static str, expected: String },
    #[error(
        "unexpected explicit tensor data for input tensor '{input}' for model '{model}' of type '{got}', binary data was already supplied."
    )]
    ContentsTwice { input: String, model: String, got: &'static str },
    #[error("unable to find data for input tensor '{input}' for model '{model}' in request.")]
    NoContents { input: String, model: String },
    #[error("contents field must not be specified when using raw_input_contents for '{input}' for model '{model}'")]
    ContentsAndRaw { input: String, model: String },
    #[error("expected {expected} entries in raw_input_contents for the inputs of model '{model}', got {got}")]
    RawCount { model: String, expected: usize, got: usize },
    #[error(transparent)]
    SharedMemory(#[from] SharedMemoryError),
    #[error("unexpected inference input '{input}' for model '{model}'")]
    UnexpectedInput { input: String, model: String },
    #[error("unexpected inference output '{output}' for model '{model}'")]
    UnexpectedOutput { output: String, model: String },
    #[error("{tag}{problem}")]
    Request { tag: RequestTag, problem: RequestProblem },
    /// `retry_after` is how long it will take, as far as is known, until there is room.
    #[error("{tag}Exceeds maximum queue size")]
    QueueFull { tag: RequestTag, retry_after: Option<Duration> },
    #[error(transparent)]
    Sequence(#[from] SequenceFault),
    #[error("Request timeout expired")]
    Expired,
    /// Refused on arrival, or before it ran: what is ahead of it will take longer than it can wait.
    #[error("Request timeout expired")]
    Unreachable { retry_after: Option<Duration> },
    /// The client's own deadline has passed; it hardly waits for the text.
    #[error("the deadline of the client has passed")]
    DeadlineExceeded,
    /// The client left; nobody reads the text.
    #[error("")]
    Cancelled,
    #[error("Server is stopping, scheduler for model has stopped accepting new inference requests")]
    SchedulerStopped,
    #[error("ModelInfer RPC doesn't support models with decoupled transaction policy")]
    DecoupledUnary,
    #[error("expected a single response, got {got}")]
    ResponseCount { got: usize },
    #[error("in ensemble '{ensemble}', {source}")]
    EnsembleStep { ensemble: String, source: Box<InferError> },
    #[error("{0}")]
    Execute(Arc<ExecuteError>),
    #[error("the request was dropped before it was answered")]
    Abandoned,
    #[error("class result not available for output due to unsupported type '{datatype}'")]
    ClassificationType { datatype: DataType },
    #[error("classification output tensor too large: {elements} elements, expected at most {limit}")]
    ClassificationTooLarge { elements: usize, limit: usize },
    #[error("output can't set both 'shared_memory_region' and 'classification'")]
    ClassificationInSharedMemory,
}

impl InferError {
    /// The error itself, whatever ensembles it came through.
    pub fn root(&self) -> &Self {
        let mut error = self;
        while let Self::EnsembleStep { source, .. } = error {
            error = source;
        }
        error
    }

    /// Whether the request was turned away, and never ran.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::QueueFull { .. }
                | Self::Expired
                | Self::Unreachable { .. }
                | Self::SchedulerStopped
                | Self::Sequence(SequenceFault::Expired)
        )
    }

    /// The same error for another request that meets with it: texts name the request's id.
    #[must_use]
    pub fn for_request(self, id: &str) -> Self {
        let tag = || RequestTag(id.to_owned());
        match self {
            Self::Request { problem, .. } => Self::Request { tag: tag(), problem },
            Self::QueueFull { retry_after, .. } => Self::QueueFull { tag: tag(), retry_after },
            Self::EnsembleStep { ensemble, source } => Self::EnsembleStep { ensemble, source: Box::new(source.for_request(id)) },
            other => other,
        }
    }
}

/// Why a region of shared memory cannot be registered, found, read or written. The beginnings of texts are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SharedMemoryError {
    /// `what` is "shared memory", or the kind of it that is off.
    #[error("Client {what} is disabled. Start the server with '--allow-client-shm=true' to enable.")]
    Disabled { what: &'static str },
    #[error("shared memory region '{region}' already in manager")]
    Exists { region: String },
    #[error(
        "cannot register shared memory region '{region}' with key '{key}' as the key contains the reserved prefix '{prefix}'"
    )]
    ReservedKey { region: String, key: String, prefix: &'static str },
    #[error("cannot register shared memory region '{region}' - invalid shm key '{key}'")]
    BadKey { region: String, key: String },
    #[error("Unable to open shared memory region: '{key}': {reason}")]
    Open { key: String, reason: String },
    #[error("failed to register shared memory region '{region}': invalid args: {reason}")]
    Unfit { region: String, reason: String },
    #[error("failed to register shared memory region '{region}': there are {limit} regions, and this server keeps no more")]
    TooMany { region: String, limit: usize },
    #[error("failed to register CUDA shared memory region: '{region}', GPUs not supported: {reason}")]
    NoGpu { region: String, reason: String },
    #[error("Unable to find {kind}shared memory region: '{region}'")]
    Unknown { kind: &'static str, region: String },
    #[error("The region named '{region}' is registered as {found} shared memory, not {wanted} shared memory")]
    OtherKind { region: String, found: &'static str, wanted: &'static str },
    #[error("invalid value type for '{parameter}' parameter for tensor '{tensor}', expected {expected}.")]
    ParameterType { parameter: &'static str, tensor: String, expected: &'static str },
    #[error("'{parameter}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor}'")]
    NoRegion { parameter: &'static str, tensor: String },
    #[error("'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor '{tensor}'")]
    NoByteSize { tensor: String },
    #[error("unexpected 'content' provided when using shared memory for input tensor '{input}' for model '{model}'")]
    ContentsToo { input: String, model: String },
    #[error("Invalid offset for shared memory region: '{region}'")]
    Offset { region: String },
    #[error("Invalid offset + byte size for shared memory region: '{region}'")]
    Range { region: String },
    #[error(
        "Integer overflow detected: byte_size ({byte_size}) + offset ({offset}) exceeds maximum value ({}) for region '{region}'",
        u64::MAX
    )]
    Overflow { region: String, byte_size: u64, offset: u64 },
    #[error("the inputs have {got} bytes in shared memory, more than the {limit} bytes that a request may have there")]
    InputsTooLarge { got: u64, limit: u64 },
    #[error(
        "shared memory size specified with the request for output '{output}' ({given} bytes) should be at least {needed} bytes to hold the results"
    )]
    OutputTooLarge { output: String, given: u64, needed: u64 },
    /// Its owner has shortened the object since.
    #[error(
        "shared memory region '{region}' has become shorter than it was registered: {needed} bytes of its object are needed, {left} are left; unregister it, and register it as it is"
    )]
    Shrunk { region: String, needed: u64, left: u64 },
    #[error("unable to {access} shared memory region '{region}': {reason}")]
    Access { access: &'static str, region: String, reason: String },
}

impl SharedMemoryError {
    /// The region that it is about, where it names one.
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::Disabled { .. }
            | Self::Open { .. }
            | Self::ParameterType { .. }
            | Self::NoRegion { .. }
            | Self::NoByteSize { .. }
            | Self::ContentsToo { .. }
            | Self::InputsTooLarge { .. }
            | Self::OutputTooLarge { .. } => None,
            Self::Exists { region }
            | Self::ReservedKey { region, .. }
            | Self::BadKey { region, .. }
            | Self::Unfit { region, .. }
            | Self::TooMany { region, .. }
            | Self::NoGpu { region, .. }
            | Self::Unknown { region, .. }
            | Self::OtherKind { region, .. }
            | Self::Offset { region }
            | Self::Range { region }
            | Self::Overflow { region, .. }
            | Self::Shrunk { region, .. }
            | Self::Access { region, .. } => Some(region),
        }
    }
}

/// What keeps a request from being the next of its sequence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SequenceFault {
    #[error("inference request to model '{model}' must specify batch-size 1 due to requirements of sequence batcher")]
    BatchSize { model: String },
    #[error("inference request to model '{model}' must specify a non-zero or non-empty correlation ID")]
    NoId { model: String },
    #[error("correlation ID of an inference request to model '{model}' must have at most {limit} bytes, got {got}")]
    IdTooLong { model: String, limit: usize, got: usize },
    #[error(
        "correlation ID '{id}' of an inference request to model '{model}' does not fit the model's control input of {datatype}"
    )]
    IdUnfit { model: String, id: String, datatype: DataType },
    #[error(
        "inference request for sequence {id} to model '{model}' must specify the START flag on the first request of the sequence"
    )]
    NoStart { model: String, id: String },
    /// Another request of the sequence, or this one in the backlog, waited as long as it may.
    #[error("timeout of the corresponding sequence has been expired")]
    Expired,
}

/// What is wrong with a request's tensors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RequestProblem {
    /// A step of an ensemble left out what another step cannot do without.
    #[error("unexpected deadlock, at least one output is not set while no more ensemble steps can be made")]
    Deadlock,
    #[error(
        "expected {expected} but got {got} inputs for model '{model}'. Got input(s) [{present}], but missing required input(s) [{missing}]. Please provide all required input(s)."
    )]
    InputCount { expected: String, got: usize, model: String, present: String, missing: String },
    #[error("input '{input}' already exists in request")]
    DuplicateInput { input: String },
    #[error("output '{output}' already exists in request")]
    DuplicateOutput { output: String },
    #[error("input '{input}' has no shape but model requires batch dimension for '{model}'")]
    NoBatchDimension { input: String, model: String },
    #[error("input '{input}' batch size does not match other inputs for '{model}'")]
    BatchMismatch { input: String, model: String },
    #[error("inference request batch-size must be <= {limit} for '{model}'")]
    BatchTooLarge { limit: usize, model: String },
    #[error("inference request batch-size must be >= 1 for '{model}'")]
    BatchEmpty { model: String },
    #[error("inference input '{input}' data-type is '{got}', but model '{model}' expects '{expected}'")]
    WrongType { input: String, got: String, model: String, expected: DataType },
    #[error("unexpected shape for input '{input}' for model '{model}'. Expected {expected}, got {got}. {note}")]
    WrongShape { input: String, model: String, expected: Dims, got: WireShape, note: &'static str },
    #[error("All input dimensions should be specified for input '{input}' for model '{model}', got {got}")]
    UnspecifiedDim { input: String, model: String, got: WireShape },
    #[error(
        "input '{input}' for model '{model}' contains an invalid dimension {dim} in {got}, expected every dimension to be >= 0"
    )]
    InvalidDim { input: String, model: String, dim: i64, got: WireShape },
    #[error("shape {got} of input '{input}' for model '{model}' causes total element count to exceed maximum size of {limit}")]
    TooManyElements { input: String, model: String, got: WireShape, limit: usize },
    #[error("byte size overflow for input '{input}' for model '{model}' with shape {got}")]
    ByteOverflow { input: String, model: String, got: WireShape },
    #[error("input byte size mismatch for input '{input}' for model '{model}'. Expected {expected}, got {got}")]
    ByteSize { input: String, model: String, expected: usize, got: usize },
    #[error("expected {expected} string elements for inference input '{input}' for model '{model}', got {got}")]
    TooFewStrings { input: String, model: String, expected: usize, got: usize },
    #[error("unexpected number of string elements {got} for inference input '{input}' for model '{model}', expecting {expected}")]
    TooManyStrings { input: String, model: String, expected: usize, got: usize },
    #[error(
        "incomplete string length indicator for inference input '{input}' for model '{model}', expecting 4 bytes but only {available} bytes available. Please make sure the string length indicator is in one contiguous buffer."
    )]
    CutStringLength { input: String, model: String, available: usize },
    #[error(
        "incomplete string data for inference input '{input}' for model '{model}', expecting string of length {announced} but only {available} bytes available."
    )]
    CutString { input: String, model: String, announced: usize, available: usize },
}

/// A shape as a client wrote it, printed like a checked one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireShape(pub Vec<i64>);

impl fmt::Display for WireShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hostile shape may have a million dimensions; the message shows the beginning.
        const SHOWN: usize = 32;
        let text = self.0.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(",");
        let rest = self.0.len().saturating_sub(SHOWN);
        if rest == 0 { write!(f, "[{text}]") } else { write!(f, "[{text},... {rest} more]") }
    }
}

/// Why a repository call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ControlError {
    #[error("explicit model load / unload is not allowed if polling is enabled")]
    NotExplicit,
    #[error("'repository_name' specification is not supported")]
    RepositoryName,
    #[error("Model name cannot be empty. Please enter a valid name to deploy.")]
    EmptyName,
    #[error("invalid model name '{name}', model name must not contain path traversal characters")]
    BadName { name: String },
    #[error("unrecognized {call} parameter '{parameter}'.")]
    UnknownParameter { call: &'static str, parameter: String },
    #[error("invalid value type for {call} parameter '{parameter}', expected {expected}.")]
    ParameterType { call: &'static str, parameter: String, expected: &'static str },
    #[error("Invalid config override: {reason}")]
    BadOverride { reason: String },
    #[error("failed to load '{model}', failed to poll from model repository{}", because(.reason))]
    NotFound { model: String, reason: Option<String> },
    #[error("load failed for model '{model}': {clauses}")]
    LoadFailed { model: String, clauses: String },
    #[error("requested model '{model}' is not available")]
    StatisticsModel { model: String },
    #[error("requested model version is not available for model '{model}'")]
    StatisticsVersion { model: String },
    #[error("Server exiting")]
    ServerExiting,
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}
