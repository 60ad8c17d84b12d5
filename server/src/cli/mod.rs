//! Owns the command line: flags, what the commands print and exit codes; the wiring of the server's parts and its
//! start and end. May import all; nothing imports it but `main.rs`.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line was not understood, or the device that `doctor` was asked for cannot be
//! used; `serve` and `demo` end with 130 when a second signal cuts their shutdown short.

mod client;
mod config;
mod control;
mod demo;
mod doctor;
mod error;
mod infer;
mod log;
mod plan;
mod serve;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::error::CliError;

/// Model serving over the KServe v2 protocol.
#[derive(Debug, Parser)]
#[command(name = "alcedo", version, about, max_term_width = 120, infer_subcommands = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve model repositories over gRPC and HTTP.
    Serve(Box<serve::ServeArgs>),
    /// Send one request to a running server and print the answer.
    ///
    /// Examples:
    ///   alcedo infer minilm "A cat sits on the mat." "It is raining."
    ///   alcedo infer add_sub_int32 -i INPUT0=@a.npy -i INPUT1=@b.npy --format json
    ///   alcedo infer classifier -i PIXELS=@photo.jpg --classes 5
    #[command(verbatim_doc_comment)]
    Infer(Box<infer::InferArgs>),
    /// List the models of a running server, load them and unload them.
    Models(control::ModelsArgs),
    /// Print the configuration with which a model directory would be served; no server is needed.
    Config(config::ConfigArgs),
    /// Print how much memory of a GPU the models of a repository would take; neither a server nor a GPU is needed.
    Plan(plan::PlanArgs),
    /// Examine this machine: what is there, whether every GPU kernel computes what it should, and how fast the GPU is.
    Doctor(doctor::DoctorArgs),
    /// Serve the example repository and send it real sentences: embeddings, latency, throughput.
    Demo(Box<demo::DemoArgs>),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
            // With the terminal gone there is nobody left to tell.
            drop(error.print());
            return code;
        }
    };
    let result = match &arguments.command {
        Command::Serve(args) => serve::run(args),
        Command::Infer(args) => infer::run(args),
        Command::Models(args) => control::run(args),
        Command::Config(args) => config::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Demo(args) => demo::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}"));
            error.exit_code()
        }
    }
}

/// Writes to the standard output. A reader that has gone away ends the output, not the command.
///
/// # Errors
/// [`CliError::Output`].
fn print(text: &str) -> Result<(), CliError> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_flags_contradict_nothing() {
        Arguments::command().debug_assert();
    }
}
