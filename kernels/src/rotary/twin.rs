//! The specification of rotation: plain loops in f64, angles included.

use super::Pairs;

/// Turns the first `dims` numbers of one head at `position`.
pub(crate) fn head(values: &[f32], dims: usize, base: f64, pairs: Pairs, position: u32) -> Vec<f64> {
    let mut out: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
    for pair in 0..dims / 2 {
        let (first, second) = match pairs {
            Pairs::Halves => (pair, pair + dims / 2),
            Pairs::Adjacent => (2 * pair, 2 * pair + 1),
        };
        let angle = f64::from(position) * base.powf(-2.0 * pair as f64 / dims as f64);
        let (a, b) = (out[first], out[second]);
        (out[first], out[second]) = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
    }
    out
}
