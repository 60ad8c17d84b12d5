//! Integration tests of the server, in one binary.

mod cli;
mod repository;
mod sim;
mod tidy;
mod wire;
