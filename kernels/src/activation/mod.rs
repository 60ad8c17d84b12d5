//! The functions between the layers of a model.
//!
//! Owns: [`Activation`], its specification (`twin`) and the vector version that other operations put into their own
//! passes (`cpu`), and the launch on a GPU (`cuda`). May import: `simd`, `cuda`. Must never import: other operations.
//!
//! Tolerance of the vector version against the twin in f64, relative to max(|x|, |result|): 4e-7. `Tanh` and `Sigmoid` keep it
//! relative to the result alone, from -87 up. NaN comes out as NaN, an infinity as the limit there or next to it.
//!
//! On a GPU (`cuda`) an input is f32, f16 or bf16 and a result is rounded to its type; before that the tolerance is 6e-7, and
//! results below 1.2e-38 may be 0.
//!
//! Source: Hendrycks and Gimpel 2016 (GELU and its approximations), Ramachandran et al. 2017 (SiLU).

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod twin;

/// A function that is applied to every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// `x`.
    #[default]
    Identity,
    /// `x * Phi(x)` with the exact error function.
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

#[cfg(any(test, feature = "cuda"))]
impl Activation {
    /// Each of them, for comparisons with specifications.
    pub(crate) const ALL: [Activation; 8] = [
        Activation::Identity,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Sigmoid,
    ];
}
