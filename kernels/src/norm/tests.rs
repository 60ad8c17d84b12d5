//! Normalization against hand-written values and against its specification, with every instruction set and team.

use proptest::prelude::*;

use super::{Norm, norm, twin};
use crate::team::Team;

fn run(team: &Team, input: &[f32], residual: Option<&[f32]>, spec: &Norm<'_>) -> Vec<f32> {
    let mut output = vec![f32::NAN; input.len()];
    norm(team, input, residual, spec, &mut output);
    output
}

#[test]
fn a_row_by_hand() {
    // The sum is [1, 4]: mean 2.5, deviation 1.5.
    let spec = Norm { weight: &[2.0, 3.0], bias: Some(&[10.0, 20.0]), eps: 1e-12 };
    for team in Team::all() {
        let out = run(team, &[1.0, 2.0], Some(&[0.0, 2.0]), &spec);
        assert!((out[0] - 8.0).abs() < 1e-5 && (out[1] - 23.0).abs() < 1e-5, "{out:?}");
        let out = run(team, &[1.0, 4.0], None, &Norm { bias: None, ..spec });
        assert!((out[0] + 2.0).abs() < 1e-5 && (out[1] - 3.0).abs() < 1e-5, "{out:?}");
    }
}

#[test]
fn a_constant_row_gives_the_bias_and_never_nan() {
    for team in Team::all() {
        for n in [1, 24, 70] {
            let (weight, bias) = (vec![1.0; n], vec![0.5; n]);
            for value in [0.0, 0.1, 1e4, -3.3e6] {
                let spec = Norm { weight: &weight, bias: Some(&bias), eps: 1e-5 };
                let out = run(team, &vec![value; n], None, &spec);
                assert!(out.iter().all(|v| v.is_finite()), "{value} {out:?}");
                if value == 0.0 || n == 1 {
                    assert_eq!(out, bias);
                }
            }
        }
    }
}

#[test]
fn no_rows_give_no_rows() {
    for team in Team::all() {
        assert!(run(team, &[], Some(&[]), &Norm { weight: &[1.0; 3], bias: None, eps: 1e-5 }).is_empty());
    }
}

#[test]
fn nan_stays_in_its_row() {
    let mut input = vec![0.25; 3 * 40];
    input[39] = 1.0;
    input[40 + 17] = f32::NAN;
    for team in Team::all() {
        let out = run(team, &input, None, &Norm { weight: &[1.0; 40], bias: None, eps: 1e-5 });
        let nan: Vec<bool> = out.chunks(40).map(|row| row.iter().all(|x| x.is_nan())).collect();
        assert_eq!(nan, [false, true, false]);
        assert!(out[..40].iter().chain(&out[80..]).all(|x| x.is_finite()));
    }
}

#[derive(Debug)]
struct Case {
    n: usize,
    input: Vec<f32>,
    residual: Option<Vec<f32>>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

fn case() -> impl Strategy<Value = Case> {
    let widths = prop_oneof![4 => 1usize..150, 1 => prop::sample::select(vec![384usize, 768, 1024])];
    (0usize..6, widths, prop::sample::select(vec![0f32, 1.0, 100.0])).prop_flat_map(|(rows, n, offset)| {
        let values = |count: usize| prop::collection::vec(-4f32..4.0, count);
        let input = values(rows * n).prop_map(move |values| values.into_iter().map(|v| v + offset).collect());
        (input, prop::option::of(values(rows * n)), values(n), prop::option::of(values(n)))
            .prop_map(move |(input, residual, weight, bias)| Case { n, input, residual, weight, bias })
    })
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification(case in case()) {
        let spec = Norm { weight: &case.weight, bias: case.bias.as_deref(), eps: 1e-6 };
        let (exact, conditions) = twin::norm(&case.input, case.residual.as_deref(), &spec);
        let largest = case.weight.iter().fold(1f32, |a, b| a.max(b.abs()));
        for team in Team::all() {
            let fast = run(team, &case.input, case.residual.as_deref(), &spec);
            for (index, (got, want)) in fast.iter().zip(&exact).enumerate() {
                let bound = 4e-6 * f64::from(largest) * conditions[index / case.n] * (case.n as f64).sqrt();
                prop_assert!((f64::from(*got) - want).abs() <= bound, "{index}: {got} for {want}, bound {bound}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_for_all_threads(case in case()) {
        let spec = Norm { weight: &case.weight, bias: case.bias.as_deref(), eps: 1e-6 };
        for teams in Team::all().chunks(2) {
            let together = run(&teams[0], &case.input, case.residual.as_deref(), &spec);
            prop_assert_eq!(&together, &run(&teams[1], &case.input, case.residual.as_deref(), &spec));
            for (row, want) in together.chunks(case.n).enumerate() {
                let part = row * case.n..(row + 1) * case.n;
                let residual = case.residual.as_ref().map(|residual| &residual[part.clone()]);
                prop_assert_eq!(want, &run(&teams[0], &case.input[part], residual, &spec)[..]);
            }
        }
    }
}
