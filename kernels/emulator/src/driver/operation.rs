//! What streams hold: one operation of the device, ready to run when all before it are over.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::clock::{Stamp, VectorClock};
use super::module::Call;
use crate::blas::Product;

/// Where a copy to the device takes its bytes from.
#[derive(Debug, Clone)]
pub(crate) enum HostSource {
    /// Bytes set aside when the copy was asked for.
    Staged(Arc<[u8]>),
    /// Pinned memory, read when the copy runs.
    Pinned(u64),
    /// Ordinary memory captured into a graph, read when the copy runs.
    Pageable(u64),
}

/// A function of the application's, as `cuLaunchHostFunc` takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostCall {
    /// The function.
    pub function: extern "C" fn(*mut libc::c_void),
    /// Its argument, an address.
    pub argument: usize,
}

/// What is done.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Only the order matters: waits.
    Nothing,
    /// Notes the time.
    Record(Arc<OnceLock<Instant>>),
    /// Host to device.
    CopyIn { source: HostSource, target: u64, bytes: usize },
    /// Device to host; pinned memory is checked and written through its own mapping.
    CopyOut { source: u64, target: u64, bytes: usize, pinned: bool },
    /// Device to device; the devices follow from the addresses.
    CopyWithin { source: u64, target: u64, bytes: usize },
    /// A pattern of 1, 2 or 4 bytes.
    Fill { target: u64, pattern: u32, width: usize, count: usize },
    /// A kernel.
    Kernel(Arc<Call>),
    /// A matrix product.
    Product(Arc<Product>),
    /// Memory becomes usable.
    Allocate { address: u64 },
    /// Memory is given back.
    Free { address: u64, pinned: bool },
    /// The application's own function.
    Call(HostCall),
    /// An injected failure.
    Fail,
    /// A graph's nodes, in an order that respects their edges.
    Graph(Arc<Vec<Operation>>),
}

/// An action in its place.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub action: Action,
    /// Its place in its component.
    pub stamp: Stamp,
    /// What happened before it.
    pub known: VectorClock,
    /// Positions of other streams that must be over first.
    pub after: Vec<Point>,
}

/// A position of a stream: that many of its operations are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    /// The stream's handle.
    pub stream: u64,
    /// Operations.
    pub position: u64,
}
