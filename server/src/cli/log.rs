//! The server's log: one event per line on the standard error, as text or as JSON.

use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::error::CliError;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Readable lines.
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags of the log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub(super) struct LogArgs {
    /// Form of the log lines, which go to the standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
    /// Least severe level that is logged: error, warn, info, debug or trace; or a list of
    /// `target=level` parted by commas, such as `info,server::repository=debug`.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
}

impl LogArgs {
    /// Starts logging, for the rest of the process.
    ///
    /// # Errors
    /// [`CliError::Flag`] for a level that means nothing, [`CliError::Log`] where a log is set up already.
    pub(super) fn start(&self) -> Result<(), CliError> {
        let filter = self.filter()?;
        // Spans are told of at their end, where the filter has any: those of requests and batches are at level debug.
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_span_events(FmtSpan::CLOSE).with_writer(io::stderr);
        let started = match self.log_format {
            LogFormat::Text => builder.with_target(false).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        started.map_err(|error| CliError::Log(error.to_string()))?;
        // A panic is an event like any other; whoever catches it says what came of it.
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            tracing::error!(thread = thread.name().unwrap_or("without a name"), %panic, "a thread panicked");
        }));
        Ok(())
    }

    fn filter(&self) -> Result<EnvFilter, CliError> {
        let refuse = |reason: String| CliError::Flag { flag: "--log-level", got: self.log_level.clone(), reason };
        // A bare word that is no level would be taken for the name of a target, and silence everything else.
        for directive in self.log_level.split(',') {
            let level = directive.rsplit('=').next().unwrap_or(directive).trim();
            if level.is_empty() || level.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
                return Err(refuse(format!("'{level}' is no level; the levels are error, warn, info, debug, trace and off")));
            }
        }
        EnvFilter::try_new(&self.log_level).map_err(|error| refuse(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::{LogArgs, LogFormat};

    fn args(level: &str) -> LogArgs {
        LogArgs { log_format: LogFormat::Text, log_level: level.to_owned() }
    }

    #[test]
    fn levels_and_targets_are_taken() {
        for level in ["error", "WARN", "info,server::repository=debug", "off"] {
            assert!(args(level).filter().is_ok(), "{level}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        let error = args("loud").filter().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("'loud' is no level"), "{error}");
        assert!(args("").filter().is_err());
        assert!(args("info,server=").filter().is_err());
    }
}
