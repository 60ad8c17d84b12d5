//! Checks of the parser.
