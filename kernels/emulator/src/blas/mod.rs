//! Matrix products: what `libcublasLt.so.13` exports.
//!
//! Owns: descriptors, the choice of algorithms, the products themselves and the functions of the C interface (`api`). May
//! import: `driver`, to put products on streams. Must never import: anything of the workspace.
//!
//! Products accumulate in f32, as the library does at compute type 32F; 16-bit operands are widened exactly.

mod api;
mod descriptor;
mod product;
#[cfg(test)]
mod tests;

pub(crate) use descriptor::Status;
pub(crate) use product::Product;
