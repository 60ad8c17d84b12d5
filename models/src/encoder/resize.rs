//! Positions of a grid of patches, resized to another grid.

use super::spec::Resize;

/// The rows of a square grid, `[side * side, columns]`, resized to `[height * width, columns]`. Sums are f64, rounded once.
///
/// Source: Keys 1981 (the kernel); which samples it is taken at is what PyTorch's `interpolate` does with
/// `align_corners=False`, with and without `antialias`.
pub(super) fn resized(stored: &[f32], columns: usize, resize: &Resize, (height, width): (usize, usize)) -> Vec<f32> {
    let side = resize.side;
    let (down, across) = (samples(resize, height), samples(resize, width));
    // Line by line in one direction, then the other.
    let mut lines = vec![0f64; side * width * columns];
    for (line, to) in stored.chunks_exact(side * columns).zip(lines.chunks_exact_mut(width * columns)) {
        for (samples, to) in across.iter().zip(to.chunks_exact_mut(columns)) {
            for (from, weight) in samples {
                let from = &line[from * columns..][..columns];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * f64::from(*from));
            }
        }
    }
    let mut all = Vec::with_capacity(height * width * columns);
    let mut sums = vec![0f64; width * columns];
    for samples in &down {
        sums.fill(0.0);
        for (from, weight) in samples {
            let from = &lines[from * width * columns..][..width * columns];
            sums.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
        }
        all.extend(sums.iter().map(|sum| *sum as f32));
    }
    all
}

/// For each of `to` places, which of the stored places it is made of, and how much of each.
fn samples(resize: &Resize, to: usize) -> Vec<Vec<(usize, f64)>> {
    let side = resize.side;
    let step = side as f64 / to as f64;
    let interpolated = |place: usize| {
        let center = (place as f64 + 0.5) * step - 0.5;
        let first = center.floor() as isize - 1;
        // At the edges the outermost place stands for those beyond it.
        let inside = |at: isize| at.clamp(0, side as isize - 1) as usize;
        (first..first + 4).map(|at| (inside(at), cubic(-0.75, at as f64 - center))).collect()
    };
    let antialiased = |place: usize| {
        let (center, reach) = ((place as f64 + 0.5) * step, step.max(1.0));
        let first = (center - 2.0 * reach + 0.5).max(0.0) as usize;
        let end = ((center + 2.0 * reach + 0.5) as usize).min(side);
        let weight = |at: usize| cubic(-0.5, (at as f64 - center + 0.5) / reach);
        let sum: f64 = (first..end).map(weight).sum();
        (first..end).map(|at| (at, weight(at) / sum)).collect()
    };
    (0..to).map(|place| if resize.antialias { antialiased(place) } else { interpolated(place) }).collect()
}

/// The cubic kernel, 0 from a distance of 2 on; `a` is its slope at 1.
fn cubic(a: f64, distance: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}
