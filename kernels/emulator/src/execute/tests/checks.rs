//! Planted bugs, each of which the interpreter finds.
