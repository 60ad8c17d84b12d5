//! The specification of GELU: the error function in f64.

/// GELU of `x + bias`, computed in f64.
pub(super) fn bias_gelu(x: f32, bias: f32) -> f64 {
    let sum = f64::from(x) + f64::from(bias);
    if sum == f64::NEG_INFINITY {
        // The limit; the formula would multiply infinity by 0.
        return 0.0;
    }
    sum * libm::erfc(-sum / std::f64::consts::SQRT_2) / 2.0
}
