//! Integration tests of the server, in one binary.

mod repository;
mod tidy;
mod wire;
