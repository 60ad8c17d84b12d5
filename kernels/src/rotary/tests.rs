//! Rotation against hand-written values and against its specification, with every instruction set and team.

use proptest::prelude::*;

use super::{Pairs, Rotary, rotary, twin};
use crate::team::Team;

const BOTH: [Pairs; 2] = [Pairs::Halves, Pairs::Adjacent];

#[test]
fn a_quarter_turn_by_hand() {
    // With this base the second pair turns by a hundredth of the first one's angle, that is hardly at position 0 or 1.
    for team in Team::all() {
        for (pairs, want) in [(Pairs::Halves, [-3.0, 2.0, 1.0, 4.0]), (Pairs::Adjacent, [-2.0, 1.0, 3.0, 4.0])] {
            let mut table = Rotary::new(2, 4, 1e40, pairs);
            // Position 1 is made a quarter turn for the first pair.
            let width = table.width();
            (table.cosines[width], table.sines[width]) = (0.0, 1.0);
            if pairs == Pairs::Adjacent {
                (table.sines[width], table.cosines[width + 1], table.sines[width + 1]) = (-1.0, 0.0, 1.0);
            }
            let mut values = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0];
            rotary(team, &mut values, 4, (1, 4), &[0, 1], &table);
            assert_eq!(values[..4], [1.0, 2.0, 3.0, 4.0], "{pairs:?}: position 0 turns nothing");
            assert_eq!(values[4..], want, "{pairs:?}");
        }
    }
}

#[test]
fn tables_say_what_they_hold() {
    for (pairs, per_position) in [(Pairs::Halves, 6), (Pairs::Adjacent, 12)] {
        let table = Rotary::new(7, 6, 10_000.0, pairs);
        assert_eq!((table.dims(), table.positions(), table.bytes()), (6, 7, 7 * per_position * 4));
        assert_eq!(table.clone().positions(), 7);
    }
}

#[test]
fn no_rows_and_no_heads_change_nothing() {
    for team in Team::all() {
        for pairs in BOTH {
            let table = Rotary::new(4, 2, 10_000.0, pairs);
            rotary(team, &mut [], 8, (2, 4), &[], &table);
            let mut values = [1.0; 4];
            rotary(team, &mut values, 4, (0, 4), &[3], &table);
            assert_eq!(values, [1.0; 4]);
        }
    }
}

#[derive(Debug)]
struct Case {
    pairs: Pairs,
    heads: usize,
    head_size: usize,
    dims: usize,
    stride: usize,
    positions: Vec<u32>,
    values: Vec<f32>,
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..4, 1usize..40, 0usize..9, 0usize..9);
    (sizes, prop::sample::select(BOTH.to_vec()), prop::collection::vec(0u32..600, 0..5)).prop_flat_map(
        |((heads, half, unturned, behind), pairs, positions)| {
            let (dims, head_size) = (2 * half, 2 * half + unturned);
            let stride = heads * head_size + behind;
            prop::collection::vec(-3f32..3.0, positions.len() * stride).prop_map(move |values| Case {
                pairs,
                heads,
                head_size,
                dims,
                stride,
                positions: positions.clone(),
                values,
            })
        },
    )
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification(case in case()) {
        let table = Rotary::new(600, case.dims, 10_000.0, case.pairs);
        let heads = (case.heads, case.head_size);
        for teams in Team::all().chunks(2) {
            let run = |team, values: &[f32], positions: &[u32]| {
                let mut values = values.to_vec();
                rotary(team, &mut values, case.stride, heads, positions, &table);
                values
            };
            let fast = run(&teams[0], &case.values, &case.positions);
            prop_assert_eq!(&fast, &run(&teams[1], &case.values, &case.positions));
            for (row, position) in case.positions.iter().enumerate() {
                let (before, after) = (&case.values[row * case.stride..][..case.stride], &fast[row * case.stride..][..case.stride]);
                let turned = case.heads * case.head_size;
                prop_assert_eq!(&before[turned..], &after[turned..]);
                prop_assert_eq!(after, &run(&teams[0], before, &[*position])[..]);
                for (before, after) in before[..turned].chunks(case.head_size).zip(after[..turned].chunks(case.head_size)) {
                    let exact = twin::head(before, case.dims, 10_000.0, case.pairs, *position);
                    let largest = before.iter().fold(0f32, |a, b| a.max(b.abs()));
                    for (got, want) in after.iter().zip(exact) {
                        prop_assert!((f64::from(*got) - want).abs() <= 3e-7 * f64::from(largest), "{got} for {want}");
                    }
                    prop_assert_eq!(&before[case.dims..], &after[case.dims..]);
                }
            }
        }
    }
}
