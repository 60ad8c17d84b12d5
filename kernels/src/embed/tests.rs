//! Lookup against hand-written values and against its specification, with every instruction set and team.

use half::{bf16, f16};
use proptest::prelude::*;

use super::{Ids, Lookup, TableType, embed, twin};
use crate::team::Team;

fn encode(values: &[f32], dtype: TableType) -> Vec<u8> {
    let one = |x: &f32| match dtype {
        TableType::F32 => x.to_le_bytes().to_vec(),
        TableType::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
        TableType::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

fn run(team: &Team, tables: &[Lookup<'_>], n: usize, rows: usize) -> Vec<f32> {
    let mut output = vec![f32::NAN; rows * n];
    embed(team, tables, n, &mut output);
    output
}

#[test]
fn rows_are_added_by_hand() {
    let words = encode(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], TableType::F32);
    let kinds = encode(&[0.5, 0.25, 10.0, 20.0], TableType::F16);
    let tables = [
        Lookup { bytes: &words, dtype: TableType::F32, ids: Ids::Each(&[2, 0, 2]) },
        Lookup { bytes: &kinds, dtype: TableType::F16, ids: Ids::All(1) },
    ];
    for team in Team::all() {
        assert_eq!(run(team, &tables, 2, 3), [15.0, 26.0, 11.0, 22.0, 15.0, 26.0]);
        assert_eq!(run(team, &[], 2, 2), [0.0; 4]);
        assert!(run(team, &[Lookup { ids: Ids::Each(&[]), ..tables[0] }], 2, 0).is_empty());
    }
}

#[test]
fn every_number_of_two_bytes_is_converted_exactly() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for team in Team::all() {
        for dtype in [TableType::F16, TableType::Bf16] {
            let tables = [Lookup { bytes: &bytes, dtype, ids: Ids::All(0) }];
            let out = run(team, &tables, 1 << 16, 1);
            for (bits, got) in (0..=u16::MAX).zip(out) {
                let want = if dtype == TableType::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() };
                assert!(got == want || (got.is_nan() && want.is_nan()), "{dtype:?} {bits:#06x}: {got} for {want}");
            }
        }
    }
}

#[derive(Debug)]
struct Case {
    n: usize,
    rows: usize,
    /// Bytes before the table, so that it is not aligned.
    before: usize,
    tables: Vec<(TableType, Vec<f32>, Vec<u32>)>,
}

fn case() -> impl Strategy<Value = Case> {
    const ENTRIES: usize = 5;
    (1usize..70, 0usize..7, 0usize..4).prop_flat_map(|(n, rows, before)| {
        let dtype = prop::sample::select(vec![TableType::F32, TableType::F16, TableType::Bf16]);
        let values = prop::collection::vec(-4f32..4.0, ENTRIES * n);
        let table = (dtype, values, prop::collection::vec(0..ENTRIES as u32, rows));
        prop::collection::vec(table, 1..4).prop_map(move |tables| Case { n, rows, before, tables })
    })
}

proptest! {
    #[test]
    fn the_fast_version_agrees_with_the_specification(case in case()) {
        let bytes: Vec<Vec<u8>> = case.tables.iter().map(|(dtype, values, _)| {
            [vec![0xff; case.before], encode(values, *dtype)].concat()
        }).collect();
        let tables: Vec<Lookup<'_>> = case.tables.iter().zip(&bytes).map(|((dtype, _, ids), bytes)| {
            Lookup { bytes: &bytes[case.before..], dtype: *dtype, ids: Ids::Each(ids) }
        }).collect();
        let exact = twin::embed(&tables, case.n, case.rows);
        for team in Team::all() {
            let fast = run(team, &tables, case.n, case.rows);
            for (got, want) in fast.iter().zip(&exact) {
                // A table alone is converted exactly; each addition of numbers below 4 rounds once.
                let bound = if tables.len() == 1 { 0.0 } else { 1e-6 };
                prop_assert!((f64::from(*got) - want).abs() <= bound, "{got} for {want}");
            }
            for row in 0..case.rows {
                let alone: Vec<Lookup<'_>> = tables.iter().zip(&case.tables).map(|(table, (_, _, ids))| {
                    Lookup { ids: Ids::All(ids[row]), ..*table }
                }).collect();
                prop_assert_eq!(&fast[row * case.n..][..case.n], &run(team, &alone, case.n, 1)[..]);
            }
        }
    }
}
