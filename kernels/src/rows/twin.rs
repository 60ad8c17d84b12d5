//! The specification of moving rows: plain loops. Rounding is that of the crate `half`.

use super::NO_ROW;

/// Output row `i` is input row `rows[i]`.
pub(crate) fn gather(input: &[f32], n: usize, rows: &[u32]) -> Vec<f32> {
    let row = |row: &u32| if *row == NO_ROW { vec![0.0; n] } else { input[*row as usize * n..][..n].to_vec() };
    rows.iter().flat_map(row).collect()
}

/// Output row `rows[i]` is input row `i`.
pub(crate) fn scatter(input: &[f32], n: usize, rows: &[u32], output: &mut [f32]) {
    for (row, from) in rows.iter().zip(input.chunks(n)) {
        if *row != NO_ROW {
            output[*row as usize * n..][..n].copy_from_slice(from);
        }
    }
}
