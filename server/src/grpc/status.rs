//! The only place that knows gRPC codes: errors become statuses here, and their causes are logged here.

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::error::{ControlError, ExecuteError, InferError, SequenceFault, SharedMemoryError};

use super::details;

/// Longest text of a status as it travels: in a header, and some clients begin to refuse headers of 8 KiB in all.
const MAX_TEXT_BYTES: usize = 6000;

/// Longest text of a status with details: they repeat it, in base 64, and need some 1000 bytes of their own.
const MAX_DETAILED_TEXT_BYTES: usize = 2500;

/// The code of a failed request.
pub(crate) fn infer_code(error: &InferError) -> Code {
    match error {
        InferError::UnknownVersion { .. } | InferError::NoAvailableVersions { .. } => Code::NotFound,
        InferError::VersionNotReady { .. }
        | InferError::ServerNotReady
        | InferError::ServerExiting
        | InferError::ShuttingDown
        | InferError::QueueFull { .. }
        | InferError::Expired
        | InferError::Unreachable { .. }
        | InferError::Sequence(SequenceFault::Expired)
        | InferError::SchedulerStopped => Code::Unavailable,
        InferError::UnknownModel { .. }
        | InferError::VersionText { .. }
        | InferError::VersionNotPositive { .. }
        | InferError::ParameterType { .. }
        | InferError::ReservedParameter { .. }
        | InferError::ReservedHeader { .. }
        | InferError::NegativeParameter { .. }
        | InferError::ContentsType { .. }
        | InferError::ContentsTwice { .. }
        | InferError::NoContents { .. }
        | InferError::ContentsAndRaw { .. }
        | InferError::RawCount { .. }
        | InferError::UnexpectedInput { .. }
        | InferError::UnexpectedOutput { .. }
        | InferError::Request { .. }
        | InferError::Sequence(_)
        | InferError::ClassificationType { .. }
        | InferError::ClassificationTooLarge { .. }
        | InferError::ClassificationInSharedMemory => Code::InvalidArgument,
        InferError::SharedMemory(error) => shared_memory_code(error),
        InferError::DecoupledUnary => Code::Unimplemented,
        InferError::Cancelled => Code::Cancelled,
        InferError::DeadlineExceeded => Code::DeadlineExceeded,
        InferError::ResponseCount { .. } | InferError::Abandoned => Code::Internal,
        InferError::EnsembleStep { source, .. } => infer_code(source),
        InferError::Execute(error) => execute_code(error),
    }
}

fn shared_memory_code(error: &SharedMemoryError) -> Code {
    match error {
        SharedMemoryError::Disabled { .. } => Code::Unimplemented,
        SharedMemoryError::Exists { .. } => Code::AlreadyExists,
        SharedMemoryError::TooMany { .. } => Code::ResourceExhausted,
        SharedMemoryError::Unknown { .. } | SharedMemoryError::OtherKind { .. } => Code::NotFound,
        SharedMemoryError::ReservedKey { .. }
        | SharedMemoryError::BadKey { .. }
        | SharedMemoryError::Unfit { .. }
        | SharedMemoryError::NoGpu { .. }
        | SharedMemoryError::ParameterType { .. }
        | SharedMemoryError::NoRegion { .. }
        | SharedMemoryError::NoByteSize { .. }
        | SharedMemoryError::ContentsToo { .. }
        | SharedMemoryError::Offset { .. }
        | SharedMemoryError::Range { .. }
        | SharedMemoryError::Overflow { .. }
        | SharedMemoryError::InputsTooLarge { .. }
        | SharedMemoryError::Shrunk { .. } => Code::InvalidArgument,
        SharedMemoryError::Open { .. } | SharedMemoryError::OutputTooLarge { .. } | SharedMemoryError::Access { .. } => {
            Code::Internal
        }
    }
}

fn execute_code(error: &ExecuteError) -> Code {
    match error {
        ExecuteError::InvalidArgument { .. } => Code::InvalidArgument,
        ExecuteError::Internal { .. } | ExecuteError::Panicked { .. } | ExecuteError::WrongOutput { .. } => Code::Internal,
        ExecuteError::NoInstance { .. } | ExecuteError::DeviceLost { .. } => Code::Unavailable,
        ExecuteError::DeviceMemory { .. } => Code::ResourceExhausted,
    }
}

/// The code of a failed repository call.
pub(crate) fn control_code(error: &ControlError) -> Code {
    match error {
        ControlError::NotExplicit | ControlError::ServerExiting => Code::Unavailable,
        ControlError::RepositoryName => Code::Unimplemented,
        ControlError::EmptyName
        | ControlError::BadName { .. }
        | ControlError::UnknownParameter { .. }
        | ControlError::ParameterType { .. }
        | ControlError::BadOverride { .. }
        | ControlError::LoadFailed { .. }
        | ControlError::StatisticsModel { .. }
        | ControlError::StatisticsVersion { .. } => Code::InvalidArgument,
        ControlError::NotFound { .. } => Code::Internal,
    }
}

/// The status of a failed request for a model, with its details; logs the cause.
pub(crate) fn infer_status(model: &str, error: &InferError) -> Status {
    let code = infer_code(error);
    log(code, model, error);
    let text = fitting(&error.to_string(), MAX_DETAILED_TEXT_BYTES);
    Status::with_error_details(code, text, details::details(model, error))
}

/// The status of a failed repository call about a model; logs the cause.
pub(crate) fn control_status(model: &str, error: &ControlError) -> Status {
    let code = control_code(error);
    log(code, model, error);
    status(code, &error.to_string())
}

/// The status of a failed call about a region of shared memory, with its details; logs the cause.
pub(crate) fn shared_memory_status(error: SharedMemoryError) -> Status {
    infer_status("", &error.into())
}

/// The status of an RPC that this server knows and does not serve yet.
pub(crate) fn not_built(rpc: &str) -> Status {
    status(Code::Unimplemented, &format!("{rpc} is not built yet"))
}

/// The status of a health check for a service that is not there.
pub(crate) fn unknown_service(service: &str) -> Status {
    status(Code::NotFound, &format!("there is no service or model '{service}'"))
}

/// The HTTP status of a failed request, by Triton's map of codes.
pub(crate) fn http_code(error: &InferError) -> u16 {
    match infer_code(error) {
        Code::Internal => 500,
        Code::NotFound => 404,
        Code::Unavailable => 503,
        Code::Unimplemented => 501,
        _ => 400,
    }
}

/// A code's name as the protocol writes it; error responses of a stream carry it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What is the server's or the model's fault is logged always; what clients do wrong only on demand, because
/// nothing is logged for each request by default.
fn log(code: Code, model: &str, error: &dyn std::error::Error) {
    let code_text = code_name(code);
    match code {
        Code::Internal | Code::Unknown | Code::DataLoss => tracing::warn!(model, code = code_text, "{}", chain(error)),
        _ => tracing::debug!(model, code = code_text, "{}", chain(error)),
    }
}

/// The text of an error and of what caused it, where that says more.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn status(code: Code, text: &str) -> Status {
    Status::new(code, fitting(text, MAX_TEXT_BYTES))
}

/// A text that takes about so many bytes on its way, at most.
fn fitting(text: &str, most_bytes: usize) -> String {
    match cut(text, most_bytes) {
        None => text.to_owned(),
        Some((shown, left_out)) => format!("{shown}... ({} more bytes)", left_out.len()),
    }
}

/// What of a text is sent and what is left out; `None` where all of it fits.
fn cut(text: &str, most_bytes: usize) -> Option<(&str, &str)> {
    let mut encoded_bytes = 0;
    let beyond = text.bytes().position(|byte| {
        encoded_bytes += encoded_len(byte);
        encoded_bytes > most_bytes
    })?;
    text.split_at_checked(text.floor_char_boundary(beyond))
}

/// Bytes that one byte of a text becomes on its way: outside plain ASCII, and for some characters within, three.
fn encoded_len(byte: u8) -> usize {
    if byte.is_ascii_graphic() && !b"\"#%<>?`{}".contains(&byte) { 1 } else { 3 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::{RequestProblem, RequestTag, WireShape};
    use crate::tensor::DataType;

    fn m() -> String {
        "m".to_owned()
    }

    fn x() -> String {
        "x".to_owned()
    }

    fn request(problem: RequestProblem) -> InferError {
        InferError::Request { tag: RequestTag(String::new()), problem }
    }

    fn check(table: Vec<(InferError, Code, &str)>) {
        for (error, code, text) in table {
            let status = infer_status("m", &error);
            assert_eq!((status.code(), status.message()), (code, text), "{error:?}");
        }
    }

    #[test]
    fn lookups_and_phases() {
        check(vec![
            (InferError::UnknownModel { model: m() }, Code::InvalidArgument, "Request for unknown model: 'm' is not found"),
            (
                InferError::UnknownVersion { model: m(), version: 9 },
                Code::NotFound,
                "Request for unknown model: 'm' version 9 is not found",
            ),
            (
                InferError::NoAvailableVersions { model: m() },
                Code::NotFound,
                "Request for unknown model: 'm' has no available versions",
            ),
            (
                InferError::VersionNotReady { model: m(), version: 1 },
                Code::Unavailable,
                "Request for unknown model: 'm' version 1 is not at ready state",
            ),
            (
                InferError::VersionNotPositive { text: "0".to_owned() },
                Code::InvalidArgument,
                "invalid model version specified '0' , version should be an integral value > 0",
            ),
            (InferError::ServerNotReady, Code::Unavailable, "Server not ready"),
            (InferError::ServerExiting, Code::Unavailable, "Server exiting"),
            (InferError::ShuttingDown, Code::Unavailable, "GRPC server is shutting down and has stopped accepting new requests."),
            (
                SequenceFault::NoStart { model: m(), id: "7".to_owned() }.into(),
                Code::InvalidArgument,
                "inference request for sequence 7 to model 'm' must specify the START flag on the first request of the sequence",
            ),
            (SequenceFault::Expired.into(), Code::Unavailable, "timeout of the corresponding sequence has been expired"),
            (
                InferError::SchedulerStopped,
                Code::Unavailable,
                "Server is stopping, scheduler for model has stopped accepting new inference requests",
            ),
        ]);
    }

    #[test]
    fn requests() {
        check(vec![
            (
                InferError::UnexpectedInput { input: x(), model: m() },
                Code::InvalidArgument,
                "unexpected inference input 'x' for model 'm'",
            ),
            (
                InferError::UnexpectedOutput { output: x(), model: m() },
                Code::InvalidArgument,
                "unexpected inference output 'x' for model 'm'",
            ),
            (
                InferError::NoContents { input: x(), model: m() },
                Code::InvalidArgument,
                "unable to find data for input tensor 'x' for model 'm' in request.",
            ),
            (
                InferError::ContentsAndRaw { input: x(), model: m() },
                Code::InvalidArgument,
                "contents field must not be specified when using raw_input_contents for 'x' for model 'm'",
            ),
            (
                request(RequestProblem::DuplicateInput { input: x() }),
                Code::InvalidArgument,
                "[request id: <id_unknown>] input 'x' already exists in request",
            ),
            (
                request(RequestProblem::BatchTooLarge { limit: 8, model: m() }),
                Code::InvalidArgument,
                "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'm'",
            ),
            (
                request(RequestProblem::UnspecifiedDim { input: x(), model: m(), got: WireShape(vec![-1, 2]) }),
                Code::InvalidArgument,
                "[request id: <id_unknown>] All input dimensions should be specified for input 'x' for model 'm', got [-1,2]",
            ),
            (
                request(RequestProblem::TooManyStrings { input: x(), model: m(), expected: 2, got: 3 }),
                Code::InvalidArgument,
                "[request id: <id_unknown>] unexpected number of string elements 3 for inference input 'x' for model 'm', expecting 2",
            ),
            (
                InferError::ClassificationType { datatype: DataType::Fp16 },
                Code::InvalidArgument,
                "class result not available for output due to unsupported type 'FP16'",
            ),
            (
                InferError::DecoupledUnary,
                Code::Unimplemented,
                "ModelInfer RPC doesn't support models with decoupled transaction policy",
            ),
        ]);
    }

    #[test]
    fn shared_memory() {
        let r = || "r".to_owned();
        check(vec![
            (
                SharedMemoryError::Disabled { what: "shared memory" }.into(),
                Code::Unimplemented,
                "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.",
            ),
            (
                SharedMemoryError::Exists { region: r() }.into(),
                Code::AlreadyExists,
                "shared memory region 'r' already in manager",
            ),
            (
                SharedMemoryError::Unknown { kind: "", region: r() }.into(),
                Code::NotFound,
                "Unable to find shared memory region: 'r'",
            ),
            (
                SharedMemoryError::Range { region: r() }.into(),
                Code::InvalidArgument,
                "Invalid offset + byte size for shared memory region: 'r'",
            ),
            (
                SharedMemoryError::OutputTooLarge { output: "y".to_owned(), given: 4, needed: 8 }.into(),
                Code::Internal,
                "shared memory size specified with the request for output 'y' (4 bytes) should be at least 8 bytes to hold \
                 the results",
            ),
        ]);
    }

    #[test]
    fn queues_and_execution() {
        let internal = |message: &str| InferError::Execute(Arc::new(ExecuteError::Internal { message: message.to_owned() }));
        let in_ensemble = |source| InferError::EnsembleStep { ensemble: "E".to_owned(), source: Box::new(source) };
        check(vec![
            (
                InferError::QueueFull { tag: RequestTag("mine".to_owned()), retry_after: None },
                Code::Unavailable,
                "[request id: mine] Exceeds maximum queue size",
            ),
            (InferError::Expired, Code::Unavailable, "Request timeout expired"),
            (InferError::Cancelled, Code::Cancelled, ""),
            (InferError::DeadlineExceeded, Code::DeadlineExceeded, "the deadline of the client has passed"),
            (InferError::ResponseCount { got: 2 }, Code::Internal, "expected a single response, got 2"),
            (internal("it broke"), Code::Internal, "it broke"),
            (
                InferError::Execute(Arc::new(ExecuteError::InvalidArgument { message: "bad row".to_owned() })),
                Code::InvalidArgument,
                "bad row",
            ),
            (in_ensemble(internal("it broke")), Code::Internal, "in ensemble 'E', it broke"),
            (in_ensemble(InferError::Expired), Code::Unavailable, "in ensemble 'E', Request timeout expired"),
        ]);
    }

    #[test]
    fn repository_calls() {
        let table = [
            (ControlError::NotExplicit, Code::Unavailable, "explicit model load / unload is not allowed if polling is enabled"),
            (ControlError::RepositoryName, Code::Unimplemented, "'repository_name' specification is not supported"),
            (ControlError::StatisticsModel { model: m() }, Code::InvalidArgument, "requested model 'm' is not available"),
            (
                ControlError::StatisticsVersion { model: m() },
                Code::InvalidArgument,
                "requested model version is not available for model 'm'",
            ),
            (
                ControlError::NotFound { model: m(), reason: None },
                Code::Internal,
                "failed to load 'm', failed to poll from model repository",
            ),
            (
                ControlError::LoadFailed { model: m(), clauses: "version 1 is at UNAVAILABLE state: why;\n".to_owned() },
                Code::InvalidArgument,
                "load failed for model 'm': version 1 is at UNAVAILABLE state: why;\n",
            ),
            (ControlError::ServerExiting, Code::Unavailable, "Server exiting"),
        ];
        for (error, code, text) in table {
            let status = control_status("m", &error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
        assert_eq!(not_built("TraceSetting").message(), "TraceSetting is not built yet");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        for (character, shown) in [("\u{e9}", 2000), ("\n", 2000), (" ", 2000), ("%", 2000), ("x", 6000)] {
            let status = status(Code::InvalidArgument, &character.repeat(100_000));
            assert!(status.message().ends_with(" more bytes)"));
            let characters = status.message().chars().count();
            assert!((shown / 2..=shown + 40).contains(&characters), "{characters} of {character:?}");
        }
        let fits = "x".repeat(MAX_TEXT_BYTES);
        assert_eq!(status(Code::InvalidArgument, &fits).message(), fits);
    }

    #[test]
    fn a_status_with_details_fits_into_the_headers_of_any_client() {
        // The dearest text and the longest names.
        for character in ["x", "\"", "\u{e9}", "\u{1f600}"] {
            let long = character.repeat(100_000);
            let problem = RequestProblem::DuplicateInput { input: long.clone() };
            let error = InferError::EnsembleStep { ensemble: long.clone(), source: Box::new(request(problem)) };
            let status = infer_status(&long, &error);
            let text: usize = status.message().bytes().map(encoded_len).sum();
            let headers = text + status.details().len().div_ceil(3) * 4;
            assert!(headers < 7800, "{headers} bytes of {character:?}");
            assert_eq!(status.get_details_error_info().map(|info| info.reason).as_deref(), Some("DUPLICATE_INPUT"));
        }
    }

    #[test]
    fn http_codes_follow_tritons_map() {
        assert_eq!(http_code(&InferError::UnknownModel { model: m() }), 400);
        assert_eq!(http_code(&InferError::UnknownVersion { model: m(), version: 1 }), 404);
        assert_eq!(http_code(&InferError::Expired), 503);
        assert_eq!(http_code(&InferError::DecoupledUnary), 501);
        assert_eq!(http_code(&InferError::Abandoned), 500);
    }
}
