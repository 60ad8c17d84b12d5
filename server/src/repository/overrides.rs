//! x
pub(super) struct Overlay;
