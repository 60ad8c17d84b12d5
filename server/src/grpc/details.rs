//! What a machine reads of an error besides code and text: `google.rpc.ErrorInfo` with a stable reason, and
//! `google.rpc.RetryInfo` where waiting helps. The reasons are listed in docs/operations.md.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]

use std::collections::HashMap;
use std::time::Duration;

use tonic_types::ErrorDetails;

use crate::error::{ExecuteError, InferError, RequestProblem, SequenceFault, SharedMemoryError};

/// The domain of all reasons.
const DOMAIN: &str = "alcedo";

/// Longest value of the metadata: names come from clients, and all of it travels in a header.
const MAX_VALUE_BYTES: usize = 120;

/// Least time to wait that a client is told: a shorter one is not worth a timer.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// Told where places are taken or time has run out, and nothing is known of how long that lasts (nothing has run yet):
/// enough that a client that tries again at once does not only fill the queue that refused it.
const UNKNOWN_WAIT: Duration = Duration::from_millis(10);

/// Told where something is being loaded, replaced or ended: that takes seconds.
const CHANGE_WAIT: Duration = Duration::from_secs(1);

/// A stable name for what went wrong, and where the request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cause {
    reason: &'static str,
    stage: &'static str,
}

/// The details of an error about a model.
pub(super) fn details(model: &str, error: &InferError) -> ErrorDetails {
    let Cause { reason, stage } = cause(error.root());
    let mut metadata = HashMap::from([("stage".to_owned(), stage.to_owned())]);
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            metadata.insert(name.to_owned(), shown(value));
        }
    };
    put("model", model);
    if let InferError::EnsembleStep { ensemble, .. } = error {
        put("ensemble", ensemble);
    }
    for (name, value) in subject(error.root()) {
        put(name, value);
    }
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Some(wait) = retry_after(error) {
        details.set_retry_info(Some(wait));
    }
    details
}

/// The stable name of an error.
pub(super) fn reason(error: &InferError) -> &'static str {
    cause(error.root()).reason
}

/// When it is worth trying again, where it is.
pub(super) fn retry_after(error: &InferError) -> Option<Duration> {
    match error.root() {
        InferError::QueueFull { retry_after, .. } | InferError::Unreachable { retry_after } => {
            Some(retry_after.map_or(UNKNOWN_WAIT, |wait| wait.max(LEAST_WAIT)))
        }
        InferError::Expired => Some(UNKNOWN_WAIT),
        InferError::VersionNotReady { .. }
        | InferError::ServerNotReady
        | InferError::ServerExiting
        | InferError::ShuttingDown
        | InferError::SchedulerStopped => Some(CHANGE_WAIT),
        _ => None,
    }
}

fn shown(value: &str) -> String {
    let end = value.floor_char_boundary(MAX_VALUE_BYTES);
    match value.split_at_checked(end) {
        Some((whole, "")) => whole.to_owned(),
        Some((shown, _)) => format!("{shown}..."),
        None => String::new(),
    }
}

/// The tensors and parameters that an error is about.
fn subject(error: &InferError) -> Vec<(&'static str, &str)> {
    match error {
        InferError::ParameterType { parameter, .. }
        | InferError::ReservedParameter { parameter }
        | InferError::NegativeParameter { parameter } => vec![("parameter", parameter)],
        InferError::ReservedHeader { header } => vec![("header", header)],
        InferError::ContentsType { input, .. }
        | InferError::ContentsTwice { input, .. }
        | InferError::NoContents { input, .. }
        | InferError::ContentsAndRaw { input, .. }
        | InferError::UnexpectedInput { input, .. } => vec![("input", input)],
        InferError::UnexpectedOutput { output, .. } => vec![("output", output)],
        InferError::SharedMemory(error) => shared_memory_subject(error),
        InferError::Request { problem, .. } => problem_subject(problem),
        InferError::Sequence(SequenceFault::NoStart { id, .. } | SequenceFault::IdUnfit { id, .. }) => vec![("sequence", id)],
        _ => Vec::new(),
    }
}

fn shared_memory_subject(error: &SharedMemoryError) -> Vec<(&'static str, &str)> {
    match error {
        SharedMemoryError::ParameterType { parameter, tensor, .. } | SharedMemoryError::NoRegion { parameter, tensor } => {
            vec![("parameter", parameter), ("tensor", tensor)]
        }
        SharedMemoryError::NoByteSize { tensor } => vec![("tensor", tensor)],
        SharedMemoryError::ContentsToo { input, .. } => vec![("input", input)],
        SharedMemoryError::OutputTooLarge { output, .. } => vec![("output", output)],
        SharedMemoryError::Open { key, .. } => vec![("key", key)],
        other => other.region().map(|region| ("region", region)).into_iter().collect(),
    }
}

fn problem_subject(problem: &RequestProblem) -> Vec<(&'static str, &str)> {
    match problem {
        RequestProblem::Deadlock
        | RequestProblem::InputCount { .. }
        | RequestProblem::BatchTooLarge { .. }
        | RequestProblem::BatchEmpty { .. } => Vec::new(),
        RequestProblem::DuplicateOutput { output } => vec![("output", output)],
        RequestProblem::DuplicateInput { input }
        | RequestProblem::NoBatchDimension { input, .. }
        | RequestProblem::BatchMismatch { input, .. }
        | RequestProblem::WrongType { input, .. }
        | RequestProblem::WrongShape { input, .. }
        | RequestProblem::UnspecifiedDim { input, .. }
        | RequestProblem::InvalidDim { input, .. }
        | RequestProblem::TooManyElements { input, .. }
        | RequestProblem::ByteOverflow { input, .. }
        | RequestProblem::ByteSize { input, .. }
        | RequestProblem::TooFewStrings { input, .. }
        | RequestProblem::TooManyStrings { input, .. }
        | RequestProblem::CutStringLength { input, .. }
        | RequestProblem::CutString { input, .. } => vec![("input", input)],
    }
}

fn cause(error: &InferError) -> Cause {
    let (stage, reason) = match error {
        InferError::UnknownModel { .. } => ("lookup", "UNKNOWN_MODEL"),
        InferError::UnknownVersion { .. } => ("lookup", "UNKNOWN_VERSION"),
        InferError::NoAvailableVersions { .. } => ("lookup", "NO_AVAILABLE_VERSIONS"),
        InferError::VersionNotReady { .. } => ("lookup", "VERSION_NOT_READY"),
        InferError::VersionText { .. } | InferError::VersionNotPositive { .. } => ("decode", "INVALID_VERSION"),
        InferError::ServerNotReady => ("lookup", "SERVER_NOT_READY"),
        InferError::ServerExiting | InferError::ShuttingDown => ("admission", "SHUTTING_DOWN"),
        InferError::ParameterType { .. } => ("decode", "PARAMETER_TYPE"),
        InferError::ReservedParameter { .. } => ("decode", "RESERVED_PARAMETER"),
        InferError::ReservedHeader { .. } => ("decode", "RESERVED_HEADER"),
        InferError::NegativeParameter { .. } => ("decode", "NEGATIVE_PARAMETER"),
        InferError::ContentsType { .. } => ("decode", "CONTENTS_TYPE"),
        InferError::ContentsTwice { .. } | InferError::ContentsAndRaw { .. } => ("decode", "CONTENTS_TWICE"),
        InferError::NoContents { .. } => ("decode", "NO_CONTENTS"),
        InferError::RawCount { .. } => ("decode", "RAW_CONTENTS_COUNT"),
        InferError::SharedMemory(error) => shared_memory_cause(error),
        InferError::UnexpectedInput { .. } => ("validation", "UNEXPECTED_INPUT"),
        InferError::UnexpectedOutput { .. } => ("validation", "UNEXPECTED_OUTPUT"),
        InferError::Request { problem: RequestProblem::Deadlock, .. } => ("ensemble", "MISSING_STEP_OUTPUT"),
        InferError::Request { problem, .. } => ("validation", problem_reason(problem)),
        InferError::QueueFull { .. } => ("admission", "QUEUE_FULL"),
        InferError::Sequence(fault) => sequence_cause(fault),
        InferError::Expired => ("queue", "REQUEST_EXPIRED"),
        InferError::Unreachable { .. } => ("admission", "DEADLINE_UNREACHABLE"),
        InferError::DeadlineExceeded => ("queue", "DEADLINE_EXCEEDED"),
        InferError::Cancelled => ("queue", "CANCELLED"),
        InferError::SchedulerStopped => ("admission", "SCHEDULER_STOPPED"),
        InferError::DecoupledUnary => ("lookup", "DECOUPLED_NEEDS_STREAM"),
        InferError::ResponseCount { .. } => ("execution", "RESPONSE_COUNT"),
        // The root of an error is none; it would say no more than that.
        InferError::EnsembleStep { .. } => ("ensemble", "ENSEMBLE_STEP"),
        InferError::Execute(error) => ("execution", execute_reason(error)),
        InferError::Abandoned => ("execution", "REQUEST_LOST"),
        InferError::ClassificationType { .. } => ("response", "CLASSIFICATION_TYPE"),
        InferError::ClassificationTooLarge { .. } => ("response", "CLASSIFICATION_TOO_LARGE"),
        InferError::ClassificationInSharedMemory => ("decode", "CLASSIFICATION_IN_SHARED_MEMORY"),
    };
    Cause { reason, stage }
}

const fn shared_memory_cause(error: &SharedMemoryError) -> (&'static str, &'static str) {
    match error {
        SharedMemoryError::Disabled { .. } => ("decode", "SHARED_MEMORY_UNSUPPORTED"),
        SharedMemoryError::Exists { .. } => ("registration", "REGION_EXISTS"),
        SharedMemoryError::TooMany { .. } => ("registration", "TOO_MANY_REGIONS"),
        SharedMemoryError::NoGpu { .. } => ("registration", "REGION_WITHOUT_GPU"),
        SharedMemoryError::ReservedKey { .. }
        | SharedMemoryError::BadKey { .. }
        | SharedMemoryError::Open { .. }
        | SharedMemoryError::Unfit { .. } => ("registration", "REGION_UNFIT"),
        SharedMemoryError::Unknown { .. } | SharedMemoryError::OtherKind { .. } => ("lookup", "UNKNOWN_REGION"),
        SharedMemoryError::ParameterType { .. }
        | SharedMemoryError::NoRegion { .. }
        | SharedMemoryError::NoByteSize { .. }
        | SharedMemoryError::ContentsToo { .. } => ("decode", "SHARED_MEMORY_PARAMETERS"),
        SharedMemoryError::Offset { .. }
        | SharedMemoryError::Range { .. }
        | SharedMemoryError::Overflow { .. }
        | SharedMemoryError::InputsTooLarge { .. } => ("decode", "OUTSIDE_REGION"),
        SharedMemoryError::OutputTooLarge { .. } => ("response", "OUTPUT_BEYOND_REGION"),
        SharedMemoryError::Shrunk { .. } => ("copy", "REGION_SHRUNK"),
        SharedMemoryError::Access { .. } => ("copy", "REGION_UNUSABLE"),
    }
}

fn sequence_cause(fault: &SequenceFault) -> (&'static str, &'static str) {
    match fault {
        SequenceFault::BatchSize { .. } => ("validation", "SEQUENCE_BATCH_SIZE"),
        SequenceFault::NoId { .. } => ("validation", "SEQUENCE_WITHOUT_ID"),
        SequenceFault::IdTooLong { .. } | SequenceFault::IdUnfit { .. } => ("validation", "SEQUENCE_ID_UNFIT"),
        SequenceFault::NoStart { .. } => ("admission", "SEQUENCE_WITHOUT_START"),
        SequenceFault::Expired => ("queue", "SEQUENCE_EXPIRED"),
    }
}

const fn execute_reason(error: &ExecuteError) -> &'static str {
    match error {
        ExecuteError::InvalidArgument { .. } => "MODEL_REFUSED_REQUEST",
        ExecuteError::Internal { .. } => "MODEL_FAILED",
        ExecuteError::Panicked { .. } => "MODEL_PANICKED",
        ExecuteError::WrongOutput { .. } => "MODEL_WRONG_OUTPUT",
        ExecuteError::NoInstance { .. } => "NO_INSTANCE",
        ExecuteError::DeviceLost { .. } => "DEVICE_LOST",
        ExecuteError::DeviceMemory { .. } => "DEVICE_OUT_OF_MEMORY",
    }
}

const fn problem_reason(problem: &RequestProblem) -> &'static str {
    match problem {
        RequestProblem::Deadlock => "MISSING_STEP_OUTPUT",
        RequestProblem::InputCount { .. } => "MISSING_INPUT",
        RequestProblem::DuplicateInput { .. } => "DUPLICATE_INPUT",
        RequestProblem::DuplicateOutput { .. } => "DUPLICATE_OUTPUT",
        RequestProblem::NoBatchDimension { .. } => "NO_BATCH_DIMENSION",
        RequestProblem::BatchMismatch { .. } => "BATCH_SIZE_MISMATCH",
        RequestProblem::BatchTooLarge { .. } => "BATCH_TOO_LARGE",
        RequestProblem::BatchEmpty { .. } => "BATCH_EMPTY",
        RequestProblem::WrongType { .. } => "WRONG_DATATYPE",
        RequestProblem::WrongShape { .. } | RequestProblem::UnspecifiedDim { .. } | RequestProblem::InvalidDim { .. } => {
            "WRONG_SHAPE"
        }
        RequestProblem::TooManyElements { .. } | RequestProblem::ByteOverflow { .. } => "TENSOR_TOO_LARGE",
        RequestProblem::ByteSize { .. } => "CONTENTS_SIZE",
        RequestProblem::TooFewStrings { .. }
        | RequestProblem::TooManyStrings { .. }
        | RequestProblem::CutStringLength { .. }
        | RequestProblem::CutString { .. } => "BYTES_CONTENTS",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::sync::Arc;

    use super::*;
    use crate::error::RequestTag;

    fn full(retry_after: Option<Duration>) -> InferError {
        InferError::QueueFull { tag: RequestTag("id".to_owned()), retry_after }
    }

    fn in_ensemble(source: InferError) -> InferError {
        InferError::EnsembleStep { ensemble: "e".to_owned(), source: Box::new(source) }
    }

    #[test]
    fn details_name_reason_model_stage_and_subject() {
        let error = in_ensemble(InferError::UnexpectedInput { input: "x".to_owned(), model: "m".to_owned() });
        let details = details("e", &error);
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("UNEXPECTED_INPUT", "alcedo"));
        let expected = [("model", "e"), ("stage", "validation"), ("ensemble", "e"), ("input", "x")];
        assert_eq!(info.metadata, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn waiting_is_told_where_it_helps() {
        let millis = |error: &InferError| retry_after(error).map(|wait| wait.as_millis());
        assert_eq!(millis(&full(Some(Duration::from_millis(250)))), Some(250));
        assert_eq!(millis(&full(Some(Duration::ZERO))), Some(1));
        assert_eq!(millis(&full(None)), Some(10));
        assert_eq!(millis(&in_ensemble(full(None))), Some(10));
        assert_eq!(millis(&InferError::Unreachable { retry_after: Some(Duration::from_secs(2)) }), Some(2000));
        assert_eq!(millis(&InferError::Expired), Some(10));
        assert_eq!(millis(&InferError::ShuttingDown), Some(1000));
        let failed = ExecuteError::Internal { message: "it broke".to_owned() };
        for never in [InferError::Execute(Arc::new(failed)), InferError::Cancelled, InferError::DecoupledUnary] {
            assert_eq!(millis(&never), None, "{never:?}");
        }
        let details = details("m", &full(Some(Duration::from_millis(250))));
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(250)));
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "\u{e9}".repeat(10_000);
        let details = details(&name, &InferError::UnknownModel { model: name.clone() });
        let shown = &details.error_info().unwrap().metadata["model"];
        assert!(shown.ends_with("...") && shown.len() <= MAX_VALUE_BYTES + 3, "{} bytes", shown.len());
    }
}
