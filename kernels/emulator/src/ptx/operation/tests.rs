//! Checks of operations against plain computations.
