//! Owns the command line. May import all; nothing imports it but `main.rs`.

use std::process::ExitCode;

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
