//! Owns the shared memory that clients register: the table of regions, the windows that requests have on them, and how
//! each kind is read and written. May import the words, rustix, and in `cuda` the crate kernels; must never import
//! anything else of the server, tonic, tokio or proto.
//!
//! A client writes tensors into memory that both processes see, names the place in its request, and finds the outputs
//! in such memory too; the messages carry only names.
//!
//! **Invariant:** what the server works on is its own copy. A client can change or shorten its memory at any time, so
//! inputs are copied once, before anything of them is checked, and never looked at again.
//! **Invariant:** nothing is mapped into this process. System regions are read and written through their descriptor,
//! because a mapped page that its owner takes away is a signal that ends the process, where a read is an error of one
//! request.
//! **Invariant:** a region that a request uses stays until the request is answered, even if it is unregistered before.

#[cfg(feature = "cuda")]
mod cuda;
mod region;
mod registry;
mod system;

#[cfg(test)]
mod tests;

pub use registry::{Allowed, Description, Kind, Place, Regions, Window};
