//! The signals that end the server.

use tokio::signal::unix::{self, SignalKind};

use super::ServeError;

/// A request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Signal {
    /// SIGTERM, from an orchestrator: traffic may come in for a while.
    Terminate,
    /// SIGINT, from a person: there is nothing to wait for but what runs.
    Interrupt,
}

impl Signal {
    /// The name of the signal.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

/// Watches for signals from when it was made.
pub(in crate::cli) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Takes the signals over from their default of killing the process.
    ///
    /// # Errors
    /// [`ServeError::Signals`].
    pub(in crate::cli) fn watch() -> Result<Self, ServeError> {
        let watch = |kind| unix::signal(kind).map_err(|error| ServeError::Signals(error.to_string()));
        Ok(Self { terminate: watch(SignalKind::terminate())?, interrupt: watch(SignalKind::interrupt())? })
    }

    /// The next signal.
    pub(in crate::cli) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}
