//! Integration tests of the server, in one binary.

mod cli;
mod repository;
mod tidy;
mod wire;
