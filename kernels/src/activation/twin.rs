//! The specification of activations, in f64.

use super::Activation;

/// One number; at minus infinity the limit, where a formula would multiply infinity by 0.
pub(crate) fn apply(activation: Activation, x: f64) -> f64 {
    use Activation::{Gelu, GeluTanh, QuickGelu, Silu};
    if x == f64::NEG_INFINITY && matches!(activation, Gelu | GeluTanh | QuickGelu | Silu) {
        return 0.0;
    }
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => x,
        Activation::Gelu => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}
