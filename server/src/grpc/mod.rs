//! Owns gRPC.
