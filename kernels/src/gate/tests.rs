//! Gating against hand-written values and against its specification, with every instruction set and team.

use proptest::prelude::*;

use super::{gate, twin};
use crate::activation::Activation;
use crate::team::Team;

fn run(team: &Team, input: &[f32], n: usize, activation: Activation) -> Vec<f32> {
    let mut output = vec![f32::NAN; input.len() / 2];
    gate(team, input, n, activation, &mut output);
    output
}

#[test]
fn values_by_hand() {
    for team in Team::all() {
        let relu = run(team, &[1.0, -2.0, 3.0, 4.0, -1.0, 0.5, 10.0, 20.0], 2, Activation::Relu);
        assert_eq!(relu, [3.0, 0.0, 0.0, 10.0]);
        assert_eq!(run(team, &[2.0, -3.0], 1, Activation::Identity), [-6.0]);
        let gelu = run(team, &[1.0, 2.0], 1, Activation::Gelu);
        assert!((gelu[0] - 2.0 * 0.841_344_8).abs() < 1e-6, "{gelu:?}");
        assert!(run(team, &[], 3, Activation::Gelu).is_empty());
    }
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification(
        (n, input) in (0usize..5, 1usize..70).prop_flat_map(|(rows, n)| {
            (Just(n), prop::collection::vec(-9f32..9.0, rows * n * 2))
        }),
        activation in prop::sample::select(Activation::ALL.to_vec()),
    ) {
        let exact = twin::gate(&input, n, activation);
        for teams in Team::all().chunks(2) {
            let fast = run(&teams[0], &input, n, activation);
            for (index, (got, want)) in fast.iter().zip(&exact).enumerate() {
                let (x, factor) = (input[index / n * 2 * n + index % n], input[index / n * 2 * n + n + index % n]);
                // One more rounding, of the product, than the activation has.
                let bound = 4e-7 * f64::from(x.abs()).max(1.0) * f64::from(factor.abs()) + 6e-8 * want.abs();
                prop_assert!((f64::from(*got) - want).abs() <= bound, "{activation:?} of {x} * {factor}: {got} for {want}");
            }
            prop_assert_eq!(&fast, &run(&teams[1], &input, n, activation));
            for (row, want) in fast.chunks(n).enumerate() {
                prop_assert_eq!(want, &run(&teams[1], &input[row * 2 * n..][..2 * n], n, activation)[..]);
            }
        }
    }
}
