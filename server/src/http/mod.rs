//! Owns HTTP.
