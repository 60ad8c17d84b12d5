//! Owns `alcedo serve`: from flags to a [`ServerConfig`], the wiring of repository and front ends, and the server's
//! start and end. May import all; nothing outside `cli` imports it.
//!
//! **Invariant:** every socket listens before the first model is loaded, so health answers from the beginning.

mod args;
mod listen;
mod metrics_args;
mod server;
mod signals;

pub(super) use self::args::{Address, GrpcConfig, ServeArgs, ServerConfig};
pub(super) use self::metrics_args::Watching;
pub(super) use self::server::Server;
pub(super) use self::signals::Signals;

use std::num::NonZeroUsize;

use super::error::CliError;
use crate::observe::options::MetricsOptionError;
use crate::repository::StartupError;

/// Why the server did not start, or did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(in crate::cli) enum ServeError {
    #[error("--model-control-mode poll is not supported; use --model-control-mode explicit and load models when they change")]
    Poll,
    #[error("--load-model needs --model-control-mode explicit; in mode none every model is loaded")]
    LoadModelWithoutExplicit,
    #[error(
        "the size of the response cache is given more than once; give --cache-config local,size=BYTES once, and no --response-cache-byte-size"
    )]
    CacheTwice,
    #[error("there is nothing to serve: --allow-grpc and --allow-http are both false")]
    NothingServed,
    #[error("invalid value for '--metrics-config': {0}")]
    Metrics(#[from] MetricsOptionError),
    #[error("unable to start the thread that measures: {0}")]
    Monitor(String),
    #[error("unable to start the threads that encode texts: {0}; ask for fewer with --tokenizer-threads")]
    TokenizerThreads(String),
    #[error("--device names a device that is not to be had: {0}")]
    Device(String),
    #[error("unable to listen on {host}:{port}: {reason}; choose another port with {flag}")]
    Bind { host: String, port: u16, flag: &'static str, reason: String },
    #[error("unable to watch for signals: {0}")]
    Signals(String),
    #[error("the {what} listener failed: {reason}")]
    FrontEnd { what: &'static str, reason: String },
    #[error("a listener panicked: {0}")]
    Panicked(String),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error("the exit timeout is over; requests that were cut off: {requests}")]
    CutOff { requests: usize },
    #[error("interrupted by a second signal")]
    Interrupted,
}

impl ServeError {
    /// Whether the command line was not understood.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Poll | Self::LoadModelWithoutExplicit | Self::NothingServed | Self::CacheTwice | Self::Metrics(_))
    }
}

/// Runs `alcedo serve` until a signal ends it.
///
/// # Errors
/// [`CliError::Serve`]: a socket, a start-up model, or work that was cut off at the end.
pub(super) fn run(args: &ServeArgs) -> Result<(), CliError> {
    let config = args.server_config()?;
    args.log.start()?;
    args.warn_unused();
    let runtime = runtime(config.threads)?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::watch()?;
        let server = Server::start(config).await?;
        server.serve(&mut signals).await
    });
    // Models that are still loading or running must not hold up the end.
    runtime.shutdown_background();
    Ok(ended?)
}

/// The runtime that serves connections; models run on threads of their own.
///
/// # Errors
/// [`CliError::Runtime`].
pub(super) fn runtime(threads: Option<NonZeroUsize>) -> Result<tokio::runtime::Runtime, CliError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    builder.enable_all().thread_name("alcedo-io").build().map_err(CliError::Runtime)
}
