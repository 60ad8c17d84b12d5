//! PTX as text, and as the instructions that the interpreter runs.
//!
//! Owns: the parser. May import: nothing. Must never import: the driver.
