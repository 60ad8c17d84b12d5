//! Owns the model repository.
