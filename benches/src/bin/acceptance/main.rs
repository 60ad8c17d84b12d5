//! What `scripts/gpu-acceptance` measures with: encoders alone on a GPU, and a server under load.
//!
//! Owns: closed loops of batches on lanes (`encode`) and of requests to a server (`load`), each with one JSON object per
//! measurement on standard output. May import: models, the protocol. Must never import: the server, so that what is measured
//! has no part in measuring.

mod encode;
mod load;

use std::error::Error;

use clap::{Parser, Subcommand};

/// Measures encoders on a GPU, and servers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs batches of an encoder on a GPU, without a server.
    Encode(encode::EncodeArgs),
    /// Keeps requests to a running server in flight.
    Load(load::LoadArgs),
}

fn main() -> Result<(), Box<dyn Error>> {
    match Arguments::parse().command {
        Command::Encode(arguments) => encode::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
    }
}
