//! The only place that knows gRPC codes: errors become statuses here, and their causes are logged here.

use tonic::{Code, Status};

use crate::error::{ControlError, ExecuteError, InferError};

/// Longest text of a status. It travels as a header, where clients accept 8 to 16 KiB in all and every byte
/// that is not plain ASCII becomes three.
const MAX_TEXT_BYTES: usize = 4000;

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
        | InferError::SchedulerStopped => Code::Unavailable,
        InferError::UnknownModel { .. }
        | InferError::VersionText { .. }
        | InferError::VersionNotPositive { .. }
        | InferError::ParameterType { .. }
        | InferError::ReservedParameter { .. }
        | InferError::NegativeParameter { .. }
        | InferError::ContentsType { .. }
        | InferError::ContentsTwice { .. }
        | InferError::NoContents { .. }
        | InferError::ContentsAndRaw { .. }
        | InferError::RawCount { .. }
        | InferError::UnexpectedInput { .. }
        | InferError::UnexpectedOutput { .. }
        | InferError::Request { .. }
        | InferError::ClassificationType { .. }
        | InferError::ClassificationTooLarge { .. }
        | InferError::ClassificationInSharedMemory => Code::InvalidArgument,
        InferError::SharedMemory { .. } | InferError::DecoupledUnary => Code::Unimplemented,
        InferError::Cancelled => Code::Cancelled,
        InferError::ResponseCount { .. } | InferError::Abandoned => Code::Internal,
        InferError::EnsembleStep { source, .. } => infer_code(source),
        InferError::Execute(error) => execute_code(error),
    }
}

fn execute_code(error: &ExecuteError) -> Code {
    match error {
        ExecuteError::InvalidArgument { .. } => Code::InvalidArgument,
        ExecuteError::Internal { .. } | ExecuteError::Panicked { .. } | ExecuteError::WrongOutput { .. } => Code::Internal,
        ExecuteError::NoInstance { .. } => Code::Unavailable,
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

/// The status of a failed request for a model; logs the cause.
pub(crate) fn infer_status(model: &str, error: &InferError) -> Status {
    let code = infer_code(error);
    log(code, model, error);
    status(code, &error.to_string())
}

/// The status of a failed repository call about a model; logs the cause.
pub(crate) fn control_status(model: &str, error: &ControlError) -> Status {
    let code = control_code(error);
    log(code, model, error);
    status(code, &error.to_string())
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
    if text.len() <= MAX_TEXT_BYTES {
        return Status::new(code, text);
    }
    let end = text.floor_char_boundary(MAX_TEXT_BYTES);
    let shown = text.get(..end).unwrap_or_default();
    Status::new(code, format!("{shown}... ({} more bytes)", text.len() - end))
}
