//! What the lanes of a warp do together: shuffles, votes, matches, reductions.

use super::warp::{Warp, lanes};
use crate::ptx::instruction::{Operation, Reduction, Register, Shuffle, Vote};
use crate::ptx::operation::Lanes;

/// The register with the mask of an operation that lanes do together, and its name.
pub(super) fn members(operation: &Operation) -> Option<(Register, &'static str)> {
    Some(match operation {
        Operation::Shuffle { members, .. } => (*members, "shfl.sync"),
        Operation::Vote { members, .. } => (*members, "vote.sync"),
        Operation::Match { members, .. } => (*members, "match.sync"),
        Operation::Reduce { members, .. } => (*members, "redux.sync"),
        Operation::WarpBarrier { members } => (*members, "bar.warp.sync"),
        _ => return None,
    })
}

/// Runs an operation for the lanes of `mask`, which are all here.
pub(super) fn together(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) {
    match operation {
        Operation::Shuffle { .. } => shuffle(warp, constants, operation, mask),
        Operation::Vote { vote, to, to_predicate, condition, .. } => {
            let holds = warp.holds(*condition) & mask;
            let result = match vote {
                Vote::All => holds == mask,
                Vote::Any | Vote::Ballot => holds != 0,
                Vote::Uniform => holds == 0 || holds == mask,
            };
            warp.write_predicate(*to_predicate, if result { u32::MAX } else { 0 }, mask);
            warp.write(*to, &[u64::from(holds); 32], mask);
        }
        Operation::Match { all, to, same, value, bits, .. } => {
            let values = *warp.read(constants, *value);
            let keep = if *bits == 64 { u64::MAX } else { 0xFFFF_FFFF };
            let mut out = [0; 32];
            let equal = |lane: usize| {
                lanes(mask)
                    .filter(|&other| (values[other] ^ values[lane]) & keep == 0)
                    .fold(0u32, |bits, other| bits | 1 << other)
            };
            lanes(mask).for_each(|lane| out[lane] = u64::from(equal(lane)));
            let everywhere = lanes(mask).all(|lane| out[lane] == u64::from(mask));
            if *all && !everywhere {
                out = [0; 32];
            }
            warp.write(*to, &out, mask);
            warp.write_predicate(*same, if everywhere { u32::MAX } else { 0 }, mask);
        }
        Operation::Reduce { reduction, signed, to, from, .. } => {
            let values = warp.read(constants, *from);
            let result = lanes(mask).map(|lane| values[lane] as u32).reduce(|a, b| reduced(*reduction, *signed, a, b));
            warp.write(*to, &[u64::from(result.unwrap_or(0)); 32], mask);
        }
        _ => {}
    }
}

fn reduced(reduction: Reduction, signed: bool, a: u32, b: u32) -> u32 {
    match (reduction, signed) {
        (Reduction::Add, _) => a.wrapping_add(b),
        (Reduction::Min, true) => (a as i32).min(b as i32) as u32,
        (Reduction::Max, true) => (a as i32).max(b as i32) as u32,
        (Reduction::Min, false) => a.min(b),
        (Reduction::Max, false) => a.max(b),
        (Reduction::And, _) => a & b,
        (Reduction::Or, _) => a | b,
        (Reduction::Xor, _) => a ^ b,
    }
}

/// What a lane reads from one that is not here is undefined; it gets all ones, which no program expects.
fn shuffle(warp: &mut Warp, constants: &[Lanes], operation: &Operation, mask: u32) {
    let Operation::Shuffle { mode, to, inside, from, lane: register, clamp, .. } = operation else { return };
    let values = *warp.read(constants, *from);
    let (picks, clamps) = (warp.read(constants, *register), warp.read(constants, *clamp));
    let (mut out, mut within) = ([0; 32], 0u32);
    for lane in 0..32usize {
        let (pick, clamp) = (picks[lane] as u32 & 31, clamps[lane] as u32);
        let (limit, segments) = (clamp & 31, clamp >> 8 & 31);
        let here = lane as u32;
        let (lowest, highest) = (here & segments, (here & segments) | (limit & !segments));
        let (source, valid) = match mode {
            Shuffle::Up => (here.wrapping_sub(pick), here as i32 - pick as i32 >= highest as i32),
            Shuffle::Down => (here + pick, here + pick <= highest),
            Shuffle::Butterfly => (here ^ pick, here ^ pick <= highest),
            Shuffle::Index => {
                let source = lowest | (pick & !segments);
                (source, source <= highest)
            }
        };
        let source = if valid { source as usize & 31 } else { lane };
        out[lane] = if mask >> source & 1 == 1 { values[source] & 0xFFFF_FFFF } else { 0xFFFF_FFFF };
        within |= u32::from(valid) << lane;
    }
    warp.write(*to, &out, mask);
    warp.write_predicate(*inside, within, mask);
}
