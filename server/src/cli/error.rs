//! Why a command ended without having done what it was asked.

use std::path::PathBuf;
use std::process::ExitCode;

use super::infer::{PayloadError, RenderError};
use super::serve::ServeError;
use crate::error::LoadError;

/// Exit code of a command that was understood and failed.
const FAILED: u8 = 1;
/// Exit code of a command that was not understood.
const USAGE: u8 = 2;
/// Exit code of `doctor` where the device that it was asked for cannot be used.
const UNUSABLE: u8 = 2;
/// Exit code of a command that a second SIGINT or SIGTERM cut short, as shells write it.
const INTERRUPTED: u8 = 130;

/// The failure of a command; its text is all that the user sees.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A flag's value is wrong in a way that clap cannot see.
    #[error("invalid value '{got}' for '{flag}': {reason}")]
    Flag { flag: &'static str, got: String, reason: String },
    /// The server's address cannot be used.
    #[error("invalid value '{url}' for '--url': {reason}; expected HOST:PORT, such as localhost:8001")]
    Url { url: String, reason: String },
    /// Nobody answers at the server's address.
    #[error("unable to connect to {url}: {reason}; is a server running there? `alcedo serve` starts one")]
    Connect { url: String, reason: String },
    /// A call was answered with an error.
    #[error("{call} failed: {message} (gRPC status {code:?})")]
    Call { call: String, code: tonic::Code, message: String },
    /// The server's answer lacks something that the protocol promises.
    #[error("the answer to {call} holds no {what}")]
    Incomplete { call: &'static str, what: &'static str },
    /// A stream brought an error for the request.
    #[error("model '{model}' answered with an error: {message}")]
    Answer { model: String, message: String },
    /// A file could not be read.
    #[error("unable to read '{}': {reason}", .path.display())]
    Read { path: PathBuf, reason: String },
    /// A file could not be written.
    #[error("unable to write '{}': {reason}", .path.display())]
    Write { path: PathBuf, reason: String },
    /// The standard output could not be written.
    #[error("unable to write to the standard output: {0}")]
    Output(std::io::Error),
    /// The async runtime did not start.
    #[error("unable to start the runtime's threads: {0}")]
    Runtime(std::io::Error),
    /// The log cannot be set up.
    #[error("unable to set up the log: {0}")]
    Log(String),
    /// The inputs of a request are wrong.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// An answer cannot be shown.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The server did not start, or did not end well.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A configuration file does not parse.
    #[error("{0}")]
    ConfigText(String),
    /// A model directory cannot be used.
    #[error("'{}' cannot be served: {problem}", .path.display())]
    Load { path: PathBuf, problem: LoadError },
    /// Models do not fit into the memory of a GPU, or cannot be read.
    #[error("{0}")]
    Plan(String),
    /// The examination of this machine found something wrong.
    #[error("{0}")]
    Examination(String),
    /// The device that was to be examined cannot be used.
    #[error("the device '{device}' cannot be used: {reason}")]
    Device { device: String, reason: String },
    /// The example models are not there.
    #[error("'{}' holds no model '{model}'; `scripts/fetch-models` brings the example models", .repository.display())]
    NoExample { repository: PathBuf, model: String },
    /// The answers of the demo's model are wrong.
    #[error("the demo's answers are wrong: {0}")]
    WrongAnswers(String),
}

impl CliError {
    /// The error behind a failed call.
    pub(super) fn call(call: impl Into<String>, status: &tonic::Status) -> Self {
        Self::Call { call: call.into(), code: status.code(), message: status.message().to_owned() }
    }

    /// What the process ends with.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Flag { .. } | Self::Url { .. } | Self::Log(_) => USAGE,
            Self::Device { .. } => UNUSABLE,
            Self::Payload(problem) if problem.is_usage() => USAGE,
            Self::Serve(ServeError::Interrupted) => INTERRUPTED,
            Self::Serve(problem) if problem.is_usage() => USAGE,
            _ => FAILED,
        })
    }
}
